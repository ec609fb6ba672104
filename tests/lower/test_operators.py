"""Operators through load and lower: the plan, run in numpy, against onnxruntime."""
import numpy as np
import pytest
from onnx import helper

from tests.lower.graphs import check, model

RNG = np.random.default_rng(0)


def n(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def node(op, inputs, outputs="y", **attrs):
    return helper.make_node(op, inputs.split() if isinstance(inputs, str) else inputs, outputs.split(), name=f"{op}_{outputs.split()[0]}", **attrs)


def ints(*values):
    return np.asarray(values, np.int64)


PRODUCTS = {
    "gemm": (node("Gemm", "x w b", transB=1), {"x": n(3, 7)}, {"w": n(5, 7), "b": n(5)}),
    "gemm alpha beta, bias by rows": (node("Gemm", "x w b", alpha=0.5, beta=2.0), {"x": n(3, 7)}, {"w": n(7, 5), "b": n(3, 1)}),
    "gemm transposed input": (node("Gemm", "x w", transA=1), {"x": n(7, 3)}, {"w": n(7, 40)}),
    "gemm of two inputs": (node("Gemm", "x w c", transB=1, alpha=2.0), {"x": n(3, 7), "w": n(5, 7), "c": n(3, 5)}, {}),
    "matmul with weights": (node("MatMul", "x w"), {"x": n(2, 3, 9)}, {"w": n(9, 33)}),
    "matmul from the left": (node("MatMul", "w x"), {"x": n(2, 9, 5)}, {"w": n(6, 9)}),
    "matmul from the left, vectors": (node("MatMul", "w x"), {"x": n(9)}, {"w": n(6, 9)}),
    "matmul of activations": (node("MatMul", "a b"), {"a": n(2, 1, 3, 4), "b": n(5, 4, 6)}, {}),
    "matmul of vectors": (node("MatMul", "a b"), {"a": n(4), "b": n(4)}, {}),
    "matmul vector first": (node("MatMul", "a b"), {"a": n(4), "b": n(3, 4, 5)}, {}),
    "matmul of integers": (node("MatMul", "a b"), {"a": RNG.integers(-9, 9, (3, 4)).astype(np.int32), "b": RNG.integers(-9, 9, (4, 5)).astype(np.int32)}, {}),
    "conv": (node("Conv", "x w b", pads=[1] * 4), {"x": n(1, 3, 9, 11)}, {"w": n(8, 3, 3, 3), "b": n(8)}),
    "conv, batch 2, stride 2": (node("Conv", "x w b", pads=[1, 0, 1, 2], strides=[2, 2]), {"x": n(2, 3, 9, 11)}, {"w": n(12, 3, 3, 3), "b": n(12)}),
    "conv 1x1": (node("Conv", "x w"), {"x": n(1, 16, 7, 7)}, {"w": n(9, 16, 1, 1)}),
    "conv 1x1, stride 2": (node("Conv", "x w", strides=[2, 2]), {"x": n(1, 16, 7, 7)}, {"w": n(9, 16, 1, 1)}),
    "conv dilated, stride 3": (node("Conv", "x w", dilations=[2, 1], strides=[3, 1], pads=[2, 0, 1, 0]), {"x": n(1, 4, 17, 8)}, {"w": n(8, 4, 3, 2)}),
    "conv same lower": (node("Conv", "x w", auto_pad="SAME_LOWER", strides=[2, 2]), {"x": n(1, 4, 9, 8)}, {"w": n(8, 4, 4, 3)}),
    "conv depthwise": (node("Conv", "x w", group=6, pads=[1] * 4), {"x": n(1, 6, 8, 8)}, {"w": n(6, 1, 3, 3)}),
    "conv depthwise, stride 2, batch 3": (node("Conv", "x w", group=6, pads=[1] * 4, strides=[2, 2]), {"x": n(3, 6, 9, 8)}, {"w": n(12, 1, 3, 3)}),
    "conv grouped": (node("Conv", "x w", group=2), {"x": n(1, 8, 5, 5)}, {"w": n(6, 4, 3, 3)}),
    "conv by tiles of 4": (node("Conv", "x w b", pads=[1, 0, 2, 1]), {"x": n(1, 48, 11, 17)}, {"w": n(56, 48, 3, 3), "b": n(56)}),
    "conv by tiles of 4, batch 2": (node("Conv", "x w", pads=[1] * 4), {"x": n(2, 64, 7, 9)}, {"w": n(64, 64, 3, 3)}),
    "conv by tiles of 2": (node("Conv", "x w", pads=[1] * 4), {"x": n(1, 64, 7, 9)}, {"w": n(64, 64, 3, 3)}),
    "conv 1-D": (node("Conv", "x w", pads=[2, 0]), {"x": n(1, 4, 20)}, {"w": n(8, 4, 3)}),
    "conv 1-D, batch 2": (node("Conv", "x w", pads=[2, 0], strides=[2]), {"x": n(2, 4, 20)}, {"w": n(8, 4, 3)}),
    "conv 3-D": (node("Conv", "x w", pads=[1, 0, 1, 1, 0, 1], strides=[1, 2, 1]), {"x": n(1, 2, 4, 5, 6)}, {"w": n(4, 2, 2, 3, 3)}),
    "conv down to a point": (node("Conv", "x w b"), {"x": n(2, 3, 4, 4)}, {"w": n(10, 3, 4, 4), "b": n(10)}),
    "conv of one output": (node("Conv", "x w"), {"x": n(1, 3, 6, 6)}, {"w": n(1, 3, 3, 3)}),
    "conv transposed": (node("ConvTranspose", "x w b", strides=[2, 2], pads=[1, 1, 0, 1], output_padding=[1, 0]), {"x": n(1, 3, 4, 5)},
                        {"w": n(3, 4, 3, 3), "b": n(4)}),
    "conv transposed, groups, dilation": (node("ConvTranspose", "x w", group=2, dilations=[2, 1]), {"x": n(1, 4, 4, 5)}, {"w": n(4, 3, 2, 3)}),
    "conv transposed, same": (node("ConvTranspose", "x w", auto_pad="SAME_UPPER", strides=[2, 2]), {"x": n(1, 3, 4, 5)}, {"w": n(3, 4, 3, 3)}),
    "conv transposed, cropped": (node("ConvTranspose", "x w", pads=[2, 2, 2, 2]), {"x": n(1, 3, 6, 5)}, {"w": n(3, 4, 2, 2)}),
    "einsum of attention": (node("Einsum", ["q", "k"], equation="bhid,bhjd->bhij"), {"q": n(1, 2, 3, 4), "k": n(1, 2, 5, 4)}, {}),
    "einsum of a graph": (node("Einsum", ["x", "a"], equation="nctv,tvw->nctw"), {"x": n(1, 3, 4, 5), "a": n(4, 5, 5)}, {}),
    "einsum, implicit, outer": (node("Einsum", ["x", "a"], equation="ij,kl"), {"x": n(2, 3), "a": n(4, 5)}, {}),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_product(name):
    nodes, inputs, constants = PRODUCTS[name]
    check(model([nodes], inputs, ["y"], constants), inputs)


MOVES = {
    "transpose": (node("Transpose", "x", perm=[2, 0, 1]), {"x": n(2, 3, 4)}, {}),
    "slice": (node("Slice", "x s e a t"), {"x": n(5, 6, 7)}, {"s": ints(1, -1), "e": ints(100, -100), "a": ints(0, 2), "t": ints(2, -3)}),
    "expand": (node("Expand", "x s"), {"x": n(3, 1)}, {"s": ints(2, 3, 4)}),
    "tile": (node("Tile", "x r"), {"x": n(2, 3)}, {"r": ints(3, 2)}),
    "pad": (node("Pad", "x p v"), {"x": n(2, 3)}, {"p": ints(1, 0, 0, 2), "v": np.float32(1.5)}),
    "pad, cropping": (node("Pad", "x p"), {"x": n(4, 5)}, {"p": ints(-1, 2, 1, -2)}),
    "pad reflect": (node("Pad", "x p", mode="reflect"), {"x": n(4, 5)}, {"p": ints(2, 1, 0, 3)}),
    "pad edge": (node("Pad", "x p", mode="edge"), {"x": n(4, 5)}, {"p": ints(2, 1, 0, 3)}),
    "pad wrap": (node("Pad", "x p", mode="wrap"), {"x": n(4, 5)}, {"p": ints(2, 1, 0, 3)}),
    "pad by a computed number": (node("Pad", "x p v"), {"x": n(2, 3), "v": np.array(2, np.float32)}, {"p": ints(1, 0, 0, 2)}),
    "gather known, spaced": (node("Gather", "x i", axis=1), {"x": n(3, 6)}, {"i": ints(1, 3, 5)}),
    "gather known, any": (node("Gather", "x i", axis=0), {"x": n(5, 6)}, {"i": np.asarray([[4, 0], [-2, 4]])}),
    "gather one": (node("Gather", "x i", axis=-1), {"x": n(5, 6)}, {"i": np.asarray(-1)}),
    "gather computed": (node("Gather", "x i", axis=1), {"x": n(3, 6, 2), "i": np.asarray([[5, -1], [0, 2]])}, {}),
    "gather elements": (node("GatherElements", "x i", axis=0), {"x": n(3, 4), "i": np.asarray([[2, 0, -1, 1]])}, {}),
    "depth to space": (node("DepthToSpace", "x", blocksize=2, mode="CRD"), {"x": n(1, 8, 2, 3)}, {}),
    "space to depth": (node("SpaceToDepth", "x", blocksize=2), {"x": n(1, 2, 4, 6)}, {}),
    "concat": (node("Concat", "x z", axis=1), {"x": n(2, 3), "z": n(2, 4)}, {}),
    "integers": (node("Concat", "x z", axis=0), {"x": ints(1, 2), "z": ints(3)}, {}),
}


@pytest.mark.parametrize("name", MOVES)
def test_movement(name):
    nodes, inputs, constants = MOVES[name]
    check(model([nodes], inputs, ["y"], constants), inputs)


REDUCTIONS = {
    "sum": (node("ReduceSum", "x a"), {"x": n(3, 4, 5)}, {"a": ints(1)}),
    "mean, two axes, dropped": (node("ReduceMean", "x a", keepdims=0), {"x": n(3, 4, 5, 6)}, {"a": ints(0, 2)}),
    "all": (node("ReduceMax", "x", keepdims=0), {"x": n(3, 4)}, {}),
    "no axes, no operation": (node("ReduceSum", "x a", noop_with_empty_axes=1), {"x": n(3, 4)}, {"a": np.zeros(0, np.int64)}),
    "integers": (node("ReduceProd", "x a"), {"x": RNG.integers(1, 4, (3, 4)).astype(np.int64)}, {"a": ints(0)}),
    "L1": (node("ReduceL1", "x a"), {"x": n(3, 40)}, {"a": ints(1)}), "L2": (node("ReduceL2", "x a"), {"x": n(3, 40)}, {"a": ints(1)}),
    "sum of squares": (node("ReduceSumSquare", "x a"), {"x": n(3, 40)}, {"a": ints(0)}),
    "log of sum": (node("ReduceLogSum", "x a"), {"x": np.abs(n(3, 40))}, {"a": ints(1)}),
    "log of sum of exp": (node("ReduceLogSumExp", "x a"), {"x": 50 * n(3, 40)}, {"a": ints(-1)}),
    "argmax": (node("ArgMax", "x", axis=1), {"x": n(3, 4, 5)}, {}),
    "argmin, last": (node("ArgMin", "x", axis=0, keepdims=0, select_last_index=1), {"x": RNG.integers(0, 2, (6, 5)).astype(np.float32)}, {}),
    "softmax": (node("Softmax", "x", axis=1), {"x": n(2, 9, 3)}, {}), "log softmax": (node("LogSoftmax", "x"), {"x": 30 * n(2, 9)}, {}),
    "layer norm": (node("LayerNormalization", "x s b", axis=1), {"x": n(2, 3, 8)}, {"s": n(3, 8), "b": n(3, 8)}),
    "instance norm": (node("InstanceNormalization", "x s b"), {"x": n(2, 3, 4, 5)}, {"s": n(3), "b": n(3)}),
    "global average": (node("GlobalAveragePool", "x"), {"x": n(2, 3, 7, 7)}, {}), "global max": (node("GlobalMaxPool", "x"), {"x": n(1, 3, 5)}, {}),
    "max pool": (node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0]), {"x": n(1, 3, 9, 8)}, {}),
    "max pool, ceil": (node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), {"x": n(1, 3, 8, 8)}, {}),
    "max pool, dilated": (node("MaxPool", "x", kernel_shape=[2, 2], dilations=[2, 2]), {"x": n(1, 3, 8, 8)}, {}),
    "average pool": (node("AveragePool", "x", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 1, 1, 0]), {"x": n(2, 3, 9, 8)}, {}),
    "average pool with padding": (node("AveragePool", "x", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1), {"x": n(1, 3, 6, 6)}, {}),
    "average pool, same": (node("AveragePool", "x", kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 2]), {"x": n(1, 3, 6, 7)}, {}),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction(name):
    nodes, inputs, constants = REDUCTIONS[name]
    check(model([nodes], inputs, ["y"], constants), inputs)


