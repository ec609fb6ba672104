"""Pruned ONNX is standard, runs in onnxruntime, and its groups are found again."""
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.exporters.sparsify import benefit, find_groups, prune_onnx
from edgekit.exporters.sparsify.graph import matrices, weights
from edgekit.exporters.sparsify.mask import choose, unstructured_bound
from edgekit.exporters.sparsify.permute import neighbours, saliency
from edgekit.exporters.sparsify.rules import decide
from edgekit.exporters.sparsify.scores import l2

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
MODELS = Path(__file__).parents[3] / "shared" / "models"
REAL = ["metadrive_ppo_expert", "mobilenet_v1_025_224", "pilotnet", "sb3_ppo_bipedalwalker", "sb3_ppo_lunarlander",
        "social_stgcnn_zara1", "squeezenet11", "stgat_hotel_erm"]


def net(body, inputs="float[1,64] x", outputs="float[1,8] y", seed=0, **shapes):
    """A model from ONNX text; weights are named by keyword, with a shape (random) or an array."""
    header = '<ir_version: 8, opset_import: ["": 18]> net'
    model = onnx.parser.parse_model(f"{header} ({inputs}) => ({outputs}) {{ {body} }}")
    rng = np.random.default_rng(seed)
    for name, value in shapes.items():
        if isinstance(value, tuple):
            value = rng.standard_normal(value).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    onnx.checker.check_model(model)
    return model


def run(model, **inputs):
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)


def arrays(model):
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def by_name(pruned):
    return {layer.name: layer for layer in pruned.layers}


MLP = "[a] h = Gemm<transB=1>(x, A, a0) r = Relu(h) [b] g = Gemm(r, B) s = Tanh(g) [c] y = Gemm<transB=1>(s, C)"
MLP_WEIGHTS = {"A": (64, 64), "a0": (64,), "B": (64, 32), "C": (8, 32)}


def test_mlp():
    model = net(MLP, **MLP_WEIGHTS)
    before = model.SerializeToString()
    pruned = prune_onnx([model], sparsity=0.5)
    assert model.SerializeToString() == before  # the argument is left alone
    layers = by_name(pruned)
    assert list(layers) == ["a", "b", "c"]
    assert (layers["a"].sparsity, layers["a"].group, layers["a"].macs, layers["a"].shape) == (0.5, 16, 4096, (64, 64))
    assert (layers["b"].sparsity, layers["b"].group, layers["b"].shape) == (0.5, 16, (64, 32))
    assert layers["c"].group is None and "head" in layers["c"].reason
    old, new = arrays(model), arrays(pruned.models[0])
    assert [t.name for t in pruned.models[0].graph.initializer] == [t.name for t in model.graph.initializer]
    for name, columns in (("A", False), ("B", True)):
        kept = new[name] != 0
        assert kept.mean() == 0.5
        np.testing.assert_array_equal(new[name][kept], old[name][kept])
        groups = find_groups(new[name].T if columns else new[name])
        assert (groups.v, groups.kept) == (16, 32)
    np.testing.assert_array_equal(new["C"], old["C"])
    x = np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32)
    h = np.maximum(x @ new["A"].T + new["a0"], 0)
    np.testing.assert_allclose(run(pruned.models[0], x=x)[0], np.tanh(h @ new["B"]) @ new["C"].T, rtol=1e-4, atol=1e-5)


def test_magnitude_keeps_the_large():
    w = np.random.default_rng(0).uniform(0.1, 0.2, (16, 64)).astype(np.float32)
    w[:, 5:37] *= 10
    model = net("[a] h = Gemm<transB=1>(x, A) s = Relu(h) [c] y = Gemm<transB=1>(s, C)", A=w, C=(8, 16))
    new = arrays(prune_onnx([model], sparsity=0.5).models[0])["A"]
    np.testing.assert_array_equal(np.flatnonzero(new.any(0)), np.arange(5, 37))


@pytest.mark.parametrize("sparsity", [-0.1, 1, 1.5, float("nan"), float("inf"), "half", None])
def test_bad_sparsity(sparsity):
    with pytest.raises(InputError, match="sparsity"):
        prune_onnx([net(MLP, **MLP_WEIGHTS)], sparsity=sparsity)


@pytest.mark.parametrize("group", [0, -8, 65, 2.5, "8", "", True, None, [8], float("nan"), float("inf")])
def test_bad_group(group):
    with pytest.raises(InputError, match="group"):
        prune_onnx([net(MLP, **MLP_WEIGHTS)], sparsity=0.5, group=group)


