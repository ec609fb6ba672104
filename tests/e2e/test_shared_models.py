"""Real trained models that nobody here wrote, dense and half pruned, on the host, on AArch64 and in WebAssembly."""
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import edgekit as ek

TARGETS = ["host", "arm64", "wasm"]
EVERYDAY = ["metadrive_ppo_expert", "social_stgcnn_zara1"]
OTHERS = ["mobilenet_v1_025_224", "pilotnet", "sb3_ppo_bipedalwalker", "sb3_ppo_lunarlander", "squeezenet11"]
STGAT = [f"stgat_hotel_{kind}{size}" for kind in ("erm", "irm0.5") for size in ("", "_n2", "_n4")]
MODELS = [
    *(f"models/{name}" for name in EVERYDAY),
    *(pytest.param(f"models/{name}", marks=pytest.mark.slow) for name in (*OTHERS, *STGAT)),
    pytest.param("data/tgcn_los/tgcn_los", marks=pytest.mark.slow),
]
TOLERANCE = 1e-4


class Vectors:
    """Inputs of the original implementation and what it gave for them."""

    def __init__(self, path: Path):
        with np.load(path, allow_pickle=False) as z:
            arrays = {key: z[key] for key in z.files}
        self.inputs = {key.removeprefix("in_"): a for key, a in arrays.items() if key.startswith("in_")}
        self.outputs = {key.removeprefix("out_"): a for key, a in arrays.items() if key.startswith("out_")}
        self.cases = range(len(next(iter(self.outputs.values()))))

    def inputs_of(self, case: int) -> dict[str, np.ndarray]:
        return {name: a[case] for name, a in self.inputs.items()}


def relative(got: np.ndarray, wanted: np.ndarray) -> float:
    assert got.shape == wanted.shape and got.dtype == wanted.dtype
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def export(shared, name: str, folder: Path, **options):
    options |= {"input_shapes": {"n": 1}} if "mobilenet" in name else {}
    return ek.export(shared(name + ".onnx"), targets=TARGETS, output=folder / "model.ekb", **options)


@pytest.mark.parametrize("name", MODELS)
def test_dense_agrees_with_the_original(shared, tmp_path, name):
    bundle = export(shared, name, tmp_path)
    vectors = Vectors(shared(name + ".vectors.npz"))
    for target in TARGETS:
        for case in vectors.cases:
            outputs = bundle.run(vectors.inputs_of(case), target=target)
            for got, (output, wanted) in zip(outputs, vectors.outputs.items(), strict=True):
                assert relative(got, wanted[case]) <= TOLERANCE, (target, case, output)


@pytest.mark.parametrize("name", MODELS)
def test_half_pruned_agrees_with_onnxruntime(shared, tmp_path, name):
    bundle = export(shared, name, tmp_path, sparsity=0.5)
    vectors = Vectors(shared(name + ".vectors.npz"))
    for case in vectors.cases:
        inputs = vectors.inputs_of(case)
        wanted = bundle.run(inputs, target="onnx")
        for target in TARGETS:
            for got, reference in zip(bundle.run(inputs, target=target), wanted, strict=True):
                assert relative(got, reference) <= TOLERANCE, (target, case)
    check_pruned(tmp_path / "model.ekb")


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.7, 0.9])
def test_zeros_without_a_pattern_are_used(shared, tmp_path, share):
    """A net whose least weights somebody has set to zero, one by one: the same numbers on every target, from fewer multiply-adds."""
    model = onnx.load(shared("models/mobilenet_v1_025_224.onnx"))
    pruned = 0
    for tensor in model.graph.initializer:
        w = numpy_helper.to_array(tensor)
        if w.ndim == 4 and w.shape[2:] == (1, 1) and w.shape[1] > 1:
            tensor.CopyFrom(numpy_helper.from_array(np.where(abs(w) >= np.quantile(abs(w), share), w, 0).astype(w.dtype), tensor.name))
            pruned += 1
    onnx.save(model, tmp_path / "pruned.onnx")
    bundle = ek.export(tmp_path / "pruned.onnx", targets=TARGETS, output=tmp_path / "model.ekb", input_shapes={"n": 1})
    layers = [x for x in bundle.manifest["entries"][0]["layers"] if x["group"]]
    assert len(layers) >= pruned - 1 > 10  # the head has one position, so few lanes that 70 % do not pay
    assert sum(x["macs"] for x in layers) < (1.25 - share) * sum(x["dense_macs"] for x in layers)
    inputs = Vectors(shared("models/mobilenet_v1_025_224.vectors.npz")).inputs_of(0)
    wanted = bundle.run(inputs, target="onnx")
    for target in TARGETS:
        for got, reference in zip(bundle.run(inputs, target=target), wanted, strict=True):
            assert relative(got, reference) <= TOLERANCE, target


def check_pruned(bundle: Path) -> None:
    """The zeros are in the standard model too, and every layer is about half zeros, or was sparser before, or says why not."""
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    pruned = [layer for layer in manifest["layers"] if layer["sparsity"] > 0]
    for layer in manifest["layers"]:
        assert layer["reason"] or layer["sparsity"] > 0.35, layer
    weights = [numpy_helper.to_array(w) for w in onnx.load(bundle / "model.onnx").graph.initializer]
    shares = [float((w == 0).mean()) for w in weights if w.ndim >= 2 and w.size > 64]
    assert sum(share > 0.3 for share in shares) >= len(pruned) > 0 or not pruned


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", [0, 0.5])
@pytest.mark.parametrize("kind", ["erm", "irm0.5"])
def test_shape_variants_share_their_weights_and_choose_themselves(shared, tmp_path, kind, sparsity):
    names = {"n2": f"models/stgat_hotel_{kind}_n2", "n4": f"models/stgat_hotel_{kind}_n4", "n8": f"models/stgat_hotel_{kind}"}
    models = {entry: shared(name + ".onnx") for entry, name in names.items()}
    bundle = ek.export(models, targets=TARGETS, sparsity=sparsity, output=tmp_path / "all.ekb")
    assert [entry["name"] for entry in bundle.manifest["entries"]] == ["n2", "n4", "n8"]
    alone = ek.export(models["n2"], targets=["host"], sparsity=sparsity, output=tmp_path / "n2.ekb")
    assert bundle.manifest["weights_bytes"] < 1.2 * alone.manifest["weights_bytes"]
    for entry, name in names.items():
        vectors = Vectors(shared(name + ".vectors.npz"))
        inputs = vectors.inputs_of(0)  # nothing but their shape says which entry is meant
        (wanted,) = [o[0] for o in vectors.outputs.values()] if not sparsity else bundle.run(inputs, target="onnx")
        for target in TARGETS:
            (got,) = bundle.run(inputs, target=target)
            assert relative(got, wanted) <= TOLERANCE, (entry, target)
