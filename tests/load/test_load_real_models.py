"""Every real trained model: the clean graph gives the numbers of the original implementation."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgekit.exporters.load import load
from tests.load.load_cases import is_clean

SHARED = Path(__file__).parents[3] / "shared"
MODELS = sorted([*SHARED.glob("models/*.onnx"), *SHARED.glob("data/*/*.onnx")])


@pytest.mark.skipif(not MODELS, reason="../shared is not here: real models not checked")
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_numbers_of_the_original(path):
    loaded = load(path, input_shapes={"n": 1} if path.stem.startswith("mobilenet") else None)
    (variant,) = loaded.variants
    assert variant.name == "run" and loaded.source["file"] == path.name
    is_clean(variant.model)
    vectors = np.load(path.with_name(path.stem + ".vectors.npz"), allow_pickle=False)
    session = onnxruntime.InferenceSession(variant.model.SerializeToString(), providers=["CPUExecutionProvider"])
    for case in range(4):
        got = session.run(None, {i.name: vectors[f"in_{i.name}"][case] for i in session.get_inputs()})
        for output, array in zip(session.get_outputs(), got):
            want = vectors[f"out_{output.name}"][case]
            assert array.shape == want.shape
            assert np.abs(array - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.skipif(not MODELS, reason="../shared is not here: shape variants not checked")
def test_a_list_of_files_is_shape_variants():
    files = [SHARED / "models" / f"stgat_hotel_erm{n}.onnx" for n in ("_n2", "_n4", "")]
    loaded = load(files)
    assert loaded.name == "stgat_hotel_erm"
    assert [v.name for v in loaded.variants] == ["n2", "n4", "n8"]
    weights = []
    for variant in loaded.variants:
        layers = {n.input[1] for n in variant.model.graph.node if n.op_type == "Gemm"}
        weights.append({i.raw_data for i in variant.model.graph.initializer if i.name in layers})
    assert weights[0] == weights[1] == weights[2] and weights[0]
