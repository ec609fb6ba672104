"""Label-free tuning: the tuned net answers more like the dense one, on inputs that it has not seen; zeros stay."""
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import edgekit as ek
from edgekit.errors import InputError
from edgekit.exporters.load import load
from edgekit.exporters.sparsify import prune_onnx
from tests.lower.graphs import model

torch = pytest.importorskip("torch")
from edgekit.exporters.sparsify import tuning
from edgekit.exporters.sparsify.tuning import tune

CASES = 64


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(tuning, "STEPS", 240)


def node(op, inputs, outputs, **attrs):
    return helper.make_node(op, inputs.split(), outputs.split(), name=op + outputs.split()[0], **attrs)


def weights(seed: int = 0, **shapes) -> dict:
    rng = np.random.default_rng(seed)
    return {n: (rng.standard_normal(s) / np.sqrt(s[-1])).astype(np.float32) for n, s in shapes.items()}


def clean(m, **how):
    return [v.model for v in load(m, name="m", **how).variants]


def mlp(rows: int = 2, outputs: str = "y"):
    nodes = [node("Gemm", "x A a", "h", transB=1), node("Relu", "h", "r"), node("Gemm", "r B b", "s", transB=1), node("Tanh", "s", "t"),
             node("Gemm", "t C", "y", transB=1), node("ArgMax", "y", "best", axis=1)]
    return model(nodes, {"x": np.zeros((rows, 16), np.float32)}, outputs.split(), weights(A=(32, 16), a=(32,), B=(32, 32), b=(32,), C=(4, 32)))


def inputs(*shape, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def session(m: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])


def answers(m: onnx.ModelProto, x: np.ndarray, name: str = "y") -> np.ndarray:
    run = session(m)
    return np.stack([run.run([name], {"x": case})[0] for case in x])


def error(dense, other, x: np.ndarray) -> float:
    wanted, got = answers(dense, x), answers(other, x)
    return float(np.square(got - wanted).mean() / np.square(wanted - wanted.mean(0)).mean())


def arrays(m: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer}


def test_a_tuned_net_is_nearer_to_the_dense_one_and_as_sparse():
    dense = clean(mlp())
    pruned = prune_onnx(dense, sparsity=0.5)
    said: list[str] = []
    tuned = tune(dense, pruned, {"x": inputs(CASES, 2, 16)}, progress=said.append)
    fresh = inputs(50, 2, 16, seed=2)
    assert error(dense[0], tuned.models[0], fresh) < 0.5 * error(dense[0], pruned.models[0], fresh)
    before, after = arrays(pruned.models[0]), arrays(tuned.models[0])
    assert tuned.layers == pruned.layers and any((before[n] == 0).any() for n in "AB")
    for name in before:
        assert not np.array_equal(before[name], after[name])
        assert name in "ab" or np.array_equal(before[name] == 0, after[name] == 0)
    assert said[0].startswith("tuning: epoch 1 of ")
    assert tune(dense, pruned, {"x": inputs(CASES, 2, 16)}).models == tuned.models


def test_nothing_changes_where_nothing_improves():
    dense = clean(mlp())
    same = prune_onnx(dense, sparsity=0)
    assert tune(dense, same, {"x": inputs(CASES, 2, 16)}) is same
    silent = clean(model([node("Gemm", "x A", "h", transB=1), node("Mul", "h zero", "y")], {"x": np.zeros((2, 16), np.float32)}, ["y"],
                         weights(A=(16, 16)) | {"zero": np.zeros((2, 16), np.float32)}))
    pruned = prune_onnx(silent, sparsity=0.5, group=4)
    assert tune(silent, pruned, {"x": inputs(CASES, 2, 16)}) is pruned


def test_variants_go_on_sharing_their_weights():
    dense = [*clean(mlp(2)), *clean(mlp(3))]
    pruned = prune_onnx(dense, sparsity=0.5)
    tuned = tune(dense, pruned, {"x": inputs(CASES, 3, 16)})
    first, second = map(arrays, tuned.models)
    assert all(np.array_equal(first[n], second[n]) for n in first) and not np.array_equal(first["A"], arrays(pruned.models[0])["A"])
    fresh = inputs(50, 2, 16, seed=2)
    assert error(dense[0], tuned.models[0], fresh) < 0.5 * error(dense[0], pruned.models[0], fresh)


def test_a_class_is_tuned_by_what_decides_it():
    dense = clean(mlp(outputs="best"))
    pruned = prune_onnx(dense, sparsity=0.5)
    tuned = tune(dense, pruned, {"x": inputs(CASES, 2, 16)})
    fresh = inputs(200, 2, 16, seed=2)

    def agreement(m):
        return (answers(m, fresh, "best") == answers(dense[0], fresh, "best")).mean()
    assert agreement(tuned.models[0]) > agreement(pruned.models[0]) + 0.1


def step_net():
    """h' = tanh(x W + h R), y = h' O: one step of a recurrent net."""
    nodes = [node("MatMul", "x W", "u"), node("MatMul", "h R", "v"), node("Add", "u v", "s"), node("Tanh", "s", "g"), node("MatMul", "g O", "y")]
    w = weights(W=(16, 32), R=(32, 32), O=(32, 3))
    return model(nodes, {"x": np.zeros((1, 16), np.float32), "h": np.zeros((1, 32), np.float32)}, ["y", "g"], w | {"R": 0.7 * w["R"]})


def test_a_net_with_state_answers_for_steps_in_a_row():
    dense = clean(step_net(), states={"h": "g"})
    pruned = prune_onnx(dense, sparsity=0.5, group=8)
    tuned = tune(dense, pruned, {"x": inputs(4 * CASES, 1, 16)}, states=[("h", "g")])

    def run(m):
        net, h, out = session(m), np.zeros((1, 32), np.float32), []
        for x in inputs(60, 1, 16, seed=2):
            y, h = net.run(["y", "g"], {"x": x, "h": h})
            out.append(y)
        return np.stack(out)
    far, near = (np.square(run(p.models[0]) - run(dense[0])).mean() for p in (pruned, tuned))
    assert near < 0.6 * far


def test_export_tunes(tmp_path):
    given, said = {"x": inputs(CASES, 2, 16)}, []
    with pytest.raises(InputError, match="needs both"):
        ek.export(mlp(), output=tmp_path / "m.ekb", sparsity=0.5, tune=True)
    bundle = ek.export(mlp(), output=tmp_path / "m.ekb", sparsity=0.5, calibration=given, tune=True, progress=said.append)
    assert any(line.startswith("tuning: epoch") for line in said)
    assert bundle.manifest["pruning"]["method"] == "reconstruction, tuned"
    assert any(layer["sparsity"] == 0.5 for layer in bundle.manifest["layers"])
