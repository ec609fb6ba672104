"""Whole channels are removed, all that they are coupled with at once, and the narrower net computes what it should."""
import random
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError, VerificationError
from edgekit.exporters.sparsify import prune_onnx, scores
from edgekit.exporters.sparsify.channels import rules
from tests.sparsify.test_oneshot import MLP, MLP_WEIGHTS, MODELS, arrays, by_name, net, ort, run

F = np.float32


def narrow(model, sparsity=0.5, **how):
    return prune_onnx([model], sparsity=sparsity, pattern="channels", **how)


class Blocks:
    """A random net of convolutions as ONNX text: a body of blocks of many kinds between a first layer and a head."""

    def __init__(self, seed):
        self.r, self.g = random.Random(seed), np.random.default_rng(seed)
        self.lines, self.weights, self.count = [], {}, 0
        self.x, self.c, self.side = "x", 3, 8

    def new(self, line):
        self.count += 1
        name = f"v{self.count}"
        self.lines.append(line.replace("OUT", name))
        return name

    def weight(self, *shape, ints=None):
        name = f"w{len(self.weights)}"
        self.weights[name] = np.array(ints, np.int64) if ints is not None else self.g.standard_normal(shape).astype(F) / F(max(1, prod(shape[1:])) ** 0.5)
        return name

    def conv(self, x, inputs, outputs, k=3, group=1):
        pads = f"pads=[{k // 2},{k // 2},{k // 2},{k // 2}], group={group}"
        return self.new(f"OUT = Conv<{pads}>({x}, {self.weight(outputs, inputs // group, k, k)}, {self.weight(outputs)})")

    def step(self):
        x, c = self.x, self.c
        kind = self.r.choice(["conv", "residual", "concat", "depthwise", "instance", "prelu", "glu", "halves", "shuffle", "pad", "resize", "pool", "norm",
                              "excite", "gather", "transposed", "sum"])
        if kind == "conv":
            self.c = self.r.choice([4, 8, 12])
            x = self.conv(x, c, self.c, self.r.choice([1, 3]))
        elif kind == "residual":
            y = self.new(f"OUT = Relu({self.conv(x, c, c)})")
            x = self.new(f"OUT = Add({x}, {self.conv(y, c, c, 1)})")
        elif kind == "concat":
            x, self.c = self.new(f"OUT = Concat<axis=1>({x}, {self.conv(x, c, 4)}, {x})"), 2 * c + 4
        elif kind == "depthwise":
            times = self.r.choice([1, 2])
            x, self.c = self.conv(x, c, times * c, group=c), times * c
        elif kind == "instance":
            x = self.new(f"OUT = InstanceNormalization({x}, {self.weight(c)}, {self.weight(c)})")
        elif kind == "prelu":
            x = self.new(f"OUT = PRelu({x}, {self.weight(c, 1, 1)})")
        elif kind == "glu":
            y = self.conv(x, c, 2 * c, 1)
            self.lines.append(f"a{y}, b{y} = Split<axis=1, num_outputs=2>({y}) s{y} = Sigmoid(b{y})")
            x = self.new(f"OUT = Mul(a{y}, s{y})")
        elif kind == "halves" and c % 2 == 0:
            lower = self.new(f"OUT = Slice({x}, {self.weight(ints=[0])}, {self.weight(ints=[c // 2])}, {self.weight(ints=[1])})")
            upper = self.new(f"OUT = Slice({x}, {self.weight(ints=[c // 2])}, {self.weight(ints=[c])}, {self.weight(ints=[1])})")
            x = self.new(f"OUT = Concat<axis=1>({self.conv(lower, c // 2, c // 2, 1)}, {upper})")
        elif kind == "shuffle" and c % 2 == 0:
            x = self.new(f"OUT = Reshape({x}, {self.weight(ints=[1, 2, c // 2, self.side, self.side])})")
            x = self.new(f"OUT = Transpose<perm=[0,2,1,3,4]>({x})")
            x = self.new(f"OUT = Reshape({x}, {self.weight(ints=[1, c, self.side, self.side])})")
        elif kind == "pad":
            x, self.c = self.new(f"OUT = Pad({x}, {self.weight(ints=[0, 1, 0, 0, 0, 2, 0, 0])})"), c + 3
        elif kind == "resize":
            x, self.side = self.new(f'OUT = Resize<mode="nearest">({x}, , , {self.weight(ints=[1, c, 2 * self.side, 2 * self.side])})'), 2 * self.side
        elif kind == "pool" and self.side % 2 == 0:
            x, self.side = self.new(f"OUT = MaxPool<kernel_shape=[2,2], strides=[2,2]>({x})"), self.side // 2
        elif kind == "norm":
            y = self.new(f"OUT = Transpose<perm=[0,2,3,1]>({x})")
            y = self.new(f"OUT = LayerNormalization<axis=-1>({y}, {self.weight(c)}, {self.weight(c)})")
            x = self.new(f"OUT = Transpose<perm=[0,3,1,2]>({y})")
        elif kind == "excite":
            y = self.new(f"OUT = GlobalAveragePool({x})")
            x = self.new(f"OUT = Mul({x}, {self.new(f'OUT = Sigmoid({self.conv(y, c, c, 1)})')})")
        elif kind == "gather":
            index = [self.r.randrange(-c, c) for _ in range(c)]
            x = self.new(f"OUT = Gather<axis=1>({x}, {self.weight(ints=index)})")
        elif kind == "transposed":
            x, self.c = self.new(f"OUT = ConvTranspose({x}, {self.weight(c, 6, 1, 1)})"), 6
        elif kind == "sum":
            y = self.new(f"OUT = ReduceSum({x}, {self.weight(ints=[1])})")
            x = self.new(f"OUT = Add({x}, {y})")
        self.x = x

    def model(self):
        self.x, self.c = self.conv("x", 3, 8), 8
        for _ in range(self.r.randint(1, 6)):
            self.step()
        if self.r.random() < 0.5:
            flat = self.new(f"OUT = Flatten({self.x})")
            self.lines.append(f"y = Gemm({flat}, {self.weight(self.c * self.side ** 2, 5)})")
            shape = "1,5"
        else:
            shape = f"1,2,{self.side},{self.side}"
            self.lines.append(f"y = Conv({self.x}, {self.weight(2, self.c, 1, 1)})")
        return net(" ".join(self.lines), "float[1,3,8,8] x", f"float[{shape}] y", **self.weights)