def test_weights_that_are_not_finite():
    w = np.full((64, 64), np.nan, np.float32)
    with pytest.raises(InputError, match="a: the weights are not finite"):
        prune_onnx([net(MLP, **MLP_WEIGHTS | {"A": w})], sparsity=0.5)


def test_zero_sparsity_changes_nothing():
    model = net(MLP, **MLP_WEIGHTS)
    pruned = prune_onnx([model], sparsity=0)
    assert pruned.models[0].SerializeToString() == model.SerializeToString()
    assert {layer.sparsity for layer in pruned.layers} == {0}
    assert by_name(pruned)["a"].reason == "no sparsity was asked for"


def test_pruning_again_changes_nothing():
    once = prune_onnx([net(MLP, **MLP_WEIGHTS)], sparsity=0.5)
    for sparsity in (0, 0.3, 0.5):
        again = prune_onnx(once.models, sparsity=sparsity)
        assert again.models[0].SerializeToString() == once.models[0].SerializeToString()
        assert again.layers == once.layers
    assert by_name(prune_onnx(once.models, sparsity=0.75))["a"].sparsity == 0.75


@pytest.mark.parametrize("group", [1, 3, 4, 5, 16, 24, 64])
def test_groups_of_any_size(group):
    pruned = prune_onnx([net(MLP, **MLP_WEIGHTS)], sparsity=0.75, group=group)
    new = arrays(pruned.models[0])["A"]
    assert by_name(pruned)["a"].group == group
    assert (np.count_nonzero(new, axis=1) == 16).all()
    assert len(np.unique(new != 0, axis=0)) <= -(-64 // group)


def test_two_variants_share_one_mask():
    one, two = net(MLP, **MLP_WEIGHTS), net(MLP, "float[4,64] x", "float[4,8] y", **MLP_WEIGHTS)
    for tensor in two.graph.initializer:  # the other variant names its weights otherwise
        tensor.name += "_4"
    for node in two.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = name + "_4" if name in MLP_WEIGHTS else name
    pruned = prune_onnx([one, two], sparsity=0.5)
    assert len(pruned.layers) == 3 and by_name(pruned)["a"].macs == 4096
    a, b = map(arrays, pruned.models)
    for name in MLP_WEIGHTS:
        np.testing.assert_array_equal(a[name], b[name + "_4"])


def test_a_layer_that_is_the_head_of_one_variant_is_dense_in_all():
    longer = net(MLP, **MLP_WEIGHTS)
    shorter = net("[a] h = Gemm<transB=1>(x, A, a0) r = Relu(h) [b] y = Gemm(r, B)", outputs="float[1,32] y",
                  **{k: v for k, v in MLP_WEIGHTS.items() if k != "C"})
    layers = by_name(prune_onnx([longer, shorter], sparsity=0.5))
    assert "head" in layers["b"].reason and layers["a"].group


def test_unrolled_cells_share_one_mask():
    body = "".join(f"[s{i}] g{i} = Gemm<transB=1>(h{i}, R) p{i} = Add(g{i}, x) h{i + 1} = Tanh(p{i})" for i in range(3))
    model = net(body + "[out] y = Gemm<transB=1>(h3, C)", "float[1,32] x, float[1,32] h0", R=(32, 32), C=(8, 32))
    pruned = prune_onnx([model], sparsity=0.5)
    assert [layer.name for layer in pruned.layers] == ["s0", "out"]
    assert by_name(pruned)["s0"].macs == 3 * 32 * 32


def test_a_gated_cell_is_no_head():
    """h' = z n + (1 - z) h: the gates make the state output of the model, yet are no head."""
    model = net("[z] a = Gemm<transB=1>(x, Z) z = Sigmoid(a) [n] b = Gemm<transB=1>(x, N) n = Tanh(b) c = Mul(z, n) "
                "i = Sub(one, z) d = Mul(i, h) y = Add(c, d)", "float[1,64] x, float[1,32] h", "float[1,32] y",
                Z=(32, 64), N=(32, 64), one=np.ones((), np.float32))
    assert [layer.group for layer in prune_onnx([model], sparsity=0.5).layers] == [16, 16]


def test_a_head_behind_scaling_softmax_and_reshape_stays_dense():
    model = net("[a] h = Gemm<transB=1>(x, A) r = Relu(h) [c] l = Gemm<transB=1>(r, C) m = ReduceMax(x) t = Mul(l, m) "
                "s = Softmax(t) y = Reshape(s, shape)", outputs="float[4,8] y", A=(64, 64), C=(32, 64),
                shape=np.array([4, 8]))
    layers = by_name(prune_onnx([model], sparsity=0.5))
    assert layers["a"].group and "head" in layers["c"].reason


CONV = "[first] h = Conv<pads=[1,1,1,1]>(x, A) r = Relu(h) {} [head] y = Conv(s, C)"


def conv_net(middle, channels=16, **shapes):
    return net(CONV.format(middle), "float[1,3,8,8] x", "float[1,4,8,8] y", A=(16, 3, 3, 3), C=(4, channels, 1, 1),
               **shapes)


def test_convolutions():
    model = conv_net("[depthwise] d = Conv<group=16, pads=[1,1,1,1]>(r, D) [grouped] g = Conv<group=2>(d, G) "
                     "[wide] s = Conv<pads=[1,1,1,1]>(g, W)", channels=24, D=(16, 1, 3, 3), G=(16, 8, 1, 1),
                     W=(24, 16, 3, 3))
    pruned = prune_onnx([model], sparsity=0.5)
    layers = by_name(pruned)
    assert "first convolution" in layers["first"].reason and "depthwise" in layers["depthwise"].reason
    assert "grouped" in layers["grouped"].reason and "head" in layers["head"].reason
    assert (layers["wide"].group, layers["wide"].sparsity, layers["wide"].macs) == (8, 0.5, 24 * 16 * 9 * 64)
    assert layers["depthwise"].macs == 16 * 9 * 64
    groups = find_groups(arrays(pruned.models[0])["W"].reshape(24, -1))
    assert (groups.v, groups.kept) == (8, 72)


def test_one_dimensional_convolution():
    model = net("[first] h = Conv(x, A) [b] g = Conv(h, B) [head] y = Conv(g, C)", "float[1,4,20] x", "float[1,2,14] y",
                A=(16, 4, 3), B=(32, 16, 3), C=(2, 32, 3))
    pruned = prune_onnx([model], sparsity=0.5)
    assert by_name(pruned)["b"].macs == 32 * 48 * 16
    groups = find_groups(arrays(pruned.models[0])["B"].reshape(32, -1))
    assert (groups.v, groups.kept) == (8, 24)


@pytest.mark.parametrize("middle, shapes, reason", [
    ("[b] s = Conv(r, B)", {"B": (3, 16, 1, 1)}, "fewer than the 4 of a group"),
    ("[b] s = ConvTranspose(r, B)", {"B": (16, 16, 1, 1)}, "no sparse kernel"),
    ("k = Relu(B) [b] s = Conv(r, k)", {"B": (16, 16, 1, 1)}, "not constant"),
    ("[b] q = Conv(r, B) u = ReduceSum<keepdims=0>(B) s = Add(q, u)", {"B": (16, 16, 1, 1)}, "by another kind of node"),
])
def test_convolutions_that_stay_dense(middle, shapes, reason):
    model = conv_net(middle, channels=shapes["B"][0], **shapes)
    pruned = prune_onnx([model], sparsity=0.5)
    assert reason in by_name(pruned)["b"].reason
    assert pruned.models[0].SerializeToString() == model.SerializeToString()


LINEAR = "[b] g = Gemm<transB=1>(x, B)"


@pytest.mark.parametrize("body, x, shapes, reason", [
    ("[b] g = MatMul(B, x)", "64,8", {"B": (64, 64)}, "left factor"),
    ("[b] g = MatMul(x, B)", "2,4,64", {"B": (2, 64, 64)}, "batch of matrices"),
    ("[b] g = MatMul(x, x)", "64,64", {}, "both factors are computed"),
    ('[b] g = Einsum<equation="bij,jk->bik">(x, B)', "2,4,64", {"B": (64, 64)}, "einsum"),
    ("[b] h = MatMul(x, B) r = Relu(h) [b2] g = Gemm<transB=1>(r, B)", "4,64", {"B": (64, 64)}, "two ways"),
    (LINEAR, "512,4", {"B": (64, 4)}, "4 inputs: too few"),
    (LINEAR, "32,64", {"B": (3, 64)}, "3 outputs, fewer"),
    (LINEAR, "1,16", {"B": (16, 16)}, "tiny"),
])
def test_products_that_stay_dense(body, x, shapes, reason):
    model = net(f"{body} y = Shape(g)", f"float[{x}] x", "int64[r] y", **shapes)
    del model.graph.node[-1]  # so that g is no output: heads are dense for another reason
    del model.graph.output[:]
    model.graph.output.append(model.graph.input[0])
    layer = by_name(prune_onnx([model], sparsity=0.5))["b"]
    assert reason in layer.reason
    assert layer.macs > 0


@pytest.mark.parametrize("cell, gates", [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_recurrent(cell, gates, direction):
    d, hidden = (2 if direction == "bidirectional" else 1), 24
    model = net(f'[cell] y, h = {cell}<hidden_size={hidden}, direction="{direction}">(x, W, R)', "float[5,1,16] x",
                f"float[5,{d},1,{hidden}] y, float[{d},1,{hidden}] h", W=(d, gates * hidden, 16),
                R=(d, gates * hidden, hidden))
    pruned = prune_onnx([model], sparsity=0.5, group=8)
    layers = by_name(pruned)
    assert layers["cell.W"].macs == 5 * d * gates * hidden * 16
    assert layers["cell.R"].macs == 5 * d * gates * hidden * hidden
    for name, kept in (("W", 8), ("R", 12)):
        assert (layers[f"cell.{name}"].group, layers[f"cell.{name}"].sparsity) == (8, 0.5)
        for w in arrays(pruned.models[0])[name]:
            groups = find_groups(w)
            assert (groups.v, groups.kept, groups.count) == (8, kept, gates * hidden // 8)
    x = np.random.default_rng(0).standard_normal((5, 1, 16)).astype(np.float32)
    assert np.isfinite(run(pruned.models[0], x=x)[0]).all()


def test_recurrent_with_few_inputs_prunes_its_recurrent_weights():
    model = net("[cell] y, h = LSTM<hidden_size=32>(x, W, R)", "float[5,1,2] x", "float[5,1,1,32] y, float[1,1,32] h",
                W=(1, 128, 2), R=(1, 128, 32))
    layers = by_name(prune_onnx([model], sparsity=0.5))
    assert "2 inputs" in layers["cell.W"].reason and layers["cell.R"].group == 16


def test_zeros_of_a_left_factor_are_reported():
    rng = np.random.default_rng(0)
    model = net("[a] h = MatMul(A, x) y = Relu(h)", "float[64,8] x", "float[64,8] y",
                A=np.where(abs(np.arange(64)[:, None] - np.arange(64)) < 3, rng.random((64, 64)), 0).astype(np.float32))
    layer, = prune_onnx([model], sparsity=0.5).layers
    assert layer.group == 2 and layer.sparsity > 0.9 and not layer.reason


def test_numpy_arguments():
    pruned = prune_onnx([net(MLP, **MLP_WEIGHTS)], sparsity=np.float32(0.5), group=np.int64(8))
    assert by_name(pruned)["a"].group == 8


def test_half_precision():
    w = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float16)
    model = net("[a] h = MatMul(x, A) s = Relu(h) [c] y = MatMul(s, C)", "float16[1,64] x", "float16[1,8] y",
                A=w, C=w[:, :8].copy())
    new = arrays(prune_onnx([model], sparsity=0.5).models[0])["A"]
    assert new.dtype == np.float16 and (new != 0).mean() == 0.5


def test_a_model_without_layers():
    pruned = prune_onnx([net("y = Relu(x)", outputs="float[1,64] y")], sparsity=0.5)
    assert pruned.layers == ()


@given(widths=st.lists(st.integers(1, 70), min_size=2, max_size=4), sparsity=st.floats(0, 0.95),
       group=st.sampled_from(["auto", 1, 4, 7, 8, 16, 32]), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_any_mlp(widths, sparsity, group, seed):
    names = [f"v{i}" for i in range(len(widths) - 1)] + ["y"]
    body = " ".join(f"[l{i}] {names[i + 1]} = Gemm<transB=1>({names[i]}, W{i})" for i in range(len(widths) - 1))
    model = net(body, f"float[1,{widths[0]}] v0", f"float[1,{widths[-1]}] y", seed,
                **{f"W{i}": (b, a) for i, (a, b) in enumerate(pairwise(widths))})
    pruned = prune_onnx([model], sparsity=sparsity, group=group)
    old, new = arrays(model), arrays(pruned.models[0])
    for i, layer in enumerate(pruned.layers):
        w = new[f"W{i}"]
        if layer.group is None:
            assert layer.reason and layer.sparsity == 0
            np.testing.assert_array_equal(w, old[f"W{i}"])
        else:
            assert not layer.reason
            assert (np.count_nonzero(w, axis=1) == round(w.shape[1] * (1 - layer.sparsity))).all()
            assert abs(layer.sparsity - sparsity) <= 1 / w.shape[1]
            assert find_groups(w) is not None or layer.group < 4


def test_benefit():
    model = net(MLP, **MLP_WEIGHTS)
    a, _, c = benefit(model)
    assert (a.macs, a.bytes, a.group) == (4096, 4 * 4096, 16)
    assert [level.sparsity for level in a.levels] == [0.3, 0.5, 0.7, 0.9]
    half = a.levels[1]
    assert half.macs == 2048
    assert half.bytes == 4 * 2048 + 2 * 4 * 32 + 4 * 64  # weights, index, order
    assert c.levels == () and "head" in c.reason
    pruned = prune_onnx([model], sparsity=0.7)
    assert find_groups(arrays(pruned.models[0])["A"]).macs == a.levels[2].macs


def test_benefit_counts_padding_and_levels_that_bring_nothing():
    model = net("[a] h = Gemm<transB=1>(x, A) [c] y = Gemm<transB=1>(h, C)", A=(20, 64), C=(8, 20))
    layer = benefit(model, group=16)[0]
    assert layer.levels[0].macs == layer.macs            # 70 % of 32 rows is more than 20
    assert layer.levels[1].macs == 32 * 32
    assert not layer.reason


@pytest.mark.skipif(not MODELS.exists(), reason="../shared/models is not here")
@pytest.mark.parametrize("name", REAL)
def test_real_models(name):
    model = onnx.load(MODELS / f"{name}.onnx")
    pruned = prune_onnx([model], sparsity=0.5)
    layers = {layer.name: layer for layer in pruned.layers}
    new, found = arrays(pruned.models[0]), 0
    for weight in weights([model]):
        layer = layers[weight.name]
        if layer.group is None:
            assert layer.reason
            continue
        for w in matrices(new[weight.places[0][1]], weight.places[0][2]):
            groups = find_groups(w)
            assert (groups.v, groups.count) == (layer.group, -(-len(w) // layer.group)), layer
            assert groups.kept == round(w.shape[1] * (1 - layer.sparsity))
        found += 1
    assert found >= 1
    assert sum(x.macs * x.sparsity for x in pruned.layers) > 0.3 * sum(x.macs for x in pruned.layers)
    vectors = np.load(MODELS / f"{name}.vectors.npz", allow_pickle=False)
    inputs = {v.name: _vector(vectors, v.name) for v in model.graph.input if v.name not in arrays(model)}
    for out, dense in zip(run(pruned.models[0], **inputs), run(model, **inputs)):
        assert out.shape == dense.shape and np.isfinite(out).all() and not np.array_equal(out, dense)


@pytest.mark.skipif(not MODELS.exists(), reason="../shared/models is not here")
def test_real_shape_variants_share_one_mask():
    models = [onnx.load(MODELS / f"stgat_hotel_erm{n}.onnx") for n in ("_n2", "_n4", "")]
    pruned = prune_onnx(models, sparsity=0.5)
    assert len({layer.name for layer in pruned.layers if layer.group}) == 4
    first, *others = map(arrays, pruned.models)
    for other in others:
        for name in set(first) & set(other):
            if first[name].ndim == 2:
                np.testing.assert_array_equal(first[name], other[name])
    assert (first["m.pred_lstm_model.weight_hh"] != 0).mean() == 0.5


@pytest.mark.skipif(not MODELS.exists(), reason="../shared/models is not here")
def test_permutation_keeps_more_of_a_real_model():
    model, shares = onnx.load(MODELS / "mobilenet_v1_025_224.onnx"), []
    for weight in weights([model]):
        choice = decide(weight.facts, 0.5, 8)
        if not choice.reason:
            score = l2(arrays(model)[weight.places[0][1]].reshape(weight.facts.outputs, -1))
            rows = choose(score, choice.v, choice.kept).order.reshape(-1, choice.v)
            plain = saliency(score, neighbours(len(score), choice.v), choice.kept)
            shares.append(np.array([plain, saliency(score, rows, choice.kept),
                                    unstructured_bound(score, choice.kept)]) / score.sum())
    plain, ours, bound = np.mean(shares, 0)
    assert plain + 0.05 < ours < bound


def _vector(vectors, name):
    return vectors[f"in_{name}"][0]
