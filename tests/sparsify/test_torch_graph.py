"""Clean graphs in torch: numbers against onnxruntime, gradients against differences, any values from any others."""
import random

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.exporters.load import load
from edgekit.exporters.lower import supported
from tests.lower import test_long_tail as long_tail
from tests.lower import test_operators as operators
from tests.lower.drawing import SMALL, WIDE
from tests.lower.graphs import model, reference
from tests.lower.random_graphs import random_graph

torch = pytest.importorskip("torch")
from edgekit.exporters.sparsify.torch_graph import Graph

TABLES = {f"{kind}, {name}": case for kind, table in (
    ("product", operators.PRODUCTS), ("move", operators.MOVES), ("reduction", operators.REDUCTIONS), ("long tail", long_tail.CASES))
    for name, case in table.items()}


def cases_of(feeds: dict) -> dict:
    """Two cases of inputs: as given, and with their numbers turned round."""
    return {n: np.stack([a, np.array(np.flip(a)).reshape(a.shape) if a.dtype.kind == "f" else a]) for n, a in feeds.items()}


def same_as_onnxruntime(m: onnx.ModelProto, feeds: dict, tolerance: float = 1e-4) -> None:
    graph = Graph(load(m, keep=supported(), name="m").variants[0].model)
    if not graph.inputs:
        return
    stacked = cases_of(feeds)
    with torch.no_grad():
        got = graph.run({n: torch.from_numpy(stacked[n]) for n in graph.inputs}, [o.name for o in m.graph.output])
    for k in range(2):
        for name, expected in reference(m, {n: np.asarray(a[k]) for n, a in stacked.items()}).items():
            array = got[name][k].numpy()
            assert array.shape == expected.shape and array.dtype == expected.dtype, name
            scale = max(0.1, np.abs(expected.astype(np.float64)).max(initial=0))
            assert np.allclose(array.astype(np.float64), expected.astype(np.float64), rtol=0, atol=tolerance * scale, equal_nan=True), name


@pytest.mark.parametrize("name", TABLES)
def test_operator(name):
    node, inputs, constants = TABLES[name]
    same_as_onnxruntime(model([node], inputs, list(node.output), constants), inputs, long_tail.COARSE.get(name.split(", ", 1)[1], 1e-4))


@pytest.mark.parametrize("name", operators.RECURRENT)
def test_recurrent(name):
    op, gates, d, attrs = operators.RECURRENT[name]
    inputs, constants, outs, attrs = operators._rnn(op, gates, d, **attrs)
    inputs |= {"lens": np.asarray([6, 2, 4], np.int32), "h0": operators.n(d, 3, 5)}
    node = operators.node(op, ["x", "w", "r", "b", "lens", "h0"], outs, **attrs)
    same_as_onnxruntime(model([node], inputs, outs.split(), constants), inputs)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False), st.integers(0, 1 << 30), st.sampled_from([SMALL, WIDE]))
def test_random_graphs(r, seed, sizes):
    same_as_onnxruntime(*random_graph(r, seed, sizes), tolerance=1e-3)


KINKS = {36, 60}  # an average that torch does not have; a maximum of equal numbers


@pytest.mark.parametrize("seed", sorted(set(range(25, 65)) - KINKS))
def test_gradients_of_random_graphs(seed):
    """Of a random sum of the outputs, along a random line through inputs and weights, in float64."""
    m, feeds = random_graph(random.Random(seed), seed, SMALL)
    graph = Graph(load(m, keep=supported(), name="m").variants[0].model).double()
    generator = torch.Generator().manual_seed(seed)

    def draw(like):
        return torch.randn(like.shape, generator=generator, dtype=torch.double)
    start = {n: torch.from_numpy(np.stack([feeds[n]] * 2)) for n in graph.inputs}
    start = {n: t.double() + 0.01 * draw(t) if t.is_floating_point() else t for n, t in start.items()}
    weights = {n: graph.weight(n).detach() for n in graph.initializers if graph.is_weight(n)}
    line = {n: 0.3 * draw(t) for n, t in {**start, **weights}.items() if t.is_floating_point()}
    if not start:
        return
    found = {n: t.detach() for n, t in graph.run(start, list(graph.outputs)).items() if t.is_floating_point() and t.numel()}
    signs = {n: draw(t) / (1 + t.abs().max()) for n, t in found.items()}

    def total(t):
        moved = {n: a + t * line[n] if n in line else a for n, a in {**start, **weights}.items()}
        found = graph.run({n: moved[n] for n in start}, list(signs), {n: moved[n] for n in weights}) if signs else {}
        return sum(((signs[n] * a).sum() for n, a in found.items()), 0 * t)
    zero = torch.zeros((), dtype=torch.double, requires_grad=True)
    slope = float(torch.autograd.grad(total(zero), zero)[0])
    with torch.no_grad():
        differences = [float((total(zero + e) - total(zero - e)) / (2 * e)) for e in (1e-5, 1e-6, 1e-7)]
    assert min(abs(slope - d) for d in differences) < 2e-3 * max(1, abs(slope))


