"""Operators that bring axes down to one value: reductions, pooling, normalisation, arg-extremes."""
from math import prod

import numpy as np

from edgekit.exporters.kernels import spec
from edgekit.exporters.kernels.spec import Tensor
from edgekit.exporters.lower.builder import Builder, Node
from edgekit.exporters.lower.convolution import conv_pads, window
from edgekit.exporters.lower.movement import ints
from edgekit.exporters.lower.values import Product, Value, of_view
from edgekit.exporters.lower.views import collapse, row_major

KINDS = {  # operator: (reduction, scalar operation before, after)
    "ReduceSum": ("sum", "", ""), "ReduceMean": ("sum", "", "mean"), "ReduceMax": ("max", "", ""), "ReduceMin": ("min", "", ""),
    "ReduceProd": ("prod", "", ""), "ReduceSumSquare": ("sum", "square", ""), "ReduceL1": ("sum", "abs", ""),
    "ReduceL2": ("sum", "square", "sqrt"), "ReduceLogSum": ("sum", "", "log"),
}


def reduce_axes(b: Builder, x: Value, axes: list[int], op: str, shape, label: str) -> Value:
    """op over some axes of x as a product that the following elementwise operators may finish; the result has `shape`."""
    rank = len(x.shape)
    axes = sorted(a % rank for a in axes)
    keep = [a for a in range(rank) if a not in axes]
    if x.root is not None or not x.inputs:
        x = of_view(b.memory(x))
    inner = sorted(axes, key=lambda a: -abs(x.inputs[0].strides[a]))
    views = [v.transpose([*keep, *inner]) for v in x.inputs]
    tail, tail_strides = collapse([x.shape[a] for a in inner], [v.strides[len(keep):] for v in views])
    if not tail:
        tail, tail_strides = (1,), [(0,)] * len(views)
    head = tuple(x.shape[a] for a in keep)
    body = x.body
    node = b.node

    def emit(post, extras, out, ops):
        lead, strides = collapse(head, [*[v.strides[:len(keep)] for v in views], *[e.strides for e in extras], out.strides])
        k = len(views)
        ins = tuple(Tensor(v.dtype, (*strides[j], *tail_strides[j])) for j, v in enumerate(views))
        kernel = spec.Reduce((*lead, *tail), len(lead), op, ins, body, tuple(Tensor(e.dtype, strides[k + j]) for j, e in enumerate(extras)), post,
                             Tensor(out.dtype, strides[-1]))
        b.step(kernel, [*views, *extras, out], node=node, ops=ops)
    return Value(tuple(shape), x.dtype, (), (), Product(emit, lambda v: v.reshape(head), x.dtype), (*x.ops, label))


def scaled(b: Builder, x: Value, factor: float) -> Value:
    return b.apply("mul", x, b.of_array(np.asarray(factor, x.dtype)), dtype=x.dtype, shape=x.shape)


def divided(b: Builder, x: Value, count: int) -> Value:
    if x.dtype.startswith("float"):
        return scaled(b, x, 1.0 / count)
    return b.apply("div", x, b.of_array(np.asarray(count, x.dtype)), dtype=x.dtype, shape=x.shape)


def reduce(b: Builder, node: Node) -> None:
    op, before, after = KINDS[node.op]
    x, shape = b.value(node.input(0)), b.shape(node.output(0))
    axes = ints(b, node, 1, "axes")
    if not axes:
        if node.attrs.get("noop_with_empty_axes", 0):
            axes = []
        else:
            axes = list(range(len(x.shape)))
    if x.dtype == "bool":
        x = b.apply("cast", x, dtype="int32", shape=x.shape)
    if before == "abs":
        x = b.apply("abs", x, dtype=x.dtype, shape=x.shape)
    elif before == "square":
        x = b.apply("mul", x, x, dtype=x.dtype, shape=x.shape)
    count = prod(x.shape[a % len(x.shape)] for a in axes)
    y = reduce_axes(b, x, axes, op, shape, node.op) if axes else x
    if after == "mean":
        y = divided(b, y, max(count, 1))
    elif after:
        y = b.apply(after, y, dtype=y.dtype, shape=shape)
    if b.dtype(node.output(0)) == "bool":
        y = b.apply("cast", y, dtype="bool", shape=shape)
    b.set(node.output(0), y)


