"""Operators that pick elements by position or by order: triangles, one-hot, cumulative sums, top-k, gathers and scatters."""
from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from edgekit.exporters.kernels import spec
from edgekit.exporters.kernels.spec import Tensor
from edgekit.exporters.lower.builder import Builder, Node
from edgekit.exporters.lower.movement import gather_axis, ints
from edgekit.exporters.lower.reductions import reduce_axes
from edgekit.exporters.lower.values import Value, of_view
from edgekit.exporters.lower.views import View, row_major


def calc(b: Builder, op: str, *args: Value | np.ndarray | float, dtype: str = "", attrs: tuple = ()) -> Value:
    """An elementwise operation, broadcast. Plain numbers and arrays get the dtype of the first Value, which is the result's, too."""
    like = next(a.dtype for a in args if isinstance(a, Value))
    values = [a if isinstance(a, Value) else b.of_array(np.asarray(a, like)) for a in args]
    return b.apply(op, *values, dtype=dtype or like, shape=np.broadcast_shapes(*(v.shape for v in values)), attrs=attrs)


def kept(b: Builder, value: Value) -> Value:
    """The value in memory, for several readers."""
    return of_view(b.memory(value))


def where(b: Builder, condition: Value | np.ndarray, yes: Value | float, no: Value | float) -> Value:
    like = next(a.dtype for a in (yes, no) if isinstance(a, Value))
    c = condition if isinstance(condition, Value) else b.of_array(condition)
    y, n = (a if isinstance(a, Value) else b.of_array(np.asarray(a, like)) for a in (yes, no))
    return b.apply("where", c, y, n, dtype=like, shape=np.broadcast_shapes(c.shape, y.shape, n.shape))


def iota(shape: Sequence[int], axis: int, dtype: str = "int64") -> np.ndarray:
    """0, 1, 2, ... along one axis of a shape of ones."""
    return np.arange(shape[axis]).astype(dtype).reshape([n if a == axis else 1 for a, n in enumerate(shape)])


# -- by position -----------------------------------------------------------------------------------------------------

def trilu(b: Builder, node: Node) -> None:
    x = b.value(node.input(0))
    k = (ints(b, node, 1) or [0])[0]
    full = np.ones(x.shape[-2:], bool)
    b.set(node.output(0), where(b, np.triu(full, k) if node.attrs.get("upper", 1) else np.tril(full, k), x, 0))


def eye_like(b: Builder, node: Node) -> None:
    out = node.output(0)
    rows, columns = b.shape(out)
    b.set(out, b.of_array(np.eye(rows, columns, node.attrs.get("k", 0)).astype(b.dtype(out))))


def one_hot(b: Builder, node: Node) -> None:
    index, depth, values = b.value(node.input(0)), ints(b, node, 1), b.value(node.input(2))
    shape = b.shape(node.output(0))
    axis = node.attrs.get("axis", -1) % len(shape)
    size = (depth or [0])[0]
    at = kept(b, b.reshaped(index, (*shape[:axis], 1, *shape[axis + 1:])))
    at = where(b, calc(b, "less", at, 0, dtype="bool"), calc(b, "add", at, size), at)
    hit = calc(b, "equal", at, iota(shape, axis, index.dtype), dtype="bool")
    off, on = (b.reshaped(b.sliced(values, 0, k, 1), ()) for k in (0, 1))
    b.set(node.output(0), where(b, hit, on, off))


def hardmax(b: Builder, node: Node) -> None:
    x = kept(b, b.value(node.input(0)))
    axis = node.attrs.get("axis", -1) % len(x.shape)
    at = b.fresh("int64", (*x.shape[:axis], 1, *x.shape[axis + 1:]))
    keep = [a for a in range(len(x.shape)) if a != axis]
    assert x.view is not None
    strides = x.view.transpose([*keep, axis]).strides
    b.step(spec.Arg((*(x.shape[a] for a in keep), x.shape[axis]), "max", False, Tensor(x.dtype, strides),
                    Tensor("int64", row_major(tuple(x.shape[a] for a in keep)))), [x.view, at])
    hit = calc(b, "equal", of_view(at), iota(x.shape, axis), dtype="bool")
    b.set(node.output(0), calc(b, "cast", hit, dtype=x.dtype))


