"""Conv, ConvTranspose, Gemm, MatMul, Einsum: operators whose arithmetic is a product."""
from dataclasses import replace
from itertools import product as cartesian
from math import prod

import numpy as np

from edgekit.exporters.kernels import spec
from edgekit.exporters.kernels.spec import Tensor
from edgekit.exporters.lower.builder import Builder, Node
from edgekit.exporters.lower.values import Product, Value, of_view
from edgekit.exporters.lower.views import View
from edgekit.exporters.lower.weights import CHANNEL_MAJOR, POSITION_MAJOR, Packed, constant, packed

F = "float32"


def rooted(shape, emit, reshape, op: str) -> Value:
    """A product that waits for what follows it."""
    return Value(tuple(shape), F, (), (), Product(emit, reshape), (op,))


def tensors(views) -> tuple[Tensor, ...]:
    return tuple(Tensor(v.dtype, v.strides) for v in views)


def floats_only(b: Builder, node: Node, *names: str) -> None:
    for name in names:
        if name and b.dtype(name) != F:
            raise node.unsupported(f"{b.dtype(name)} products are not compiled", "convert the model to float32")


# -- linear ----------------------------------------------------------------------------------------------------------

def linear(b: Builder, x: Value, p: Packed, outputs: int, shape, op: str, dense_inputs: int) -> Value:
    """x (..., inputs) times packed weights -> a value of `shape` (..., outputs)."""
    inputs = x.shape[-1]
    rows = prod(x.shape[:-1])
    view = b.memory(x)
    flat = view.reshape((rows, inputs))
    if flat is None or (inputs > 1 and flat.strides[1] != 1):
        flat = b.dense(of_view(view)).reshape((rows, inputs))
    assert flat is not None
    node = b.node

    def emit(post, extras, out, ops):
        kernel = spec.Linear(rows, inputs, outputs, p.groups, p.v, p.kept, flat.strides[0], p.index_dtype, p.order is not None,
                             tensors(extras), post, Tensor(out.dtype, out.strides))
        with_node(b, node, kernel, [flat, *p.operands, *extras, out], ops, rows * outputs * p.kept,
                  rows * outputs * dense_inputs, p.sparsity, p.group)
    return rooted(shape, emit, lambda v: v.reshape((rows, outputs)), op)


def with_node(b: Builder, node: Node, kernel, args, ops, macs, dense_macs, sparsity, group) -> None:
    """A step under the name of the node that owns its arithmetic, though another one asked for it."""
    here, b.node = b.node, node
    b.step(kernel, args, ops=ops, macs=macs, dense_macs=dense_macs, sparsity=sparsity, group=group)
    b.node = here


def gemm(b: Builder, node: Node) -> None:
    a_name, w_name, c_name = node.input(0), node.input(1), node.input(2)
    floats_only(b, node, a_name, w_name)
    alpha, beta = node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)
    x = b.value(a_name)
    if node.attrs.get("transA", 0):
        x = b.moved(x, lambda v: v.transpose((1, 0)))
    w, c = b.array(w_name), b.array(c_name)
    shape = b.shape(node.output(0))
    bias = None
    if w is not None:
        w = w if node.attrs.get("transB", 0) else w.T
        if c is not None and c.size in (1, shape[1]) and (c.ndim < 2 or c.shape[0] == 1):
            bias = np.broadcast_to(c.reshape(-1) * np.float32(beta), (shape[1],)).astype(np.float32)
        p = packed(b, np.ascontiguousarray(w, np.float32) * np.float32(alpha), bias, POSITION_MAJOR)
        y = linear(b, x, p, shape[1], shape, "Gemm", w.shape[1])
    else:
        other = b.value(w_name)
        if node.attrs.get("transB", 0):
            other = b.moved(other, lambda v: v.transpose((1, 0)))
        y = matmul_values(b, x, other, shape)
        if alpha != 1.0:
            y = b.apply("mul", y, b.of_array(np.float32(alpha).reshape(())), dtype=F, shape=shape)
    if c_name and bias is None and beta != 0:
        addend = b.value(c_name)
        if beta != 1.0:
            addend = b.apply("mul", addend, b.of_array(np.float32(beta).reshape(())), dtype=F, shape=addend.shape)
        y = b.apply("add", y, addend, dtype=F, shape=shape)
    b.set(node.output(0), y)


