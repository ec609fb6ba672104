"""WinogradInput, WinogradOutput: the transforms around a 3x3 convolution by minimal filtering.

F(m x m, 3 x 3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), m = 2 and 4: a tile of m x m
outputs takes (m + 2)^2 products where it would take 9 m^2. A unit is one channel of one image. Both transforms go by rows
of tiles, with tiles as lanes on the side of the products and columns as lanes on that of the image; between the two a
few rows wait on the stack.
"""
from collections.abc import Callable
from functools import partial

from edgekit.exporters.kernels.body import covering, finish, lanes_for
from edgekit.exporters.kernels.loops import Code, broadcast, const, shuffle
from edgekit.exporters.kernels.schedule import Machine
from edgekit.exporters.kernels.spec import WinogradInput, WinogradOutput

F = "float32"


def _times(lanes: int, number: float, x):
    return broadcast(const(number, F), lanes) * x


def _forward(code: Code, d: list, lanes: int) -> list:
    """B^T d: m + 2 values of the image to as many factors."""
    times = partial(_times, lanes)
    if len(d) == 4:
        made = [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]
    else:
        even, odd = code.let(d[4] - times(4, d[2])), code.let(d[3] - times(4, d[1]))
        near, far = code.let(d[4] - d[2]), code.let(times(2, d[3] - d[1]))
        made = [times(4, d[0]) + (d[4] - times(5, d[2])), even + odd, even - odd, near + far, near - far, times(4, d[1]) + (d[5] - times(5, d[3]))]
    return [code.let(v) for v in made]


def _back(code: Code, p: list, lanes: int) -> list:
    """A^T p: m + 2 products to m outputs."""
    times = partial(_times, lanes)
    if len(p) == 4:
        made = [p[0] + p[1] + p[2], p[1] - p[2] - p[3]]
    else:
        sum1, sum2 = code.let(p[1] + p[2]), code.let(p[3] + p[4])
        gap1, gap2 = code.let(p[1] - p[2]), code.let(p[3] - p[4])
        made = [p[0] + sum1 + sum2, gap1 + times(2, gap2), sum1 + times(4, sum2), (gap1 + times(8, gap2)) + p[5]]
    return [code.let(v) for v in made]


def _tiles(code: Code, count: int, visit: Callable) -> None:
    """visit(first tile, lanes) over a row of tiles; the last vector ends with the row and may repeat tiles."""
    lanes = lanes_for(code, count)
    whole = count // lanes
    with code.loop(whole) as t:
        visit(code.let(t * code.i(lanes)), lanes)
    if count % lanes:
        visit(code.i(count - lanes), lanes)


def _image_and_channel(code: Code, u, channels: int, batch: int):
    return (code.let(u // code.i(channels)), code.let(u % code.i(channels))) if batch > 1 else (code.i(0), u)


def build_winograd_input(k: WinogradInput, machine: Machine):
    code = Code(machine)
    x, out = code.operand(F), code.operand(F)
    m, size, (down, across) = k.m, k.m + 2, k.tiles
    positions, width = k.batch * down * across, across * m + 2
    wide = covering(code, width)
    pitch = -(-width // wide) * wide + m
    rows = code.array(size * pitch, F)
    with code.units() as u:
        n, c = _image_and_channel(code, u, k.channels, k.batch)
        image = code.let(n * code.i(k.x[0]) + c * code.i(k.x[1]))
        with code.loop(down) as tile_row:
            top = code.let(image + tile_row * code.i(m * k.x[2]))
            with code.loop(-(-width // wide)) as t:
                at = code.let(t * code.i(wide))
                column = [code.let(code.load(x, top + at + code.i(r * k.x[2]), wide)) for r in range(size)]
                for r, value in enumerate(_forward(code, column, wide)):
                    code.local_store(rows, value, at + code.i(r * pitch), wide)
            with code.loop(size) as r:
                place = code.let((r * code.i(size * k.channels) + c) * code.i(positions) + (n * code.i(down) + tile_row) * code.i(across))

                def visit(tile, lanes, r=r, place=place):
                    near = code.let(code.local_load(rows, r * code.i(pitch) + tile * code.i(m), m * lanes))
                    next_ = code.let(code.local_load(rows, r * code.i(pitch) + tile * code.i(m) + code.i(m), m * lanes))
                    d = [code.let(shuffle([near if j < m else next_], [j % m + m * lane for lane in range(lanes)])) for j in range(size)]
                    for j, value in enumerate(_forward(code, d, lanes)):
                        code.store(out, value, place + tile + code.i(j * k.channels * positions), lanes)
                _tiles(code, across, visit)
    return code.function(), k.batch * k.channels


def build_winograd_output(k: WinogradOutput, machine: Machine):
    code = Code(machine)
    products, bias = code.operand(F), code.operand(F)
    extras = [code.operand(t.dtype) for t in k.extras]
    out = code.operand(k.output.dtype)
    m, size, (height, width) = k.m, k.m + 2, k.spatial
    down, across = -(-height // m), -(-width // m)
    positions, pitch = k.batch * down * across, across * m + machine.lanes
    rows = code.array(m * pitch, F)
    with code.units() as u:
        n, c = _image_and_channel(code, u, k.channels, k.batch)
        with code.loop(down) as tile_row:
            place = code.let(c * code.i(positions) + (n * code.i(down) + tile_row) * code.i(across))

            def visit(tile, lanes, place=place):
                columns = []
                for j in range(size):
                    p = [code.let(code.load(products, place + tile + code.i((i * size + j) * k.channels * positions), lanes)) for i in range(size)]
                    columns.append(_back(code, p, lanes))
                for r in range(m):
                    made = _back(code, [column[r] for column in columns], lanes)
                    mixed = shuffle(made, [j * lanes + lane for lane in range(lanes) for j in range(m)])
                    code.local_store(rows, mixed, tile * code.i(m) + code.i(r * pitch), m * lanes)
            _tiles(code, across, visit)

            def stored(first, count, n=n, c=c):
                with code.loop(count) as r:
                    def store(at, lanes):
                        value = code.local_load(rows, r * code.i(pitch) + at, lanes) + code.load(bias, c, lanes, 0)
                        finish(code, k, extras, out, value, [n, c, first + r, at], lanes)
                    code.spans(width, lanes_for(code, width), store)
            code.pieces(height, m, down, tile_row, stored)
    return code.function(), k.batch * k.channels