def log_sum_exp(b: Builder, node: Node) -> None:
    x = of_view(b.memory(b.value(node.input(0))))
    axes = ints(b, node, 1, "axes") or ([] if node.attrs.get("noop_with_empty_axes", 0) else list(range(len(x.shape))))
    kept = tuple(1 if a in [c % len(x.shape) for c in axes] else n for a, n in enumerate(x.shape))
    top = of_view(b.memory(reduce_axes(b, x, axes, "max", kept, node.op))) if axes else x
    top = b.apply("clip", top, dtype=x.dtype, shape=kept, attrs=(-3.4028234663852886e38, 3.4028234663852886e38))
    top = of_view(b.memory(top))
    e = b.apply("exp", b.apply("sub", x, top, dtype=x.dtype, shape=x.shape), dtype=x.dtype, shape=x.shape)
    s = reduce_axes(b, e, axes, "sum", kept, node.op) if axes else e
    y = b.apply("add", b.apply("log", s, dtype=x.dtype, shape=kept), top, dtype=x.dtype, shape=kept)
    b.set(node.output(0), b.reshaped(y, b.shape(node.output(0))))


def arg(b: Builder, node: Node) -> None:
    x = b.memory(b.value(node.input(0)))
    rank = len(x.shape)
    axis = node.attrs.get("axis", 0) % rank
    keep = [a for a in range(rank) if a != axis]
    moved = x.transpose([*keep, axis])
    out = b.fresh("int64", b.shape(node.output(0)))
    head = tuple(x.shape[a] for a in keep)
    lead, strides = collapse(head, [moved.strides[:-1], row_major(head)])
    kernel = spec.Arg((*lead, x.shape[axis]), "max" if node.op == "ArgMax" else "min", bool(node.attrs.get("select_last_index", 0)),
                      Tensor(x.dtype, (*strides[0], moved.strides[-1])), Tensor("int64", strides[1]))
    b.step(kernel, [x, out])
    b.set(node.output(0), of_view(out))


# -- normalisation ---------------------------------------------------------------------------------------------------

def norm(b: Builder, x: Value, axes: list[int], kind: str, eps: float, label: str) -> Value:
    """Softmax and the like over some axes; the axes are brought to the end of the iteration, not of the memory."""
    rank = len(x.shape)
    axes = [a % rank for a in axes]
    order = [*[a for a in range(rank) if a not in axes], *axes]
    waits = kind == "softmax" and axes == [rank - 1] and x.root is not None and x.root.factors is not None  # for a product with it
    known, node = None if waits else b.memory(x), b.node

    def emit(post, extras, out, ops):
        view = known or b.memory(x)
        moved = [v.transpose(order) for v in (view, *extras, out)]
        n = rank - len(axes)
        lead, front = collapse(moved[0].shape[:n], [v.strides[:n] for v in moved])
        tail, back = collapse(moved[0].shape[n:], [v.strides[n:] for v in moved])
        if not tail:
            tail, back = (1,), [(0,)] * len(moved)
        ts = [Tensor(v.dtype, (*f, *e)) for v, f, e in zip(moved, front, back, strict=True)]
        kernel = spec.Norm((*lead, *tail), len(tail), kind, eps, ts[0], tuple(ts[1:-1]), post, ts[-1])
        b.step(kernel, [view, *extras, out], node=node, ops=ops)
    return Value(x.shape, x.dtype, (), (), Product(emit, lambda v: v, x.dtype, softmax_of=x if waits else None), (label,))


def softmax(b: Builder, node: Node) -> None:
    kind = "softmax" if node.op == "Softmax" else "logsoftmax"
    b.set(node.output(0), norm(b, b.value(node.input(0)), [node.attrs.get("axis", -1)], kind, 0.0, node.op))


def layer_norm(b: Builder, node: Node) -> None:
    x = b.value(node.input(0))
    axis = node.attrs.get("axis", -1) % len(x.shape)
    if node.output(1) or node.output(2):
        x = of_view(b.memory(x))
        _statistics(b, node, x, list(range(axis, len(x.shape))))
    kind = "layernorm" if node.op == "LayerNormalization" else "rmsnorm"
    y = norm(b, x, list(range(axis, len(x.shape))), kind, node.attrs.get("epsilon", 1e-5), node.op)
    for k, op in ((1, "mul"), (2, "add")):
        if node.input(k):
            y = b.apply(op, y, b.value(node.input(k)), dtype=x.dtype, shape=x.shape)
    b.set(node.output(0), y)


def _statistics(b: Builder, node: Node, x: Value, axes: list[int]) -> None:
    """LayerNormalization's second and third output: the mean and 1 / sqrt(variance + epsilon)."""
    shape = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    count = prod(x.shape[a] for a in axes)
    mean = of_view(b.memory(divided(b, reduce_axes(b, x, axes, "sum", shape, node.op), count)))
    away = b.apply("sub", x, mean, dtype=x.dtype, shape=x.shape)
    square = b.apply("mul", away, away, dtype=x.dtype, shape=x.shape)
    variance = divided(b, reduce_axes(b, square, axes, "sum", shape, node.op), count)
    epsilon = b.of_array(np.asarray(node.attrs.get("epsilon", 1e-5), x.dtype))
    inverse = b.apply("rsqrt", b.apply("add", variance, epsilon, dtype=x.dtype, shape=shape), dtype=x.dtype, shape=shape)
    for k, value in ((1, mean), (2, inverse)):
        if node.output(k):
            same = b.dtype(node.output(k)) == x.dtype
            b.set(node.output(k), value if same else b.apply("cast", value, dtype=b.dtype(node.output(k)), shape=shape))


