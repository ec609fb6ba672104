"""Operators over overlapping windows beyond layers and plain pooling, and their reverse: Col2Im, MaxUnpool."""
from dataclasses import replace
from itertools import product as cartesian
from math import prod

from edgekit.exporters.kernels import spec
from edgekit.exporters.kernels.spec import Tensor
from edgekit.exporters.lower import convolution
from edgekit.exporters.lower.builder import Builder, Node
from edgekit.exporters.lower.convolution import conv_pads, window
from edgekit.exporters.lower.matmul import matmul_values
from edgekit.exporters.lower.movement import ints
from edgekit.exporters.lower.products import in_float32
from edgekit.exporters.lower.reductions import pool, reduce_axes
from edgekit.exporters.lower.selection import calc, iota, kept, scatter, where
from edgekit.exporters.lower.values import Value, of_view
from edgekit.exporters.lower.views import row_major


def _geometry(node: Node, extents):
    """(kernel, stride, dilation, pads) of a pooling operator."""
    kernel = tuple(node.attrs["kernel_shape"])
    ones = [1] * len(kernel)
    stride, dilation = tuple(node.attrs.get("strides", ones)), tuple(node.attrs.get("dilations", ones))
    return kernel, stride, dilation, conv_pads(node, extents, kernel, stride, dilation)


def _root(b: Builder, x: Value, p: float) -> Value:
    return x if p == 1 else calc(b, "sqrt", x) if p == 2 else calc(b, "pow", x, attrs=(1 / p,))


def _power(b: Builder, x: Value, p: float) -> Value:
    """|x|^p"""
    return calc(b, "abs", x) if p == 1 else calc(b, "mul", x, x) if p == 2 else calc(b, "pow", calc(b, "abs", x), attrs=(float(p),))


