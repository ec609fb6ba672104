"""Recurrent: the steps of an LSTM, GRU or RNN as a real loop around one group-sparse product.

The input projections of all steps were one product before; here each step multiplies the last output by the recurrent
weights and applies the cell. A unit is a block of sequences, which are independent of each other.
Equations: ONNX operators LSTM, GRU and RNN (gates i o f c, z r h, and one).
"""
from tvm import tirx

from edgekit.exporters.kernels.body import evaluate, lanes_for, write_at
from edgekit.exporters.kernels.linear import columns_of, matrix, tile
from edgekit.exporters.kernels.loops import Code, broadcast, const
from edgekit.exporters.kernels.scalar import apply
from edgekit.exporters.kernels.schedule import Machine
from edgekit.exporters.kernels.spec import Recurrent, Tensor

F = "float32"


def build_recurrent(k: Recurrent, machine: Machine):
    code = Code(machine)
    xp = code.operand(F)
    m = matrix(code, k, machine.recurrent.vectors)
    peephole = code.operand(F) if k.peephole else None
    lens = code.operand("int32") if k.lens else None
    h = code.operand(F)
    c = code.operand(F) if k.cell == "LSTM" else None
    y, scratch = code.operand(F), code.operand(F)
    gates, hidden = k.gates, k.hidden
    product_of = Tensor(F, (gates * hidden, 1))  # of all gates, a sequence a row
    width = lanes_for(code, hidden)

    def product(step, source, base, row, rows: int):
        """scratch[row.., gate columns] = bias + R source[row..]; rows of source are `hidden` apart. Every other step begins
        where the one before it ended, with the weights that are still in the nearest cache."""
        parts = m.v // m.width
        last = k.groups * parts - 1
        back = code.let(step % code.i(2))
        with code.loop(last + 1) as n:
            at = code.let(n + back * (code.i(last) - n - n))
            g = code.let(at // code.i(parts))
            first = code.let(at % code.i(parts) * code.i(m.width))
            sums = tile(code, m, g, first, source, lambda r, i: code.i(base) + (row + code.i(r)) * code.i(hidden) + i, rows)
            for j in range(m.vectors):
                at = code.let(first + code.i(j * m.lanes))
                if m.order is not None:
                    write_at(code, scratch, product_of, [s[j] for s in sums], row, columns_of(code, m, g, at))
                    continue
                for r in range(rows):
                    code.store(scratch, sums[r][j], (row + code.i(r)) * code.i(gates * hidden) + g * code.i(m.v) + at, m.lanes)

    def clipped(value, n):
        return apply("clip", [value], F, (-k.clip, k.clip), n, code.let) if k.clip else value

    def act(which, value, n):
        return code.let(evaluate(code, k.activations[which], [code.let(clipped(value, n))], n))

    def cell(row, t, active):
        """One sequence's new h (and c), and its output at step t."""
        x_at = code.let(t * code.i(k.xp[0]) + row * code.i(k.xp[1]))
        s_at = code.let(row * code.i(gates * hidden))
        h_at = code.let(row * code.i(hidden))
        y_at = code.let(t * code.i(k.y[0]) + row * code.i(k.y[1]))

        def x_gate(g, j, n):
            return code.load(xp, x_at + code.i(g * hidden) + j, n)

        def h_gate(g, j, n):
            return code.load(scratch, s_at + code.i(g * hidden) + j, n)

        def both(g, j, n):
            return x_gate(g, j, n) + h_gate(g, j, n)

        def one(n):
            return broadcast(const(1.0, F), n)

        def lstm(j, n):
            old = code.let(code.load(c, h_at + j, n))

            def peep(g):
                return code.load(peephole, code.i(g * hidden) + j, n)
            i_in, o_in, f_in, c_in = (both(g, j, n) for g in range(4))
            if peephole is not None:
                i_in, f_in = i_in + peep(0) * old, f_in + peep(2) * old
            i = act(0, i_in, n)
            f = code.let(one(n) - i) if k.input_forget else act(0, f_in, n)
            new = code.let(f * old + i * act(1, c_in, n))
            if peephole is not None:
                o_in = o_in + peep(1) * new
            keep(c, h_at + j, old, new, n)
            return act(0, o_in, n) * evaluate(code, k.activations[2], [new], n)

        def gru(j, n):
            old = code.let(code.load(h, h_at + j, n))
            z = act(0, both(0, j, n), n)
            r = act(0, both(1, j, n), n) if k.linear_before_reset else None
            inner = h_gate(2, j, n) if r is None else r * h_gate(2, j, n)
            new = act(1, x_gate(2, j, n) + inner, n)
            return (one(n) - z) * new + z * old

        def rnn(j, n):
            return act(0, both(0, j, n), n)

        def keep(buffer, at, old, new, n):
            code.store(buffer, new if active is None else tirx.Select(broadcast(active, n), new, old), at, n)

        def visit(j, n):
            j = code.let(j)
            old = code.let(code.load(h, h_at + j, n))
            new = code.let({"LSTM": lstm, "GRU": gru, "RNN": rnn}[k.cell](j, n))
            keep(h, h_at + j, old, new, n)
            shown = new if active is None else tirx.Select(broadcast(active, n), new, broadcast(const(0.0, F), n))
            code.store(y, shown, y_at + j, n)
        code.spans(hidden, width, visit)

    def reset_gate(row, t):
        """r * h into the second part of scratch, for GRUs that reset before the product. z and r keep their sums."""
        x_at = code.let(t * code.i(k.xp[0]) + row * code.i(k.xp[1]))
        s_at = code.let(row * code.i(gates * hidden))

        def visit(j, n):
            r = act(0, code.load(xp, x_at + code.i(hidden) + j, n) + code.load(scratch, s_at + code.i(hidden) + j, n), n)
            code.store(scratch, r * code.load(h, row * code.i(hidden) + j, n),
                       code.i(k.batch * gates * hidden) + row * code.i(hidden) + j, n)
        code.spans(hidden, width, visit)

    def sequences(row, rows: int):
        with code.loop(k.steps) as s:
            times = []
            for r in range(rows):
                if lens is None:
                    t = code.let(code.i(k.steps - 1) - s) if k.reverse else s
                    times.append((t, None))
                else:
                    n = code.let(code.i(code.load(lens, row + code.i(r))))
                    active = code.let(s < n)
                    t = code.let(tirx.Select(active, n - code.i(1) - s, s)) if k.reverse else s
                    times.append((t, active))
            product(s, h, 0, row, rows)
            if k.reset_first:
                saved = _save_update_gate(code, k, scratch, row, rows, width)
                for r in range(rows):
                    reset_gate(code.let(row + code.i(r)), times[r][0])
                product(s, scratch, k.batch * gates * hidden, row, rows)
                saved()
            for r in range(rows):
                cell(code.let(row + code.i(r)), *times[r])
    units = -(-k.batch // machine.recurrent.sequences)
    with code.units() as u:
        code.pieces(k.batch, machine.recurrent.sequences, units, u, sequences)
    return code.function(), units


def _save_update_gate(code: Code, k: Recurrent, scratch, row, rows: int, width: int):
    """Copies the z sums aside, before a second product overwrites all gates; the result puts them back."""
    aside = code.array(rows * k.hidden, F)
    gates = k.gates * k.hidden

    def move(back: bool):
        for r in range(rows):
            at = code.let((row + code.i(r)) * code.i(gates))

            def visit(j, n, at=at, r=r):
                if back:
                    code.store(scratch, code.local_load(aside, code.i(r * k.hidden) + j, n), at + j, n)
                else:
                    code.local_store(aside, code.load(scratch, at + j, n), code.i(r * k.hidden) + j, n)
            code.spans(k.hidden, width, visit)
    move(False)
    return lambda: move(True)
