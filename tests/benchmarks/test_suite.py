"""The benchmark suite stays alive: networks are what they say, one small race runs to its tables."""
import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("ziglang")

from benchmarks import bounds, masks, native, tables
from benchmarks.models import Level, Workshop
from benchmarks.networks import NETWORKS
from benchmarks.steps import write_steps

SMALL = {
    "mobilenet_v1": {"width": 0.25, "size": 32}, "mobilenet_v2": {"width": 0.25, "size": 32}, "resnet18": {"width": 8, "size": 32},
    "resnet18_policy": {"width": 8, "size": (32, 32), "hidden": 16}, "patchtst": {"steps": 64, "width": 32, "heads": 4, "inner": 32, "layers": 1},
    "lstm": {"steps": 6, "width": 16}, "lstm_step": {"width": 16}, "transformer_step": {"width": 32, "heads": 2, "past": 8}, "mlp": {}}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_and_torch_agree(tmp_path, name):
    shop = Workshop(tmp_path, name, **SMALL[name])
    net = NETWORKS[name](**SMALL[name])
    with torch.no_grad():
        found = net.module(*(torch.from_numpy(x) for x in net.example().values()))
    found = found if isinstance(found, tuple) else (found,)
    np.savez(tmp_path / "torch.npz", **{n: y.numpy() for n, y in zip(net.outputs, found, strict=True)})
    assert shop.error(tmp_path / "torch.npz", shop.onnx) < 1e-4


def test_a_race_and_its_tables(tmp_path):
    shop = Workshop(tmp_path, "mlp", width=32)
    rows = native.run(shop, [Level(0.5)], 2, lambda _: None)
    assert [(r["level"], r["zeros"]) for r in rows if r["runtime"] == "edgekit"] == [("50%", 0.5)]
    ran = {r["runtime"] for r in rows if not r["why"]}
    assert {"edgekit", "onnxruntime", "products"} <= ran
    assert all(r["ms"] > 0 for r in rows if not r["why"])
    assert all(r["error"] < 1e-4 for r in rows if not r["why"] and r["runtime"] != "products")
    assert [r["runtime"] for r in rows if r["fastest"]] == [min((r for r in rows if r["runtime"] in native.PEERS and r["ms"]),
                                                               key=lambda r: r["ms"])["runtime"]]
    text = tables.render({"native": {"mlp": rows}})
    for r in rows:
        assert r["runtime"] in text and r["why"].replace("|", "/") in text
    assert text.count("not measured") == len(bounds.NATIVE) + 2 * len(bounds.WASM) + len(bounds.ARM64) + 4 + 1 + 2
    assert "<svg" in tables.plotted({"native": {"mlp": rows}})


def test_verdicts():
    assert bounds.verdict(0.78, 0.78) == "held" and bounds.verdict(1.1, 1.0) == "missed by 10%"


def _gemm(w, **attributes):
    node = onnx.helper.make_node("Gemm", ["x", "w"], ["y"], name="layer", **attributes)
    graph = onnx.helper.make_graph([node], "g", [], [], [onnx.numpy_helper.from_array(w, "w")])
    return onnx.helper.make_model(graph), [{"name": "layer", "op": "Gemm", "shape": list(w.shape), "sparsity": 0.5}]


@pytest.mark.parametrize("turned", [0, 1])
def test_masks_drop_what_they_say(turned):
    w = np.random.default_rng(0).standard_normal((16, 24)).astype(np.float32)
    model, layers = _gemm(w if turned else np.ascontiguousarray(w.T), transB=turned)
    pruned = masks.masked(model, layers, masks.neighbours(0.75))
    found, = masks.matrices(pruned)
    assert masks.sparsity(pruned, layers) == 0.75
    reads = found.reshape(4, 4, 24) != 0
    assert (reads.any(1) == reads.all(1)).all() and (reads.any(1).sum(1) == 6).all()
    assert np.array_equal(found[found != 0], w[found != 0])
    scattered, = masks.matrices(masks.masked(model, layers, masks.unstructured(0.75)))
    assert np.abs(w[scattered == 0]).max() < np.abs(scattered[scattered != 0]).min()
    assert not (masks.matrices(masks.filled(pruned))[0] == 0).any()


@pytest.mark.slow
def test_steps_for_tfjs_hold_every_weight(tmp_path):
    shop = Workshop(tmp_path, "mobilenet_v1", **SMALL["mobilenet_v1"])
    folder = write_steps(shop)
    whole = sum(p.numel() for p in NETWORKS["mobilenet_v1"](**SMALL["mobilenet_v1"]).module.parameters())
    assert (folder / "weights.bin").stat().st_size == 4 * whole