def matmul(b: Builder, node: Node) -> None:
    a_name, w_name = node.input(0), node.input(1)
    a, w = b.array(a_name), b.array(w_name)
    shape = b.shape(node.output(0))
    if b.dtype(a_name) != F:
        return b.set(node.output(0), _integer_or_double(b, node, shape))
    if w is not None and w.ndim == 2 and len(b.shape(a_name)) >= 2:
        p = packed(b, np.ascontiguousarray(w.T, np.float32), None, POSITION_MAJOR)
        return b.set(node.output(0), linear(b, b.value(a_name), p, w.shape[1], shape, "MatMul", w.shape[0]))
    if a is not None and a.ndim == 2 and len(b.shape(w_name)) >= 2 and b.shape(w_name)[-1] > 1:
        return b.set(node.output(0), _left_constant(b, node, a, b.value(w_name), shape))
    b.set(node.output(0), _any_matmul(b, b.value(a_name), b.value(w_name), shape))


def _any_matmul(b: Builder, x: Value, y: Value, shape) -> Value:
    """numpy's matmul: vectors get an axis that is dropped again."""
    full = tuple(shape)
    if len(x.shape) == 1:
        x, full = b.reshaped(x, (1, *x.shape)), (*full[:-1], 1, full[-1]) if len(y.shape) > 1 else (1, *full)
    if len(y.shape) == 1:
        y, full = b.reshaped(y, (*y.shape, 1)), (*full, 1)
    out = matmul_values(b, x, y, full)
    return out if full == tuple(shape) else b.reshaped(out, shape)


def matmul_values(b: Builder, x: Value, y: Value, shape) -> Value:
    """x (..., m, k) @ y (..., k, n), batches broadcast to those of `shape`."""
    *batch, m, n = shape
    k = x.shape[-1]
    xv = b.memory(x).broadcast((*batch, m, k))
    yv = b.memory(y)
    if n > 1 and yv.strides[-1] != 1:
        yv = b.dense(of_view(yv))
    yv = yv.broadcast((*batch, k, n))
    node = b.node

    def emit(post, extras, out, ops):
        kernel = spec.MatMul(tuple(batch), m, n, k, Tensor(xv.dtype, xv.strides), Tensor(yv.dtype, yv.strides), tensors(extras), post,
                             Tensor(out.dtype, out.strides))
        macs = prod(shape) * k
        with_node(b, node, kernel, [xv, yv, *extras, out], ops, macs, macs, 0.0, None)
    return Value(tuple(shape), x.dtype, (), (), Product(emit, lambda v: v, x.dtype), (node.op,))


def _integer_or_double(b: Builder, node: Node, shape) -> Value:
    """Products of other dtypes have no fused root: they are rare, and their sums are not float32."""
    if b.dtype(node.input(0)) not in ("float64", "int32", "int64", "uint32", "uint64") or b.dtype(node.input(0)) != b.dtype(node.input(1)):
        raise node.unsupported(f"products of {b.dtype(node.input(0))} are not compiled", "convert the model to float32")
    lazy = _any_matmul(b, b.value(node.input(0)), b.value(node.input(1)), shape)
    if lazy.root is None:
        return lazy
    out = b.fresh(lazy.dtype, shape)
    lazy.root.emit((), (), out, node.op)
    return of_view(out)


def _left_constant(b: Builder, node: Node, a: np.ndarray, x: Value, shape) -> Value:
    """A constant matrix from the left is a 1x1 convolution: its columns are channels, those of x positions."""
    outputs, inputs = a.shape
    view = b.memory(x)
    batch = view.reshape((prod(view.shape[:-2]), inputs, view.shape[-1]))
    if batch is None or batch.strides[-1] != 1:
        batch = b.dense(of_view(view)).reshape((prod(view.shape[:-2]), inputs, view.shape[-1]))
    assert batch is not None
    many, n = batch.shape[0], batch.shape[2]
    spatial, step = ((many, n), (batch.strides[0], 1)) if many > 1 else ((n,), (1,))
    p = packed(b, np.ascontiguousarray(a, np.float32), None, CHANNEL_MAJOR)

    def reshape(v: View) -> View | None:
        v3 = v.reshape((many, outputs, n))
        return v3 and v3.transpose((1, 0, 2)).reshape((outputs, *spatial))
    return _conv_value(b, shape, p, batch, inputs, outputs, spatial, step, batch.strides[1], reshape, "MatMul")


