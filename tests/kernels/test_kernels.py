"""Every kind of kernel, compiled for the host's levels, AArch64 and wasm, against its definition in numpy.

Shapes are drawn, sizes that divide no vector or tile included. Operands lie amid poison (machines.py).
"""
import random
from dataclasses import asdict, replace
from math import prod

import numpy as np
import pytest

from edgekit import targets
from edgekit.exporters.emit.compile import kernel_assembly
from edgekit.exporters.kernels import spec
from edgekit.exporters.kernels.schedule import KINDS as SCHEDULES
from edgekit.exporters.kernels.spec import Op, Tensor
from edgekit.targets import native
from tests.kernels.machines import load
from tests.reference import run_kernel

F = "float32"
ADD, RELU, TANH = Op("add", (0, 1), F), Op("relu", (2,), F), Op("tanh", (2,), F)


def rows(shape, dtype=F) -> Tensor:
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return Tensor(dtype, tuple(reversed(strides)))


def span(t: Tensor, shape) -> int:
    return 1 + sum((n - 1) * s for n, s in zip(shape, t.strides, strict=True))


class Draw:
    """Kernels with their operands; the last operand is the output unless `outputs` says otherwise."""

    def __init__(self, seed: int):
        self.r, self.g = random.Random(seed), np.random.default_rng(seed)

    def floats(self, n):
        return self.g.standard_normal(n).astype(np.float32)

    def padded(self, shape):
        """Strides of a tensor with gaps."""
        gaps = [n + self.r.choice([0, 0, 3]) for n in shape]
        return Tensor(F, rows(gaps).strides)

    def map(self):
        shape = tuple(self.r.choice([1, 2, 3, 5, 16, 17, 37]) for _ in range(self.r.choice([1, 2, 3])))
        a, out = self.padded(shape), self.padded(shape)
        b = Tensor(F, tuple(self.r.choice([0, s]) for s in rows(shape).strides))
        if self.r.random() < 0.3:
            shape, a, b, out = (9000,), rows((9000,)), Tensor(F, (0,)), rows((9000,))
        k = spec.Map(shape, (a, b), (ADD, TANH), out)
        return k, [self.floats(span(a, shape)), self.floats(span(b, shape)), np.zeros(span(out, shape), np.float32)]

    def gather(self):
        shape, extent = (self.r.choice([1, 3]), self.r.choice([2, 7]), self.r.choice([1, 5, 18])), 6
        axis = self.r.choice([0, 1, 2])
        x = Tensor(F, rows([extent if a == axis else n for a, n in enumerate(shape)]).strides)
        index = Tensor("int64", tuple(s if a == axis else 0 for a, s in enumerate((1, 1, 1))))
        k = spec.Gather(shape, axis, extent, x, index, rows(shape))
        return k, [self.floats(prod(extent if a == axis else n for a, n in enumerate(shape))), self.g.integers(-6, 6, shape[axis]), np.zeros(prod(shape), np.float32)]

    def reduce(self):
        shape = tuple(self.r.choice([1, 2, 5, 16, 19, 33]) for _ in range(3))
        order = self.r.sample(range(3), 3)
        x = Tensor(F, tuple(rows(shape).strides[a] for a in order))
        shape = tuple(shape[a] for a in order)
        outer = self.r.choice([0, 1, 2])
        if outer == 2 and self.r.random() < 0.4:  # windows of a row
            apart, shape = self.r.choice([1, 2]), (*shape[:2], self.r.choice([2, 3]))
            x = Tensor(F, (shape[1] * apart + 2, apart, 1))
        op = self.r.choice(["sum", "max", "min", "prod"])
        pre = (Op("abs", (0,), F),) if self.r.random() < 0.5 else ()
        extra, out = rows(shape[:outer]), rows(shape[:outer])
        k = spec.Reduce(shape, outer, op, (x,), pre, (extra,), (ADD,), out)
        size = span(x, shape)
        data = self.floats(size) if op != "prod" else 1 + 0.01 * self.floats(size)
        return k, [data, self.floats(span(extra, shape[:outer])), np.zeros(span(out, shape[:outer]), np.float32)]

    def arg(self):
        shape = (self.r.choice([1, 4]), self.r.choice([1, 9]))
        k = spec.Arg(shape, self.r.choice(["max", "min"]), self.r.random() < 0.5, rows(shape), Tensor("int64", (1,)))
        return k, [self.g.integers(0, 4, prod(shape)).astype(np.float32), np.zeros(shape[0], np.int64)]

    def norm(self):
        shape = (self.r.choice([1, 3]), self.r.choice([1, 2]), self.r.choice([1, 5, 16, 21, 35, 150]))
        kind, axes = self.r.choice(["softmax", "logsoftmax", "layernorm", "rmsnorm"]), self.r.choice([1, 2])
        extra = Tensor(F, (0, 0, 1))
        k = spec.Norm(shape, axes, kind, 1e-5, rows(shape), (extra,), (Op("mul", (0, 1), F),), rows(shape))
        return k, [3 * self.floats(prod(shape)), self.floats(shape[-1]), np.zeros(prod(shape), np.float32)]

    def matmul(self):
        batch = tuple(self.r.choice([1, 2, 3]) for _ in range(self.r.choice([0, 1, 2])))
        m, n, kk = self.r.choice([1, 5, 13, 42]), self.r.choice([1, 4, 19, 70]), self.r.choice([1, 6, 17, 36])
        a, b, extra = rows((*batch, m, kk)), rows((*batch, kk, n)), Tensor(F, (*(0,) * len(batch), 0, 1))
        if self.r.random() < 0.4:  # the second operand lies transposed
            b = Tensor(F, (*b.strides[:-2], 1, kk))
        k = spec.MatMul(batch, m, n, kk, a, b, (extra,), (ADD, RELU), rows((*batch, m, n)))
        size = prod(batch)
        return k, [self.floats(size * m * kk), self.floats(size * kk * n), self.floats(n), np.zeros(size * m * n, np.float32)]

    def attention(self):
        heads, m, n = self.r.choice([1, 2, 3]), self.r.choice([5, 16, 42, 61]), self.r.choice([1, 7, 42])
        depth, width = self.r.choice([1, 8, 11]), self.r.choice([1, 8, 13])
        q, key, value = (Tensor(F, (size * heads * d, d, heads * d, 1)) for size, d in ((m, depth), (n, depth), (n, width)))
        masks = (Tensor(F, (0, 0, 0, 1)), Tensor(F, (0, 0, 1, m + 2)))
        k = spec.Attention((2, heads), m, n, depth, width, q, key, value, masks, (ADD, Op("add", (3, 2), F)),
                           (Tensor(F, (0, 0, 0, 1)),), (ADD,), Tensor(F, (m * heads * width, width, heads * width, 1)))
        sizes = [2 * heads * a * b for a, b in ((m, depth), (n, depth), (n, width))]
        return k, [*map(self.floats, [*sizes, n, n * (m + 2), width]), np.zeros(2 * heads * m * width, np.float32)]

    def sparse(self, outputs, inputs, sparse, v):
        """(groups, kept, index dtype, order?, starts?, operands w bias [index] [starts] [order])"""
        groups = -(-outputs // v)
        order = np.resize(self.g.permutation(outputs), groups * v) if sparse else np.minimum(np.arange(groups * v), outputs - 1)
        kept = max(1, inputs // 2) if sparse else inputs
        unequal = sparse and self.r.random() < 0.5
        lengths = self.g.integers(0, kept + 1, groups) if unequal else np.full(groups, kept)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        index = np.concatenate([np.sort(self.g.permutation(inputs)[:n]) for n in lengths])
        bias = self.floats(outputs)[order]
        w = self.floats(len(index) * v).reshape(-1, v)
        flat = order.reshape(groups, v)
        for g in range(groups):  # a row that is named twice in a group is the same row twice
            for j in range(v):
                first = int(np.flatnonzero(flat[g] == flat[g, j])[0])
                w[starts[g]:starts[g + 1], j] = w[starts[g]:starts[g + 1], first]
        dtype = self.r.choice(["uint16", "int32"]) if sparse else None
        ordered = sparse or outputs % v != 0
        operands = [w.reshape(-1), bias] + ([index.astype(dtype)] if sparse else []) + ([starts] if unequal else []) + ([order.astype(np.int32)] if ordered else [])
        return groups, kept, dtype, ordered, unequal, operands

    def linear(self):
        n, inputs, v = self.r.choice([1, 2, 9, 33, 50]), self.r.choice([1, 7, 40]), self.r.choice([4, 8, 16, 32])
        outputs = v * self.r.choice([1, 3])  # a short last group would name rows of other groups twice
        groups, kept, index, order, starts, operands = self.sparse(outputs, inputs, self.r.random() < 0.6, v)
        out, extra = Tensor(F, (outputs + 3, 1)), Tensor(F, (self.r.choice([0, outputs]), 1))
        longer = self.r.choice([(), (Op("mul", (2, 3), F), Op("add", (4, 1), F), Op("sigmoid", (5,), F))])
        k = spec.Linear(n, inputs, outputs, groups, v, kept, inputs + 2, index, order, (extra,), (ADD, TANH, *longer), out, starts)
        return k, [self.floats((inputs + 2) * n), *operands, self.floats(outputs * n), np.zeros((outputs + 3) * n, np.float32)]

    def conv(self):
        rank = self.r.choice([1, 2, 2, 3])
        depthwise = self.r.random() < 0.25
        kernel = tuple(self.r.choice([1, 2, 3]) for _ in range(rank))
        stride, dilation = (tuple(self.r.choice([1, 1, 2]) for _ in range(rank)) for _ in range(2))
        spatial = tuple(self.r.choice([1, 3, 7, 14, 16, 29]) for _ in range(rank))
        if rank == 1 and self.r.random() < 0.3:
            spatial = (self.r.choice([49, 196, 1500]),)
        channels, v = self.r.choice([(1, 1), (3, 1), (6, 2), (8, 8), (8, 4), (16, 8), (32, 32), (6, 6), (5, 5), (14, 7), (48, 16)])
        inputs = channels if depthwise else self.r.choice([1, 3, 8])
        phases = tuple(1 if k == 1 else s for k, s in zip(kernel, stride, strict=True))
        steps = tuple(o + (k - 1) * d // s + 1 for o, k, d, s in zip(spatial, kernel, dilation, stride, strict=True))
        layout = rows((inputs, *phases, *steps)).strides
        taps = prod(kernel)
        if depthwise:
            v = 1
        fan_in, fan_out = (1, 1) if depthwise else (inputs, channels)
        groups, kept, index, order, starts, operands = self.sparse(channels, fan_in * taps, not depthwise and self.r.random() < 0.6, v)
        out, extra = rows((channels, *(n + 2 for n in spatial))), Tensor(F, (1, *(0,) * rank))
        k = spec.Conv(channels, groups, v, kept, fan_in, fan_out, kernel, stride, dilation, layout[0], layout[1:1 + rank], layout[1 + rank:],
                      spatial, index, order, (extra,), (ADD, RELU), out, starts)
        return k, [self.floats(inputs * prod(phases) * prod(steps)), *operands, self.floats(channels),
                   np.zeros(channels * prod(n + 2 for n in spatial), np.float32)]

    def depthwise(self):
        kernel = self.r.choice([(3, 3), (3, 3), (1, 1), (5, 5), (1, 9), (2, 3), (7, 7)])
        stride, dilation = (tuple(self.r.choice([1, 1, 2]) for _ in range(2)) for _ in range(2))
        spatial = (self.r.choice([1, 2, 7, 13, 30]), self.r.choice([1, 2, 7, 14, 16, 29, 83]))
        if kernel[0] == 1 and self.r.random() < 0.5:
            spatial = (1, 300)
        pads, after = (tuple(self.r.choice([0, 1, 1, 2]) for _ in range(2)) for _ in range(2))
        reach = [(o - 1) * s + (n - 1) * d + 1 for o, s, n, d in zip(spatial, stride, kernel, dilation, strict=True)]
        if self.r.random() < 0.2:
            pads = tuple(self.r.randrange(n) for n in reach)  # all but a pixel or two is padding
        size = tuple(max(1, n - lo - hi) for n, lo, hi in zip(reach, pads, after, strict=True))
        batch, inputs, fan_out = self.r.choice([1, 1, 2]), self.r.choice([1, 3]), self.r.choice([1, 1, 2])
        channels = inputs * fan_out
        x = self.padded((batch, inputs, *size)).strides[:3]
        out, extra = self.padded((batch, channels, *spatial)), Tensor(F, (0, 1, 0, 0))
        k = spec.Depthwise(batch, channels, fan_out, kernel, stride, dilation, pads, size, spatial, x, (extra,), (ADD, RELU), out)
        return k, [self.floats(span(Tensor(F, (*x, 1)), (batch, inputs, *size))), self.floats(channels * prod(kernel)), self.floats(channels),
                   self.floats(channels), np.zeros(span(out, (batch, channels, *spatial)), np.float32)]

    def winograd_input(self):
        m, batch, channels, tiles = self.r.choice([2, 4]), self.r.choice([1, 2]), self.r.choice([1, 3]), (self.r.choice([1, 3]), self.r.choice([1, 2, 7, 16, 21]))
        shape = (batch, channels, tiles[0] * m + 2, tiles[1] * m + 2)
        x = self.padded(shape).strides
        return spec.WinogradInput(batch, channels, m, tiles, x[:3]), [self.floats(span(Tensor(F, x), shape)), np.zeros((m + 2) ** 2 * channels * batch * prod(tiles), np.float32)]

    def winograd_output(self):
        m, shape = self.r.choice([2, 4]), (self.r.choice([1, 2]), self.r.choice([1, 3]), self.r.choice([1, 4, 6, 9]), self.r.choice([1, 2, 7, 16, 37]))
        points = (m + 2) ** 2 * shape[0] * shape[1] * prod(-(-n // m) for n in shape[2:])
        out, extra = self.padded(shape), rows(shape)
        k = spec.WinogradOutput(shape[0], shape[1], m, shape[2:], (extra,), (ADD, RELU), out)
        return k, [self.floats(points), self.floats(shape[1]), self.floats(prod(shape)), np.zeros(span(out, shape), np.float32)]

    def recurrent(self):
        cell, hidden, batch, steps = self.r.choice(["LSTM", "GRU", "RNN"]), self.r.choice([8, 16, 20]), self.r.choice([1, 3, 6]), self.r.choice([1, 4])
        gates, v = {"LSTM": 4, "GRU": 3, "RNN": 1}[cell], self.r.choice([4, 8])
        v = v if gates * hidden % v == 0 else 4
        groups, kept, index, order, starts, operands = self.sparse(gates * hidden, hidden, self.r.random() < 0.6, v)
        sigmoid, tanh = (Op("sigmoid", (0,), F),), (Op("tanh", (0,), F),)
        acts = {"LSTM": (sigmoid, tanh, tanh), "GRU": (sigmoid, tanh), "RNN": (tanh,)}[cell]
        lens, peephole = self.r.random() < 0.5, cell == "LSTM" and self.r.random() < 0.3
        k = spec.Recurrent(cell, steps, batch, hidden, self.r.random() < 0.5, acts, self.r.choice([0.0, 0.7]), self.r.random() < 0.5,
                           cell == "LSTM" and self.r.random() < 0.2, groups, v, kept, index, order, peephole, lens,
                           (batch * gates * hidden, gates * hidden), (batch * hidden + 5, hidden), starts)
        state = [self.floats(batch * hidden)] + ([self.floats(batch * hidden)] if cell == "LSTM" else [])
        extra = ([self.floats(3 * hidden)] if peephole else []) + ([self.g.integers(0, steps + 1, batch).astype(np.int32)] if lens else [])
        return k, [self.floats(steps * batch * gates * hidden), *operands, *extra, *state, np.zeros((batch * hidden + 5) * steps, np.float32),
                   np.zeros(k.scratch_floats, np.float32)]


KINDS = ("map", "gather", "reduce", "arg", "norm", "matmul", "attention", "linear", "conv", "depthwise", "winograd_input", "winograd_output", "recurrent")
MACHINES = {
    "host": targets.load("host"),
    **{level: replace(targets.load("host"), cpu=level, features=(), schedule=targets.schedule_of(level, ()),
                     lanes=native.VECTORS[level][0], registers=native.VECTORS[level][1])
       for level in ("x86-64", "x86-64-v3")},
    "arm64": targets.load("arm64"), "wasm": targets.load("wasm"),
    "other schedules": replace(targets.load("host"), schedule=tuple(
        (kind, tuple(asdict(list(schedule.candidates(12))[-1]).items())) for kind, schedule in SCHEDULES.items())),
}
CASES = {"host": 10, "other schedules": 3, "x86-64": 3, "x86-64-v3": 3, "arm64": 4, "wasm": 4}  # of each kind


def runs_here(machine: str) -> bool:
    host = MACHINES["host"]
    return machine not in native.VECTORS or host.cpu.startswith("x86") and list(native.VECTORS).index(machine) <= list(native.VECTORS).index(host.cpu)


@pytest.mark.parametrize("machine", MACHINES)
def test_kernels_are_what_their_definition_says(machine, tmp_path):
    if not runs_here(machine):
        pytest.skip(f"this processor has no {machine}")
    cases = [getattr(Draw(1000 * k + len(kind)), kind)() for kind in KINDS for k in range(CASES[machine])]
    call = load([k for k, _ in cases], MACHINES[machine], tmp_path)
    for kernel, arrays in cases:
        expected = [a.copy() for a in arrays]
        run_kernel(kernel, *expected)
        call(kernel, *arrays)
        for k, (got, want) in enumerate(zip(arrays, expected, strict=True)):
            if isinstance(kernel, spec.Recurrent) and k == len(arrays) - 1:
                continue  # scratch
            scale = np.abs(want.astype(np.float64)).max(initial=1.0)
            assert np.allclose(got, want, rtol=1e-5, atol=2e-6 * scale), f"operand {k} of {kernel}: {np.abs(got - want).max()}"


def test_products_in_float16(tmp_path):
    """On the same rounded operands, against sums in float32: what float16 loses in sums of tens of terms, and nothing else."""
    target = targets.load("arm64").of("float16")
    cases = [getattr(Draw(1000 * k + len(kind)), kind)() for kind in ("conv", "linear") for k in range(6)]
    halved = [(replace(k, dtype="float16"), [a.astype(np.float16) if n < 3 else a for n, a in enumerate(arrays)]) for k, arrays in cases]
    call = load([k for k, _ in halved], target, tmp_path)
    for kernel, arrays in halved:
        expected = [a.astype(np.float32) if n < 3 else a.copy() for n, a in enumerate(arrays)]
        run_kernel(replace(kernel, dtype="float32"), *expected)
        call(kernel, *arrays)
        assert np.abs(arrays[-1] - expected[-1]).max() <= 5e-3 * np.abs(expected[-1]).max(), kernel
        assert all(np.array_equal(a, b) for a, b in zip(arrays[:-1], expected[:-1], strict=True))
    assert sum(".8h" in p.read_text() for p in kernel_assembly([(k, target) for k, _ in halved])) > len(halved) / 2