def instance_norm(b: Builder, node: Node) -> None:
    x = b.value(node.input(0))
    y = norm(b, x, list(range(2, len(x.shape))), "layernorm", node.attrs.get("epsilon", 1e-5), node.op)
    per_channel = (1, x.shape[1], *[1] * (len(x.shape) - 2))
    for k, op in ((1, "mul"), (2, "add")):
        y = b.apply(op, y, b.reshaped(b.value(node.input(k)), per_channel), dtype=x.dtype, shape=x.shape)
    b.set(node.output(0), y)


def group_norm(b: Builder, node: Node) -> None:
    x = b.value(node.input(0))
    groups, (n, c, *rest) = node.attrs["num_groups"], x.shape
    split = b.reshaped(x, (n, groups, c // groups, *rest))
    y = norm(b, split, list(range(2, len(split.shape))), "layernorm", node.attrs.get("epsilon", 1e-5), node.op)
    for k, op in ((1, "mul"), (2, "add")):
        scale = b.reshaped(b.value(node.input(k)), (1, groups, c // groups, *[1] * len(rest)))
        y = b.apply(op, y, scale, dtype=x.dtype, shape=y.shape)
    b.set(node.output(0), b.reshaped(y, x.shape))


# -- pooling ---------------------------------------------------------------------------------------------------------

def global_pool(b: Builder, node: Node) -> None:
    x = b.value(node.input(0))
    axes = list(range(2, len(x.shape)))
    op = "sum" if node.op == "GlobalAveragePool" else "max"
    y = reduce_axes(b, x, axes, op, b.shape(node.output(0)), node.op)
    b.set(node.output(0), scaled(b, y, 1.0 / prod(x.shape[2:])) if op == "sum" else y)


def pool(b: Builder, node: Node) -> None:
    x, shape = b.value(node.input(0)), b.shape(node.output(0))
    kernel = tuple(node.attrs["kernel_shape"])
    r = len(kernel)
    stride, dilation = tuple(node.attrs.get("strides", [1] * r)), tuple(node.attrs.get("dilations", [1] * r))
    if node.output(1):
        raise node.unsupported("the indices of the maxima as output", "leave the second output unused")
    pads = conv_pads(node, x.shape[2:], kernel, stride, dilation)
    largest = node.op == "MaxPool"
    lowest = -np.inf if x.dtype.startswith("float") else int(np.iinfo(x.dtype).min)
    windows = window(b, x, pads, kernel, stride, dilation, shape[2:], lowest if largest else 0.0)
    y = reduce_axes(b, windows, list(range(2 + r, 2 + 2 * r)), "max" if largest else "sum", shape, node.op)
    if not largest:
        counts = _counts(x.shape[2:], shape[2:], pads, kernel, stride, dilation, bool(node.attrs.get("count_include_pad", 0)))
        inverse = (1.0 / counts).astype(x.dtype)
        same = inverse.min() == inverse.max()
        factor = b.of_array(inverse.reshape(-1)[0] if same else inverse.reshape((1, 1, *counts.shape)))
        y = b.apply("mul", y, factor, dtype=x.dtype, shape=shape)
    b.set(node.output(0), y)


def _counts(extents, out, pads, kernel, stride, dilation, include: bool) -> np.ndarray:
    """How many elements each average is over. Positions past the explicit padding (ceil_mode) never count."""
    per_axis = []
    for n, o, (before, after), k, s, d in zip(extents, out, pads, kernel, stride, dilation, strict=True):
        at = np.arange(o)[:, None] * s - before + np.arange(k)[None] * d
        inside = (at >= -before) & (at < n + after) if include else (at >= 0) & (at < n)
        per_axis.append(inside.sum(1))
    counts = per_axis[0]
    for c in per_axis[1:]:
        counts = counts[..., None] * c
    return np.maximum(counts, 1).astype(np.float64)


OPERATORS = {
    **dict.fromkeys(KINDS, reduce), "ReduceLogSumExp": log_sum_exp, "ArgMax": arg, "ArgMin": arg, "Softmax": softmax, "LogSoftmax": softmax,
    "LayerNormalization": layer_norm, "RMSNormalization": layer_norm, "InstanceNormalization": instance_norm, "GroupNormalization": group_norm,
    "GlobalAveragePool": global_pool, "GlobalMaxPool": global_pool, "MaxPool": pool, "AveragePool": pool,
}
