"""Attention: scores, softmax and weighted sums of a tile of queries, one query a lane, without a step in between.

So no sum or maximum goes across lanes, and scores are never written to memory; Q and the results, whose depth is the last
axis, are turned on the stack.
"""
from collections.abc import Callable
from math import prod

from tvm import tirx

from edgekit.exporters.kernels.body import address, evaluate, finish, lanes_for
from edgekit.exporters.kernels.loops import Code, broadcast, const
from edgekit.exporters.kernels.math import exp_below_0
from edgekit.exporters.kernels.schedule import Machine
from edgekit.exporters.kernels.spec import Attention

F = "float32"
WIDEST = 3  # vectors of queries


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

    def product(count: int, length: int, left: Callable, right) -> list[list]:
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
        for v, start in enumerate(starts):
            with code.loop(lanes) as lane:
                at = code.let(address(code, k.q.strides[:-1], [*batch, start + lane]))
                with code.loop(k.depth) as d:
                    code.local_store(turned, code.load(q, at + d * code.i(k.q.strides[-1])), d * code.i(wide) + lane + code.i(v * lanes))
        tops = [code.register(F, lanes, broadcast(const(float("-inf"), F), lanes)) for _ in starts]
        at_key = code.let(address(code, k.key.strides[:-2], batch))

        def score(j, count: int) -> None:
            def left(r, d):
                return code.load(key, at_key + (j + code.i(r)) * code.i(k.key.strides[-2]) + d * code.i(k.key.strides[-1]), lanes, 0)
            for r, row in enumerate(product(count, k.depth, left, turned)):
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
            aside = code.array(count * wide, F)
            for r, row in enumerate(product(count, k.n, left, scores)):
                for v, scale in enumerate(scales):
                    code.local_store(aside, row[v] * scale, r * wide + v * lanes, lanes)
            for v, start in enumerate(starts):
                with code.loop(lanes) as lane:
                    row = code.let(start + lane)
                    for r in range(count):
                        finish(code, k, extras, out, code.local_load(aside, lane + code.i(r * wide + v * lanes)), [*batch, row, c + code.i(r)], 1)
        blocks(k.width, weighted)

    with code.units() as u:
        batch, rest = [], code.let(u // code.i(tiles))
        for extent in reversed(k.batch):
            batch.insert(0, code.let(rest % code.i(extent)))
            rest = code.let(rest // code.i(extent))
        if tiles == 1:
            tile(batch, [code.i(min(v * lanes, k.m - lanes)) for v in range(vectors)])
        else:  # the last tile reaches back over queries that are done
            first = code.let(tirx.min(u % code.i(tiles) * code.i(wide), code.i(k.m - wide)))
            tile(batch, [code.let(first + code.i(v * lanes)) for v in range(vectors)])
    return code.function(), prod(k.batch) * tiles
