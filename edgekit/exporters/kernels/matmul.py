"""MatMul of two activations: tiles of rows by vectors of columns, the second operand read along its columns."""
from contextlib import ExitStack

from edgekit.exporters.kernels.body import address, evaluate, lanes_for, read, write
from edgekit.exporters.kernels.loops import Code, broadcast, const
from edgekit.exporters.kernels.schedule import Machine
from edgekit.exporters.kernels.spec import MatMul


def build_matmul(k: MatMul, machine: Machine):
    code = Code(machine)
    a, b = code.operand(k.a.dtype), code.operand(k.b.dtype)
    extras = [code.operand(t.dtype) for t in k.extras]
    out = code.operand(k.output.dtype)
    dtype = k.a.dtype
    tall = max(1, min(k.m, machine.matmul.rows))
    blocks, last = -(-k.m // tall), k.m - (k.m - 1) // tall * tall
    lanes = lanes_for(code, k.n)
    wide = max(1, min(machine.accumulators // tall, k.n // lanes, machine.matmul.vectors))

    def tile(batch, row, rows: int, column, width: int, count: int):
        zero = broadcast(const(0, dtype), width)
        acc = [[code.register(dtype, width, zero) for _ in range(count)] for _ in range(rows)]
        a_at = [code.let(address(code, k.a.strides[:-1], [*batch, row + code.i(r)])) for r in range(rows)]
        b_at = [code.let(address(code, (*k.b.strides[:-2], k.b.strides[-1]), [*batch, column + code.i(m * width)])) for m in range(count)]
        with code.loop(k.k) as p:
            bv = [code.let(code.load(b, at + p * code.i(k.b.strides[-2]), width, k.b.strides[-1])) for at in b_at]
            for r in range(rows):
                av = code.let(code.load(a, a_at[r] + p * code.i(k.a.strides[-1]), width, 0))
                for m in range(count):
                    acc[r][m].set(acc[r][m].value + av * bv[m])
        for r in range(rows):
            for m in range(count):
                position = [*batch, row + code.i(r), column + code.i(m * width)]
                values = [code.let(acc[r][m].value), *(read(code, e, t, position, width) for e, t in zip(extras, k.extras, strict=True))]
                write(code, out, k.output, evaluate(code, k.post, values, width), position, width)

    def stripe(batch, row, rows: int):
        whole = k.n // (lanes * wide)
        if whole:
            with code.loop(whole) as j:
                tile(batch, row, rows, code.let(j * code.i(lanes * wide)), lanes, wide)
        done = whole * lanes * wide
        code.spans(k.n - done, lanes, lambda at, width: tile(batch, row, rows, code.let(at + code.i(done)), width, 1))

    first, inner = (k.batch[0], k.batch[1:]) if k.batch else (1, ())
    with code.units() as u, ExitStack() as stack:
        batch = [code.let(u // code.i(blocks))] if k.batch else []
        batch += [stack.enter_context(code.loop(extent)) for extent in inner]
        block = code.let(u % code.i(blocks))
        row = code.let(block * code.i(tall))
        if last == tall:
            stripe(batch, row, tall)
        else:
            with code.when(block < code.i(blocks - 1)):
                stripe(batch, row, tall)
            with code.when(block >= code.i(blocks - 1)):
                stripe(batch, code.i((blocks - 1) * tall), last)
    return code.function(), first * blocks
