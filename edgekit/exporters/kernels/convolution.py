"""Conv: the channel-major form of the group-sparse product. Positions are the vector lanes.

A unit is one group and one strip of output rows. Positions of a strip are numbered along the rows of the padded image,
so a tile of whole vectors runs across row ends; the few sums over padding are computed and dropped. Sums wait in a
stack array until the strip is done, then exact rows go through the fused body to the output.
"""
from contextlib import ExitStack
from math import ceil, prod

from edgekit.exporters.kernels.body import address, evaluate, lanes_for, read, write
from edgekit.exporters.kernels.lists import Lists
from edgekit.exporters.kernels.loops import Code
from edgekit.exporters.kernels.schedule import Machine
from edgekit.exporters.kernels.spec import Conv


def build_conv(k: Conv, machine: Machine):
    code = Code(machine)
    f = "float32"
    x, w, bias = code.operand(f), code.operand(f), code.operand(f)
    index = code.operand(k.index) if k.index else None
    lists = Lists(index, code.operand("int32") if k.starts else None, k.kept)
    order = code.operand("int32") if k.order else None
    extras = [code.operand(t.dtype) for t in k.extras]
    out = code.operand(k.output.dtype)

    *outer, height, width = (1, *k.spatial) if len(k.spatial) == 1 else k.spatial
    pitch = k.step[-2] if len(k.spatial) > 1 else width
    if height == 1:
        pitch = width
    strip_floats = (machine.conv if k.v > 1 else machine.depthwise).strip_floats
    rows, cols = _strip(max(strip_floats // k.v, 1), height, width, pitch, machine.lanes)
    down, across = -(-height // rows), -(-width // cols)
    axes = [*outer, down, across]
    strips = prod(axes)

    def unit(u):
        g = code.let(u // code.i(strips)) if strips > 1 else u
        rest = code.let(u % code.i(strips)) if strips > 1 else code.i(0)
        at: list = []
        for k_axis, extent in enumerate(axes):  # most significant first
            below = prod(axes[k_axis + 1:])
            at.append(code.let(rest // code.i(below) % code.i(extent)) if extent > 1 else code.i(0))
        span = lists.span(code, g)
        offsets = _offsets(code, k, g, lists, span)
        *front, r, c = at
        for n_rows, first_row, row_ok in _parts(code, height, rows, r):
            for n_cols, first_col, col_ok in _parts(code, width, cols, c):
                with ExitStack() as stack:
                    for condition in (row_ok, col_ok):
                        if condition is not None:
                            stack.enter_context(code.when(condition))
                    start = [*front, first_row, first_col]
                    sums = _sums(code, k, x, w, bias, g, span, offsets, start, n_rows, n_cols, pitch)
                    _finish(code, k, sums, order, extras, out, g, start, n_rows, n_cols, pitch)
    with code.units() as u:
        unit(u)
    return code.function(), k.groups * strips


def _strip(positions: int, height: int, width: int, pitch: int, lanes: int) -> tuple[int, int]:
    """Rows and columns of a strip: as many as the stack array holds, and some balance where there are several.

    Rows that lie far apart, upside down or on each other (a slice, a reversed or a broadcast image) are strips of their own.
    """
    limit = max(positions // lanes * lanes, lanes)
    if height == 1 or not 0 < pitch <= limit:
        share = ceil(width / ceil(width / limit))
        return 1, min(width, ceil(share / lanes) * lanes)
    rows = max(1, limit // pitch)
    return min(height, ceil(height / ceil(height / rows))), width


def _parts(code: Code, extent: int, size: int, at):
    """(length, start, condition) of whole pieces and, where size does not divide extent, of the last piece."""
    whole, rest = divmod(extent, size)
    if rest == 0:
        return [(size, at * code.i(size) if whole > 1 else code.i(0), None)]
    last = (rest, code.i(whole * size), at >= code.i(whole))
    return [(size, code.let(at * code.i(size)), at < code.i(whole)), last]


def _offsets(code: Code, k: Conv, g, lists: Lists, span):
    """offset(p) -> element offset of input p of group g in the image."""
    taps = prod(k.kernel)
    base = code.let(g * code.i(k.v) // code.i(k.fan_out) * code.i(k.fan_in * k.channel)) if k.fan_out < k.channels else code.i(0)

    def tap(t):
        total = None
        below = taps
        for n, s, d, phase, step in zip(k.kernel, k.stride, k.dilation, k.phase, k.step, strict=True):
            below //= n
            if n == 1:
                continue
            j = t // code.i(below) % code.i(n) * code.i(d)
            part = j % code.i(s) * code.i(phase) + j // code.i(s) * code.i(step) if s > 1 else j * code.i(step)
            total = part if total is None else total + part
        return code.i(0) if total is None else total

    first, length = span

    def number(p):
        return lists.input(code, first, p)

    if taps == 1:
        return lambda p: base + number(p) * code.i(k.channel)
    if k.index is None and k.kept <= code.machine.depthwise.unrolled:
        return lambda p: base + p // code.i(taps) * code.i(k.channel) + tap(p % code.i(taps))
    table = code.array(k.kept, "int32")  # decoded once a unit: divisions do not belong in the hot loop
    with code.loop(length) as p:
        i = code.let(number(p))
        value = base + i // code.i(taps) * code.i(k.channel) + tap(i % code.i(taps))
        code.local_store(table, value.astype("int32"), p)
    return lambda p: code.i(code.local_load(table, p))


def _sums(code: Code, k: Conv, x, w, bias, g, span, offsets, start, n_rows: int, n_cols: int, pitch: int):
    """All sums of a strip, in a stack array (v, length) with length a whole number of vectors."""
    positions = (n_rows - 1) * pitch + n_cols
    lanes = lanes_for(code, 1 << (positions - 1).bit_length())
    vectors = -(-positions // lanes)
    length = vectors * lanes
    array = code.array(k.v * length, "float32")
    steps = k.step if len(k.spatial) > 1 else (0, k.step[0])
    begin, inputs = span
    origin = code.let(address(code, tuple(steps), start))
    rows, wide = code.machine.conv.tile(k.v) if k.v > 1 else (1, code.machine.depthwise.vectors)

    def tile(first, count: int, v0: int):
        """rows x count vectors of sums, from row v0 of the group and position `first` of the strip on."""
        acc = []
        for v in range(v0, v0 + rows):
            start_at = code.let(code.load(bias, g * code.i(k.v) + code.i(v), lanes, 0))
            acc.append([code.register("float32", lanes, start_at) for _ in range(count)])

        def product(p):
            at = code.let(offsets(p) + origin + first)
            xs = [code.let(code.load(x, at + code.i(m * lanes), lanes)) for m in range(count)]
            weights = code.let((begin + p) * code.i(k.v))
            for j in range(rows):
                wv = code.let(code.load(w, weights + code.i(v0 + j), lanes, 0))
                for m in range(count):
                    acc[j][m].set(acc[j][m].value + wv * xs[m])
        if k.kept <= code.machine.depthwise.unrolled and k.index is None and k.v == 1:
            for p in range(k.kept):
                product(code.i(p))
        else:
            with code.loop(inputs) as p:
                product(p)
        for j in range(rows):
            for m in range(count):
                code.local_store(array, acc[j][m].value, code.i((v0 + j) * length + m * lanes) + first, lanes)

    def column(first, count: int):
        for v0 in range(0, k.v, rows):
            tile(first, count, v0)
    whole, rest = divmod(vectors, wide)
    if whole:
        with code.loop(whole) as t:
            column(code.let(t * code.i(wide * lanes)), wide)
    if rest:
        column(code.i(whole * wide * lanes), rest)
    return array, length


def _finish(code: Code, k: Conv, sums, order, extras, out, g, start, n_rows: int, n_cols: int, pitch: int) -> None:
    """Exact rows of the strip through the fused body to the output."""
    array, length = sums
    flat = len(k.spatial) == 1
    with code.loop(k.v) as v:
        row_of_weights = code.let(g * code.i(k.v) + v)
        channel = code.let(code.i(code.load(order, row_of_weights))) if order is not None else row_of_weights
        with code.loop(n_rows) as r:
            *front, r0, c0 = start

            def visit(at, lanes):
                spatial = [c0 + at] if flat else [*front, r0 + r, c0 + at]
                position = [channel, *spatial]
                value = code.local_load(array, v * code.i(length) + r * code.i(pitch) + at, lanes)
                values = [code.let(value), *(read(code, b, t, position, lanes) for b, t in zip(extras, k.extras, strict=True))]
                write(code, out, k.output, evaluate(code, k.post, values, lanes), position, lanes)
            code.spans(n_cols, lanes_for(code, n_cols), visit)


