"""Depthwise: convolutions whose output channels read one input channel each.

A unit is one output channel of one image. A strip of columns, a few vectors wide, walks down the image: each input row is
loaded once and goes into the sums of all output rows that it serves. Those sums stay in registers, in a ring of as many
rows as are open at a time, and a finished row goes through the fused body straight to the output. Padding is not in
memory: rows outside are left out, and lanes outside are zeros shuffled in at the edges.
"""
from collections.abc import Iterator
from itertools import groupby

from edgekit.exporters.kernels.body import covering, finish
from edgekit.exporters.kernels.loops import Code, broadcast, shuffle
from edgekit.exporters.kernels.schedule import Machine
from edgekit.exporters.kernels.spec import Depthwise

F = "float32"


def ring(kernel: int, stride: int, dilation: int) -> int:
    """Output rows that are open at a time."""
    return -(-((kernel - 1) * dilation + 1) // stride)


def build_depthwise(k: Depthwise, machine: Machine):
    code = Code(machine)
    x, w, bias = code.operand(F), code.operand(F), code.operand(F)
    extras = [code.operand(t.dtype) for t in k.extras]
    out = code.operand(k.output.dtype)
    taps, width = k.kernel[0] * k.kernel[1], k.spatial[1]
    lanes = covering(code, width)
    size = ring(k.kernel[0], k.stride[0], k.dilation[0])
    held = -(-taps // machine.lanes) if machine.by_element else taps
    free = machine.accumulators - held if held < machine.accumulators else machine.accumulators
    # At stride 2 LLVM loads both halves of all rows of a turn before it uses them.
    ahead = 2 * size * k.stride[0] if machine.by_element and k.stride[1] == 2 else 0
    widest = max(1, min(machine.depthwise.vectors, free // (size + ahead), machine.depthwise.products // (size * taps)))
    with code.units() as u:
        n, c = (code.let(u // code.i(k.channels)), code.let(u % code.i(k.channels))) if k.batch > 1 else (code.i(0), u)
        image = code.let(n * code.i(k.x[0]) + c // code.i(k.fan_out) * code.i(k.x[1]))
        weights = _weights(code, w, c, taps, lanes)
        first = code.let(code.load(bias, c, lanes, 0))

        def done(sums, row, column) -> None:
            for at, wide in _pieces(min(lanes, width)):
                value = sums if wide == lanes else shuffle([sums], range(at, at + wide))
                finish(code, k, extras, out, value, [n, c, row, column + code.i(at)], wide)
        for starts, count in _strips(k, lanes, widest):
            with code.loop(count) as t:
                moved = code.let(t * code.i(len(starts) * lanes)) if count > 1 else code.i(0)
                _walk(code, k, x, image + moved * code.i(k.stride[1]), starts, lanes, weights, first,
                      lambda sums, row, start, moved=moved: done(sums, row, moved + code.i(start)))
    return code.function(), k.batch * k.channels


def _weights(code: Code, w, c, taps: int, lanes: int) -> list:
    """The weight of each tap in all lanes; several to a register where products take one lane of it."""
    if not code.machine.by_element or lanes == 1:
        return [code.let(code.load(w, c * code.i(taps) + code.i(t), lanes, 0)) for t in range(taps)]
    found = []
    for first in range(0, taps, code.machine.lanes):
        for at, wide in _pieces(min(code.machine.lanes, taps - first)):
            held = code.let(code.load(w, c * code.i(taps) + code.i(first + at), wide))
            found += [broadcast(code.lane(held, j) if wide > 1 else held, lanes) for j in range(wide)]
    return found


def _pieces(n: int) -> Iterator[tuple[int, int]]:
    """(start, length) of powers of two that make up n, the largest first."""
    at = 0
    while at < n:
        length = 1 << ((n - at).bit_length() - 1)
        yield at, length
        at += length


def _strips(k: Depthwise, lanes: int, widest: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """(output columns where the vectors of a strip start, how many such strips follow each other).

    The last vector of a row ends with it and may cover columns of the one before it a second time.
    """
    width = k.spatial[1]
    starts = [min(at, max(0, width - lanes)) for at in range(0, width, lanes)]
    count = -(-len(starts) // widest)
    wide = -(-len(starts) // count)
    strips = [tuple(starts[at:at + wide]) for at in range(0, len(starts), wide)]

    def alike(strip: tuple[int, ...]) -> object:
        """What tells strips apart that are not the same but for their place."""
        free = all(_free(k, lanes, start, tap) for start in strip for tap in range(k.kernel[1]))
        return free and len(strip) == wide and strip[-1] % lanes == 0 or strip
    for key, group in groupby(strips, alike):
        same = list(group)
        yield same[0], len(same)


def _walk(code: Code, k: Depthwise, x, image, starts, lanes: int, weights, first, finish) -> None:
    """A strip from the first row to the last: turns of the ring, those that meet no border in a loop."""
    height, (kernel, stride, dilation) = k.spatial[0], (k.kernel[0], k.stride[0], k.dilation[0])
    in_halves = code.machine.by_element and k.stride[1] == 2 and 1 < lanes <= k.spatial[1]
    size = ring(kernel, stride, dilation)
    sums = [[code.register(F, lanes) for _ in starts] for _ in range(size)]

    def turn(row, number: int | None) -> None:
        """The input rows from the first of output row `row` (`number`, if it is known) to the first of row + size."""
        rows = _Rows(code, x, image + (row * code.i(stride) - code.i(k.pads[0])) * code.i(k.x[2]), lanes)
        for step in range(size * stride):
            inside = number is None or 0 <= number * stride - k.pads[0] + step < k.size[0]
            halves = _Halves(code, k, rows, step * k.x[2], lanes) if in_halves else None
            for start, held in zip(starts, zip(*sums, strict=True), strict=True):
                columns: dict[int, object] = {}
                for ahead in range(1 - size, size):  # rows opened in the turn before have negative numbers
                    tap, rest = divmod(step - ahead * stride, dilation)
                    known = number is None or 0 <= number + ahead < height
                    if rest or not 0 <= tap < kernel or not known:
                        continue
                    total = held[ahead % size]
                    if tap == 0:
                        total.set(first)
                    if inside:
                        for t in range(k.kernel[1]):
                            if t not in columns:
                                columns[t] = halves.column(start, t) if halves else None
                                if columns[t] is None:
                                    columns[t] = _column(code, k, rows, step * k.x[2], lanes, start, t)
                            if columns[t] is not None:
                                total.set(total.value + weights[tap * k.kernel[1] + t] * columns[t])
                    if tap == kernel - 1:
                        finish(total.value, row + code.i(ahead), start)
    turns = -(-((height - 1) * stride + (kernel - 1) * dilation + 1) // (size * stride))

    def meets_no_border(number: int) -> bool:
        top = number * size * stride - k.pads[0]
        return number > 0 and (number + 1) * size <= height and top >= 0 and top + size * stride <= k.size[0]
    for free, group in groupby(range(turns), meets_no_border):
        numbers = list(group)
        if free and len(numbers) > 1:
            with code.loop(len(numbers), numbers[0]) as t:
                # With a number that LLVM knows it would count from the end, and no offset would be short.
                turn(code.let(t * (code.opaque(size) if code.machine.by_element else code.i(size))), None)
        else:
            for number in numbers:
                turn(code.i(number * size), number * size)


def _first(k: Depthwise, start: int, tap: int) -> int:
    """The input column that column `tap` of the kernel meets for output column `start`."""
    return start * k.stride[1] + tap * k.dilation[1] - k.pads[1]


def _free(k: Depthwise, lanes: int, start: int, tap: int) -> bool:
    """Whether all lanes of a vector lie inside of the image, and what is loaded with them begins inside."""
    at, stride = _first(k, start, tap), k.stride[1]
    return at - at % stride >= 0 and at + stride * (lanes - 1) < k.size[1]


class _Rows:
    """The input rows of a turn. On AArch64 a load of two vectors takes multiples of a vector as its offset: columns between
    them have bases of their own."""

    def __init__(self, code: Code, x, first, lanes: int):
        self._code, self._x, self._first, self._lanes = code, x, code.let(first), lanes
        self._bases: dict[int, object] = {}

    def load(self, at: int, length: int):
        code = self._code
        if not code.machine.by_element:
            return code.load(self._x, self._first + code.i(at), length)
        odd = at % self._lanes
        if odd not in self._bases:
            self._bases[odd] = code.anchored(self._x, self._first + code.i(odd) + code.zero(odd + 1))  # or one would serve for all
        return code.load_from(self._bases[odd], at - odd, length)


class _Halves:
    """The even and the odd columns of an input row at stride 2, each loaded once for a strip: between two vectors is a shift."""

    def __init__(self, code: Code, k: Depthwise, rows: _Rows, row: int, lanes: int):
        self._code, self._k, self._rows, self._row, self._lanes = code, k, rows, row, lanes
        self._found: dict[tuple[int, int], object] = {}  # (half, first number in it): vector

    def column(self, start: int, tap: int):
        """What `_column` gives; None where that takes more than a shift."""
        taps, lanes = range(self._k.kernel[1]), self._lanes
        at, half = divmod(_first(self._k, start, tap), 2)
        last = max(n for n, h in (divmod(_first(self._k, start, t), 2) for t in taps) if h == half)
        ahead = last - at
        if not self._inside(half, last):
            return None
        if ahead == 0:
            return self._own(half, at)
        before = self._found.get((half, last - lanes), self._code.zeros(lanes) if last == 0 else None)
        if ahead >= lanes or before is None:
            return None
        return self._code.let(shuffle([before, self._own(half, last)], range(lanes - ahead, 2 * lanes - ahead)))

    def _inside(self, half: int, at: int) -> bool:
        return at >= 0 and 2 * (at + self._lanes - 1) + half < self._k.size[1]

    def _own(self, half: int, at: int):
        if (half, at) not in self._found:
            lanes = self._lanes
            pair = [self._code.let(self._rows.load(self._row + 2 * at + n, lanes)) for n in (0, lanes)]
            for h in (0, 1):
                self._found[h, at] = self._code.let(shuffle(pair, range(h, 2 * lanes, 2)))
        return self._found[half, at]


def _column(code: Code, k: Depthwise, rows: _Rows, row: int, lanes: int, start: int, tap: int):
    """The elements of an input row that column `tap` of the kernel meets, from output column `start` on; None: all outside."""
    stride, width, at = k.stride[1], k.size[1], _first(k, start, tap)
    columns = [at + stride * lane for lane in range(min(lanes, k.spatial[1]))]
    inside = [0 <= column < width for column in columns]
    if not any(inside):
        return None
    begin, length = at - at % stride, lanes * stride
    if not _free(k, lanes, start, tap):
        length = min(length, 1 << (width - 1).bit_length())
        begin = min(max(begin, 0), max(0, width - length))
    loaded = code.let(rows.load(row + begin, length))
    numbers = [column - begin for column in columns]
    if all(inside) and numbers == list(range(len(numbers))) and length == lanes:
        return loaded
    vectors, last = [loaded], length - 1
    if not all(inside):  # zeros on the side where they continue the image: most of these shuffles are shifts
        left, last = columns[0] < 0, 2 * length - 1
        zeros = code.let(code.zeros(length))
        vectors = [zeros, loaded] if left else [loaded, zeros]
        if left:
            numbers = [length + n if ok else min(length - 1, max(0, length + n)) for n, ok in zip(numbers, inside, strict=True)]
        else:
            numbers = [n if ok else max(n, length) for n, ok in zip(numbers, inside, strict=True)]
        vectors += [zeros] * (lanes // length - 2)  # a shuffle cannot give more lanes than it takes
    unused = [numbers[-1] + stride * n for n in range(1, lanes - len(numbers) + 1)]
    return code.let(shuffle(vectors, [min(n, last) for n in (*numbers, *unused)]))
