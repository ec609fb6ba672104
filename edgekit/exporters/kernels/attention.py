"""Attention: scores, softmax and weighted sums of a tile of queries, one query a lane, without a step in between.

So no sum or maximum goes across lanes, and scores are never written to memory; Q and the results, whose depth is the last
axis, are turned in registers.
"""
from collections.abc import Callable
from itertools import product
from math import prod

from tvm import tirx

from edgekit.exporters.kernels.body import address, evaluate, finish, lanes_for
from edgekit.exporters.kernels.loops import Code, broadcast, const, shuffle
from edgekit.exporters.kernels.math import exp_below_0, lanes_of
from edgekit.exporters.kernels.schedule import Machine
from edgekit.exporters.kernels.spec import Attention

F = "float32"
WIDEST = 3  # vectors of queries


def _powers(extent: int, most: int) -> list[tuple[int, int]]:
    """(start, length): an extent cut into powers of two."""
    pieces: list[tuple[int, int]] = []
    while extent > (start := sum(n for _, n in pieces)):
        pieces.append((start, min(most, 1 << (extent - start).bit_length() - 1)))
    return pieces


def _turned(code: Code, vectors: list) -> list:
    """Square blocks transposed: of n vectors, element j of block b of vector i becomes element i of block b of vector j."""
    lanes, unit = lanes_of(vectors[0]), 1
    while unit < len(vectors):
        low = [lane if not lane & unit else lanes + lane - unit for lane in range(lanes)]
        vectors, pairs = list(vectors), [i for i in range(len(vectors)) if not i & unit]
        for i in pairs:
            both = vectors[i], vectors[i + unit]
            vectors[i], vectors[i + unit] = code.let(shuffle(both, low)), code.let(shuffle(both, [n + unit for n in low]))
        unit *= 2
    return vectors


def build_attention(k: Attention, machine: Machine):
    code = Code(machine)
    q, key, value = (code.operand(F) for _ in range(3))
    masks = [code.operand(t.dtype) for t in k.masks]
    extras = [code.operand(t.dtype) for t in k.extras]
    out = code.operand(k.output.dtype)
    lanes = lanes_for(code, k.m)
    all_vectors = -(-k.m // lanes)
    tiles = -(-all_vectors // WIDEST)
    vectors = -(-all_vectors // tiles)
    wide, rows = vectors * lanes, machine.rows(vectors)
    turned, scores = code.array(k.depth * wide, F), code.array(k.n * wide, F)

    def products(count: int, length: int, left: Callable, right) -> list[list]:
        """Sums over `length` of left(row, i) * right[i, query]: expressions [row][vector]."""
        sums = [[code.register(F, lanes, broadcast(const(0.0, F), lanes)) for _ in range(vectors)] for _ in range(count)]

        def add(i) -> None:
            columns = [code.let(code.local_load(right, i * code.i(wide) + code.i(v * lanes), lanes)) for v in range(vectors)]
            for r in range(count):
                factor = code.let(left(r, i))
                for held, column in zip(sums[r], columns, strict=True):
                    held.set(held.value + factor * column)
        code.unrolled(length, 2, add)
        return [[code.let(held.value) for held in row] for row in sums]

    def blocks(extent: int, visit: Callable) -> None:
        """visit(start, count) over an extent in blocks of rows that a tile of sums may have, as even as they come."""
        size = -(-extent // -(-extent // rows))
        with code.loop(extent // size) as block:
            visit(code.let(block * code.i(size)), size)
        if extent % size:
            visit(code.i(extent - extent % size), extent % size)

    def tile(batch: list, starts: list) -> None:
        """Queries from each of `starts` on, a vector each."""
        for (v, start), (first, columns) in product(enumerate(starts), _powers(k.depth, lanes)):
            at = [code.let(address(code, k.q.strides, [*batch, start + code.i(r), first])) for r in range(lanes)]
            parts = [code.let(code.load(q, a, columns, k.q.strides[-1])) for a in at]
            # a vector holds the rows r, r + columns, r + 2 columns, ...
            rows_of = [code.let(shuffle(parts[r::columns], range(lanes))) for r in range(columns)]
            for c, vector in enumerate(_turned(code, rows_of)):
                code.local_store(turned, vector, (first + c) * wide + v * lanes, lanes)
        tops = [code.register(F, lanes, broadcast(const(float("-inf"), F), lanes)) for _ in starts]
        at_key = code.let(address(code, k.key.strides[:-2], batch))

        def score(j, count: int) -> None:
            def left(r, d):
                return code.load(key, at_key + (j + code.i(r)) * code.i(k.key.strides[-2]) + d * code.i(k.key.strides[-1]), lanes, 0)
            for r, row in enumerate(products(count, k.depth, left, turned)):
                for v, (start, top) in enumerate(zip(starts, tops, strict=True)):
                    here = [code.load(b, address(code, t.strides, [*batch, start, j + code.i(r)]), lanes, t.strides[-2])
                            for b, t in zip(masks, k.masks, strict=True)]
                    result = code.let(evaluate(code, k.pre, [row[v], *here], lanes))
                    code.local_store(scores, result, (j + code.i(r)) * code.i(wide) + code.i(v * lanes), lanes)
                    top.set(tirx.max(top.value, result))
        blocks(k.n, score)
        sums = [code.register(F, lanes, broadcast(const(0.0, F), lanes)) for _ in starts]
        with code.loop(k.n) as j:
            for v, (top, held) in enumerate(zip(tops, sums, strict=True)):
                at = code.let(j * code.i(wide) + code.i(v * lanes))
                e = exp_below_0(code.let, code.let(code.local_load(scores, at, lanes) - top.value))
                code.local_store(scores, e, at, lanes)
                held.set(held.value + e)
        scales = [code.let(broadcast(const(1.0, F), lanes) / held.value) for held in sums]
        at_value = code.let(address(code, k.value.strides[:-2], batch))

        def weighted(c, count: int) -> None:
            def left(r, j):
                return code.load(value, at_value + j * code.i(k.value.strides[-2]) + (c + code.i(r)) * code.i(k.value.strides[-1]), lanes, 0)
            sums = products(count, k.n, left, scores)
            for (v, start), (first, columns) in product(enumerate(starts), _powers(count, lanes)):
                for r, vector in enumerate(_turned(code, [code.let(sums[first + i][v] * scales[v]) for i in range(columns)])):
                    for row in range(r, lanes, columns):
                        part = vector if columns == lanes else shuffle([vector], range(row - r, row - r + columns))
                        finish(code, k, extras, out, part, [*batch, start + code.i(row), c + code.i(first)], columns)
        blocks(k.width, weighted)

    with code.units() as u:
        batch: list = []
        rest = code.let(u // code.i(tiles))
        for extent in reversed(k.batch):
            batch.insert(0, code.let(rest % code.i(extent)))
            rest = code.let(rest // code.i(extent))
        if tiles == 1:
            tile(batch, [code.i(min(v * lanes, k.m - lanes)) for v in range(vectors)])
        else:  # the last tile reaches back over queries that are done
            first = code.let(tirx.min(u % code.i(tiles) * code.i(wide), code.i(k.m - wide)))
            tile(batch, [code.let(first + code.i(v * lanes)) for v in range(vectors)])
    return code.function(), prod(k.batch) * tiles
