"""The register tile of the channel-major product: rows of weights times columns of positions, sums in registers.

A column is a vector of neighbouring positions, or, at the ragged end of a row of positions, single positions whose rows
are the lanes: three positions over would waste most of a vector in every row.
"""
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

from edgekit.exporters.kernels.loops import Code, Register, broadcast
from edgekit.exporters.kernels.math import base_of, lanes_of


@dataclass(frozen=True)
class Shape:
    """A tile: `rows` of weights; on each line of positions `vectors` whole vectors, then `over` positions more.

    alone: those positions are held one by one with the rows as lanes, else as one vector that is not full.
    """

    rows: int
    lanes: int
    vectors: int
    over: int = 0
    alone: bool = False

    @property
    def positions(self) -> int:
        return self.vectors * self.lanes + self.over

    @property
    def over_lanes(self) -> int:
        """Lanes of the vector that is not full."""
        return min(self.lanes, 1 << (self.over - 1).bit_length()) if self.over and not self.alone else 0

    @property
    def parts(self) -> list[tuple[int, int]]:
        """(first row, lanes) of the vectors that hold a single position."""
        wide = min(self.lanes, self.rows)
        return [(first, wide) for first in range(0, self.rows, wide)]

    @property
    def registers(self) -> int:
        """Vectors of sums on one line."""
        tail = self.over * len(self.parts) if self.alone else self.rows if self.over else 0
        return self.rows * self.vectors + tail


def cut(positions: int, rows: int, lanes: int, wide: int, most: int, singles: int) -> tuple[int, list[Shape]]:
    """How many tiles of `wide` vectors, and the other tiles, that a line of positions is cut into.

    most: vectors of sums that a tile with positions over may have; singles: those that hold single positions.
    """
    vectors, over = divmod(positions, lanes)
    if not over:
        whole, rest = divmod(vectors, wide)
        return whole, [Shape(rows, lanes, rest)] if rest else []
    alone = rows & (rows - 1) == 0 and over * len(Shape(rows, lanes, 0).parts) <= min(singles, rows - 1)

    def with_last(t: int) -> tuple[int, list[Shape]]:
        whole, rest = divmod(vectors - t, wide)
        return whole, [*([Shape(rows, lanes, rest)] if rest else []), Shape(rows, lanes, t, over, alone)]
    able = [with_last(t) for t in range(min(vectors, wide) + 1) if t == 0 or Shape(rows, lanes, t, over, alone).registers <= most]
    return min(able, key=lambda c: (c[0] + len(c[1]), -min(s.registers for s in c[1])))


class Sums:
    """The sums of a tile while they are made: `add` multiplies and adds, `visit` hands them out."""

    def __init__(self, code: Code, shape: Shape, lines: int, bias: Callable[[int, int, int], object]):
        """bias(row, lanes, stride): what the sums of `lanes` rows from `row` on start from (stride 0: one row in all lanes)."""
        self.code, self.shape = code, shape
        s = shape
        columns = s.lanes if s.vectors else s.over_lanes
        if code.machine.by_element and s.rows % s.lanes == 0:
            held = [code.let(bias(j, s.lanes, 1)) for j in range(0, s.rows, s.lanes)]
            tops = [code.lane(held[j // s.lanes], j % s.lanes) for j in range(s.rows)]
        else:
            tops = [code.let(bias(j, 1, 0)) for j in range(s.rows)] if columns else []
        self.full = [[[self._start(s.lanes, broadcast(tops[j], s.lanes)) for _ in range(s.vectors)] for j in range(s.rows)] for _ in range(lines)]
        self.over: list[list[list[Register]]] = []
        for _ in range(lines if s.over else 0):
            if s.alone:
                self.over.append([[self._start(wide, bias(j, wide, 1)) for j, wide in s.parts] for _ in range(s.over)])
            else:
                self.over.append([[self._start(s.over_lanes, broadcast(tops[j], s.over_lanes))] for j in range(s.rows)])

    def _start(self, lanes: int, value) -> Register:
        self.dtype = base_of(value)
        return self.code.register(self.dtype, lanes, value)

    def add(self, weights, lines: list) -> None:
        """Adds weights[row] * lines[line][position]: a `Place` of the weights, and one of each line."""
        code, s = self.code, self.shape
        by_element = code.machine.by_element
        rows_of = [code.let(weights.load(j, wide)) for j, wide in s.parts] if s.alone or by_element and s.rows % s.lanes == 0 else []
        sided = by_element and s.alone  # single positions as a vector whose lanes are factors
        columns = [x.vectors(s.vectors, s.lanes) for x in lines]
        sides = [code.let(x.load(s.vectors * s.lanes, s.lanes)) if sided else None for x in lines]
        for line, x in enumerate(lines if s.over and not s.alone else []):
            columns[line].append(code.let(x.load(s.vectors * s.lanes, s.over_lanes)))
        for j in range(s.rows if columns[0] else 0):
            if rows_of and by_element:
                w = code.lane(rows_of[j // s.parts[0][1]], j % s.parts[0][1])
            else:
                w = code.let(weights.load(j))
            for line, values in enumerate(columns):
                for m, value in enumerate(values):
                    acc = self.full[line][j][m] if m < s.vectors else self.over[line][j][0]
                    acc.set(acc.value + broadcast(w, s.lanes if m < s.vectors else s.over_lanes) * value)
        for line, x in enumerate(lines if s.alone else []):
            for n in range(s.over):
                value = code.lane(sides[line], n) if by_element else code.let(x.load(s.vectors * s.lanes + n))
                for (_, wide), acc, rows in zip(s.parts, self.over[line][n], rows_of, strict=True):
                    acc.set(acc.value + rows * broadcast(value, wide))

    def vectors(self) -> list:
        """Those of the sums that fill a vector."""
        values = [r.value for lines in (self.full, self.over) for line in lines for row in line for r in row]
        return [v for v in values if lanes_of(v) == self.code.machine.lanes]

    def join(self, other: "Sums") -> None:
        """Adds the sums of another tile of the same shape."""
        for mine, its in zip((*self.full, *self.over), (*other.full, *other.over), strict=True):
            for a, b in zip(chain.from_iterable(mine), chain.from_iterable(its), strict=True):
                a.set(a.value + b.value)

    def visit(self, line: int, whole: Callable, rest: Callable) -> None:
        """whole(row, first position, sums) for each whole vector; then rest(array, stride): sums (row, position) of what is over."""
        code, s = self.code, self.shape
        for j in range(s.rows):
            for m in range(s.vectors):
                whole(j, m * s.lanes, code.let(self.full[line][j][m].value))
        if not s.over:
            return
        stride = s.over if s.alone else s.over_lanes
        array = code.array(s.rows * stride, self.dtype)
        for at, registers in enumerate(self.over[line]):
            if s.alone:
                for (first, wide), register in zip(s.parts, registers, strict=True):
                    value = code.let(register.value)
                    for j in range(wide):
                        code.local_store(array, code.lane(value, j) if wide > 1 else value, (first + j) * stride + at)
            else:
                code.local_store(array, registers[0].value, at * stride, stride)
        rest(array, stride)
