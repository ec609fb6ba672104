"""One-shot reconstruction on small nets: what goes wrong in them without it, and what it must not do."""
from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

from edgekit.errors import AccuracyError, InputError, ShapeError
from edgekit.exporters.sparsify import find_groups, judge, judged, prune_onnx, read_calibration, reconstruct
from edgekit.exporters.sparsify.reconstruction import net as loop
from edgekit.exporters.sparsify.reconstruction import refusal, sequence, settle
from edgekit.exporters.sparsify.reconstruction.calibration import LEAST
from edgekit.exporters.sparsify.reconstruction.uses import Uses, made, positions, taken
from edgekit.exporters.sparsify.torch_graph import Graph


def net(body, inputs="float[1,64] x", outputs="float[1,8] y", seed=0, **shapes):
    """A clean model from ONNX text; weights are named by keyword, with a shape (random, of unit gain) or an array."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> net ({inputs}) => ({outputs}) {{ {body} }}')
    rng = np.random.default_rng(seed)
    for name, value in shapes.items():
        if isinstance(value, tuple):
            fan = np.prod(value[1:]) if len(value) > 1 else 4
            value = (rng.standard_normal(value) / np.sqrt(fan)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


@pytest.fixture(autouse=True)
def _fewer_gradients(monkeypatch):
    """As many as nets so small need."""
    monkeypatch.setattr(sequence, "PROJECTIONS", 512)
    monkeypatch.setattr(settle, "GRADIENTS", 320)


def data(model, cases=96, seed=1):
    """Inputs that depend on each other, as real ones do: {name: (cases, *shape)}."""
    rng = np.random.default_rng(seed)
    constants = {t.name for t in model.graph.initializer}
    found = {}
    for v in model.graph.input:
        if v.name not in constants:
            shape = [d.dim_value for d in v.type.tensor_type.shape.dim]
            n = int(np.prod(shape))
            mix = np.random.default_rng(7).standard_normal((n // 2 + 1, n)) / np.sqrt(n / 2)
            found[v.name] = (rng.standard_normal((cases, n // 2 + 1)) @ mix + 0.3).astype(np.float32).reshape(cases, *shape)
    return found


def distance(a, b, given) -> float:
    """Of the outputs of two models, over their deviation."""
    given = {n: torch.from_numpy(x) for n, x in given.items()}
    names = [o.name for o in a.graph.output]
    with torch.no_grad():
        before, after = Graph(a).run(given, names), Graph(b).run(given, names)
    return max(float((after[n] - before[n]).square().mean().sqrt() / (before[n] - before[n].mean(0)).square().mean().sqrt()) for n in names)


def arrays(model):
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


CONV = "[a] h = Conv<pads=[1,1,1,1]>(x, A, a0) r = Relu(h) [b] g = Conv<pads=[1,1,1,1], strides=[2,2]>(r, B, b0) s = Clip(g, lo, hi) " \
       "[c] e = Conv(s, C) f = Add(e, c0) t = Relu(f) m = GlobalAveragePool(t) z = Flatten(m) [d] y = Gemm<transB=1>(z, D, d0)"
ATTENTION = "[q] a = MatMul(x, Q) [k] b = MatMul(x, K) k0 = Add(b, kb) [v] c = MatMul(x, V) t = Transpose<perm=[0,2,1]>(k0) " \
            "s = MatMul(a, t) p = Softmax<axis=-1>(s) o = MatMul(p, c) [u] y0 = MatMul(o, U) y1 = Add(x, y0) [w] y = MatMul(y1, W)"
LSTM = "[l] s, h, c = LSTM<hidden_size=16>(x, W, R, B) f = Squeeze(h, zero) [o] y = MatMul(f, O)"
GRU = "[l] s, h = GRU<hidden_size=16, linear_before_reset=1>(x, W, R, B) f = Squeeze(h, zero) [o] y = MatMul(f, O)"
LOOP = "h0 = Tanh(x) " + " ".join(f"[l{k}] m{k} = MatMul(h{k}, W) n{k} = Add(m{k}, b) i{k} = Add(n{k}, x) h{k + 1} = Tanh(i{k})" for k in range(6)) \
    + " [o] y = MatMul(h6, O)"
NETS = {
    "convolutions": (net(CONV, "float[1,8,8,8] x", "float[1,10] y", A=(8, 8, 3, 3), a0=(8,), B=(16, 8, 3, 3), b0=(16,), C=(24, 16, 1, 1),
                         c0=np.linspace(-1, 1, 24, dtype=np.float32).reshape(1, 24, 1, 1), D=(10, 24), d0=(10,),
                         lo=np.float32(0), hi=np.float32(1.5)), {"b": 0.5, "c": 0.5}),
    "attention": (net(ATTENTION, "float[1,12,16] x", "float[1,12,4] y", Q=(16, 16), K=(16, 16), V=(16, 16), U=(16, 16), kb=(16,), W=(16, 4)),
                  {"q": 0.5, "k": 0.5, "v": 0.5, "u": 0.5}),
    "lstm": (net(LSTM, "float[8,1,12] x", "float[1,4] y", W=(1, 64, 12), R=(1, 64, 16), B=(1, 128), O=(16, 4), zero=np.zeros(1, np.int64)), {"l.W": 0.5, "l.R": 0.5}),
    "gru": (net(GRU, "float[8,1,12] x", "float[1,4] y", W=(1, 48, 12), R=(1, 48, 16), B=(1, 96), O=(16, 4), zero=np.zeros(1, np.int64)), {"l.W": 0.5, "l.R": 0.5}),
    "loop": (net(LOOP, "float[1,24] x", "float[1,4] y", W=(24, 24), b=(24,), O=(24, 4)), {"l0": 0.5}),
}


@pytest.mark.parametrize("name", NETS)
def test_it_beats_magnitude_by_far_and_keeps_its_pattern(name):
    model, sparsity = NETS[name]
    before = model.SerializeToString()
    found = reconstruct([model], data(model), sparsity=sparsity, group=4)
    assert model.SerializeToString() == before
    fresh = data(model, seed=2)
    ours, plain = distance(model, found.models[0], fresh), distance(model, prune_onnx([model], sparsity=sparsity, group=4).models[0], fresh)
    assert ours < (0.8 if name == "attention" else 0.5) * plain, (ours, plain)  # random queries and keys all matter alike
    layers = {x.name: x for x in found.layers}
    for layer in sparsity:
        assert layers[layer].sparsity == pytest.approx(0.5, abs=0.02) and layers[layer].group == 4
        w = arrays(found.models[0])[{"l0": "W", "l.W": "W", "l.R": "R"}.get(layer, layer.upper())]
        w = w[0] if w.ndim == 3 else w.reshape(len(w), -1) if w.ndim == 4 else w.T
        groups = find_groups(w)
        assert groups is not None and groups.v % 4 == 0 and np.count_nonzero(w) <= 0.52 * w.size


def test_it_is_deterministic_and_serves_every_place_of_a_weight():
    """Two variants of a net, of which one has data: both get the same weights and biases."""
    body = "[a] h = MatMul(x, A) i = Add(h, b) r = Relu(i) [c] y = MatMul(r, C)"
    constants = {"A": (24, 24), "b": (24,), "C": (24, 4)}
    short, long = (net(body, f"float[{n},24] x", f"float[{n},4] y", **constants) for n in (2, 5))
    one, two = (reconstruct([short, long], data(long), sparsity={"a": 0.5}, group=4) for _ in range(2))
    assert [m.SerializeToString() for m in one.models] == [m.SerializeToString() for m in two.models]
    a, b = map(arrays, one.models)
    assert all((a[n] == b[n]).all() for n in constants) and not (a["b"] == arrays(short)["b"]).all()


def test_a_layer_without_neighbours_in_its_groups_is_no_worse_than_with():
    model, sparsity = NETS["convolutions"]
    fresh = data(model, seed=2)
    ours, neighbours = (distance(model, reconstruct([model], data(model, 48), sparsity=sparsity, group=8, permute=p).models[0], fresh)
                        for p in (True, False))
    assert ours < neighbours


CONVS = [("pads=[1,2,0,1], strides=[2,1], dilations=[1,2]", (3, 2), (9, 8)), ("auto_pad=\"SAME_UPPER\", strides=[2,2]", (3, 3), (8, 7)),
         ("pads=[2,1]", (4,), (11,)), ("", (1, 1), (5, 4))]


@pytest.mark.parametrize("attributes, kernel, extent", CONVS)
def test_what_a_convolution_multiplies_is_found(attributes, kernel, extent):
    size = ",".join(map(str, extent))
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> net (float[2,3,{size}] x) => (float y) '
                                    f'{{ [a] y = Conv<{attributes}>(x, A, b) }}'.replace("<>", "").replace("(float y)", "(float[] y)"))
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((5, 3, *kernel)).astype(np.float32), rng.standard_normal(5).astype(np.float32)
    model.graph.initializer.extend([onnx.numpy_helper.from_array(w, "A"), onnx.numpy_helper.from_array(b, "b")])
    del model.graph.output[:]
    inferred = onnx.shape_inference.infer_shapes(model)
    model.graph.output.append(inferred.graph.value_info[0])
    graph = Graph(model)
    use, = Uses(graph).of("A")
    assert use.bias == "b"
    x = torch.from_numpy(rng.standard_normal((3, 2, 3, *extent)).astype(np.float32))
    y = graph.run({"x": x}, ["y"])["y"].detach()
    at = np.stack([rng.permutation(positions(use))[:7] for _ in range(3)])
    np.testing.assert_allclose(taken(use, x, at).numpy() @ w.reshape(5, -1).T + b, made(use, y, at).numpy(), rtol=1e-4, atol=1e-5)


def test_products_with_gemm_of_every_kind():
    rng = np.random.default_rng(0)
    for trans_a in (0, 1):
        shape = "4,6" if trans_a else "6,4"
        model = net(f"[g] y = Gemm<transA={trans_a}, transB=1, alpha=0.5, beta=2.0>(x, A, b)", f"float[{shape}] x", "float[6,5] y", A=(5, 4), b=(5,))
        graph = Graph(model)
        use, = Uses(graph).of("A")
        x = torch.from_numpy(rng.standard_normal((3, *eval(f"({shape})"))).astype(np.float32))
        y = graph.run({"x": x}, ["y"])["y"].detach()
        at = np.broadcast_to(np.arange(6), (3, 6))
        a = arrays(model)
        np.testing.assert_allclose(taken(use, x, at).numpy() @ a["A"].T + 2 * a["b"], made(use, y, at).numpy(), rtol=1e-4, atol=1e-5)


def test_a_bias_of_others_is_left_alone():
    """An addend that two layers share, one that is a residual, one of the wrong shape: none of them is a bias."""
    body = "[a] h = MatMul(x, A) i = Add(h, b) [c] j = MatMul(x, C) k = Add(j, b) l = Add(i, k) [d] m = MatMul(l, D) n = Add(m, x) " \
           "[e] o = MatMul(n, E) p = Add(o, row) [f] q = MatMul(p, F) r = Add(q, f0) y = Relu(r)"
    shapes = {"A": (8, 8), "C": (8, 8), "D": (8, 8), "E": (8, 8), "F": (8, 8), "b": (8,), "row": (4, 1), "f0": (8,)}
    uses = Uses(Graph(net(body, "float[4,8] x", "float[4,8] y", **shapes)))
    assert [uses.of(n)[0].bias for n in "ACDEF"] == ["", "", "", "", "f0"]
    assert (uses.of("F")[0].low, uses.of("F")[0].high, uses.of("E")[0].low) == (0, np.inf, -np.inf)


def test_what_comes_back_to_a_weight_is_seen():
    def uses(model, name):
        found = Uses(Graph(model))
        return found.feeds_itself(found.of(name))
    assert uses(NETS["loop"][0], "W") and uses(NETS["lstm"][0], "R") and not uses(NETS["convolutions"][0], "B")
    side = net("[a] h = MatMul(x, A) [b] i = MatMul(z, A) j = Add(h, i) [c] y = MatMul(j, C)", "float[1,8] x, float[1,8] z", "float[1,8] y",
               A=(8, 8), C=(8, 8))
    assert not uses(side, "A")


def wrong(model):
    good = data(model)["x"]
    nan = good.copy()
    nan[3, 0, 0] = np.nan
    return {"lack": ({}, InputError, "lack the input 'x'"), "shape": ({"x": good[..., :-1]}, ShapeError, "have shape"), "one case": ({"x": good[0]}, ShapeError, "have shape"),
            "nan": ({"x": nan}, InputError, "NaN"), "few": ({"x": good[:LEAST - 1]}, InputError, "at least"),
            "constant": ({"x": np.repeat(good[:1], 50, 0)}, InputError, "the same"), "complex": ({"x": good + 1j}, InputError, "complex"),
            "text": ({"x": np.full(good.shape, "1")}, InputError, "convert")}


@pytest.mark.parametrize("case", ["lack", "shape", "one case", "nan", "few", "constant", "complex", "text"])
def test_calibration_that_does_not_fit(case):
    model, sparsity = NETS["loop"]
    given, error, words = wrong(model)[case]
    with pytest.raises(error, match=words) as found:
        reconstruct([model], given, sparsity=sparsity, group=4)
    assert found.value.fix


@pytest.mark.parametrize("sparsity, group, words", [(1.0, 4, "less than 1"), (-0.1, 4, "at least 0"), ({"absent": 0.5}, 4, "no layer 'absent'"),
                                                    ({"l0": 2}, 4, "less than 1"), ({"o": 0.5}, 8, "fewer than the 8"), (0.5, 65, "from 1 to 64")])
def test_arguments_that_do_not_fit(sparsity, group, words):
    model, _ = NETS["loop"]
    with pytest.raises(InputError, match=words):
        reconstruct([model], data(model), sparsity=sparsity, group=group)


def test_few_cases_are_noted_and_a_state_is_run():
    body = "[a] i = MatMul(x, A) [b] j = MatMul(h, B) k = Add(i, j) g = Tanh(k) [c] y = MatMul(g, C)"
    model = net(body, "float[1,8] x, float[1,8] h", "float[1,4] y, float[1,8] g", A=(8, 8), B=(8, 8), C=(8, 4))
    given = data(model, cases=20)
    found = read_calibration([model], {"in_x": given["x"]}, [("h", "g")])
    assert "only 20" in found.note and found.fitted == 16
    h, a = np.zeros((1, 8), np.float32), arrays(model)
    for k in range(3):
        np.testing.assert_allclose(found.inputs[0]["h"][k], h, rtol=1e-5, atol=1e-6)
        h = np.tanh(given["x"][k] @ a["A"] + h @ a["B"])


@pytest.mark.parametrize("sparsity", [0.8, {"l0": 0.8}])
def test_a_net_that_ends_worse_than_guessing_is_refused_with_what_works(monkeypatch, sparsity):
    """The pruning is cheap here, and the verdict strict: least squares rarely ends that bad on nets so small."""
    model, _ = NETS["loop"]
    given = read_calibration([model], data(model))

    def strict(dense, pruned, data):
        verdict = judge(dense, pruned, data)
        half_gone = np.count_nonzero(arrays(pruned[0])["W"]) < 0.5 * 24 * 24
        return replace(verdict, outputs=tuple(replace(o, worse="bad" if half_gone else o.worse) for o in verdict.outputs))
    monkeypatch.setattr(loop, "reconstruct", lambda models, data, *, sparsity, group, **_: prune_onnx(models, sparsity=sparsity, group=group))
    monkeypatch.setattr(refusal, "judge", strict)
    with pytest.raises(AccuracyError, match="no better than guessing, on 19 .* 'y': bad") as found:
        judged([model], given, sparsity=sparsity, group=4)
    assert found.value.exit_code == 1
    assert ("62% of what each layer" if isinstance(sparsity, dict) else "a sparsity of 0.5 would have worked") in found.value.fix
    monkeypatch.setattr(refusal, "judge", lambda *_: replace(judge([model], [model], given), outputs=(replace(
        judge([model], [model], given).outputs[0], worse="bad"),)))
    with pytest.raises(AccuracyError) as found:
        judged([model], given, sparsity=sparsity, group=4)
    assert "is too much" in found.value.fix


def test_a_good_net_is_not_refused():
    model, _ = NETS["loop"]
    given = read_calibration([model], data(model))
    _, verdict = judged([model], given, sparsity={"l0": 0.25}, group=4)
    assert not verdict.worse and verdict.cases == 19 and verdict.outputs[0].error < 0.5 < verdict.outputs[0].trivial["mean"]


def test_verdicts():
    """Against the mean, the last value of the input, and the commonest class."""
    series = net("[a] y = Conv(x, A)", "float[1,6,5] x", "float[1,2,5] y", A=np.eye(6, dtype=np.float32)[[5, 5], :, None] * np.float32(1.05))
    off = net("[a] y = Conv(x, A)", "float[1,6,5] x", "float[1,2,5] y", A=np.eye(6, dtype=np.float32)[[5, 5], :, None] * np.float32(0.9))
    given = read_calibration([series], data(series, 40))
    assert "last value" in judge([series], [off], given).worse
    assert not judge([series], [series], given).worse
    classes = net("[a] h = MatMul(x, A) y = Add(h, b)", "float[1,6] x", "float[1,3] y", A=(6, 3), b=np.array([3, 0, 0], np.float32))
    swapped = net("[a] h = MatMul(x, A) y = Add(h, b)", "float[1,6] x", "float[1,3] y", A=(6, 3), b=np.array([0, 3, 0], np.float32))
    verdict = judge([classes], [swapped], read_calibration([classes], data(classes, 40)))
    assert verdict.worse and verdict.outputs[0].agreement < verdict.outputs[0].majority