def reverse_sequence(b: Builder, node: Node) -> None:
    x, lens = b.memory(b.value(node.input(0))), kept(b, b.value(node.input(1)))
    time, batch = node.attrs.get("time_axis", 0), node.attrs.get("batch_axis", 1)
    lens = b.reshaped(lens, [n if a == batch else 1 for a, n in enumerate(x.shape)])
    t = iota(x.shape, time)
    mirrored = calc(b, "sub", lens, t + 1)
    index = kept(b, where(b, calc(b, "less", mirrored, 0, dtype="bool"), b.of_array(t), mirrored))
    assert index.view is not None
    at, out = index.view.broadcast(x.shape), b.fresh(x.dtype, x.shape)
    b.step(spec.Gather(x.shape, time, x.shape[time], Tensor(x.dtype, x.strides), Tensor("int64", at.strides), Tensor(x.dtype, out.strides)),
           [x, at, out])
    b.set(node.output(0), of_view(out))


# -- running sums and order ------------------------------------------------------------------------------------------

def cum_sum(b: Builder, node: Node) -> None:
    """By doubling: after k passes every element holds the sum of up to 2^k neighbours."""
    x = b.value(node.input(0))
    axis = (ints(b, node, 1) or [0])[0] % len(x.shape)
    n = x.shape[axis]

    def flipped(v: View) -> View:
        return v.slice(axis, n - 1, n, -1) if node.attrs.get("reverse", 0) else v

    def part(v: Value, start: int, count: int) -> Value:
        return b.sliced(v, axis, start, count)
    y = kept(b, b.moved(x, flipped))
    step = 1
    while step < n:
        out = b.fresh(x.dtype, x.shape)
        b.write(part(y, 0, step), out.slice(axis, 0, step))
        b.write(calc(b, "add", part(y, step, n - step), part(y, 0, n - step)), out.slice(axis, step, n - step))
        y, step = of_view(out), 2 * step
    if node.attrs.get("exclusive", 0):
        out = b.fresh(x.dtype, x.shape)
        b.fill(out.slice(axis, 0, 1), 0)
        b.write(part(y, 0, n - 1), out.slice(axis, 1, n - 1))
        y = of_view(out)
    b.set(node.output(0), b.moved(y, flipped))


def _logic(b: Builder, op: str, x: Value, y: Value) -> Value:
    return calc(b, op, x, y, dtype="bool")


def top_k(b: Builder, node: Node) -> None:
    """Every element is counted to its rank, then put there: quadratic in the axis, and always sorted. NaN is the largest number."""
    x = kept(b, b.value(node.input(0)))
    axis = node.attrs.get("axis", -1) % len(x.shape)
    n, rank = x.shape[axis], len(x.shape)
    mine = b.reshaped(x, (*x.shape, 1))
    order = [*range(axis), rank, *range(axis + 1, rank), axis]
    other = b.transposed(mine, order)
    wide = (*x.shape, n)
    largest = bool(node.attrs.get("largest", 1))
    before = calc(b, "greater" if largest else "less", other, mine, dtype="bool")
    same = calc(b, "equal", other, mine, dtype="bool")
    if x.dtype.startswith("float"):
        odd, own = (calc(b, "isnan", v, dtype="bool") for v in (other, mine))
        ahead, behind = (odd, own) if largest else (own, odd)
        before = _logic(b, "or", before, _logic(b, "and", ahead, calc(b, "not", behind)))
        same = _logic(b, "or", same, _logic(b, "and", odd, own))
    tie = _logic(b, "and", same, b.of_array(iota(wide, rank) < iota(wide, axis)))
    first = calc(b, "cast", _logic(b, "or", before, tie), dtype="int32")
    place = kept(b, reduce_axes(b, replace_shape(b, first, wide), [rank], "sum", x.shape, node.op))
    for k, value in ((0, x), (1, of_view(b.memory(b.apply("identity", b.of_array(iota(x.shape, axis)), dtype="int64", shape=x.shape))))):
        if node.output(k):
            out = b.fresh(value.dtype, b.shape(node.output(k)))
            scatter(b, value, place, axis, out, "set")
            b.set(node.output(k), of_view(out))


