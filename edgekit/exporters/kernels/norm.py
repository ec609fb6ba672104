"""Norm: softmax and normalisation of rows. A short row stays in registers between its passes, a long one in memory."""
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any

from edgekit.exporters.kernels.body import finish, lanes_for, read, write
from edgekit.exporters.kernels.elementwise import nest
from edgekit.exporters.kernels.loops import Code, broadcast, const, shuffle
from edgekit.exporters.kernels.math import exp_below_0
from edgekit.exporters.kernels.reduction import COMBINE, across, fold
from edgekit.exporters.kernels.scalar import apply
from edgekit.exporters.kernels.schedule import Machine
from edgekit.exporters.kernels.spec import Norm

Function = Callable[[Any, int], Any]  # of (elements, their number)


def build_norm(k: Norm, machine: Machine):
    code = Code(machine)
    dtype = k.x.dtype
    x = code.operand(dtype)
    extras = [code.operand(t.dtype) for t in k.extras]
    out = code.operand(k.output.dtype)
    outer, inner = k.shape[:-k.axes], k.shape[-k.axes:]
    lanes = lanes_for(code, inner[-1])
    vectors = -(-inner[-1] // lanes)
    short = k.axes == 1 and 1 < lanes and vectors <= max(2, machine.accumulators // 3) and k.x.strides[-1] == 1

    def row(position, _):
        def element(at, width: int):
            return read(code, x, k.x, [*position, *at], width)

        def store(at, value, width: int) -> None:
            finish(code, k, extras, out, value, [*position, *at], width)

        def aside(at, width: int, value=None):
            """An element's place in the output, written or read."""
            if value is None:
                return read(code, out, k.output, [*position, *at], width)
            write(code, out, k.output, value, [*position, *at], width)
        keeps = aside if k.kind == "softmax" and k.output.dtype == dtype else None
        elements = _Short.of(code, dtype, inner[-1], lanes, element) if short else _Long(code, dtype, inner, lanes, element)
        _normalised(code, k, elements, keeps).each(store)
    units = nest(code, outer, row, 1)
    return code.function(), units


def _normalised(code: Code, k: Norm, x: "_Short | _Long", aside) -> "_Short | _Long":
    dtype, size = k.x.dtype, prod(k.shape[-k.axes:])

    def unary(op, value, width):
        return apply(op, [value], dtype, (), width, code.let)
    if k.kind in ("softmax", "logsoftmax"):
        top = x.total("max")

        def power(v, w: int):
            below = code.let(v - broadcast(top, w))  # at most 0, as top is the largest
            return code.let(exp_below_0(code.let, below) if dtype == "float32" else unary("exp", below, w))
        powers = x.map(power)
        sums = powers.total("sum", aside)
        if k.kind == "softmax":
            scale = code.let(const(1.0, dtype) / sums)
            return powers.after(aside).map(lambda v, w: v * broadcast(scale, w))
        log = code.let(unary("log", sums, 1))
        return x.map(lambda v, w: v - broadcast(top, w) - broadcast(log, w))
    if k.kind == "layernorm":
        mean = code.let(x.total("sum") / const(size, dtype))
        x = x.map(lambda v, w: v - broadcast(mean, w))
    squares = x.map(lambda v, w: v * v).total("sum")
    scale = code.let(const(1.0, dtype) / unary("sqrt", squares / const(size, dtype) + const(k.eps, dtype), 1))
    return x.map(lambda v, w: v * broadcast(scale, w))


@dataclass(frozen=True)
class _Long:
    """Elements computed anew in every pass over `extents`: element(position, lanes)."""

    code: Code
    dtype: str
    extents: tuple[int, ...]
    lanes: int
    element: Callable

    def map(self, f: Function) -> "_Long":
        return _Long(self.code, self.dtype, self.extents, self.lanes, lambda at, w: f(self.code.let(self.element(at, w)), w))

    def total(self, op: str, aside=None):
        """op over all elements; they wait in `aside`, where there is one, for what comes after."""
        def value(at, w: int):
            v = self.element(at, w)
            if aside:
                aside(at, w, v)
            return v
        return fold(self.code, op, self.dtype, self.extents, value, self.code.machine.lanes)

    def after(self, aside) -> "_Long":
        """The elements that a total put aside."""
        return _Long(self.code, self.dtype, self.extents, self.lanes, aside) if aside else self

    def each(self, store: Callable) -> None:
        with ExitStack() as stack:
            front = [stack.enter_context(self.code.loop(e)) for e in self.extents[:-1]]

            def visit(at, w: int) -> None:
                store([*front, at], self.element([*front, at], w), w)
            self.code.spans(self.extents[-1], self.lanes, visit)


@dataclass(frozen=True)
class _Short:
    """Elements in registers, from `starts` on; the last vector reaches back over `twice` elements of the one before it."""

    code: Code
    dtype: str
    lanes: int
    starts: tuple[int, ...]
    twice: int
    values: tuple

    @staticmethod
    def of(code: Code, dtype: str, n: int, lanes: int, element: Callable) -> "_Short":
        starts = tuple(min(at, n - lanes) for at in range(0, n, lanes))
        return _Short(code, dtype, lanes, starts, -n % lanes, tuple(code.let(element([code.i(at)], lanes)) for at in starts))

    def map(self, f: Function) -> "_Short":
        return _Short(self.code, self.dtype, self.lanes, self.starts, self.twice, tuple(self.code.let(f(v, self.lanes)) for v in self.values))

    def total(self, op: str, aside=None):
        values = list(self.values)
        if op == "sum" and self.twice:
            zeros = broadcast(const(0, self.dtype), self.lanes)
            values[-1] = self.code.let(shuffle([zeros, values[-1]], [j if j < self.twice else self.lanes + j for j in range(self.lanes)]))
        while len(values) > 1:
            pairs = [values[i:i + 2] for i in range(0, len(values), 2)]
            values = [self.code.let(apply(COMBINE[op], pair, self.dtype, (), self.lanes, self.code.let)) if len(pair) > 1 else pair[0] for pair in pairs]
        return across(self.code, op, self.dtype, values[0], self.lanes)

    def after(self, aside) -> "_Short":
        return self

    def each(self, store: Callable) -> None:
        for at, value in zip(self.starts, self.values, strict=True):
            store([self.code.i(at)], value, self.lanes)
