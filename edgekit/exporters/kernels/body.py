"""Fused elementwise bodies: operands loaded, operations applied, the result stored."""
from collections.abc import Sequence
from math import inf, isfinite

from edgekit.exporters.kernels.loops import Code, broadcast, const, shuffle
from edgekit.exporters.kernels.math import base_of, extreme, lanes_of, to
from edgekit.exporters.kernels.scalar import apply
from edgekit.exporters.kernels.spec import Body, Op, Tensor


def evaluate(code: Code, body: Body, values: list, lanes: int):
    """The body's result for `values`, expressions of `lanes` lanes each."""
    values = list(values)
    for op in body:
        if op.op == "const":
            values.append(broadcast(const(op.attrs[0], "uint8" if op.dtype == "bool" else op.dtype), lanes))
            continue
        args = [values[a] for a in op.args]
        native = _native(code, op, args, lanes) if code.machine.by_element else None
        values.append(code.let(native if native is not None else apply(op.op, args, op.dtype, op.attrs, lanes, code.let)))
    return values[-1]


def _native(code: Code, op: Op, args: list, lanes: int):
    """max, min, relu and clip of float32 as the single instructions that AArch64 has for them, which pass NaN on, and casts
    between float16 and float32, which round as those by bits do; None for all else."""
    if op.op == "cast" and {op.dtype, base_of(args[0])} == {"float16", "float32"}:
        return to(args[0], op.dtype)
    if op.dtype != "float32":
        return None
    if op.op in ("max", "min"):
        return extreme(op.op + "imum", *args)
    if op.op not in ("relu", "clip"):
        return None
    value, (low, high) = args[0], op.attrs if op.op == "clip" else (0.0, inf)
    for name, bound in (("maximum", low), ("minimum", high)):
        if isfinite(bound):
            value = extreme(name, value, code.constant(bound, op.dtype, lanes))
    return value


def address(code: Code, strides: tuple[int, ...], position: list):
    """Sum of stride * position, leaving out what is zero."""
    total = None
    for stride, at in zip(strides, position, strict=True):
        if stride == 0:
            continue
        term = code.i(at) if stride == 1 else code.i(at) * code.i(stride)
        total = term if total is None else total + term
    return code.i(0) if total is None else total


def read(code: Code, buffer, tensor: Tensor, position: list, lanes: int):
    """`lanes` neighbours along the last axis."""
    return code.load(buffer, address(code, tensor.strides, position), lanes, tensor.strides[-1] if tensor.strides else 0)


def write(code: Code, buffer, tensor: Tensor, value, position: list, lanes: int) -> None:
    code.store(buffer, value, address(code, tensor.strides, position), lanes, tensor.strides[-1] if tensor.strides else 0)


def result(code: Code, k, extras: Sequence, value, position: list, lanes: int):
    """What the fused body of kernel k, which has `extras` and `post`, makes of a value."""
    values = [code.let(value), *(read(code, b, t, position, lanes) for b, t in zip(extras, k.extras, strict=True))]
    return evaluate(code, k.post, values, lanes)


def finish(code: Code, k, extras: Sequence, out, value, position: list, lanes: int) -> None:
    """What the fused body makes of a value, to its place in the output."""
    write(code, out, k.output, result(code, k, extras, value, position, lanes), position, lanes)


def lanes_for(code: Code, n: int) -> int:
    """Lanes for a loop over n elements: no wider than n needs."""
    lanes = code.machine.lanes
    while lanes > 1 and lanes > n:
        lanes //= 2
    return lanes


def covering(code: Code, n: int) -> int:
    """Lanes of a vector that holds n elements, or of the widest."""
    return lanes_for(code, 1 << (n - 1).bit_length())


def read_at(code: Code, buffer, tensor: Tensor, row, columns, lanes: int):
    """One element of a two-dimensional operand a lane: of `row`, from the column of that lane, columns(lane)."""
    if lanes == 1 or tensor.strides[1] == 0:
        return read(code, buffer, tensor, [row, columns(code.i(0))], lanes)
    base = code.let(address(code, tensor.strides[:1], [row]))
    return shuffle([code.let(code.load(buffer, base + columns(code.i(j)) * code.i(tensor.strides[1]))) for j in range(lanes)], range(lanes))


def write_at(code: Code, buffer, tensor: Tensor, values: list, row, columns) -> None:
    """One vector for each row from `row` on, each lane to its column: columns(lane). The lanes go by way of the stack, which
    is several times as fast as out of a vector register one by one."""
    lanes = lanes_of(values[0])
    aside = code.array(len(values) * lanes, tensor.dtype)
    for r, value in enumerate(values):
        code.local_store(aside, value, r * lanes, lanes)
    with code.loop(lanes) as lane:
        at = code.let(address(code, tensor.strides, [row, columns(lane)]))
        for r in range(len(values)):
            code.store(buffer, code.local_load(aside, lane + code.i(r * lanes)), at + code.i(r * tensor.strides[0]))