def _conv_value(b, shape, p: Packed, x: View, inputs, outputs, spatial, step, channel, reshape, op) -> Value:
    """A 1x1 convolution over `spatial` positions."""
    node, ones = b.node, (1,) * len(spatial)

    def emit(post, extras, out, ops):
        kernel = spec.Conv(outputs, p.groups, p.v, p.kept, inputs, outputs, ones, ones, ones, channel, (0,) * len(spatial), step, spatial,
                           p.index_dtype, p.order is not None, tensors(extras), post, Tensor(out.dtype, out.strides))
        n = prod(spatial)
        with_node(b, node, kernel, [x, *p.operands, *extras, out], ops, outputs * p.kept * n, outputs * inputs * n, p.sparsity, p.group)
    return rooted(shape, emit, reshape, op)


# -- convolution -----------------------------------------------------------------------------------------------------

def conv_pads(node: Node, extents, kernel, stride, dilation) -> list[tuple[int, int]]:
    """(before, after) of every spatial axis, from `pads` or `auto_pad`."""
    auto = node.attrs.get("auto_pad", "NOTSET")
    r = len(kernel)
    if auto in ("NOTSET", ""):
        pads = node.attrs.get("pads", [0] * 2 * r)
        return [(pads[a], pads[a + r]) for a in range(r)]
    if auto == "VALID":
        return [(0, 0)] * r
    out = []
    for n, k, s, d in zip(extents, kernel, stride, dilation, strict=True):
        total = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        small, large = total // 2, total - total // 2
        out.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return out


