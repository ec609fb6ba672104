"""Reduce, Arg: results over some axes of the iteration space."""
from collections.abc import Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any

from tvm import tirx

from edgekit.exporters.kernels.body import evaluate, finish, lanes_for, read, write
from edgekit.exporters.kernels.elementwise import nest
from edgekit.exporters.kernels.loops import Code, broadcast, const, shuffle
from edgekit.exporters.kernels.scalar import apply
from edgekit.exporters.kernels.schedule import Machine
from edgekit.exporters.kernels.spec import Arg, Reduce, Tensor

CHAINS = 4   # independent sums of a long row: they hide the latency of an addition
SHORTEST = 7  # elements of a row that LLVM does better than vectors and a sum of their lanes
COMBINE = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}


def identity(op: str, dtype: str):
    """The neutral element."""
    if op in ("sum", "prod"):
        return const(int(op == "prod"), dtype)
    low = op == "max"
    if dtype.startswith("float"):
        return const(float("-inf" if low else "inf"), dtype)
    return tirx.min_value(dtype) if low else tirx.max_value(dtype)


def fold(code: Code, op: str, dtype: str, extents: tuple[int, ...], value, lanes: int):
    """op over `extents` of value(position, lanes), vectors along the last extent; a scalar. value is called once an element."""
    n = extents[-1]
    wide = lanes_for(code, n) if lanes > 1 and n > SHORTEST else 1
    chains = max(1, min(CHAINS, n // wide)) if wide > 1 else 1
    rest = n % (chains * wide)

    def combined(a, b, width: int):
        return code.let(apply(COMBINE[op], [a, b], dtype, (), width, code.let))
    sums = {wide: [code.register(dtype, wide, broadcast(identity(op, dtype), wide)) for _ in range(chains)]}
    sums |= {w: [code.register(dtype, w, broadcast(identity(op, dtype), w))] for w in _powers(wide // 2)}

    def add(held, position, width: int) -> None:
        held.set(combined(held.value, value(position, width), width))
    with ExitStack() as stack:
        outer = [stack.enter_context(code.loop(e)) for e in extents[:-1]]
        with code.loop(n // (chains * wide)) as i:
            for k, held in enumerate(sums[wide]):
                add(held, [*outer, i * code.i(chains * wide) + code.i(k * wide)], wide)
        at = n - rest
        for width in (*[wide] * (rest // wide), *(w for w in _powers(wide // 2) if rest % wide & w)):
            add(sums[width][0], [*outer, code.i(at)], width)
            at += width
    total = sums[wide][0].value
    for held in sums[wide][1:]:
        total = combined(total, held.value, wide)
    return across(code, op, dtype, total, wide, {w: sums[w][0].value for w in _powers(wide // 2)})


def across(code: Code, op: str, dtype: str, total, lanes: int, more: Mapping[int, Any] = MappingProxyType({})):
    """op over the lanes of a vector, the halves onto each other, and over `more` of narrower vectors by their lanes; a scalar."""
    for width in _powers(lanes // 2):
        low, high = (code.let(shuffle([total], range(k, k + width))) for k in (0, width))
        for part in (high, *([more[width]] if width in more else [])):
            low = code.let(apply(COMBINE[op], [low, part], dtype, (), width, code.let))
        total = low
    return code.let(total)


def _powers(n: int) -> list[int]:
    """n, a power of two, and those below; none of 0."""
    return [n >> k for k in range(n.bit_length())]


def build_reduce(k: Reduce, machine: Machine):
    code = Code(machine)
    ins = [code.operand(t.dtype) for t in k.inputs]
    extras = [code.operand(t.dtype) for t in k.extras]
    out = code.operand(k.output.dtype)
    dtype = k.pre[-1].dtype if k.pre else k.inputs[0].dtype
    outer, inner = k.shape[:k.outer], k.shape[k.outer:]

    def pre(position, lanes, vector_axis=-1):
        values = []
        for b, t in zip(ins, k.inputs, strict=True):
            moved = t if vector_axis == -1 else Tensor(t.dtype, (*t.strides, t.strides[vector_axis]))
            at = position if vector_axis == -1 else [*position, 0]
            values.append(read(code, b, moved, at, lanes))
        return evaluate(code, k.pre, values, lanes)

    def post(value, position, lanes):
        finish(code, k, extras, out, value, position, lanes)

    apart = [t.strides[k.outer - 1] for t in k.inputs] if outer and outer[-1] > 1 else [-1]
    strided = any(t.strides[-1] not in (0, 1) for t in k.inputs)
    windows = inner[-1] <= SHORTEST and set(apart) <= {0, 1, 2}  # of pooling, and other rows that fill no vector
    along_outer = windows or strided and set(apart) <= {0, 1}

    def one_lane_a_result(position, lanes):
        """Neighbouring results in neighbouring lanes."""
        acc = code.register(dtype, lanes, broadcast(identity(k.op, dtype), lanes))

        with ExitStack() as stack:
            r = [stack.enter_context(code.loop(e)) for e in inner]
            value = pre([*position, *r], lanes, k.outer - 1) if lanes > 1 else pre([*position, *r], 1)
            acc.set(apply(COMBINE[k.op], [acc.value, value], dtype, (), lanes, code.let))
        post(code.let(acc.value), position, lanes)

    def lanes_along_the_reduction(position, _):
        lanes = machine.lanes
        total = fold(code, k.op, dtype, inner, lambda r, width: pre([*position, *r], width), lanes)
        post(total, position, 1)
    if along_outer:
        units = nest(code, outer, one_lane_a_result, lanes_for(code, outer[-1]))
    else:
        units = nest(code, outer, lanes_along_the_reduction, 1)
    return code.function(), units


def build_arg(k: Arg, machine: Machine):
    code = Code(machine)
    x, out = code.operand(k.x.dtype), code.operand(k.output.dtype)
    *outer, n = k.shape

    def visit(position, _):
        best = code.register(k.x.dtype, 1, read(code, x, k.x, [*position, 0], 1))
        where = code.register(machine.index, 1, code.i(0))
        with code.loop(n) as i:
            value = code.let(read(code, x, k.x, [*position, i], 1))
            better = {("max", False): lambda a, b: a > b, ("max", True): lambda a, b: a >= b,
                      ("min", False): lambda a, b: a < b, ("min", True): lambda a, b: a <= b}[k.op, k.last]
            with code.when(better(value, best.value)):
                best.set(value)
                where.set(i)
        write(code, out, k.output, where.value.astype(k.output.dtype), position, 1)
    units = nest(code, tuple(outer), visit, 1)
    return code.function(), units
