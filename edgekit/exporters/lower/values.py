"""Values that are not computed yet: an elementwise body over views, with at most one product at its root.

Elementwise operators only extend the body; slices, transposes and broadcasts move the views. A step is written down
when somebody needs the numbers in memory. That is all there is to fusion.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgekit.exporters.kernels.spec import Body, Op
from edgekit.exporters.lower.views import View

FUSED_INPUTS = 8   # operands and operations past which a body is written to memory first
FUSED_OPS = 40


@dataclass(frozen=True)
class Product:
    """A kernel whose sums a fused body may finish, value 0 of the body being the sum.

    reshape: from the value's axes to those of the kernel, for extras and output. emit(post, extras, output, ops): its step.
    packed: the same product with its last axis in the order of packed rows, and the place on that axis that each comes from.
    factors: of a product of two activations. softmax_of: of a softmax over the last axis, what it is taken of.
    loose: it writes element by element, so any order of axes costs the same.
    """

    emit: Callable[[Body, tuple[View, ...], View, str], None]
    reshape: Callable[[View], View | None]
    dtype: str = "float32"
    packed: "tuple[Product, np.ndarray] | None" = field(default=None, compare=False)
    factors: tuple[View, View] | None = None
    softmax_of: "Value | None" = None
    loose: bool = False


@dataclass(frozen=True)
class Value:
    """shape and dtype of the result; inputs: views of that shape; body over (the root's sum,) inputs; ops: for names."""

    shape: tuple[int, ...]
    dtype: str
    inputs: tuple[View, ...]
    body: Body = ()
    root: Product | None = None
    ops: tuple[str, ...] = ()

    @property
    def view(self) -> View | None:
        """The view, where the value is already in memory."""
        return self.inputs[0] if not self.body and self.root is None and len(self.inputs) == 1 else None

    def moved(self, move: Callable[[View], View | None]) -> "Value | None":
        """The value under another indexing: `move` applied to every view; None where it does not apply to all."""
        if self.root is not None:
            return None
        pattern = move(View("", self.dtype, 0, self.shape, (0,) * len(self.shape)))
        views = [v for v in map(move, self.inputs) if v is not None]
        if pattern is None or len(views) != len(self.inputs):
            return None
        return replace(self, inputs=tuple(views), shape=pattern.shape)


def of_view(view: View) -> Value:
    return Value(view.shape, view.dtype, (view,))


def constant(value, dtype: str, shape: tuple[int, ...] = ()) -> Value:
    return Value(shape, dtype, (), (Op("const", (), dtype, (value,)),))


def combine(op: str, args: Sequence[Value], dtype: str, shape: tuple[int, ...], attrs: tuple = (), label: str = "") -> Value:
    """op over values that broadcast to `shape`. Those with a root have the same one, and have `shape` already."""
    root = next((a.root for a in args if a.root is not None), None)
    numbers: dict[View, int] = {}
    for view in (v.broadcast(shape) for a in args for v in a.inputs):
        numbers.setdefault(view, len(numbers) + (root is not None))
    count = len(numbers) + (root is not None)  # operations are numbered after all inputs
    body: dict[Op, int] = {}  # of each operation its number; what two values share is computed once
    results = []
    for a in args:
        local = ([0] if a.root is not None else []) + [numbers[v.broadcast(shape)] for v in a.inputs]
        for o in a.body:
            local.append(body.setdefault(replace(o, args=tuple(local[x] for x in o.args)), count + len(body)))
        results.append(local[-1])
    last = Op(op, tuple(results), dtype, attrs)
    ops = tuple(dict.fromkeys(o for a in args for o in a.ops)) + ((label,) if label else ())
    return Value(tuple(shape), dtype, tuple(numbers), (*body, last), root, ops)


def too_long(value: Value) -> bool:
    return len(value.inputs) > FUSED_INPUTS or len(value.body) > FUSED_OPS
