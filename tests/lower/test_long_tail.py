"""Resize, order, indices, windows, samples, transforms and quantised operators: the plan, run in numpy, against onnxruntime."""
import numpy as np
import pytest
from onnx import TensorProto, helper

from edgekit.errors import UnsupportedError
from tests.lower.graphs import check, model, plan_of
from tests.reference import Machine

RNG = np.random.default_rng(1)
F = np.float32


def n(*shape, dtype=F):
    return RNG.standard_normal(shape).astype(dtype)


def i(low, high, *shape, dtype=np.int64):
    return RNG.integers(low, high, shape).astype(dtype)


def node(op, inputs, outputs="y", **attrs):
    return helper.make_node(op, inputs.split(" "), outputs.split(), name=op, **attrs)


def resized(shape, scales=None, sizes=None, **attrs):
    """A Resize of random numbers."""
    constants = {"s": np.asarray(scales if sizes is None else sizes, F if sizes is None else np.int64)}
    return node("Resize", "x  s" if sizes is None else "x   s", **attrs), {"x": n(*shape)}, constants


CASES = {
    "resize nearest": resized((1, 2, 5, 7), [1, 1, 2, 3], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    "resize nearest down": resized((1, 2, 9, 7), [1, 1, 0.6, 0.5], mode="nearest"),
    "resize nearest, to a size": resized((2, 2, 5, 7), sizes=[2, 2, 8, 3], mode="nearest", nearest_mode="ceil"),
    "resize linear": resized((1, 2, 5, 7), [1, 1, 2, 1.7], mode="linear"),
    "resize linear, corners": resized((1, 2, 5, 7), sizes=[1, 2, 9, 20], mode="linear", coordinate_transformation_mode="align_corners"),
    "resize linear, pytorch, to 1": resized((1, 2, 5, 7), sizes=[1, 2, 1, 14], mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    "resize linear, one axis": resized((3, 8), [1, 2.5], mode="linear"),
    "resize linear, volume": resized((1, 2, 3, 4, 5), [1, 1, 2, 2, 2], mode="linear"),
    "resize cubic": resized((1, 1, 6, 7), [1, 1, 2, 1.5], mode="cubic"),
    "resize cubic, -0.5, without the outside": resized((1, 1, 6, 7), [1, 1, 0.7, 2], mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1),
    "resize linear, antialiased": resized((1, 1, 12, 10), [1, 1, 0.5, 0.75], mode="linear", antialias=1),
    "resize cubic, antialiased": resized((1, 1, 12, 10), [1, 1, 0.5, 0.75], mode="cubic", antialias=1),
    "trilu": (node("Trilu", "x k", upper=0), {"x": n(2, 5, 7)}, {"k": np.asarray(-1)}),
    "eye like": (node("EyeLike", "x", k=1, dtype=TensorProto.INT32), {"x": n(4, 6)}, {}),
    "one hot": (node("OneHot", "i d v", axis=1), {"i": i(-6, 6, 3, 4), "v": np.asarray([2, 5], F)}, {"d": np.asarray(6)}),
    "hardmax": (node("Hardmax", "x", axis=1), {"x": n(3, 5, 4)}, {}),
    "reverse sequence": (node("ReverseSequence", "x l", time_axis=0, batch_axis=1), {"x": n(6, 4, 3), "l": np.asarray([6, 1, 3, 4])}, {}),
    "cumulative sum": (node("CumSum", "x a"), {"x": n(3, 37)}, {"a": np.asarray(1, np.int32)}),
    "cumulative sum, exclusive, backwards": (node("CumSum", "x a", exclusive=1, reverse=1), {"x": n(9, 4)}, {"a": np.asarray(0, np.int32)}),
    "cumulative sum of integers": (node("CumSum", "x a"), {"x": i(-9, 9, 3, 8)}, {"a": np.asarray(-1, np.int32)}),
    "top k": (node("TopK", "x k", "v w", axis=1), {"x": n(3, 50, 2)}, {"k": np.asarray([7])}),
    "top k with ties, smallest": (node("TopK", "x k", "v w", largest=0), {"x": i(0, 4, 3, 12).astype(F)}, {"k": np.asarray([5])}),
    "gather nd": (node("GatherND", "x i"), {"x": n(4, 5, 6), "i": np.stack([i(-4, 4, 3, 2), i(-5, 5, 3, 2)], -1)}, {}),
    "gather nd, batched": (node("GatherND", "x i", batch_dims=1), {"x": n(3, 5, 6), "i": i(-5, 5, 3, 4, 1)}, {}),
    "scatter elements": (node("ScatterElements", "x i u", axis=1), {"x": n(3, 7), "i": np.asarray([[1, -1], [3, 0], [6, 2]]), "u": n(3, 2)}, {}),
    "scatter elements, added": (node("ScatterElements", "x i u", axis=0, reduction="add"), {"x": n(5, 4), "i": i(-5, 5, 9, 4), "u": n(9, 4)}, {}),
    "scatter nd": (node("ScatterND", "x i u"), {"x": n(4, 5, 3), "i": np.asarray([[0, 1], [3, -1], [2, 2]]), "u": n(3, 3)}, {}),
    "scatter nd, largest": (node("ScatterND", "x i u", reduction="max"), {"x": n(4, 5), "i": np.asarray([[1], [1], [0]]), "u": n(3, 5)}, {}),
    "lp pool": (node("LpPool", "x", kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 0], p=3), {"x": n(1, 2, 9, 8)}, {}),
    "global lp pool": (node("GlobalLpPool", "x", p=2), {"x": n(2, 3, 4, 5)}, {}),
    "lp normalization": (node("LpNormalization", "x", axis=1, p=1), {"x": n(3, 5, 2)}, {}),
    "lrn": (node("LRN", "x", size=5, alpha=0.3, beta=0.6, bias=2.0), {"x": n(2, 7, 3, 4)}, {}),
    "max pool with indices": (node("MaxPool", "x", "y w", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]), {"x": n(2, 3, 9, 8)}, {}),
    "max pool with indices, by columns": (node("MaxPool", "x", "y w", kernel_shape=[2, 2], storage_order=1), {"x": n(1, 2, 5, 6)}, {}),
    "max pool of bytes": (node("MaxPool", "x", kernel_shape=[2, 2], pads=[1, 1, 0, 0]), {"x": i(0, 256, 1, 2, 5, 6, dtype=np.uint8)}, {}),
    "max unpool": (node("MaxUnpool", "x w", kernel_shape=[2, 2], strides=[2, 2]),
                   {"x": n(1, 1, 2, 2), "w": np.asarray([[[[5, 7], [13, 10]]]])}, {}),
    "col2im": (node("Col2Im", "x s b", pads=[1, 0, 1, 0], strides=[1, 2]), {"x": n(2, 12, 15)},
               {"s": np.asarray([4, 7]), "b": np.asarray([2, 2])}),
    "grid sample, zeros": (node("GridSample", "x g", mode="linear"), {"x": n(2, 3, 5, 6), "g": n(2, 4, 7, 2)}, {}),
    "grid sample, border, corners": (node("GridSample", "x g", mode="linear", padding_mode="border", align_corners=1),
                                     {"x": n(2, 3, 5, 6), "g": n(2, 4, 7, 2)}, {}),
    "grid sample, reflected": (node("GridSample", "x g", mode="linear", padding_mode="reflection"),
                               {"x": n(1, 3, 5, 6), "g": 2 * n(1, 4, 7, 2)}, {}),
    "grid sample, nearest": (node("GridSample", "x g", mode="nearest"), {"x": n(1, 3, 5, 6), "g": n(1, 4, 7, 2)}, {}),
    "grid sample, cubic": (node("GridSample", "x g", mode="cubic", align_corners=1), {"x": n(1, 3, 5, 6), "g": n(1, 4, 7, 2)}, {}),
    "dft": (node("DFT", "x  a", onesided=1), {"x": n(2, 16, 1)}, {"a": np.asarray(1)}),
    "dft, inverse, longer": (node("DFT", "x l a", inverse=1), {"x": n(2, 10, 2)}, {"a": np.asarray(1), "l": np.asarray(12)}),
    "stft": (node("STFT", "x s w"), {"x": n(2, 64, 1)}, {"s": np.asarray(8), "w": np.hanning(16).astype(F)}),
    "einsum, diagonal": (node("Einsum", "x", equation="...ii->...i"), {"x": n(3, 4, 4)}, {}),
    "einsum, sums of one operand": (node("Einsum", "x a", equation="bij,jk->bk"), {"x": n(2, 3, 4), "a": n(4, 5)}, {}),
    "einsum, three operands": (node("Einsum", "x a c", equation="ij,jk,kl->il"), {"x": n(2, 3), "a": n(3, 4), "c": n(4, 5)}, {}),
    "einsum, dots": (node("Einsum", "x a", equation="...ij,...jk->...ik"), {"x": n(2, 5, 3, 4), "a": n(1, 5, 4, 6)}, {}),
    "einsum, implicit": (node("Einsum", "x a", equation="ba,bc"), {"x": n(2, 3), "a": n(2, 4)}, {}),
    "einsum of doubles": (node("Einsum", "x a", equation="bij,bjk->bik"), {"x": n(2, 3, 4, dtype=np.float64), "a": n(2, 4, 3, dtype=np.float64)}, {}),
    "conv by computed weights": (node("Conv", "x w b", pads=[1, 0, 1, 0], strides=[2, 1], group=2), {"x": n(2, 4, 6, 7), "w": n(6, 2, 3, 3), "b": n(6)}, {}),
    "layer norm's statistics": (node("LayerNormalization", "x s b", "y m d", axis=1), {"x": n(3, 4, 5)}, {"s": n(4, 5), "b": n(4, 5)}),
    "pow of an integer": (node("Pow", "x e"), {"x": i(1, 9, 20, dtype=np.int32), "e": (i(0, 12, 20) / 2).astype(F)}, {}),
    "quantize": (node("QuantizeLinear", "x s z"), {"x": 20 * n(3, 50)}, {"s": np.asarray(0.1, F), "z": np.asarray(120, np.uint8)}),
    "quantize by axis": (node("QuantizeLinear", "x s z", axis=0), {"x": 20 * n(3, 50)},
                         {"s": np.asarray([0.1, 0.3, 0.2], F), "z": np.asarray([3, -20, 7], np.int8)}),
    "dequantize by block": (node("DequantizeLinear", "x s z", axis=1, block_size=2), {"x": i(-128, 128, 3, 6, dtype=np.int8)},
                            {"s": np.abs(n(3, 3)), "z": i(-5, 5, 3, 3, dtype=np.int8)}),
    "matmul integer": (node("MatMulInteger", "a b z w"), {"a": i(0, 256, 3, 7, dtype=np.uint8), "b": i(-128, 128, 7, 5, dtype=np.int8)},
                       {"z": np.asarray(12, np.uint8), "w": np.asarray(-3, np.int8)}),
    "conv integer": (node("ConvInteger", "x w z", pads=[1] * 4, group=2), {"x": i(0, 256, 1, 4, 6, 6, dtype=np.uint8)},
                     {"w": i(0, 256, 4, 2, 3, 3, dtype=np.uint8), "z": np.asarray(7, np.uint8)}),
    "quantised conv": (node("QLinearConv", "x xs xz w ws wz ys yz b", pads=[1] * 4, strides=[2, 2]), {"x": i(0, 256, 2, 3, 7, 7, dtype=np.uint8)},
                       {"xs": np.asarray(0.02, F), "xz": np.asarray(128, np.uint8), "w": i(-128, 128, 4, 3, 3, 3, dtype=np.int8),
                        "ws": np.asarray([0.01, 0.02, 0.005, 0.03], F), "wz": np.zeros(4, np.int8), "ys": np.asarray(0.1, F),
                        "yz": np.asarray(120, np.uint8), "b": i(-999, 999, 4, dtype=np.int32)}),
    "quantised matmul": (node("QLinearMatMul", "a as az b bs bz ys yz"), {"a": i(0, 256, 2, 3, 8, dtype=np.uint8), "b": i(0, 256, 2, 8, 4, dtype=np.uint8)},
                         {"as": np.asarray(0.02, F), "az": np.asarray(113, np.uint8), "bs": np.asarray(0.01, F), "bz": np.asarray(99, np.uint8),
                          "ys": np.asarray(0.1, F), "yz": np.asarray(118, np.uint8)}),
    "matmul of float16": (node("MatMul", "x w"), {"x": n(3, 8, dtype=np.float16)}, {"w": n(8, 5, dtype=np.float16)}),
    "conv of float16": (node("Conv", "x w", pads=[1] * 4), {"x": n(1, 3, 6, 6, dtype=np.float16)}, {"w": n(4, 3, 3, 3, dtype=np.float16)}),
}
COARSE = {"matmul of float16": 2e-3, "conv of float16": 2e-3, "grid sample, reflected": 1e-4}