@given(seed=st.integers(0, 10**6), sparsity=st.sampled_from([0.3, 0.5, 0.9]))
@settings(deadline=None, max_examples=40)
def test_nets_of_many_blocks_lose_channels_and_agree(seed, sparsity):
    """`narrow` compares with the masked net itself: here it does, and the result runs."""
    model = Blocks(seed).model()
    made = narrow(model, sparsity)
    assert size(made.models[0]) <= size(model)
    assert np.isfinite(run(made.models[0], x=np.ones((1, 3, 8, 8), F))[0]).all()


def test_next_to_all_nets_lose_channels():
    """A gather or sum may tie all channels of a net together, which is rare."""
    models = [Blocks(seed).model() for seed in range(12)]
    assert sum(size(narrow(m).models[0]) < 0.9 * size(m) for m in models) >= 11


def size(model):
    return sum(a.size for a in arrays(model).values() if a.dtype == F)


@pytest.mark.parametrize("op, body", [("Softmax", "h = Gemm(x, A) s = Softmax(h) y = Gemm(s, C)"),
                                      ("ReduceMean", "h = Gemm(x, A) m = ReduceMean<keepdims=1>(h) s = Sub(h, m) y = Gemm(s, C)")])
def test_a_wrong_rule_is_noticed(monkeypatch, op, body):
    model = net(body, A=np.random.default_rng(0).standard_normal((64, 16)).astype(F) / 8, C=(16, 8))
    assert narrow(model).models[0] is model  # these operators mix channels: all stay
    wrong = {"Softmax": lambda g, number, node: [list(g.axes(node.input[0]))],
             "ReduceMean": lambda g, number, node: [[g.axes(node.input[0])[0], np.zeros(1, int)]]}
    monkeypatch.setitem(rules.RULES, op, wrong[op])
    with pytest.raises(VerificationError, match="left out"):
        narrow(model)


def test_what_is_removed_is_what_counts_least():
    w = np.random.default_rng(0).standard_normal((64, 64)).astype(F)
    w[::2] *= 10
    made = narrow(net(MLP, **MLP_WEIGHTS | {"A": w}), {"a": 0.5})
    new = arrays(made.models[0])
    np.testing.assert_array_equal(new["A"], w[::2])
    np.testing.assert_array_equal(new["B"], arrays(net(MLP, **MLP_WEIGHTS | {"A": w}))["B"][::2])
    assert {n: x.sparsity for n, x in by_name(made).items()} == {"a": 0.5, "b": 0.5, "c": 0}