def _rnn(op, gates, d, hidden=5, inputs=4, steps=6, batch=3, **attrs):
    constants = {"w": n(d, gates * hidden, inputs), "r": n(d, gates * hidden, hidden), "b": n(d, 2 * gates * hidden)}
    outs = "y yh yc" if op == "LSTM" else "y yh"
    return {"x": n(steps, batch, inputs)}, constants, outs, {"hidden_size": hidden, **attrs}


RECURRENT = {
    "lstm": ("LSTM", 4, 1, {}), "lstm reverse": ("LSTM", 4, 1, {"direction": "reverse"}),
    "lstm both ways, clipped": ("LSTM", 4, 2, {"direction": "bidirectional", "clip": 0.5}), "lstm, coupled": ("LSTM", 4, 1, {"input_forget": 1}),
    "gru": ("GRU", 3, 1, {}), "gru, reset after": ("GRU", 3, 2, {"direction": "bidirectional", "linear_before_reset": 1}),
    "gru reverse": ("GRU", 3, 1, {"direction": "reverse"}), "rnn": ("RNN", 1, 1, {}),
    "rnn, other activations": ("RNN", 1, 2, {"direction": "bidirectional", "activations": ["HardSigmoid", "LeakyRelu"], "activation_alpha": [0.3, 0.05],
                                             "activation_beta": [0.4]}),
}


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent(name, state):
    op, gates, d, attrs = RECURRENT[name]
    inputs, constants, outs, attrs = _rnn(op, gates, d, **attrs)
    names = ["x", "w", "r", "b"]
    if state:  # initial states and sequences of different length
        inputs |= {"lens": np.asarray([6, 2, 4], np.int32), "h0": n(d, 3, 5)}
        names += ["lens", "h0"]
        if op == "LSTM":
            inputs["c0"] = n(d, 3, 5)
            names.append("c0")
    check(model([node(op, names, outs, **attrs)], inputs, outs.split(), constants), inputs)