def replace_shape(b: Builder, value: Value, shape: Sequence[int]) -> Value:
    """The value broadcast to a shape."""
    return value if value.shape == tuple(shape) else b.moved(value, lambda v: v.broadcast(shape))


# -- by index --------------------------------------------------------------------------------------------------------

def flat_index(b: Builder, index: Value, shape: Sequence[int], batch: int = 0) -> Value:
    """Row numbers for index (..., k), whose last axis counts along shape[batch:batch + k]; the first `batch` axes count themselves."""
    k = index.shape[-1]
    total: Value | None = None
    for j in range(k):
        n = shape[batch + j]
        at = kept(b, b.reshaped(b.sliced(index, len(index.shape) - 1, j, 1), index.shape[:-1]))
        at = where(b, calc(b, "less", at, 0, dtype="bool"), calc(b, "add", at, n), at)
        at = calc(b, "mul", at, prod(shape[batch + j + 1:batch + k]))
        total = at if total is None else calc(b, "add", total, at)
    assert total is not None
    for a in range(batch):
        total = calc(b, "add", total, iota(index.shape[:-1], a) * prod(shape[a + 1:batch + k]))
    return kept(b, total)


def gather_nd(b: Builder, node: Node) -> None:
    x, index, batch = b.value(node.input(0)), b.value(node.input(1)), node.attrs.get("batch_dims", 0)
    front = batch + index.shape[-1]
    rows = b.reshaped(x, (prod(x.shape[:front]), *x.shape[front:]))
    at = b.memory(flat_index(b, index, x.shape, batch))
    b.set(node.output(0), b.reshaped(gather_axis(b, rows, 0, at), b.shape(node.output(0))))


def scatter(b: Builder, updates: Value, index: Value, axis: int, out: View, op: str) -> None:
    """out[... index ...] op= updates, both in one shape, the index running along `axis`."""
    if 0 in index.shape:
        return
    u, i = b.memory(updates).broadcast(index.shape), b.memory(index)
    b.step(spec.Scatter(index.shape, axis, out.shape[axis], op, Tensor(u.dtype, u.strides), Tensor(i.dtype, i.strides),
                        Tensor(out.dtype, out.strides)), [u, i, out])


def _scattered(b: Builder, node: Node, shape: Sequence[int], updates: Value, index: Value, axis: int) -> None:
    x = b.value(node.input(0))
    out = b.fresh(x.dtype, x.shape)
    b.write(x, out)
    reduction = node.attrs.get("reduction", "none")
    flat = replace(out, shape=tuple(shape), strides=row_major(shape))
    scatter(b, updates, index, axis, flat, "set" if reduction == "none" else reduction)
    b.set(node.output(0), of_view(out))


def scatter_elements(b: Builder, node: Node) -> None:
    x = b.shape(node.input(0))
    _scattered(b, node, x, b.value(node.input(2)), b.value(node.input(1)), node.attrs.get("axis", 0) % len(x))


def scatter_nd(b: Builder, node: Node) -> None:
    shape, index, updates = b.shape(node.input(0)), b.value(node.input(1)), b.value(node.input(2))
    k = index.shape[-1]
    rows, inner = prod(index.shape[:-1]), prod(shape[k:])
    at = b.memory(b.reshaped(flat_index(b, index, shape), (rows, 1))).broadcast((rows, inner))
    _scattered(b, node, (prod(shape[:k]), inner), b.reshaped(updates, (rows, inner)), of_view(at), 0)


OPERATORS = {
    "Trilu": trilu, "EyeLike": eye_like, "OneHot": one_hot, "Hardmax": hardmax, "ReverseSequence": reverse_sequence, "CumSum": cum_sum,
    "TopK": top_k, "GatherND": gather_nd, "ScatterElements": scatter_elements, "ScatterND": scatter_nd,
}
