"""Linear: the position-major form of the group-sparse product. The outputs of a group are the vector lanes.

A unit is one group and a block of rows; each weight is read once for a tile of rows, inputs are broadcast.
With one row the sums are split into several chains, which hides the latency of the additions.
"""
from dataclasses import dataclass
from itertools import cycle

from tvm import tirx

from edgekit.exporters.kernels.body import evaluate, finish, read_at, write_at
from edgekit.exporters.kernels.lists import Lists, weights_of
from edgekit.exporters.kernels.loops import Code, broadcast, const, shuffle
from edgekit.exporters.kernels.math import to
from edgekit.exporters.kernels.schedule import Machine
from edgekit.exporters.kernels.spec import Linear, Recurrent

F = "float32"
BRIEF = 4  # operations of a body that is written out for every vector of a tile


@dataclass(frozen=True)
class Matrix:
    """A packed matrix: its operands, and how a tile takes `vectors` of `lanes` of the v outputs of a group. dtype: of the
    numbers, the inputs and the sums."""

    w: object
    bias: object
    lists: Lists
    order: object | None
    v: int
    lanes: int
    vectors: int
    dtype: str

    @property
    def width(self) -> int:
        """Outputs of a tile; it divides v."""
        return self.lanes * self.vectors


def matrix(code: Code, k: Linear | Recurrent, vectors: int) -> Matrix:
    """The next operands: w, bias, [index], [starts], [order]. vectors: of a tile, at most."""
    dtype = k.dtype if isinstance(k, Linear) else F
    operands = weights_of(code, k, dtype)
    lanes = code.machine.lanes
    while k.v % lanes:
        lanes //= 2
    count = next(c for c in (4, 2, 1) if k.v // lanes % c == 0 and c <= vectors)
    return Matrix(*operands, k.v, lanes, count, dtype)


def _together(code: Code, m: Matrix) -> int:
    """Neighbouring inputs of a row that are loaded at once, as a vector whose lanes are factors."""
    return code.machine.lanes if code.machine.by_element and m.lists.index is None and m.lists.kept >= code.machine.lanes else 1


def tile(code: Code, m: Matrix, g, first, x, x_at, rows: int) -> list[list]:
    """Sums of `rows` rows x `m.vectors` vectors of outputs, from output `first` of group g on: expressions [row][vector].

    x_at(r, i): address of input i of row r in x.
    """
    start, length = m.lists.span(code, g)
    split = min(code.machine.linear.chains // (rows * m.vectors), m.lists.kept // 4)
    chains = 1 << max(split, 1).bit_length() - 1
    begin = [code.let(code.load(m.bias, g * code.i(m.v) + first + code.i(j * m.lanes), m.lanes)) for j in range(m.vectors)]
    zero = broadcast(const(0.0, m.dtype), m.lanes)
    acc = [[[code.register(m.dtype, m.lanes, zero if c else begin[j]) for c in range(chains)] for j in range(m.vectors)] for _ in range(rows)]
    turn = cycle(range(chains))

    def product(p, factor):
        """One input: factor(r) is that of row r in all lanes."""
        chain = next(turn)
        base = code.let((start + p) * code.i(m.v) + first)
        weights = [code.let(code.load(m.w, base + code.i(j * m.lanes), m.lanes)) for j in range(m.vectors)]
        for r in range(rows):
            value = factor(r)
            for j in range(m.vectors):
                a = acc[r][j][chain]
                a.set(a.value + weights[j] * value)

    def one(p):
        i = code.let(m.lists.input(code, start, p))
        product(p, lambda r: code.let(code.load(x, x_at(r, i), m.lanes, 0)))

    def several(q):
        p = code.let(q * code.i(together))
        values = [code.let(code.load(x, x_at(r, p), together)) for r in range(rows)]
        for k in range(together):
            product(p + code.i(k), lambda r, k=k: code.let(shuffle([values[r]], [k] * m.lanes)))
    together = _together(code, m)
    if together > 1:
        code.unrolled(length // together, max(1, chains // together), several)
        for p in range(length // together * together, length):
            one(code.i(p))
    else:
        code.unrolled(length, max(chains, code.machine.linear.unroll), one)
    return [[code.let(_tree([c.value for c in vector])) for vector in row] for row in acc]


def _tree(values: list):
    while len(values) > 1:
        values = [sum(values[i:i + 2][1:], values[i]) for i in range(0, len(values), 2)]
    return values[0]


def columns_of(code: Code, m: Matrix, g, first):
    """columns(lane): the output of each lane of a vector of sums."""
    at = code.let(g * code.i(m.v) + first)
    return lambda lane: code.let(code.i(code.load(m.order, at + lane)))


def build_linear(k: Linear, machine: Machine):
    machine = machine.of(k.dtype)
    code = Code(machine)
    x = code.operand(k.dtype)
    m = matrix(code, k, machine.linear.vectors)
    extras = [code.operand(t.dtype) for t in k.extras]
    out = code.operand(k.output.dtype)
    tall = min(k.rows, machine.linear.rows, machine.rows(m.vectors, held=_together(code, m) > 1))
    whole, rest = divmod(k.rows, tall)
    tiles = max(1, machine.linear.rows_a_unit // tall)  # of a unit
    blocks = -(-k.rows // (tiles * tall))

    def rows_from(g, row, rows: int):
        with code.loop(m.v // m.width) as part:
            first = code.let(part * code.i(m.width))
            sums = tile(code, m, g, first, x, lambda r, i: (row + code.i(r)) * code.i(k.row) + i, rows)
            if m.order is None and len(k.post) > BRIEF and rows * m.vectors > 1:
                one_by_one(g, row, first, sums)
            else:
                written_out(g, row, first, sums)

    def written_out(g, row, first, sums: list[list]):
        for j in range(m.vectors):
            store(g, row, code.let(first + code.i(j * m.lanes)), [code.let(to(s[j], F)) for s in sums])

    def one_by_one(g, row, first, sums: list[list]):
        """The sums by way of the stack, in a loop: a long body needs the registers that hold them."""
        aside = code.array(len(sums) * m.width, F)
        for r, row_sums in enumerate(sums):
            for j, value in enumerate(row_sums):
                code.local_store(aside, to(value, F), r * m.width + j * m.lanes, m.lanes)
        with code.loop(len(sums)) as r, code.loop(m.vectors) as j:
            at = code.let(j * code.i(m.lanes))
            finish(code, k, extras, out, code.local_load(aside, r * code.i(m.width) + at, m.lanes), [row + r, g * code.i(m.v) + first + at], m.lanes)

    def store(g, row, first, values: list):
        """Vectors of one place in consecutive rows through the body to the output."""
        if m.order is None:
            column = code.let(g * code.i(m.v) + first)
            for r, value in enumerate(values):
                finish(code, k, extras, out, value, [row + code.i(r), column], m.lanes)
            return
        columns, results = columns_of(code, m, g, first), []
        for r, value in enumerate(values):
            inputs = [value, *(read_at(code, b, t, row + code.i(r), columns, m.lanes) for b, t in zip(extras, k.extras, strict=True))]
            results.append(evaluate(code, k.post, inputs, m.lanes))
        write_at(code, out, k.output, results, row, columns)

    with code.units() as u:
        g, block = (u, code.i(0)) if blocks == 1 else (code.let(u // code.i(blocks)), code.let(u % code.i(blocks)))
        done = code.let(block * code.i(tiles))
        with code.loop(whole if blocks == 1 else code.let(tirx.min(code.i(whole) - done, code.i(tiles)))) as t:
            rows_from(g, code.let((done + t) * code.i(tall)), tall)
        if rest:
            with code.when(block >= code.i(blocks - 1)):
                rows_from(g, code.i(whole * tall), rest)
    return code.function(), k.groups * blocks
