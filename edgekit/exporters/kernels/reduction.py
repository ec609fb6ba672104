"""Reduce, Arg, Norm: results over some axes of the iteration space."""
from contextlib import ExitStack

from tvm import tirx

from edgekit.exporters.kernels.body import evaluate, lanes_for, read, write
from edgekit.exporters.kernels.elementwise import nest
from edgekit.exporters.kernels.loops import Code, Machine, broadcast, const
from edgekit.exporters.kernels.scalar import apply
from edgekit.exporters.kernels.spec import Arg, Norm, Reduce, Tensor

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
    """op over `extents` of value(position, lanes), vectors along the last extent; a scalar."""
    n = extents[-1]
    combine = COMBINE[op]
    total = code.register(dtype, 1, identity(op, dtype))
    wide = lanes if n >= lanes else 1
    acc = code.register(dtype, wide, broadcast(identity(op, dtype), wide)) if wide > 1 else total

    def visit(position, width):
        target = acc if width == wide else total
        target.set(apply(combine, [target.value, value(position, width)], dtype, (), width, code.let))
    with ExitStack() as stack:
        outer = [stack.enter_context(code.loop(e)) for e in extents[:-1]]
        with code.loop(n // wide) as i:
            visit([*outer, i * code.i(wide)], wide)
        if n % wide:
            with code.loop(n % wide, n - n % wide) as i:
                visit([*outer, i], 1)
    if wide > 1:
        lanes_array = code.array(wide, dtype)
        code.local_store(lanes_array, acc.value, 0, wide)
        for j in range(wide):
            total.set(apply(combine, [total.value, code.local_load(lanes_array, j)], dtype, (), 1, code.let))
    return code.let(total.value)


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
        values = [value, *(read(code, b, t, position, lanes) for b, t in zip(extras, k.extras, strict=True))]
        write(code, out, k.output, evaluate(code, k.post, values, lanes), position, lanes)

    along_outer = outer and all(t.strides[k.outer - 1] in (0, 1) for t in k.inputs) and outer[-1] > 1 and any(
        t.strides[-1] not in (0, 1) for t in k.inputs)

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


def build_norm(k: Norm, machine: Machine):
    code = Code(machine)
    dtype = k.x.dtype
    x = code.operand(dtype)
    extras = [code.operand(t.dtype) for t in k.extras]
    out = code.operand(k.output.dtype)
    outer, inner = k.shape[:-k.axes], k.shape[-k.axes:]
    size = 1
    for extent in inner:
        size *= extent
    lanes = lanes_for(code, inner[-1])

    def each(visit):
        with ExitStack() as stack:
            front = [stack.enter_context(code.loop(e)) for e in inner[:-1]]
            code.spans(inner[-1], lanes, lambda at, width: visit([*front, at], width))

    def row(position, _):
        def element(r, width):
            return read(code, x, k.x, [*position, *r], width)

        def total(op, value):
            return fold(code, op, dtype, inner, value, machine.lanes)

        def unary(op, value, width, attrs=()):
            return apply(op, [value], dtype, attrs, width, code.let)
        if k.kind in ("softmax", "logsoftmax"):
            top = total("max", element)
            shifted = lambda r, w: element(r, w) - broadcast(top, w)
            sums = total("sum", lambda r, w: unary("exp", shifted(r, w), w))
            if k.kind == "softmax":
                scale = code.let(const(1.0, dtype) / sums)
                value = lambda r, w: unary("exp", shifted(r, w), w) * broadcast(scale, w)
            else:
                log = code.let(unary("log", sums, 1))
                value = lambda r, w: shifted(r, w) - broadcast(log, w)
        else:
            mean = code.let(total("sum", element) / const(size, dtype)) if k.kind == "layernorm" else const(0.0, dtype)
            centred = lambda r, w: element(r, w) - broadcast(mean, w)
            squares = total("sum", lambda r, w: centred(r, w) * centred(r, w))
            scale = code.let(const(1.0, dtype) / unary("sqrt", squares / const(size, dtype) + const(k.eps, dtype), 1))
            value = lambda r, w: centred(r, w) * broadcast(scale, w)

        def finish(r, width):
            at = [*position, *r]
            values = [code.let(value(r, width)), *(read(code, b, t, at, width) for b, t in zip(extras, k.extras, strict=True))]
            write(code, out, k.output, evaluate(code, k.post, values, width), at, width)
        each(finish)
    units = nest(code, outer, row, 1)
    return code.function(), units