def test_lstm_with_peepholes():
    inputs, constants, outs, attrs = _rnn("LSTM", 4, 1)
    constants["p"] = n(1, 15)
    check(model([node("LSTM", ["x", "w", "r", "b", "", "", "", "p"], outs, **attrs)], inputs, outs.split(), constants), inputs)


def test_what_follows_a_product_is_fused_into_it():
    nodes = [node("Conv", "x w b", "c", pads=[1] * 4), node("Relu", "c", "r"), node("Add", "r z", "s"), node("Mul", "s k", "y")]
    inputs = {"x": n(1, 4, 6, 6), "z": n(1, 8, 6, 6)}
    plan = check(model(nodes, inputs, ["y"], {"w": n(8, 4, 3, 3), "b": n(8), "k": np.float32(0.5)}), inputs)
    assert plan.entries[0].steps[-1].op == "Conv+Relu+Add+Mul"


@pytest.mark.parametrize("inputs, extents, kept, tile", [
    (64, (14, 14), 1.0, 4), (64, (7, 9), 1.0, 2), (64, (28, 28), 0.5, 4), (64, (28, 28), 0.1, None), (3, (64, 64), 1.0, None), (512, (2, 2), 1.0, None)])
def test_convolutions_go_by_tiles_where_that_is_cheaper(inputs, extents, kept, tile):
    w = n(64, inputs, 3, 3)
    w[:, int(kept * inputs):] = 0  # the same inputs in all groups
    x = {"x": n(1, inputs, *extents)}
    plan = check(model([node("Conv", "x w", "c", pads=[1] * 4), node("Relu", "c", "y")], x, ["y"], {"w": w}), x)
    kernels = [s.kernel for s in plan.entries[0].steps]
    assert [k.m for k in kernels if hasattr(k, "m")] == ([tile, tile] if tile else [])
    assert plan.entries[0].steps[-1].op == "Conv+Relu"


