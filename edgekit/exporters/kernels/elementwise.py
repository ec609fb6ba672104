"""Map, Gather, Scatter: one element goes out for every point of the iteration space."""
from contextlib import ExitStack

from tvm import tirx

from edgekit.exporters.kernels.body import address, evaluate, lanes_for, read, write
from edgekit.exporters.kernels.loops import Code, const
from edgekit.exporters.kernels.scalar import apply
from edgekit.exporters.kernels.schedule import Machine
from edgekit.exporters.kernels.spec import Gather, Map, Scatter

BLOCK = 4096  # elements of a one-dimensional map that make up one unit


def nest(code: Code, shape: tuple[int, ...], visit, lanes: int) -> int:
    """visit(position, lanes) over `shape`, vectors along the last axis, units along the first; the number of units."""
    if not shape:
        with code.units():
            visit([], 1)
        return 1
    *outer, n = shape
    if not outer:
        return _blocks(code, n, visit, lanes)
    with code.units() as first, ExitStack() as stack:
        position = [first, *(stack.enter_context(code.loop(extent)) for extent in outer[1:])]
        code.spans(n, lanes, lambda at, width: visit([*position, at], width))
    return outer[0]


def _blocks(code: Code, n: int, visit, lanes: int) -> int:
    def block(start, length: int) -> None:
        code.spans(length, lanes, lambda at, width: visit([start + at], width))
    count = max(1, -(-n // BLOCK))
    with code.units() as u:
        code.pieces(n, BLOCK, count, u, block)
    return count


def build_map(k: Map, machine: Machine):
    code = Code(machine)
    buffers = [code.operand(t.dtype) for t in k.inputs]
    out = code.operand(k.output.dtype)

    def visit(position, lanes):
        values = [read(code, b, t, position, lanes) for b, t in zip(buffers, k.inputs, strict=True)]
        write(code, out, k.output, evaluate(code, k.body, values, lanes), position, lanes)
    lanes = lanes_for(code, k.shape[-1]) if k.shape and k.output.strides[-1] else 1
    units = nest(code, k.shape, visit, lanes)
    return code.function(), units


def build_gather(k: Gather, machine: Machine):
    code = Code(machine)
    x, index, out = code.operand(k.x.dtype), code.operand(k.index.dtype), code.operand(k.output.dtype)
    moving = k.index.strides[-1] != 0 if k.shape else False

    def visit(position, lanes):
        j = code.let(code.i(code.load(index, address(code, k.index.strides, position))))
        j = code.let(tirx.Select(j < code.i(0), j + code.i(k.extent), j))
        j = code.let(tirx.max(tirx.min(j, code.i(k.extent - 1)), code.i(0)))
        at = [j if a == k.axis else p for a, p in enumerate(position)]
        value = code.load(x, address(code, k.x.strides, at), lanes, k.x.strides[-1])
        write(code, out, k.output, value, position, lanes)
    # One index for a whole vector, unless the index runs along the last axis.
    single = not k.shape or moving or k.axis == len(k.shape) - 1 or not k.output.strides[-1]
    units = nest(code, k.shape, visit, 1 if single else lanes_for(code, k.shape[-1]))
    return code.function(), units


def build_scatter(k: Scatter, machine: Machine):
    code = Code(machine)
    updates, index, out = code.operand(k.updates.dtype), code.operand(k.index.dtype), code.operand(k.output.dtype)
    with code.units(), ExitStack() as stack:
        position = [stack.enter_context(code.loop(extent)) for extent in k.shape]
        j = code.let(code.load(index, address(code, k.index.strides, position)))
        zero, extent = const(0, k.index.dtype), const(k.extent, k.index.dtype)  # an int64 may not fit an address
        j = code.let(tirx.Select(j < zero, j + extent, j))
        with code.when(tirx.And(j >= zero, j < extent)):
            at = [code.i(j) if a == k.axis else p for a, p in enumerate(position)]
            value = code.load(updates, address(code, k.updates.strides, position))
            if k.op != "set":
                old = code.load(out, address(code, k.output.strides, at))
                value = apply(k.op, [old, value], k.output.dtype, (), 1, code.let)
            code.store(out, value, address(code, k.output.strides, at))
    return code.function(), 1
