"""Operators that move elements: most are views and cost nothing, the rest are copies into views, or gathers."""
from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from edgekit.exporters.kernels import spec
from edgekit.exporters.kernels.spec import Tensor
from edgekit.exporters.lower.builder import Builder, Node
from edgekit.exporters.lower.values import Value, of_view
from edgekit.exporters.lower.views import View, collapse, row_major


def ints(b: Builder, node: Node, k: int, attr: str = "") -> list[int] | None:
    """Integers that must be known: a constant input or an attribute; None where left out."""
    name = node.input(k)
    if not name:
        return list(node.attrs[attr]) if attr and attr in node.attrs else None
    array = b.array(name)
    if array is None:
        raise node.unsupported(f"input {k} ({name}) is computed at run time", "make it a constant: shapes and axes are fixed when compiling")
    return [int(v) for v in array.reshape(-1)]


def reshape(b: Builder, node: Node) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: the shape of the result is known."""
    b.set(node.output(0), b.reshaped(b.value(node.input(0)), b.shape(node.output(0))))


def transpose(b: Builder, node: Node) -> None:
    x = b.value(node.input(0))
    order = node.attrs.get("perm", list(range(len(x.shape)))[::-1])
    b.set(node.output(0), b.transposed(x, order))


def slice_(b: Builder, node: Node) -> None:
    x = b.value(node.input(0))
    starts, ends = ints(b, node, 1, "starts"), ints(b, node, 2, "ends")
    axes = ints(b, node, 3, "axes") or list(range(len(starts or [])))
    steps = ints(b, node, 4) or [1] * len(axes)
    for axis, start, end, step in zip(axes, starts or [], ends or [], steps, strict=True):
        axis %= len(x.shape)
        picked = range(x.shape[axis])[slice(start, end, step)]
        x = b.sliced(x, axis, picked.start, len(picked), picked.step)
    b.set(node.output(0), x)


def split(b: Builder, node: Node) -> None:
    x = b.value(node.input(0))
    if x.root is not None or x.body:
        x = of_view(b.memory(x))  # several readers
    axis = node.attrs.get("axis", 0) % len(x.shape)
    at = 0
    for name in node.outputs:
        if not name:
            continue
        n = b.shape(name)[axis]
        b.set(name, b.sliced(x, axis, at, n))
        at += n


def concat(b: Builder, node: Node) -> None:
    out = b.fresh(b.dtype(node.output(0)), b.shape(node.output(0)))
    axis = node.attrs["axis"] % len(out.shape)
    at = 0
    for name in node.inputs:
        x = b.value(name)
        if x.shape[axis]:
            b.write(x, out.slice(axis, at, x.shape[axis]))
        at += x.shape[axis]
    b.set(node.output(0), of_view(out))


def expand(b: Builder, node: Node) -> None:
    shape = b.shape(node.output(0))
    b.set(node.output(0), b.moved(b.value(node.input(0)), lambda v: v.broadcast(shape)))


def tile(b: Builder, node: Node) -> None:
    x, shape = b.value(node.input(0)), b.shape(node.output(0))
    repeats = [n // m if m else 1 for n, m in zip(shape, x.shape, strict=True)]
    doubled = tuple(n for m, r in zip(x.shape, repeats, strict=True) for n in (r, m))
    between = tuple(n for m in x.shape for n in (1, m))
    wide = b.moved(b.reshaped(x, between), lambda v: v.broadcast(doubled))
    b.set(node.output(0), b.reshaped(wide, shape))


def pad(b: Builder, node: Node) -> None:
    x, out_shape = b.value(node.input(0)), b.shape(node.output(0))
    rank = len(x.shape)
    pads = ints(b, node, 1, "pads") or []
    axes = [a % rank for a in ints(b, node, 3) or range(len(pads) // 2)]
    before, after = [0] * rank, [0] * rank
    for k, a in enumerate(axes):
        before[a], after[a] = pads[k], pads[k + len(axes)]
    for a in range(rank):  # negative pads crop
        if before[a] < 0 or after[a] < 0:
            lo, n = max(0, -before[a]), x.shape[a] + min(0, before[a]) + min(0, after[a])
            x = b.sliced(x, a, lo, n)
            before[a], after[a] = max(0, before[a]), max(0, after[a])
    mode = node.attrs.get("mode", "constant")
    if mode != "constant":
        for a in range(rank):
            if before[a] or after[a]:
                n = x.shape[a]
                at = np.arange(-before[a], n + after[a])
                if mode == "edge":
                    at = np.clip(at, 0, n - 1)
                elif mode == "wrap":
                    at = at % n
                elif mode == "reflect":
                    at = np.abs((at + n - 1) % (2 * n - 2) - (n - 1)) if n > 1 else np.zeros_like(at)
                else:
                    raise node.unsupported(f"mode {mode!r}", "use constant, reflect, edge or wrap")
                x = take(b, x, a, at)
        return b.set(node.output(0), x)
    out = b.fresh(x.dtype, out_shape)
    fill: object = 0
    if node.input(2):
        known = b.array(node.input(2))
        fill = known.reshape(-1)[0].item() if known is not None and known.size else b.value(node.input(2)) if known is None else 0
    b.write(x, frame(b, out, before, [lo + n for lo, n in zip(before, x.shape, strict=True)], fill))
    b.set(node.output(0), of_view(out))


def frame(b: Builder, out: View, lo: Sequence[int], hi: Sequence[int], fill) -> View:
    """`fill`, a number or a value of one element, into everything outside of [lo, hi) of every axis; the view inside."""
    for a in range(len(out.shape)):
        for start, n in ((0, lo[a]), (hi[a], out.shape[a] - hi[a])):
            if n:
                _fill(b, out.slice(a, start, n), fill)
        out = out.slice(a, lo[a], hi[a] - lo[a])
    return out


def _fill(b: Builder, out: View, fill) -> None:
    if isinstance(fill, Value):
        b.write(b.moved(b.reshaped(fill, ()), lambda v: v.broadcast(out.shape)), out)
    else:
        b.fill(out, fill)


def take(b: Builder, x: Value, axis: int, at: np.ndarray) -> Value:
    """Elements `at` of an axis, known numbers: a view where they are evenly spaced, else a gather."""
    at = np.asarray(at, np.int64)
    step = int(at[1] - at[0]) if len(at) > 1 else 1
    if len(at) and np.array_equal(at, at[0] + step * np.arange(len(at))):
        return b.sliced(x, axis, int(at[0]), len(at), step)
    return gather_axis(b, x, axis, b.constant(at.astype(np.int32)))


def gather_axis(b: Builder, x: Value, axis: int, index: View) -> Value:
    """x with an axis replaced by all axes of `index`."""
    view = b.memory(x)
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1:])
    out = b.fresh(x.dtype, shape)
    if prod(shape):
        after = len(x.shape) - axis - 1
        flat = b.memory(b.reshaped(of_view(index), (prod(index.shape),)))
        n = flat.shape[0]
        where = (*[0] * axis, flat.strides[0] if n > 1 else 0, *[0] * after)
        target = (*x.shape[:axis], n, *x.shape[axis + 1:])
        _gather(b, target, axis, x.shape[axis], view, view.strides, index, where, replace(out, shape=target, strides=row_major(target)))
    return of_view(out)


def _gather(b: Builder, shape, axis, extent, x: View, x_strides, index: View, i_strides, out: View) -> None:
    """Writes a Gather, its axes collapsed around the gathered one."""
    before, s0 = collapse(shape[:axis], [x_strides[:axis], i_strides[:axis], out.strides[:axis]])
    after, s1 = collapse(shape[axis + 1:], [x_strides[axis + 1:], i_strides[axis + 1:], out.strides[axis + 1:]])
    mid = (x_strides[axis], i_strides[axis], out.strides[axis])
    full = [(*s0[k], mid[k], *s1[k]) for k in range(3)]
    kernel = spec.Gather((*before, shape[axis], *after), len(before), extent, Tensor(x.dtype, full[0]), Tensor(index.dtype, full[1]),
                         Tensor(out.dtype, full[2]))
    b.step(kernel, [x, index, out])


def gather(b: Builder, node: Node) -> None:
    x = b.value(node.input(0))
    axis = node.attrs.get("axis", 0) % len(x.shape)
    known = b.array(node.input(1))
    if known is not None:
        at = np.where(known < 0, known + x.shape[axis], known)
        if ((at < 0) | (at >= x.shape[axis])).any():
            raise node.unsupported(f"an index lies outside of the axis of {x.shape[axis]} elements", "correct the model")
        y = take(b, x, axis, at.reshape(-1))
        return b.set(node.output(0), b.reshaped(y, b.shape(node.output(0))))
    b.set(node.output(0), gather_axis(b, x, axis, b.memory(b.value(node.input(1)))))


def gather_elements(b: Builder, node: Node) -> None:
    x, index = b.memory(b.value(node.input(0))), b.memory(b.value(node.input(1)))
    axis = node.attrs.get("axis", 0) % len(x.shape)
    out = b.fresh(x.dtype, index.shape)
    if prod(index.shape):
        b.step(spec.Gather(index.shape, axis, x.shape[axis], Tensor(x.dtype, x.strides), Tensor(index.dtype, index.strides),
                           Tensor(out.dtype, out.strides)), [x, index, out])
    b.set(node.output(0), of_view(out))


def depth_to_space(b: Builder, node: Node) -> None:
    x, size = b.value(node.input(0)), node.attrs["blocksize"]
    n, c, h, w = x.shape
    if node.attrs.get("mode", "DCR") == "DCR":
        x, order = b.reshaped(x, (n, size, size, c // size ** 2, h, w)), (0, 3, 4, 1, 5, 2)
    else:
        x, order = b.reshaped(x, (n, c // size ** 2, size, size, h, w)), (0, 1, 4, 2, 5, 3)
    b.set(node.output(0), b.reshaped(b.transposed(x, order), b.shape(node.output(0))))


def space_to_depth(b: Builder, node: Node) -> None:
    x, size = b.value(node.input(0)), node.attrs["blocksize"]
    n, c, h, w = x.shape
    x = b.reshaped(x, (n, c, h // size, size, w // size, size))
    b.set(node.output(0), b.reshaped(b.transposed(x, (0, 3, 5, 1, 2, 4)), b.shape(node.output(0))))


OPERATORS = {
    "Reshape": reshape, "Flatten": reshape, "Squeeze": reshape, "Unsqueeze": reshape, "Transpose": transpose, "Slice": slice_, "Split": split,
    "Concat": concat, "Expand": expand, "Tile": tile, "Pad": pad, "Gather": gather, "GatherElements": gather_elements,
    "DepthToSpace": depth_to_space, "SpaceToDepth": space_to_depth,
}