def in_groups(outputs, inputs, v, kept):
    """Weights (inputs, outputs) as pruning leaves them: groups of v outputs, scattered, read the same `kept` inputs."""
    w, rows = n(outputs, inputs), RNG.permutation(outputs)
    for g in range(0, outputs, v):
        w[np.ix_(rows[g:g + v], RNG.permutation(inputs)[kept:])] = 0
    return w.T.copy()


@pytest.mark.parametrize("second", ["sparse", "dense"])
def test_a_sparse_layer_leaves_its_outputs_in_its_own_order_for_the_next(second):
    w2 = in_groups(16, 27, 8, 8) if second == "sparse" else n(27, 16)
    m = model([node("MatMul", "x w1", "a"), node("Add", "b1 a", "b"), node("Tanh", "b", "c"), node("Mul", "c s", "d"), node("MatMul", "d w2", "e"),
               node("Add", "e b2", "f"), node("Add", "f z", "y")],
              {"x": n(5, 40), "z": n(5, 16)}, ["y"], {"w1": in_groups(27, 40, 8, 12), "b1": n(27), "s": n(1, 27), "w2": w2, "b2": n(16)})
    one, two = (s.kernel for s in check(m, {"x": n(5, 40), "z": n(5, 16)}).entries[0].steps)
    assert not one.order and one.index and two.inputs == one.groups * one.v > 27  # some are padding
    assert len(one.extras) == len(two.extras) == 1  # a constant row that is added is a bias
    assert two.order == (second == "sparse")