def net() -> tuple[onnx.ModelProto, dict]:
    """x -> h = relu(x a) -> y = h b, and z, which needs neither a nor b."""
    rng = np.random.default_rng(0)
    nodes = [operators.node("Gemm", "x a", "u"), operators.node("Relu", "u", "h"), operators.node("MatMul", "h b", "y"),
             operators.node("Tanh", "x", "z")]
    feeds = {"x": rng.standard_normal((1, 6)).astype(np.float32)}
    weights = {"a": rng.standard_normal((6, 9)).astype(np.float32), "b": rng.standard_normal((9, 4)).astype(np.float32)}
    return load(model(nodes, feeds, ["y", "z"], weights), name="m").variants[0].model, weights


def test_any_values_from_any_others():
    m, w = net()
    graph = Graph(m)
    x = torch.randn(5, 1, 6)
    h = torch.relu(x @ torch.from_numpy(w["a"]))
    found = graph.run({"x": x}, ["h", "y"])
    assert torch.allclose(found["h"], h, atol=1e-6) and torch.allclose(found["y"], h @ torch.from_numpy(w["b"]), atol=1e-5)
    assert torch.allclose(graph.run({"h": h}, ["y"])["y"], found["y"], atol=1e-6)
    assert graph.run({"h": h}, ["h"])["h"] is not None and torch.equal(graph.run({"x": x}, ["a"])["a"][3], graph.weight("a"))
    double = graph.run({"h": h}, ["y"], {"b": 2 * graph.weight("b")})["y"]
    assert torch.allclose(double, 2 * found["y"], atol=1e-5)
    double.sum().backward()
    assert graph.weight("b").grad is not None and graph.weight("a").grad is None


def test_batches_give_the_same(monkeypatch):
    m, _ = net()
    graph, x = Graph(m), torch.randn(7, 1, 6)
    whole = graph(x=x)
    assert graph.batch(["x"], ["y"], 1000) == 1000 // (4 * (9 + 9))  # u and h are alive at once
    assert graph.batch(["x"], ["y"], 1000, gradient=True) == 1000 // (4 * (6 + 9 + 9 + 4))
    monkeypatch.setattr("edgekit.exporters.sparsify.torch_graph.graph.LIVE_BYTES", 150)
    with torch.no_grad():
        parts = graph(x=x)
    assert all(torch.allclose(parts[n], whole[n], atol=1e-6) for n in whole)


@pytest.mark.parametrize("given_values, want, message", [
    ({"x": (5, 1, 6)}, ["nothing"], "no value 'nothing'"), ({"h": (5, 1, 9)}, ["u"], "depends on 'x'"),
    ({"x": (5, 6)}, ["y"], "has the shape"), ({"x": (5, 1, 6), "h": (4, 1, 9)}, ["y"], "different numbers of cases"),
    ({"x": (0, 1, 6)}, ["y"], "or none"), ({}, ["y"], "depends on 'x'")])
def test_bad_requests(given_values, want, message):
    graph = Graph(net()[0])
    with pytest.raises(InputError, match=message):
        graph.run({n: torch.zeros(s) for n, s in given_values.items()}, want)


@pytest.mark.parametrize("op, gates, attrs", [("LSTM", 4, {"direction": "bidirectional"}), ("GRU", 3, {}), ("GRU", 3, {"linear_before_reset": 1})])
def test_what_the_weights_of_a_recurrent_node_multiply(op, gates, attrs):
    inputs, constants, outs, attrs = operators._rnn(op, gates, 2 if attrs.get("direction") else 1, **attrs)
    m = model([operators.node(op, "x w r b", outs, **attrs)], inputs, ["y"], constants)
    graph = Graph(load(m, keep=supported(), name="m").variants[0].model)
    node = graph.nodes[0].name
    x = torch.from_numpy(np.stack([inputs["x"]] * 3))
    found = graph.run({"x": x}, ["y", f"{node}.R"])
    y, before = found["y"], found[f"{node}.R"]
    assert torch.equal(before[:, 1:, 0], y[:, :-1, 0]) and not before[:, 0, 0].any()
    if op == "LSTM":
        assert torch.equal(before[:, :-1, 1], y[:, 1:, 1]) and not before[:, -1, 1].any()
    elif not attrs.get("linear_before_reset"):
        inner = graph.run({"x": x}, [f"{node}.R.candidate"])[f"{node}.R.candidate"]
        w, r, b = (torch.from_numpy(constants[k][0]) for k in "wrb")
        reset = torch.sigmoid(x @ w[5:10].T + before[:, :, 0] @ r[5:10].T + b[5:10] + b[20:25])
        assert torch.allclose(inner[:, :, 0], reset * before[:, :, 0], atol=1e-5)


@pytest.mark.slow
def test_shared_models(shared):
    for path in [*sorted(shared("models").glob("*.onnx")), shared("data/tgcn_los/tgcn_los.onnx")]:
        m = load(path, keep=supported(), input_shapes={"n": 1} if path.stem.startswith("mobilenet") else None).variants[0].model
        vectors = np.load(path.with_name(path.stem + ".vectors.npz"))
        graph = Graph(m)
        with torch.no_grad():
            got = graph(**{n: torch.from_numpy(vectors[f"in_{n}"]) for n in graph.inputs})
        for name, array in got.items():
            want = vectors[f"out_{name}"]
            assert np.abs(array.numpy() - want).max() <= 1e-4 * np.abs(want).max(), (path.stem, name)
