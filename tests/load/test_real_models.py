"""Every real trained model: the clean graph gives the numbers of the original implementation."""
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgekit.exporters.load import load
from edgekit.exporters.load.graph import OPSET

SHARED = Path(__file__).parents[3] / "shared"
MODELS = sorted([*SHARED.glob("models/*.onnx"), *SHARED.glob("data/*/*.onnx")])


def is_clean(model: onnx.ModelProto) -> None:
    """The promise of `Variant`."""
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
    assert not model.functions
    graph = model.graph
    names = [n.name for n in graph.node]
    assert all(names) and len(set(names)) == len(names)
    assert not {"Constant", "Dropout", "BatchNormalization", "Shape", "Size"} & {n.op_type for n in graph.node}
    assert all(a.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) and not a.ref_attr_name
               for n in graph.node for a in n.attribute)
    read = {i for n in graph.node for i in n.input}
    assert {i.name for i in graph.initializer} <= read
    infos = {v.name: v for v in [*graph.input, *graph.output, *graph.value_info]}
    for name in [o for n in graph.node for o in n.output if o] + [v.name for v in graph.input]:
        dims = infos[name].type.tensor_type.shape.dim
        assert infos[name].type.tensor_type.elem_type and all(d.HasField("dim_value") for d in dims), name
    contents = [i.SerializeToString().replace(i.name.encode(), b"") for i in graph.initializer]
    assert len(set(contents)) == len(contents)


@pytest.mark.skipif(not MODELS, reason="../shared is not here: real models not checked")
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_numbers_of_the_original(path):
    loaded = load(path, input_shapes={"n": 1} if path.stem.startswith("mobilenet") else None)
    variant, = loaded.variants
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
    weights = [{i.name: i.raw_data for i in v.model.graph.initializer if len(i.dims) == 2} for v in loaded.variants]
    assert set(weights[0].values()) == set(weights[1].values()) == set(weights[2].values())