def test_a_sparse_layer_with_another_reader_puts_its_outputs_in_order():
    m = model([node("MatMul", "x w1", "a"), node("MatMul", "a w2", "y")], {"x": n(5, 40)}, ["y", "a"],
              {"w1": in_groups(20, 40, 8, 12), "w2": n(20, 16)})
    assert check(m, {"x": n(5, 40)}).entries[0].steps[0].kernel.order


@pytest.mark.parametrize("batch, kept, sparse", [(5, 40, True), (5, 59, False), (1, 59, True)])
def test_a_layer_is_sparse_where_that_is_faster(batch, kept, sparse):
    m = model([node("MatMul", "x w", "y")], {"x": n(batch, 64)}, ["y"], {"w": in_groups(32, 64, 16, kept)})
    assert bool(check(m, {"x": n(batch, 64)}).entries[0].steps[0].kernel.index) == sparse


def test_a_bias_that_is_used_again_is_not_folded():
    m = model([node("MatMul", "x w", "a"), node("Add", "a b", "c"), node("Mul", "c b", "d"), node("Add", "d a2", "y")],
              {"x": n(3, 9), "a2": n(3, 33)}, ["y"], {"w": n(9, 33), "b": n(33)})
    step, = check(m, {"x": n(3, 9), "a2": n(3, 33)}).entries[0].steps
    assert len(step.kernel.extras) == 2


def test_keys_of_few_rows_are_read_as_they_lie():
    m = model([node("Transpose", "k", "t", perm=[0, 1, 3, 2]), node("MatMul", "q t", "y")], {"q": n(1, 2, 1, 20), "k": n(1, 2, 9, 20)}, ["y"])
    step, = check(m, {"q": n(1, 2, 1, 20), "k": n(1, 2, 9, 20)}).entries[0].steps
    assert step.kernel.b.strides[-2:] == (1, 20)


