"""Conv: the channel-major form of the group-sparse product. Positions are the vector lanes.

A unit is one group and one block of positions; the groups of a block follow each other, so that its inputs stay in the
cache. A block is cut into tiles along its lines of positions: rows of the image, or all positions where they are one line.
Sums go from their registers through the fused body to the output.
"""
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, product
from math import prod

from edgekit.exporters.kernels.body import address, covering, finish, lanes_for, result
from edgekit.exporters.kernels.lists import Lists, weights_of
from edgekit.exporters.kernels.loops import Code, vector
from edgekit.exporters.kernels.math import to
from edgekit.exporters.kernels.places import Place, Pointer
from edgekit.exporters.kernels.schedule import Machine
from edgekit.exporters.kernels.spec import Conv
from edgekit.exporters.kernels.tile import Shape, Sums, cut

SHORT_BODY = 6  # operations that may be repeated for every vector of a tile
TAPS = 9        # taps of a kernel in one turn of a loop, where an address of its own for each pays
CHAINS = 8      # independent sums that hide the latency of their additions


@dataclass(frozen=True)
class Operands:
    x: object
    w: object
    bias: object
    lists: Lists
    order: object | None
    extras: tuple
    out: object


def build_conv(k: Conv, machine: Machine):
    machine = machine.of(k.dtype)
    code = Code(machine)
    a = Operands(code.operand(k.dtype), *weights_of(code, k, k.dtype), tuple(code.operand(t.dtype) for t in k.extras), code.operand(k.output.dtype))
    *outer, height, width = (1, *k.spatial) if len(k.spatial) == 1 else k.spatial
    rows, wide = machine.conv.tile(k.v)
    tall, long = _block(k, machine, height, width, wide * machine.lanes)
    axes = [*outer, height // tall, width // long]

    def unit(u):
        g = code.let(u % code.i(k.groups)) if k.groups > 1 else code.i(0)
        rest = code.let(u // code.i(k.groups))
        *front, r, c = _numbers(code, rest, axes)
        inputs = _Inputs(code, k, g, a.lists)

        def block(first_row, lines: int, first_column, columns: int):
            with code.loop(k.v // rows) as part:
                _lines(code, k, a, g, code.let(part * code.i(rows)), inputs, front, first_row, lines, first_column, columns)
        code.pieces(height, tall, axes[-2], r, lambda at, n: code.pieces(width, long, axes[-1], c, lambda col, m: block(at, n, col, m)))
    with code.units() as u:
        unit(u)
    return code.function(), k.groups * prod(axes)


def _numbers(code: Code, number, axes: list[int]) -> list:
    """A number as positions along axes, the most significant first."""
    out = []
    for n, extent in enumerate(axes):
        below = prod(axes[n + 1:])
        out.append(code.let(number // code.i(below) % code.i(extent)) if extent > 1 else code.i(0))
    return out


def _block(k: Conv, machine: Machine, height: int, width: int, tile: int) -> tuple[int, int]:
    """Lines and positions a line of a block: what the nearest cache holds of the inputs, and if that is less than a tile
    (or a list is to be decoded for every block), what the next one holds."""
    s = machine.conv
    per = k.fan_in * prod(n for n, taps in zip(k.stride, k.kernel, strict=True) if taps > 1)
    floats = s.near_floats if s.near_floats >= per * tile and prod(k.kernel) == 1 else s.far_floats
    positions = max(floats // per // tile, 1) * tile
    if width > positions:
        return 1, _share(width, positions, tile)
    return _share(height, max(1, positions // width), 1), width


def _share(extent: int, most: int, unit: int) -> int:
    """Size of shares of about `most`, a whole number of units; the last share takes what is over."""
    share = extent // -(-extent // most)
    return min(extent, max(1, share // unit) * unit)


class _Inputs:
    """The loop over what a group reads: which weights, and how far each input lies from the first in the image."""

    def __init__(self, code: Code, k: Conv, g, lists: Lists):
        self.code, self.k, self.lists = code, k, lists
        self.start, self.length = lists.span(code, g)
        # AArch64 moves an address on by a register as it loads.
        self.pitch = code.let(code.opaque(k.channel)) if code.machine.by_element and not k.index else code.i(k.channel)
        self.base = code.let(g * code.i(k.v) // code.i(k.fan_out) * code.i(k.fan_in * k.channel)) if k.fan_out < k.channels else code.i(0)
        self.table = self._decoded() if k.index and prod(k.kernel) > 1 else None

    def _tap(self, axis: int, j):
        """How far tap j of an axis lies from its first."""
        k, code = self.k, self.code
        s, d, phase, step = k.stride[axis], k.dilation[axis], k.phase[axis], k.step[axis]
        if isinstance(j, int):
            return code.i(j * d % s * phase + j * d // s * step)
        at = j * code.i(d)
        return at % code.i(s) * code.i(phase) + at // code.i(s) * code.i(step) if s > 1 else at * code.i(step)

    def _decoded(self):
        """Offsets of a list of inputs: divisions do not belong in the hot loop."""
        code, k, taps = self.code, self.k, prod(self.k.kernel)
        lanes = lanes_for(code, k.kept)
        table = code.array(k.kept, "int32")

        def entry(p, lanes: int):
            def c(value: int):
                return code.constant(value, "int32", lanes)
            number = code.let(code.load(self.lists.index, self.start + p, lanes).astype(vector("int32", lanes)))
            channel = code.let(number // c(taps))
            total, left = channel * c(k.channel), code.let(number - channel * c(taps))
            below = taps
            for n, s, d, phase, step in zip(k.kernel, k.stride, k.dilation, k.phase, k.step, strict=True):
                below //= n
                if n == 1:
                    continue
                j = code.let(left // c(below))
                left = code.let(left - j * c(below))
                at = j * c(d)
                total = total + (at % c(s) * c(phase) + at // c(s) * c(step) if s > 1 else at * c(step))
            code.local_store(table, total, p, lanes)
        code.spans(self.length, lanes, entry)
        return table

    def each(self, w, v0, images: list, turns: Iterator[Sums], times: int) -> None:
        """Adds one input after the other, of each of the images, with the weights from row v0 of the group on, to one of the
        sums after the other; `times` in each turn of the loop over a list."""
        code, k = self.code, self.k
        moves = code.machine.by_element
        last = len(k.kernel) - 1
        while moves and last and prod(k.kernel[last - 1:]) <= TAPS:
            last -= 1
        in_order = moves and not k.index and last == 0  # addresses move from channel to channel
        weights = Pointer(code, code.shifted(w, self.start * code.i(k.v) + v0)) if moves else None
        lines = [Pointer(code, image) for image in images] if moves else []

        def add(p, at, steps: list) -> None:
            """Inputs from number p on: one for each of the steps, which is how far it lies from `at`."""
            if weights is None:
                for n, step in enumerate(steps):
                    own, there = code.let((self.start + p + code.i(n)) * code.i(k.v) + v0), code.let(at + step)
                    next(turns).add(Place(code, w, own), [Place(code, image, there) for image in images])
                return
            here = lines if in_order else [line.moved(at) for line in lines]
            for n, step in enumerate(steps):
                sums, to_next = next(turns), self.pitch if in_order and n == len(steps) - 1 else 0
                sums.add(weights.place(0), [x.place(step) for x in here])
                weights.advance(k.v, sums.vectors())
                for x in here if in_order else [*lines, *here]:
                    x.advance(to_next, sums.vectors())

        def numbered(p):
            if self.table is not None:
                at = code.i(code.local_load(self.table, p))
            else:
                at = self.lists.input(code, self.start, p) * self.pitch
            add(p, at, [code.i(0)])
        if k.index or prod(k.kernel) == 1:
            code.unrolled(self.length, times, numbered)
            return

        def taps(axis: int, p, at):
            if axis == last:
                numbers = product(*map(range, k.kernel[last:]))
                steps = [sum((self._tap(last + n, j) for n, j in enumerate(js[1:], 1)), self._tap(last, js[0])) for js in numbers]
                add(p * code.i(len(steps)), at, steps)
                return
            with code.loop(k.kernel[axis]) as j:
                taps(axis + 1, p * code.i(k.kernel[axis]) + j, at + self._tap(axis, j))
        with code.loop(k.fan_in) as channel:
            taps(0, channel, channel * code.i(k.channel))


def _lines(code: Code, k: Conv, a: Operands, g, v0, inputs: _Inputs, front: list, first_row, lines: int, first_column, columns: int) -> None:
    """Rows v0... of group g over a block of `lines` lines of `columns` positions."""
    rows, wide = code.machine.conv.tile(k.v)
    most = code.machine.accumulators + (0 if code.machine.accumulators < 24 else 2 if code.machine.by_element else 4)
    lanes = covering(code, columns)
    vectors = max(columns // lanes, 1)
    wide = -(-vectors // -(-vectors // wide))  # tiles of about one size: a narrow one at the end costs loads
    whole, others = cut(columns, rows, lanes, wide, most, rows - 1 if code.machine.by_element else 4)
    flat = len(k.spatial) == 1
    at_once = 1
    if not whole and len(others) == 1:  # beside the sums of several lines, what they share a weight of must fit
        sums = others[0].registers
        at_once = max(1, min(most // sums, (most + 4) // (sums + (sums // rows if rows > 1 else 0)), lines))

    def tile(row, count: int, column, shape: Shape):
        start = [[*front, row + code.i(n), column] for n in range(count)]
        images = [code.shifted(a.x, inputs.base + address(code, (0, *k.step) if flat else k.step, s)) for s in start]
        first = code.let(g * code.i(k.v) + v0)
        own = code.let(first + code.zero(row + column))  # or the biases would stay in registers from one tile to the next
        sums = Sums(code, shape, count, lambda j, lanes, stride: code.load(a.bias, own + code.i(j), lanes, stride))
        chains = max(1, min(CHAINS // (shape.registers * count), k.kept // 8))
        zero = [Sums(code, shape, count, lambda j, lanes, stride: code.constant(0.0, k.dtype, lanes)) for _ in range(chains - 1)]
        turns = cycle([sums, *zero])
        full = shape.registers * count > code.machine.accumulators  # a longer turn would push sums out of their registers
        times = max(chains, code.machine.conv.unroll // (1 + full))
        inputs.each(a.w, v0, images, turns, times)
        for other in zero:
            sums.join(other)
        for n in range(count):
            _finish(code, k, a, sums, n, first, start[n])

    def line(row, count: int):
        if whole:
            with code.loop(whole) as t:
                tile(row, count, code.let(first_column + t * code.i(wide * lanes)), Shape(rows, lanes, wide))
        done = whole * wide * lanes
        for shape in others:
            tile(row, count, code.let(first_column + code.i(done)), shape)
            done += shape.positions
    for n, start, count in ((lines // at_once, 0, at_once), (1, lines // at_once * at_once, lines % at_once)):
        if n and count:
            with code.loop(n) as t:
                line(code.let(first_row + code.i(start) + t * code.i(count)), count)


def _finish(code: Code, k: Conv, a: Operands, sums: Sums, line: int, first, start: list) -> None:
    """The sums of a line of a tile through the fused body to the output."""
    *front, column = start[1:] if len(k.spatial) == 1 else start

    def row(j):
        return code.let(code.i(code.load(a.order, first + code.i(j)))) if a.order is not None else first + code.i(j)

    def place(channel, at) -> list:
        return [channel, *front, column + code.i(at)]

    def store(channel, at, value, lanes: int):
        finish(code, k, a.extras, a.out, to(value, "float32"), place(channel, at), lanes)
    s = sums.shape
    channels = [row(j) for j in range(s.rows)] if s.vectors else []
    lines = _output_lines(code, k, a, channels, [*front, column])
    full = code.array(s.rows * s.vectors * s.lanes, k.dtype) if len(k.post) > SHORT_BODY and s.vectors else None

    def whole(j: int, at: int, value):
        if full is None and lines is not None:
            done = result(code, k, a.extras, to(value, "float32"), place(channels[j], at), s.lanes)
            code.store_from(lines[j], done, at, s.lanes)
        elif full is None:
            store(channels[j], at, value, s.lanes)
        else:
            code.local_store(full, value, j * s.vectors * s.lanes + at, s.lanes)

    def rest(array, stride: int):
        with code.loop(s.rows) as j:
            channel = row(j)
            code.spans(s.over, min(s.lanes, 1 << (s.over.bit_length() - 1)),
                       lambda at, lanes: store(channel, code.i(s.vectors * s.lanes) + at, code.let(code.local_load(array, j * code.i(stride) + at, lanes)), lanes))
    sums.visit(line, whole, rest)
    if full is not None:
        with code.loop(s.rows) as j:
            channel = row(j)
            with code.loop(s.vectors) as m:
                at = code.let(m * code.i(s.lanes))
                store(channel, at, code.let(code.local_load(full, j * code.i(s.vectors * s.lanes) + at, s.lanes)), s.lanes)


def _output_lines(code: Code, k: Conv, a: Operands, channels: list, position: list) -> list | None:
    """Where the rows of a tile go, on AArch64 an address each: channels lie too far apart for the offset of a store."""
    if not channels or not code.machine.by_element or k.output.strides[-1] != 1:
        return None
    if a.order is not None:
        return [code.anchored(a.out, address(code, k.output.strides, [channel, *position])) for channel in channels]
    pitch = code.let(code.opaque(k.output.strides[0]))
    lines = [code.anchored(a.out, address(code, k.output.strides, [channels[0], *position]))]
    for _ in channels[1:]:
        lines.append(code.anchored(lines[-1], pitch))
    return lines