@pytest.mark.parametrize("name", CASES)
def test_operator(name):
    made, inputs, constants = CASES[name]
    check(model([made], inputs, made.output, constants), inputs, COARSE.get(name, 2e-5))


@pytest.mark.parametrize("seed", range(30))
def test_any_resize(seed):
    """Modes, sizes and coordinate rules by chance."""
    r = np.random.default_rng(seed)
    mode = r.choice(["nearest", "linear", "cubic"])
    extents = tuple(int(v) for v in r.integers(2, 12, 2))
    attrs = {"mode": mode, "coordinate_transformation_mode": str(r.choice(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]))}
    if mode == "nearest":
        attrs["nearest_mode"] = str(r.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]))
    made, inputs, constants = resized((1, 2, *extents), sizes=[1, 2, *(int(v) for v in r.integers(1, 25, 2))], **attrs)
    check(model([made], inputs, made.output, constants), inputs, 1e-4)


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k_takes_nan_for_the_largest(largest):
    made = node("TopK", "x k", "v w", largest=largest)
    x = n(4, 9)
    x[0, [1, 5]] = x[1, 0] = np.nan
    x[2] = np.nan
    graph = model([made], {"x": x}, made.output, {"k": np.asarray([9])})
    plan, weights = plan_of(graph)
    found = Machine(plan, weights).run(plan.entries[0], {"x": x})
    order = np.argsort(x, axis=1, kind="stable")  # numpy puts NaN last
    if largest:
        key = np.where(np.isnan(x), np.inf, x)
        order = np.argsort(-key, axis=1, kind="stable")
    np.testing.assert_array_equal(found["w"], order)
    np.testing.assert_array_equal(found["v"], np.take_along_axis(x, order, 1))


def test_what_a_shape_depends_on_must_be_constant():
    made = node("TopK", "x k", "v w")
    inputs = {"x": n(3, 8), "k": np.asarray([2])}
    graph = model([made], inputs, made.output)
    for output, dtype in zip(graph.graph.output, (TensorProto.FLOAT, TensorProto.INT64), strict=True):
        output.CopyFrom(helper.make_tensor_value_info(output.name, dtype, [3, 2]))
    with pytest.raises(Exception, match="TopK") as caught:
        plan_of(graph)
    assert caught.value.exit_code == 2


def test_unknown_modes_are_refused():
    made, inputs, constants = resized((1, 1, 4, 4), [1, 1, 2, 2], mode="linear", coordinate_transformation_mode="other")
    with pytest.raises(UnsupportedError, match="other"):
        plan_of(model([made], inputs, made.output, constants))