@pytest.mark.parametrize("queries, mask, steps", [
    (20, (2, 1, 1, 9), ["Attention"]), (20, (20, 9), ["Map", "MatMul", "Norm", "MatMul", "Map"]), (3, (1, 9), ["MatMul", "Norm", "MatMul", "Map"])])
def test_attention_of_many_queries_and_few_keys_is_one_step(queries, mask, steps):
    nodes = [node("Transpose", "k", "t", perm=[0, 1, 3, 2]), node("MatMul", "q t", "s"), node("Mul", "s scale", "c"), node("Add", "c mask", "m"),
             node("Softmax", "m", "p"), node("MatMul", "p v", "o"), node("Transpose", "o", "u", perm=[0, 2, 1, 3]), node("Reshape", "u shape", "y")]
    inputs = {"q": n(2, 3, queries, 8), "k": n(2, 3, 9, 8), "v": n(2, 3, 9, 5), "mask": n(*mask)}
    plan = check(model(nodes, inputs, ["y"], {"scale": np.float32(0.3), "shape": ints(2, queries, 15)}), inputs)
    assert [type(s.kernel).__name__ for s in plan.entries[0].steps] == steps


def test_a_value_with_two_readers_is_computed_once():
    nodes = [node("Gemm", "x w", "g"), node("Tanh", "g", "t"), node("Add", "t g", "y"), node("Sigmoid", "t", "z")]
    inputs = {"x": n(2, 8)}
    plan = check(model(nodes, inputs, ["y", "z"], {"w": n(8, 8)}), inputs)
    assert sum(type(s.kernel).__name__ == "Linear" for s in plan.entries[0].steps) == 1


@pytest.mark.parametrize("nodes, kernels", [
    ([node("Sigmoid", "a", "s"), node("Mul", "a s", "c")], ["Linear", "Linear"]),
    ([node("Div", "a two", "d"), node("Erf", "d", "e"), node("Add", "e one", "f"), node("Mul", "a f", "g"), node("Mul", "g half", "c")], ["Linear", "Linear"]),
    ([node("Mul", "a a", "q"), node("Tanh", "q", "t"), node("Mul", "t q", "u"), node("Sub", "u a", "c")], ["Linear", "Linear"]),
    ([node("Sigmoid", "a", "s"), node("Mul", "s z", "c0"), node("Add", "c0 a", "c")], ["Linear", "Map", "Linear"])])
def test_what_is_made_of_a_value_and_joins_again_is_fused_into_its_product(nodes, kernels):
    inputs = {"x": n(5, 8), "z": n(5, 16)}
    constants = {"w": n(8, 16), "v": n(16, 8), "one": np.float32(1), "two": np.float32(2), "half": np.float32(0.5)}
    plan = check(model([node("MatMul", "x w", "a"), *nodes, node("MatMul", "c v", "y")], inputs, ["y"], constants), inputs)
    assert [type(s.kernel).__name__ for s in plan.entries[0].steps] == kernels


def test_concat_is_written_in_place():
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "b"), node("Conv", "x v", "c"), node("Concat", "b c", "y", axis=1)]
    inputs = {"x": n(1, 4, 6, 6)}
    plan = check(model(nodes, inputs, ["y"], {"w": n(8, 4, 1, 1), "v": n(4, 4, 1, 1)}), inputs)
    assert [type(s.kernel).__name__ for s in plan.entries[0].steps] == ["Conv", "Conv"]


def test_padding_is_written_in_place_by_the_producer():
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "b"), node("Conv", "b v", "y", pads=[1] * 4)]
    inputs = {"x": n(1, 4, 6, 6)}
    plan = check(model(nodes, inputs, ["y"], {"w": n(8, 4, 1, 1), "v": n(4, 8, 3, 3)}), inputs)
    names = [type(s.kernel).__name__ for s in plan.entries[0].steps]
    assert names.count("Conv") == 2 and all(s.op != "Copy" or not s.kernel.inputs for s in plan.entries[0].steps)


def test_an_input_as_output_and_twice():
    nodes = [node("Identity", "x", "y"), node("Relu", "x", "z"), node("Identity", "z", "u")]
    inputs = {"x": n(2, 3)}
    check(model(nodes, inputs, ["y", "z", "u"]), inputs)
