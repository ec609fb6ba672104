"""Gemm, MatMul."""
from math import prod

import numpy as np

from edgekit.exporters.kernels import spec
from edgekit.exporters.kernels.spec import Tensor
from edgekit.exporters.lower.builder import Builder, Node
from edgekit.exporters.lower.products import F, in_float32, linear, narrowed, rooted, tensors
from edgekit.exporters.lower.values import Product, Value, constant, of_view
from edgekit.exporters.lower.views import View
from edgekit.exporters.lower.weights import CHANNEL_MAJOR, packed

FEW = 4      # rows for which a transposed operand is read as it lies
QUERIES = 16  # from which on they fill the lanes of an attention
KEYS = 128    # and depth, of which a tile of scores and queries stays in the nearest cache


def gemm(b: Builder, node: Node) -> None:
    a_name, w_name, c_name = node.input(0), node.input(1), node.input(2)
    dtype = b.dtype(a_name)
    alpha, beta = node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)
    x = b.value(a_name)
    if node.attrs.get("transA", 0):
        x = b.transposed(x, (1, 0))
    w, c = b.array(w_name), b.array(c_name)
    shape = b.shape(node.output(0))
    bias = None
    if x.shape[1] == 0:
        y = constant(0.0, dtype, shape)
    elif w is not None and dtype == F:
        w = w if node.attrs.get("transB", 0) else w.T
        if c is not None and c.size in (1, shape[1]) and (c.ndim < 2 or c.shape[0] == 1):
            bias = np.broadcast_to(c.reshape(-1) * np.float32(beta), (shape[1],)).astype(np.float32)
        y = linear(b, x, w * np.float32(alpha), bias, shape, "Gemm")
    else:
        other = b.value(w_name)
        if node.attrs.get("transB", 0):
            other = b.transposed(other, (1, 0))
        y = _product(b, node, x, other, shape)
        if alpha != 1.0:
            y = b.apply("mul", y, b.of_array(np.asarray(alpha, dtype)), dtype=dtype, shape=shape)
    if c_name and bias is None and beta != 0:
        addend = b.value(c_name)
        if beta != 1.0:
            addend = b.apply("mul", addend, b.of_array(np.asarray(beta, dtype)), dtype=dtype, shape=addend.shape)
        y = b.apply("add", y, addend, dtype=dtype, shape=shape)
    b.set(node.output(0), y)


def matmul(b: Builder, node: Node) -> None:
    a_name, w_name = node.input(0), node.input(1)
    a, w = b.array(a_name), b.array(w_name)
    shape = b.shape(node.output(0))
    if b.shape(a_name)[-1] == 0:
        return b.set(node.output(0), constant(0, b.dtype(a_name), shape))
    if b.dtype(a_name) != F:
        return b.set(node.output(0), _product(b, node, b.value(a_name), b.value(w_name), shape))
    if w is not None and w.ndim == 2 and len(b.shape(a_name)) >= 2:
        return b.set(node.output(0), linear(b, b.value(a_name), w.T, None, shape, "MatMul"))
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
    if (fused := _attention(b, x, y, shape)) is not None:
        return fused
    *batch, m, n = shape
    k = x.shape[-1]
    xv = b.memory(x).broadcast((*batch, m, k))
    lies = b.memory(y)
    node = b.node

    def emit(post, extras, out, ops):
        yv = lies
        if m > FEW or yv.strides[-2] != 1:
            asked, b.node = b.node, node
            yv = b.lined(of_view(yv), yv.shape)
            b.node = asked
        yv = yv.broadcast((*batch, k, n))
        kernel = spec.MatMul(tuple(batch), m, n, k, Tensor(xv.dtype, xv.strides), Tensor(yv.dtype, yv.strides), tensors(extras), post,
                             Tensor(out.dtype, out.strides))
        b.step(kernel, [xv, yv, *extras, out], node=node, ops=ops, macs=prod(shape) * k)
    root = Product(emit, lambda v: v, x.dtype, factors=(xv, lies.broadcast((*batch, k, n))))
    return Value(tuple(shape), x.dtype, (), (), root, (node.op,))


def _attention(b: Builder, x: Value, y: Value, shape) -> Value | None:
    """x @ y as one kernel from its queries on, where x is the softmax of a product of many queries and few keys."""
    scores = x.root.softmax_of if x.root is not None and not x.body else None
    if scores is None or scores.root is None or scores.root.factors is None:
        return None
    q, key = scores.root.factors
    *batch, m, width = shape
    n, depth = scores.shape[-1], q.shape[-1]
    masks, pre, node = scores.inputs, scores.body, b.node
    apart = any(t.strides[-2] not in (0, 1) for t in masks)
    if scores.shape != (*batch, m, n) or m < QUERIES or n + depth > KEYS or apart or {scores.dtype, y.dtype, *(t.dtype for t in masks)} != {F}:
        return None
    key, value = key.transpose((*range(len(batch)), -1, -2)), b.memory(y).broadcast((*batch, n, width))

    def emit(post, extras, out, ops):
        of_q, of_key, of_value, of_out = tensors((q, key, value, out))
        kernel = spec.Attention(tuple(batch), m, n, depth, width, of_q, of_key, of_value, tensors(masks), pre, tensors(extras), post, of_out)
        b.step(kernel, [q, key, value, *masks, *extras, out], node=node, ops=ops, macs=prod(batch) * m * n * (depth + width))
    return Value(tuple(shape), F, (), (), Product(emit, lambda v: v, F, loose=True), (*scores.ops, *x.ops, node.op))


def _product(b: Builder, node: Node, x: Value, y: Value, shape) -> Value:
    """x @ y of any dtype that has products."""
    if x.dtype not in (F, "float64", "int32", "int64", "uint32", "uint64") or x.dtype != y.dtype:
        raise node.unsupported(f"products of {x.dtype} are not compiled", "convert the model to float32")
    return _any_matmul(b, x, y, shape)


def _left_constant(b: Builder, node: Node, a: np.ndarray, x: Value, shape) -> Value:
    """A constant matrix from the left is a 1x1 convolution: its columns are channels, those of x positions."""
    outputs, inputs = a.shape
    many, n = prod(x.shape[:-2]), x.shape[-1]
    x, p = narrowed(b, x, packed(b, np.ascontiguousarray(a, np.float32), None, CHANNEL_MAJOR))
    batch = b.lined(x, (many, inputs, n))
    spatial, step = ((many, n), (batch.strides[0], 1)) if many > 1 else ((n,), (1,))
    ones = (1,) * len(spatial)

    def reshape(v: View) -> View | None:
        v3 = v.reshape((many, outputs, n))
        return v3 and v3.transpose((1, 0, 2)).reshape((outputs, *spatial))

    def emit(post, extras, out, ops):
        kernel = spec.Conv(outputs, p.groups, p.v, p.kept, inputs, outputs, ones, ones, ones, batch.strides[1], (0,) * len(spatial), step,
                           spatial, p.index_dtype, p.order is not None, tensors(extras), post, Tensor(out.dtype, out.strides),
                           p.starts is not None, batch.dtype)
        b.step(kernel, [batch, *p.operands, *extras, out], node=node, ops=ops, macs=p.weights * many * n,
               dense_macs=outputs * inputs * many * n, sparsity=p.sparsity, group=p.group)
    return rooted(shape, emit, reshape, "MatMul")


OPERATORS = {"Gemm": in_float32(gemm), "MatMul": in_float32(matmul)}
