"""What products have in common: a value whose root is a kernel's sums, finished by whatever follows it."""
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from edgekit.exporters.kernels import spec
from edgekit.exporters.kernels.spec import Body, Tensor
from edgekit.exporters.lower.builder import Builder, Node
from edgekit.exporters.lower.values import Product, Value, of_view
from edgekit.exporters.lower.views import View
from edgekit.exporters.lower.weights import POSITION_MAJOR, Packed, best, packed, packed_dense

F = "float32"
PERMUTED = 18  # inputs whose products cost as much as putting a row's outputs where they belong, one by one


def rooted(shape, emit, reshape, op: str) -> Value:
    """A product that waits for what follows it."""
    return Value(tuple(shape), F, (), (), Product(emit, reshape), (op,))


def tensors(views) -> tuple[Tensor, ...]:
    return tuple(Tensor(v.dtype, v.strides) for v in views)


def floats_only(b: Builder, node: Node, *names: str) -> None:
    for name in names:
        if name and b.dtype(name) != F:
            raise node.unsupported(f"{b.dtype(name)} products are not compiled", "convert the model to float32")


def in_float32(operator: Callable[[Builder, Node], None]) -> Callable[[Builder, Node], None]:
    """The operator, for float16 by way of float32: its inputs are cast before it and its outputs after it."""
    def lowered(b: Builder, node: Node) -> None:
        if "float16" not in (b.dtype(n) for n in node.inputs if n):
            return operator(b, node)

        def wide(name: str) -> str:
            if not name or b.dtype(name) != "float16":
                return name
            known, other = b.array(name), f"{name}:float32"
            b.types[other] = F, b.shape(name)
            b.uses[other] = b.uses[name]
            if known is not None:
                b.initializers[other] = known.astype(F)
            elif name in node.inputs:
                b.values[other] = b.apply("cast", b.value(name), dtype=F, shape=b.shape(name))
            return other
        inner = replace(node, inputs=tuple(map(wide, node.inputs)), outputs=tuple(map(wide, node.outputs)))
        operator(b, inner)
        for name, other in zip(node.outputs, inner.outputs, strict=True):
            if other != name:
                b.set(name, b.apply("cast", b.values[other], dtype="float16", shape=b.shape(name)))
    return lowered


def narrowed(b: Builder, x: Value, p: Packed) -> tuple[Value, Packed]:
    """The operands of a product in the dtype that products are computed in. What makes x writes it so, where nobody else reads it.

    Raises UnsupportedError for weights that float16 cannot hold.
    """
    if b.products == F:
        return x, p
    half = b.halves.get(x.view) if x.view else None
    if half is None:
        half = b.apply("cast", x, dtype=b.products, shape=x.shape)
        if x.view:
            half = b.halves[x.view] = of_view(b.memory(half))
    return half, replace(p, w=_narrow(b, p.w), bias=_narrow(b, p.bias))


def _narrow(b: Builder, view: View) -> View:
    array = b.constants.arrays[view.buffer]
    if np.abs(array).max(initial=0.0) > np.finfo(np.float16).max:
        raise b.node.unsupported(f"weights of {np.abs(array).max():.3g} do not fit into float16", "export it in float32")
    return b.constant(array.astype(b.products))


def linear(b: Builder, x: Value, w: np.ndarray, bias: np.ndarray | None, shape: Sequence[int], op: str) -> Value:
    """x (..., inputs) times w (outputs, inputs) plus bias (outputs,) -> a value of `shape`, (..., outputs)."""
    outputs, dense_inputs = w.shape
    x, w = _in_packed_order(b, x, w)
    p = packed(b, np.ascontiguousarray(w, F), bias, POSITION_MAJOR)
    rows, inputs = prod(x.shape[:-1]), x.shape[-1]
    if p.index is not None and p.order is not None and p.starts is None and rows > 1 and p.kept + PERMUTED >= inputs:
        p = packed_dense(b, np.ascontiguousarray(w, F), bias, best(POSITION_MAJOR.dense, outputs))
    x, p = narrowed(b, x, p)
    flat, node = b.lined(x, (rows, inputs)), b.node

    def product(p: Packed, columns: int) -> Product:
        def emit(post, extras, out, ops):
            begin, post, extras = _folded_bias(b, p, post, extras)
            kernel = spec.Linear(rows, inputs, columns, p.groups, p.v, p.kept, flat.strides[0], p.index_dtype, p.order is not None,
                                 tensors(extras), post, Tensor(out.dtype, out.strides), p.starts is not None, flat.dtype)
            b.step(kernel, [flat, *replace(p, bias=begin).operands, *extras, out], node=node, ops=ops, macs=rows * p.weights,
                   dense_macs=rows * outputs * dense_inputs, sparsity=p.sparsity, group=p.group)
        return Product(emit, lambda v: v.reshape((rows, columns)))
    root = product(p, outputs)
    if p.order is not None and shape[-1] == outputs:
        root = replace(root, packed=(product(replace(p, order=None), p.groups * p.v), b.constants.arrays[p.order.buffer]))
    return Value(tuple(shape), F, (), (), root, (op,))


def _in_packed_order(b: Builder, x: Value, w: np.ndarray) -> tuple[Value, np.ndarray]:
    """A product that only another product reads stays in the order of its own groups: the columns of w move instead."""
    if x.root is None or x.root.packed is None:
        return x, w
    root, order = x.root.packed
    constants = [_row(b, v) for v in x.inputs]
    if any(c is None for c in constants):
        return x, w
    shape = (*x.shape[:-1], len(order))
    inputs = tuple(b.constant(c[order]).broadcast(shape) for c in constants if c is not None)
    again = np.ones(len(order), bool)  # rows of padding repeat others, which count once
    again[np.unique(order, return_index=True)[1]] = False
    return Value(shape, x.dtype, inputs, x.body, root, x.ops), np.where(again, np.float32(0), w[:, order])


def _row(b: Builder, view: View) -> np.ndarray | None:
    """What a view holds, if that is constant and the same in every row."""
    array = b.constants.arrays.get(view.buffer)
    if array is None or any(s for n, s in zip(view.shape[:-1], view.strides, strict=False) if n > 1):
        return None
    return array.reshape(-1)[view.offset + view.strides[-1] * np.arange(view.shape[-1])]


def _folded_bias(b: Builder, p: Packed, post: Body, extras: Sequence[View]) -> tuple[View, Body, Sequence[View]]:
    """The bias, body and extras of a product whose body may begin by adding a constant row, which is a bias as well."""
    if p.bias.dtype != F or not post or post[0].op != "add" or 0 not in post[0].args:
        return p.bias, post, extras
    k, done = max(post[0].args), 1 + len(extras)  # the value added; the number of the sum
    row = _row(b, extras[k - 1]) if 0 < k < done else None
    if row is None or row.dtype != F or any({0, k} & set(o.args) for o in post[1:]):
        return p.bias, post, extras
    order = slice(None) if p.order is None else b.constants.arrays[p.order.buffer]
    begin = b.constant(b.constants.arrays[p.bias.buffer] + row[order])

    def moved(value: int) -> int:
        return 0 if value == done else value - (value > k) - (value > done)
    rest = tuple(replace(o, args=tuple(map(moved, o.args))) for o in post[1:])
    return begin, rest, [e for j, e in enumerate(extras) if j != k - 1]