def test_one_channel_of_every_half_stays():
    """Both halves of a split go to layers of their own, and neither may become empty."""
    w = np.ones((16, 64), F)
    w[:8] = 1e-3
    model = net("h = Gemm<transB=1>(x, A) a, b = Split<axis=1, num_outputs=2>(h) c = Gemm(a, C) d = Gemm(b, D) y = Add(c, d)",
                A=w, C=(8, 8), D=(8, 8))
    shapes = {n: a.shape for n, a in arrays(narrow(model, 0.5).models[0]).items()}
    assert shapes["C"] == (1, 8) and shapes["D"] == (7, 8)


@pytest.mark.parametrize("cell, gates", [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers_lose_hidden_units(cell, gates):
    model = net(f"u = MatMul(x, E) [cell] s, h = {cell}<hidden_size=12>(u, W, R, B) z = Squeeze(h, axis) y = Gemm(z, C)", "float[5,1,6] x", "float[1,2] y",
                E=(6, 10), W=(1, gates * 12, 10), R=(1, gates * 12, 12), B=(1, 2 * gates * 12), C=(12, 2), axis=np.array([0]))
    made = narrow(model)
    shapes = {n: a.shape for n, a in arrays(made.models[0]).items()}
    assert shapes["W"] == (1, gates * 6, 5) and shapes["R"] == (1, gates * 6, 6) and shapes["C"] == (6, 2)


def test_attention_loses_features_of_all_heads():
    body = ("q = MatMul(x, Q) k = MatMul(x, K) v = MatMul(x, V) q1 = Reshape(q, heads) k1 = Reshape(k, heads) v1 = Reshape(v, heads) "
            "q2 = Transpose<perm=[0,2,1,3]>(q1) k2 = Transpose<perm=[0,2,3,1]>(k1) v2 = Transpose<perm=[0,2,1,3]>(v1) a = MatMul(q2, k2) p = Softmax(a) "
            "o = MatMul(p, v2) o1 = Transpose<perm=[0,2,1,3]>(o) o2 = Reshape(o1, flat) y = MatMul(o2, O)")
    model = net(body, "float[1,6,16] x", "float[1,6,16] y", Q=(16, 32), K=(16, 32), V=(16, 32), O=(32, 16),
                heads=np.array([1, 6, 4, 8]), flat=np.array([1, 6, 32]))
    shapes = {n: a.shape for n, a in arrays(narrow(model).models[0]).items()}
    assert shapes["Q"] == shapes["K"] == shapes["V"] == (16, 16) and shapes["O"] == (16, 16)


def test_variants_lose_the_same_channels():
    one, two = net(MLP, **MLP_WEIGHTS), net(MLP, "float[4,64] x", "float[4,8] y", **MLP_WEIGHTS)
    a, b = (arrays(m) for m in prune_onnx([one, two], sparsity=0.5, pattern="channels").models)
    assert a["A"].shape == (32, 64)
    for name in "ABC":
        np.testing.assert_array_equal(a[name], b[name])


def test_scores_decide_and_names_are_checked():
    model = net(MLP, **MLP_WEIGHTS)
    assert not np.array_equal(arrays(narrow(model, score=scores.random).models[0])["A"], arrays(narrow(model).models[0])["A"])
    with pytest.raises(InputError, match="c: none of its channels can be removed"):
        narrow(model, {"c": 0.5})
    with pytest.raises(InputError, match="no layer 'q'"):
        narrow(model, {"q": 0.5})
    assert narrow(model, 0).models[0] is model


@pytest.mark.parametrize("name", ["squeezenet11", "pilotnet", "social_stgcnn_zara1", "metadrive_ppo_expert"])
def test_real_models(name):
    from edgekit.exporters.load import load
    from edgekit.exporters.lower import supported
    path = MODELS / f"{name}.onnx"
    if not path.is_file():
        pytest.skip("shared models are not here")
    model = load(str(path), keep=supported()).variants[0].model
    made = narrow(model)
    assert size(made.models[0]) < 0.55 * size(model)
    assert ort.InferenceSession(made.models[0].SerializeToString(), providers=["CPUExecutionProvider"])
