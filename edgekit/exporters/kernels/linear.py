"""Linear: the position-major form of the group-sparse product. The outputs of a group are the vector lanes.

A unit is one group and a block of rows; each weight is read once for a tile of rows, inputs are broadcast.
With one row the sums are split into several chains, which hides the latency of the additions.
"""
from dataclasses import dataclass

from edgekit.exporters.kernels.body import evaluate, read, read_at, write, write_at
from edgekit.exporters.kernels.lists import Lists
from edgekit.exporters.kernels.loops import Code, Register, broadcast, const
from edgekit.exporters.kernels.schedule import Machine
from edgekit.exporters.kernels.spec import Linear


@dataclass(frozen=True)
class Weights:
    """A packed matrix: buffer of weights, `v` for each input of each group's list."""

    w: object
    lists: Lists
    v: int


def lanes_of(v: int, machine_lanes: int) -> int:
    """The widest vector that divides v."""
    lanes = machine_lanes
    while v % lanes:
        lanes //= 2
    return lanes


def tile(code: Code, weights: Weights, g, x_at, rows: int, first: int, lanes: int, count: int, x, init) -> list[list]:
    """Sums of `rows` rows x `count` vectors of outputs, from output `first` of group g on.

    x_at(r, i): address of input i of row r in x. init[m]: what the sums of vector m start from. Expressions [row][vector].
    """
    lists = weights.lists
    start, length = lists.span(code, g)
    chains = max(1, min(code.machine.linear.chains // (rows * count), lists.kept // 4)) if lists.kept >= 8 else 1
    zero = broadcast(const(0.0, "float32"), lanes)
    acc: list[list[list[Register]]] = []
    for _ in range(rows):
        acc.append([[code.register("float32", lanes, init[m] if c == 0 else zero) for c in range(chains)] for m in range(count)])

    def product(p, chain):
        i = code.let(lists.input(code, start, p))
        base = code.let((start + p) * code.i(weights.v) + code.i(first))
        wv = [code.let(code.load(weights.w, base + code.i(m * lanes), lanes)) for m in range(count)]
        for r in range(rows):
            xv = code.let(code.load(x, x_at(r, i), lanes, 0))
            for m in range(count):
                a = acc[r][m][chain]
                a.set(a.value + wv[m] * xv)
    whole = length // chains if isinstance(length, int) else code.let(length // code.i(chains))
    with code.loop(whole) as p:
        for chain in range(chains):
            product(p * code.i(chains) + code.i(chain), chain)
    if isinstance(length, int):
        for chain in range(length % chains):
            product(code.i(whole * chains + chain), chain)
    else:
        done = code.let(whole * code.i(chains))
        with code.loop(length - done) as p:
            product(done + p, 0)
    return [[code.let(_tree([c.value for c in vector])) for vector in row] for row in acc]


def _tree(values: list):
    while len(values) > 1:
        values = [sum(values[i:i + 2][1:], values[i]) for i in range(0, len(values), 2)]
    return values[0]


def build_linear(k: Linear, machine: Machine):
    code = Code(machine)
    f = "float32"
    x, w, bias = code.operand(f), code.operand(f), code.operand(f)
    index = code.operand(k.index) if k.index else None
    lists = Lists(index, code.operand("int32") if k.starts else None, k.kept)
    order = code.operand("int32") if k.order else None
    extras = [code.operand(t.dtype) for t in k.extras]
    out = code.operand(k.output.dtype)
    weights = Weights(w, lists, k.v)
    schedule, lanes = machine.linear, lanes_of(k.v, machine.lanes)
    count = next(c for c in (4, 2, 1) if k.v // lanes % c == 0 and c <= schedule.vectors)
    tall = max(1, min(k.rows, machine.accumulators // count, schedule.rows))
    share = schedule.rows_a_unit
    blocks = -(-k.rows // share)

    def rows_from(g, row, rows: int):
        for first in range(0, k.v, lanes * count):
            starts = [code.let(code.load(bias, g * code.i(k.v) + code.i(first + m * lanes), lanes)) for m in range(count)]
            sums = tile(code, weights, g, lambda r, i: (row + code.i(r)) * code.i(k.row) + i, rows, first, lanes, count, x, starts)
            for r in range(rows):
                for m in range(count):
                    finish(g, row + code.i(r), first + m * lanes, sums[r][m])

    def finish(g, row, v, value):
        column = code.let(g * code.i(k.v) + code.i(v))
        if order is None:
            values = [value, *(read(code, b, t, [row, column], lanes) for b, t in zip(extras, k.extras, strict=True))]
            write(code, out, k.output, evaluate(code, k.post, values, lanes), [row, column], lanes)
            return
        # Permuted outputs: the lanes go where the order list says.
        columns = code.let(code.i(code.load(order, column, lanes)))
        values = [value, *(read_at(code, b, t, row, columns, lanes) for b, t in zip(extras, k.extras, strict=True))]
        write_at(code, out, k.output, evaluate(code, k.post, values, lanes), row, columns, lanes)

    def rows_of(g, row, n: int):
        whole, rest = divmod(n, tall)
        if whole:
            with code.loop(whole) as t:
                rows_from(g, code.let(row + t * code.i(tall)), tall)
        if rest:
            rows_from(g, code.let(row + code.i(whole * tall)), rest)

    with code.units() as u:
        if blocks == 1:
            rows_of(u, code.i(0), k.rows)
        else:
            g, b = code.let(u // code.i(blocks)), code.let(u % code.i(blocks))
            last = k.rows - (blocks - 1) * share
            if last == share:
                rows_of(g, code.let(b * code.i(share)), share)
            else:
                with code.when(b < code.i(blocks - 1)):
                    rows_of(g, code.let(b * code.i(share)), share)
                with code.when(b >= code.i(blocks - 1)):
                    rows_of(g, code.i((blocks - 1) * share), last)
    return code.function(), k.groups * blocks