def image(b: Builder, x: Value, pads, kernel, stride, dilation, out, fill=0.0) -> tuple[View, tuple[int, ...], tuple[int, ...]]:
    """x (N, C, *spatial) where every tap of every output lies in memory: padded, and split into phases where there are strides.

    Returns a view (N, C, *steps), and the phase and step strides of the spatial axes.
    """
    r = len(kernel)
    need = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(out, stride, kernel, dilation, strict=True)]
    inside = all(lo == 0 and n <= have for (lo, _), n, have in zip(pads, need, x.shape[2:], strict=True))
    if inside and all(s == 1 for s in stride):
        view = b.memory(x)
        if view.strides[-1] != 1 and view.shape[-1] > 1:
            view = b.dense(of_view(view))
        return view, (0,) * r, (*view.strides[2:-1], 1)
    phases = tuple(1 if k == 1 else min(s, n) for k, s, n in zip(kernel, stride, need, strict=True))
    steps = tuple(-(-n // s) for n, s in zip(need, stride, strict=True))
    padded = b.fresh(x.dtype, (*x.shape[:2], *phases, *steps))
    source = x if prod(phases) == 1 else of_view(b.memory(x))
    for phase in cartesian(*(range(p) for p in phases)):
        lo, hi = [], []
        for p, s, (before, _), n, q in zip(phase, stride, pads, x.shape[2:], steps, strict=True):
            lo.append(min(q, max(0, -(-(before - p) // s))))
            hi.append(max(lo[-1], min(q, (n - 1 + before - p) // s + 1)))
        plane = padded
        for a, p in enumerate(phase):
            plane = plane.slice(2 + a, p, 1)
        plane = replace(plane, shape=(*x.shape[:2], *steps), strides=(*padded.strides[:2], *padded.strides[2 + r:]))
        _border(b, plane, lo, hi, fill)
        inner, part = plane, source
        for a in range(r):
            inner = inner.slice(2 + a, lo[a], hi[a] - lo[a])
            start, count, step = lo[a] * stride[a] + phase[a] - pads[a][0], hi[a] - lo[a], stride[a]
            if (start, count, step) != (0, part.shape[2 + a], 1):
                part = b.moved(part, lambda v, a=a, q=(start, count, step): v.slice(2 + a, *q))
        b.write(part, inner)
    view = replace(padded, shape=(*x.shape[:2], *steps), strides=(*padded.strides[:2], *padded.strides[2 + r:]))
    return view, padded.strides[2:2 + r], padded.strides[2 + r:]


def _border(b: Builder, plane: View, lo, hi, fill) -> None:
    """`fill` into everything of the spatial axes outside of [lo, hi)."""
    box = plane
    for a in range(len(lo)):
        n = box.shape[2 + a]
        if lo[a]:
            b.fill(box.slice(2 + a, 0, lo[a]), fill)
        if hi[a] < n:
            b.fill(box.slice(2 + a, hi[a], n - hi[a]), fill)
        box = box.slice(2 + a, lo[a], hi[a] - lo[a])


def conv(b: Builder, node: Node) -> None:
    floats_only(b, node, *node.inputs[:2])
    w = b.array(node.input(1))
    if w is None:
        raise node.unsupported("the weights are computed at run time", "make them a constant of the model")
    bias = b.array(node.input(2))
    if node.input(2) and bias is None:
        raise node.unsupported("the bias is computed at run time", "add it with an Add node after the convolution")
    r = w.ndim - 2
    groups = node.attrs.get("group", 1)
    stride, dilation = node.attrs.get("strides", [1] * r), node.attrs.get("dilations", [1] * r)
    x = b.value(node.input(0))
    pads = conv_pads(node, x.shape[2:], w.shape[2:], stride, dilation)
    b.set(node.output(0), convolve(b, x, w, bias, groups, tuple(stride), tuple(dilation), pads, b.shape(node.output(0)), "Conv"))


def convolve(b: Builder, x: Value, w: np.ndarray, bias, groups: int, stride, dilation, pads, shape, op: str) -> Value:
    """w (outputs, inputs / groups, *kernel) over x (N, C, *spatial) -> a value of `shape` (N, outputs, *out)."""
    n, outputs, *out = shape
    kernel = w.shape[2:]
    flat = np.ascontiguousarray(w.reshape(outputs, -1), np.float32)
    if groups == 1 and prod(out) == 1 and tuple(x.shape[2:]) == kernel and not any(map(any, pads)):
        p = packed(b, flat, bias, POSITION_MAJOR)
        return linear(b, b.reshaped(x, (n, flat.shape[1])), p, outputs, shape, op, flat.shape[1])
    fan_out = outputs // groups
    if groups == 1:
        p = packed(b, flat, bias, CHANNEL_MAJOR)
    else:
        v = max(d for d in range(1, 9) if fan_out % d == 0)
        p = packed_dense(b, flat, bias, v)
    view, phase, step = image(b, x, pads, kernel, stride, dilation, out)
    node = b.node
    point = all(k == 1 for k in kernel)
    spatial = tuple(out)
    if point:  # positions need no rows
        merged = replace(view, shape=tuple(out), strides=step).reshape((prod(out),))
        if merged is not None and prod(out) > 1 and merged.strides[0] == 1:
            spatial, step, phase, kernel, stride, dilation = (prod(out),), (1,), (0,), (1,), (1,), (1,)
    if n > 1:
        spatial, step, phase = (n, *spatial), (view.strides[0], *step), (0, *phase)
        kernel, stride, dilation = (1, *kernel), (1, *stride), (1, *dilation)
    taps = prod(kernel)

    def reshape(v: View) -> View | None:
        order = (1, 0, *range(2, len(shape)))
        return v.transpose(order).reshape((outputs, *spatial))

    def emit(post, extras, target, ops):
        kernel_spec = spec.Conv(outputs, p.groups, p.v, p.kept, x.shape[1] // groups, fan_out, tuple(kernel), tuple(stride), tuple(dilation),
                                view.strides[1], tuple(phase), tuple(step), spatial, p.index_dtype, p.order is not None, tensors(extras),
                                post, Tensor(target.dtype, target.strides))
        positions = prod(spatial)
        with_node(b, node, kernel_spec, [view, *p.operands, *extras, target], ops, outputs * p.kept * positions,
                  outputs * (x.shape[1] // groups) * taps * positions, p.sparsity, p.group)
    return rooted(shape, emit, reshape, op)


def packed_dense(b: Builder, w: np.ndarray, bias, v: int) -> Packed:
    """Dense groups of exactly v rows."""
    outputs, inputs = w.shape
    grouped = np.ascontiguousarray(w.reshape(outputs // v, v, inputs).transpose(0, 2, 1))
    bias = np.zeros(outputs, np.float32) if bias is None else np.ascontiguousarray(bias, np.float32)
    return Packed(constant(b, grouped), constant(b, bias), None, None, outputs // v, v, inputs, 0.0, None)


def conv_transpose(b: Builder, node: Node) -> None:
    """A convolution of the image spread out with zeros, by the kernel turned round."""
    floats_only(b, node, *node.inputs[:2])
    w, bias = b.array(node.input(1)), b.array(node.input(2))
    if w is None or (node.input(2) and bias is None):
        raise node.unsupported("the weights are computed at run time", "make them a constant of the model")
    r, groups = w.ndim - 2, node.attrs.get("group", 1)
    stride, dilation = node.attrs.get("strides", [1] * r), node.attrs.get("dilations", [1] * r)
    x, shape = b.value(node.input(0)), b.shape(node.output(0))
    kernel = w.shape[2:]
    extra = node.attrs.get("output_padding", [0] * r)
    lead = []
    for a in range(r):
        full = (x.shape[2 + a] - 1) * stride[a] + (kernel[a] - 1) * dilation[a] + 1 + extra[a]
        total = full - shape[2 + a]
        if "output_shape" in node.attrs or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", ""):
            lead.append(total // 2 if node.attrs.get("auto_pad") == "SAME_UPPER" or total <= 0 else total - total // 2)
        else:
            lead.append(node.attrs.get("pads", [0] * 2 * r)[a])
    spread_shape = tuple((n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True))
    if any(s > 1 for s in stride):
        spread = b.fresh(F, (*x.shape[:2], *spread_shape))
        b.fill(spread, 0.0)
        holes = spread
        for a in range(r):
            holes = holes.slice(2 + a, 0, x.shape[2 + a], stride[a])
        b.write(x, holes)
        x = of_view(spread)
    turned = w.reshape(groups, w.shape[0] // groups, w.shape[1], *kernel).swapaxes(1, 2)[(slice(None),) * 3 + (slice(None, None, -1),) * r]
    turned = np.ascontiguousarray(turned.reshape(w.shape[1] * groups, w.shape[0] // groups, *kernel))
    pads = [((k - 1) * d - p, 0) for k, d, p in zip(kernel, dilation, lead, strict=True)]
    for a, (before, _) in enumerate(pads):  # a negative pad is a crop
        if before < 0:
            cut = -before
            x = b.moved(x, lambda v, a=a, cut=cut: v.slice(2 + a, cut, v.shape[2 + a] - cut))
            pads[a] = (0, 0)
    y = convolve(b, x, turned, bias, groups, (1,) * r, tuple(dilation), pads, shape, "ConvTranspose")
    b.set(node.output(0), y)


# -- einsum ----------------------------------------------------------------------------------------------------------

def einsum(b: Builder, node: Node) -> None:
    equation = node.attrs["equation"].replace(" ", "")
    left, _, out = equation.partition("->")
    terms = left.split(",")
    if len(terms) != 2 or "." in equation or any(len(set(t)) != len(t) for t in terms):
        raise node.unsupported(f"equation {equation!r}", "write it with two operands, without '...' and repeated letters, or as MatMul")
    if not _:
        out = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    floats_only(b, node, *node.inputs)
    x, y = (b.value(n) for n in node.inputs)
    size = {c: n for t, v in zip(terms, (x, y), strict=True) for c, n in zip(t, v.shape, strict=True)}
    batch = [c for c in out if c in terms[0] and c in terms[1]]
    summed = [c for c in terms[0] if c in terms[1] and c not in out]
    rows = [c for c in out if c in terms[0] and c not in terms[1]]
    cols = [c for c in out if c in terms[1] and c not in terms[0]]
    lone = [c for t in terms for c in t if c not in out and c not in summed]
    if lone:
        raise node.unsupported(f"equation {equation!r} sums an index of one operand alone", "sum it with ReduceSum before")

    def extent(cs):
        return prod(size[c] for c in cs)
    x = b.moved(x, lambda v: v.transpose([terms[0].index(c) for c in (*batch, *rows, *summed)]))
    y = b.moved(y, lambda v: v.transpose([terms[1].index(c) for c in (*batch, *summed, *cols)]))
    x = b.reshaped(x, (*(size[c] for c in batch), extent(rows), extent(summed)))
    y = b.reshaped(y, (*(size[c] for c in batch), extent(summed), extent(cols)))
    z = matmul_values(b, x, y, (*(size[c] for c in batch), extent(rows), extent(cols)))
    order = (*batch, *rows, *cols)
    z = b.reshaped(z, tuple(size[c] for c in order))
    b.set(node.output(0), b.moved(z, lambda v: v.transpose([order.index(c) for c in out])))


OPERATORS = {"Conv": conv, "ConvTranspose": conv_transpose, "Gemm": gemm, "MatMul": matmul, "Einsum": einsum}
