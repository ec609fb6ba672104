"""What products have in common: a value whose root is a kernel's sums, finished by whatever follows it."""
from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np

from edgekit.exporters.kernels import spec
from edgekit.exporters.kernels.spec import Tensor
from edgekit.exporters.lower.builder import Builder, Node
from edgekit.exporters.lower.values import Product, Value, of_view
from edgekit.exporters.lower.views import View
from edgekit.exporters.lower.weights import Packed

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


def linear(b: Builder, x: Value, p: Packed, outputs: int, shape, op: str, dense_inputs: int) -> Value:
    """x (..., inputs) times packed weights -> a value of `shape` (..., outputs)."""
    inputs = x.shape[-1]
    rows = prod(x.shape[:-1])
    x, p = narrowed(b, x, p)
    flat = b.lined(x, (rows, inputs))
    node = b.node

    def emit(post, extras, out, ops):
        kernel = spec.Linear(rows, inputs, outputs, p.groups, p.v, p.kept, flat.strides[0], p.index_dtype, p.order is not None,
                             tensors(extras), post, Tensor(out.dtype, out.strides), p.starts is not None, flat.dtype)
        b.step(kernel, [flat, *p.operands, *extras, out], node=node, ops=ops, macs=rows * p.weights,
               dense_macs=rows * outputs * dense_inputs, sparsity=p.sparsity, group=p.group)
    return rooted(shape, emit, lambda v: v.reshape((rows, outputs)), op)