def conv_by_windows(b: Builder, node: Node, x: Value, w: Value) -> Value:
    """A convolution by weights of any dtype that are computed at run time: every window of the padded image, times the weights."""
    r, groups = len(w.shape) - 2, node.attrs.get("group", 1)
    n, outputs, *out = b.shape(node.output(0))
    kernel = w.shape[2:]
    stride, dilation = node.attrs.get("strides", [1] * r), node.attrs.get("dilations", [1] * r)
    wins = window(b, x, conv_pads(node, x.shape[2:], kernel, stride, dilation), kernel, stride, dilation, out, 0)
    c, taps, positions = x.shape[1] // groups, prod(kernel), prod(out)
    order = (0, 1, *range(2 + r, 2 + 2 * r), *range(2, 2 + r))
    columns = b.reshaped(b.transposed(wins, order), (n, groups, c * taps, positions))
    rows = b.reshaped(w, (1, groups, outputs // groups, c * taps))
    sums = matmul_values(b, rows, columns, (n, groups, outputs // groups, positions))
    return b.reshaped(kept(b, sums), (n, outputs, *out))


def conv(b: Builder, node: Node) -> None:
    """Conv: the layer where weights and bias are constants, else by windows."""
    bias = node.input(2)
    if b.array(node.input(1)) is not None and b.dtype(node.input(0)) == "float32" and (not bias or b.array(bias) is not None):
        return convolution.conv(b, node)
    y = conv_by_windows(b, node, b.value(node.input(0)), b.value(node.input(1)))
    if bias:
        y = calc(b, "add", y, b.reshaped(b.value(bias), (1, y.shape[1], *[1] * (len(y.shape) - 2))))
    b.set(node.output(0), y)


def lp_pool(b: Builder, node: Node) -> None:
    x, shape, p = b.value(node.input(0)), b.shape(node.output(0)), node.attrs.get("p", 2)
    kernel, stride, dilation, pads = _geometry(node, x.shape[2:])
    wins = _power(b, window(b, x, pads, kernel, stride, dilation, shape[2:], 0.0), p)
    r = len(kernel)
    b.set(node.output(0), _root(b, reduce_axes(b, wins, list(range(2 + r, 2 + 2 * r)), "sum", shape, node.op), p))


def global_lp_pool(b: Builder, node: Node) -> None:
    x, p = b.value(node.input(0)), node.attrs.get("p", 2)
    sums = reduce_axes(b, _power(b, kept(b, x), p), list(range(2, len(x.shape))), "sum", b.shape(node.output(0)), node.op)
    b.set(node.output(0), _root(b, sums, p))


def lp_normalization(b: Builder, node: Node) -> None:
    x, p = kept(b, b.value(node.input(0))), node.attrs.get("p", 2)
    axis = node.attrs.get("axis", -1) % len(x.shape)
    along = tuple(1 if a == axis else n for a, n in enumerate(x.shape))
    size = kept(b, _root(b, reduce_axes(b, _power(b, x, p), [axis], "sum", along, node.op), p))
    b.set(node.output(0), where(b, calc(b, "equal", size, 0, dtype="bool"), 0, calc(b, "div", x, size)))


def lrn(b: Builder, node: Node) -> None:
    """x / (bias + alpha / size * sum of squares of `size` neighbouring channels)^beta."""
    x, size = kept(b, b.value(node.input(0))), node.attrs["size"]
    n, c, *rest = x.shape
    before = (size - 1) // 2
    squares = b.fresh(x.dtype, (n, c + size - 1, *rest))
    b.fill(squares.slice(1, 0, before), 0.0)
    b.fill(squares.slice(1, before + c, size - 1 - before), 0.0)
    b.write(calc(b, "mul", x, x), squares.slice(1, before, c))
    wins = of_view(replace(squares, shape=(*x.shape, size), strides=(*squares.strides, squares.strides[1])))
    sums = reduce_axes(b, wins, [len(x.shape)], "sum", x.shape, node.op)
    scale = calc(b, "add", calc(b, "mul", sums, node.attrs.get("alpha", 1e-4) / size), node.attrs.get("bias", 1.0))
    b.set(node.output(0), calc(b, "div", x, calc(b, "pow", scale, attrs=(float(node.attrs.get("beta", 0.75)),))))


def max_pool(b: Builder, node: Node) -> None:
    """MaxPool; with Indices, the winner of each window first, then the element that it points to."""
    if not node.output(1):
        return pool(b, node)
    x, shape = kept(b, b.value(node.input(0))), b.shape(node.output(0))
    if not x.dtype.startswith("float"):
        raise node.unsupported(f"indices of the maxima of {x.dtype}", "cast to float32 before")
    kernel, stride, dilation, pads = _geometry(node, x.shape[2:])
    r, taps = len(kernel), prod(kernel)
    wins = b.reshaped(window(b, x, pads, kernel, stride, dilation, shape[2:], float("-inf")), (*shape, taps))
    view = b.memory(wins)
    winner = b.fresh("int64", shape)
    b.step(spec.Arg((*shape, taps), "max", False, Tensor(x.dtype, view.strides), Tensor("int64", winner.strides)), [view, winner])
    b.set(node.output(0), reduce_axes(b, of_view(view), [len(shape)], "max", shape, node.op))
    column = bool(node.attrs.get("storage_order", 0))
    steps = row_major(x.shape[2:]) if not column else row_major(x.shape[2:][::-1])[::-1]
    total = b.of_array((iota(shape, 0) * shape[1] + iota(shape, 1)) * prod(x.shape[2:]))
    for a in range(r):
        tap = calc(b, "mod", calc(b, "div", of_view(winner), prod(kernel[a + 1:])), kernel[a])
        place = calc(b, "add", calc(b, "mul", tap, dilation[a]), iota(shape, 2 + a) * stride[a] - pads[a][0])
        total = calc(b, "add", total, calc(b, "mul", place, steps[a]))
    b.set(node.output(1), b.apply("identity", total, dtype="int64", shape=shape))


def max_unpool(b: Builder, node: Node) -> None:
    """Each value to where its index points, zeros elsewhere."""
    x, index, shape = b.value(node.input(0)), b.value(node.input(1)), b.shape(node.output(0))
    out = b.fresh(x.dtype, shape)
    b.fill(out, 0.0)
    flat = replace(out, shape=(prod(shape),), strides=(1,))
    scatter(b, b.reshaped(x, (prod(x.shape),)), b.reshaped(index, (prod(x.shape),)), 0, flat, "set")
    b.set(node.output(0), of_view(out))


def col2im(b: Builder, node: Node) -> None:
    """The sum of all blocks, each added where it was taken from."""
    extents, block = ints(b, node, 1) or [], ints(b, node, 2) or []
    r = len(extents)
    stride, dilation = node.attrs.get("strides", [1] * r), node.attrs.get("dilations", [1] * r)
    pads = node.attrs.get("pads", [0] * 2 * r)
    x, (n, c, *_) = b.value(node.input(0)), b.shape(node.output(0))
    whole = [e + pads[a] + pads[a + r] for a, e in enumerate(extents)]
    counts = [(w - (k - 1) * d - 1) // s + 1 for w, k, d, s in zip(whole, block, dilation, stride, strict=True)]
    parts = kept(b, b.reshaped(x, (n, c, *block, *counts)))
    image = b.fresh(x.dtype, (n, c, *whole))
    b.fill(image, 0.0)
    for tap in cartesian(*map(range, block)):
        part, place = parts, image
        for a, t in enumerate(tap):
            part = b.sliced(part, 2 + a, t, 1)
            place = place.slice(2 + a, t * dilation[a], counts[a], stride[a])
        part = b.reshaped(part, place.shape)
        b.write(calc(b, "add", of_view(place), part), place)
    y = of_view(image)
    for a, e in enumerate(extents):
        y = b.sliced(y, 2 + a, pads[a], e)
    b.set(node.output(0), y)


OPERATORS = {
    "Conv": in_float32(conv), "LpPool": lp_pool, "GlobalLpPool": global_lp_pool, "LpNormalization": lp_normalization, "LRN": lrn, "MaxPool": max_pool,
    "MaxUnpool": max_unpool, "Col2Im": col2im,
}
