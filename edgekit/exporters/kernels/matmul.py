"""MatMul of two activations: tiles of rows by vectors of columns, or vectors along the sums where those lie side by side."""
from contextlib import ExitStack

from edgekit.exporters.kernels.body import address, finish, lanes_for
from edgekit.exporters.kernels.loops import Code, broadcast, const, shuffle
from edgekit.exporters.kernels.schedule import Machine
from edgekit.exporters.kernels.spec import MatMul


def build_matmul(k: MatMul, machine: Machine):
    code = Code(machine)
    a, b = code.operand(k.a.dtype), code.operand(k.b.dtype)
    extras = [code.operand(t.dtype) for t in k.extras]
    out = code.operand(k.output.dtype)

    def store(batch, row, column, lanes: int, value):
        finish(code, k, extras, out, value, [*batch, row, column], lanes)

    side_by_side = k.a.strides[-1] == k.b.strides[-2] == 1 != k.b.strides[-1]
    tall, stripe = (_dots if side_by_side else _tiles)(code, k, a, b, store)
    blocks = -(-k.m // tall)
    first, inner = (k.batch[0], k.batch[1:]) if k.batch else (1, ())
    with code.units() as u, ExitStack() as stack:
        batch = [code.let(u // code.i(blocks))] if k.batch else []
        batch += [stack.enter_context(code.loop(extent)) for extent in inner]
        code.pieces(k.m, tall, blocks, code.let(u % code.i(blocks)), lambda row, rows: stripe(batch, row, rows))
    return code.function(), first * blocks


def _tiles(code: Code, k: MatMul, a, b, store):
    """(rows of a block, stripe(batch, row, rows)): vectors of columns. The last one reaches back over columns that are done."""
    dtype, lanes = k.a.dtype, lanes_for(code, k.n)
    vectors = -(-k.n // lanes)
    count = -(-vectors // -(-vectors // code.machine.matmul.vectors))
    by_element = code.machine.by_element and dtype == "float32" and k.a.strides[-1] == 1 and k.k >= code.machine.lanes
    most = min(code.machine.matmul.rows, code.machine.rows(count, held=by_element))
    tall = -(-k.m // -(-k.m // most))

    def tile(batch, row, rows: int, columns: list):
        zero = broadcast(const(0, dtype), lanes)
        acc = [[code.register(dtype, lanes, zero) for _ in columns] for _ in range(rows)]
        a_at = [code.let(address(code, k.a.strides[:-1], [*batch, row + code.i(r)])) for r in range(rows)]
        b_at = [code.let(address(code, (*k.b.strides[:-2], k.b.strides[-1]), [*batch, c])) for c in columns]

        def product(p, factor):
            bv = [code.let(code.load(b, at + p * code.i(k.b.strides[-2]), lanes, k.b.strides[-1])) for at in b_at]
            for r in range(rows):
                av = code.let(factor(r))
                for m, sums in enumerate(acc[r]):
                    sums.set(sums.value + av * bv[m])
        done = k.k // code.machine.lanes * code.machine.lanes if by_element else 0
        if by_element:
            with code.loop(done // code.machine.lanes) as q:
                p = code.let(q * code.i(code.machine.lanes))
                av = [code.let(code.load(a, at + p, code.machine.lanes)) for at in a_at]
                for j in range(code.machine.lanes):
                    product(p + code.i(j), lambda r, j=j: shuffle([av[r]], [j] * lanes))
        with code.loop(k.k - done, done) as p:
            product(p, lambda r: code.load(a, a_at[r] + p * code.i(k.a.strides[-1]), lanes, 0))
        for r in range(rows):
            for m, column in enumerate(columns):
                store(batch, row + code.i(r), column, lanes, acc[r][m].value)

    def stripe(batch, row, rows: int):
        whole, rest = divmod(k.n, lanes * count)
        with code.loop(whole) as j:
            tile(batch, row, rows, [code.let(j * code.i(lanes * count) + code.i(m * lanes)) for m in range(count)])
        if rest:
            tile(batch, row, rows, [code.i(min(start, k.n - lanes)) for start in range(k.n - rest, k.n, lanes)])
    return tall, stripe


def _dots(code: Code, k: MatMul, a, b, store):
    """The same where the second operand lies transposed: as many columns as lanes, whose sums are added up across lanes."""
    dtype, lanes = k.a.dtype, lanes_for(code, min(k.n, k.k))

    def dots(batch, row, column):
        acc = [code.register(dtype, lanes, broadcast(const(0, dtype), lanes)) for _ in range(lanes)]
        a_at = code.let(address(code, k.a.strides[:-1], [*batch, row]))
        b_at = code.let(address(code, (*k.b.strides[:-2], k.b.strides[-1]), [*batch, column]))
        with code.loop(k.k // lanes) as q:
            p = code.let(q * code.i(lanes))
            av = code.let(code.load(a, a_at + p, lanes))
            for c, sums in enumerate(acc):
                sums.set(sums.value + av * code.load(b, b_at + code.i(c * k.b.strides[-1]) + p, lanes))
        total = code.register(dtype, lanes, _across(code, [sums.value for sums in acc]))
        with code.loop(k.k % lanes, k.k - k.k % lanes) as p:
            total.set(total.value + code.load(a, a_at + p, lanes, 0) * code.load(b, b_at + p, lanes, k.b.strides[-1]))
        store(batch, row, column, lanes, total.value)

    def stripe(batch, row, rows: int):
        with code.loop(rows) as r:
            here = code.let(row + r)
            with code.loop(k.n // lanes) as j:
                dots(batch, here, code.let(j * code.i(lanes)))
            if k.n % lanes:
                dots(batch, here, code.i(k.n - lanes))
    return 1, stripe


def _across(code: Code, values: list):
    """Lane i of the result: the sum of all lanes of values[i]. Pairs of vectors become one of half sums, again and again."""
    lanes, unit = len(values), 1
    while len(values) > 1:
        low = [i // unit % 2 * lanes + i // (2 * unit) * 2 * unit + i % unit for i in range(lanes)]
        pairs = zip(values[::2], values[1::2], strict=True)
        values = [code.let(shuffle([x, y], low) + shuffle([x, y], [i + unit for i in low])) for x, y in pairs]
        unit *= 2
    return values[0]
