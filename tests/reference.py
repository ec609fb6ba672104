"""What kernels and plans mean, in numpy and slowly: the definition that compiled code is compared with.

Operands are flat arrays with an offset; a kernel's strides are applied to them as they are, so a wrong offset, stride or
overlap in a plan shows here too. `run_plan` keeps everything in one arena of bytes, as the C runtime does.
"""
from collections.abc import Sequence
from itertools import pairwise
from itertools import product as cartesian

import numpy as np
from numpy.lib.stride_tricks import as_strided

from edgekit.exporters.kernels import spec
from edgekit.exporters.kernels.spec import Body, Tensor
from edgekit.exporters.lower.plan import Entry, Plan
from tests.scalar_reference import SCALAR


def view(flat: np.ndarray, shape: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    """Elements of a flat array under element strides; an IndexError where they leave it."""
    if 0 in shape:
        return np.zeros(shape, flat.dtype)
    low = sum(min(0, (n - 1) * s) for n, s in zip(shape, strides, strict=True))
    high = sum(max(0, (n - 1) * s) for n, s in zip(shape, strides, strict=True))
    if low < 0 and flat.base is None:
        raise IndexError("negative stride at the start of a buffer")
    if high >= flat.size:
        raise IndexError(f"strides {strides} over {shape} leave a buffer of {flat.size}")
    return as_strided(flat, shape, [s * flat.itemsize for s in strides])


def body(ops: Body, values: Sequence[np.ndarray]) -> np.ndarray:
    """A fused body on whole arrays."""
    values = list(values)
    with np.errstate(all="ignore"):
        for op in ops:
            values.append(SCALAR[op.op](op.dtype, op.attrs, *(values[a] for a in op.args)))
    return values[-1]


def _result(out: np.ndarray, value) -> None:
    out[...] = value


def _extras(tensors: Sequence[Tensor], arrays, shape) -> list[np.ndarray]:
    return [view(a, shape, t.strides) for t, a in zip(tensors, arrays, strict=True)]


def run_map(k: spec.Map, *args: np.ndarray) -> None:
    ins = _extras(k.inputs, args[:-1], k.shape)
    _result(view(args[-1], k.shape, k.output.strides), body(k.body, ins))


def run_gather(k: spec.Gather, x, index, out) -> None:
    i = view(index, k.shape, k.index.strides).astype(np.int64)
    i = np.clip(np.where(i < 0, i + k.extent, i), 0, k.extent - 1)
    whole = view(x, [k.extent if a == k.axis else n for a, n in enumerate(k.shape)], k.x.strides)
    _result(view(out, k.shape, k.output.strides), np.take_along_axis(whole, i, k.axis))


def run_scatter(k: spec.Scatter, updates, index, out) -> None:
    u, i = view(updates, k.shape, k.updates.strides), view(index, k.shape, k.index.strides).astype(np.int64)
    for at in np.ndindex(*k.shape):
        j = i[at] + (k.extent if i[at] < 0 else 0)
        if 0 <= j < k.extent:
            where = sum(s * (j if a == k.axis else p) for a, (p, s) in enumerate(zip(at, k.output.strides, strict=True)))
            old, new = out[where:where + 1], u[at].reshape(1)
            old[...] = new if k.op == "set" else SCALAR[k.op](str(old.dtype), (), old, new)


def run_reduce(k: spec.Reduce, *args) -> None:
    n = len(k.inputs)
    values = body(k.pre, _extras(k.inputs, args[:n], k.shape))
    values = np.broadcast_to(values, k.shape)
    axes = tuple(range(k.outer, len(k.shape)))
    dtype = values.dtype
    reduced = {"sum": np.sum, "prod": np.prod, "max": np.max, "min": np.min}[k.op](values.astype(np.float64) if dtype.kind == "f" else values, axis=axes)
    head = k.shape[:k.outer]
    extras = _extras(k.extras, args[n:-1], head)
    _result(view(args[-1], head, k.output.strides), body(k.post, [np.asarray(reduced).astype(dtype), *extras]))


def run_arg(k: spec.Arg, x, out) -> None:
    v = view(x, k.shape, k.x.strides)
    v = v[..., ::-1] if k.last else v
    at = (np.argmax if k.op == "max" else np.argmin)(v, axis=-1)
    _result(view(out, k.shape[:-1], k.output.strides), k.shape[-1] - 1 - at if k.last else at)


def run_norm(k: spec.Norm, x, *args) -> None:
    v = view(x, k.shape, k.x.strides).astype(np.float64)
    axes = tuple(range(len(k.shape) - k.axes, len(k.shape)))
    if k.kind in ("softmax", "logsoftmax"):
        shifted = v - v.max(axis=axes, keepdims=True)
        total = np.exp(shifted).sum(axis=axes, keepdims=True)
        y = np.exp(shifted) / total if k.kind == "softmax" else shifted - np.log(total)
    else:
        centred = v - (v.mean(axis=axes, keepdims=True) if k.kind == "layernorm" else 0)
        y = centred / np.sqrt((centred ** 2).mean(axis=axes, keepdims=True) + k.eps)
    extras = _extras(k.extras, args[:-1], k.shape)
    _result(view(args[-1], k.shape, k.output.strides), body(k.post, [y.astype(k.x.dtype), *extras]))


def _operands(k, args):
    """Of each group w (inputs, v) and index (inputs,); bias and order (rows,), and what follows."""
    args = list(args)
    w, bias = args.pop(0), args.pop(0)[:k.groups * k.v]
    index = args.pop(0).astype(np.int64) if k.index else np.tile(np.arange(k.kept), k.groups)
    starts = args.pop(0)[:k.groups + 1] if k.starts else np.arange(k.groups + 1) * k.kept
    lists = [slice(a, b) for a, b in pairwise(starts)]
    w, index = [w[s.start * k.v:s.stop * k.v].reshape(-1, k.v) for s in lists], [index[s] for s in lists]
    order = args.pop(0)[:k.groups * k.v].astype(np.int64) if k.order else np.arange(k.groups * k.v)
    return w, bias, index, order, args


def run_linear(k: spec.Linear, x, *args) -> None:
    w, bias, index, order, rest = _operands(k, args)
    xs = view(x, (k.rows, k.inputs), (k.row, 1)).astype(np.float64)
    y = np.zeros((k.rows, k.outputs))
    for g in range(k.groups):
        y[:, order[g * k.v:(g + 1) * k.v]] = xs[:, index[g]] @ w[g] + bias[g * k.v:(g + 1) * k.v]
    extras = _extras(k.extras, rest[:-1], y.shape)
    _result(view(rest[-1], y.shape, k.output.strides), body(k.post, [y.astype(np.float32), *extras]))


def run_conv(k: spec.Conv, x, *args) -> None:
    w, bias, index, order, rest = _operands(k, args)
    taps = list(cartesian(*(range(n) for n in k.kernel)))
    shape = (k.channels, *k.spatial)
    y = np.zeros(shape)
    split = list(zip(k.kernel, k.dilation, k.stride, strict=True))
    phases = [max(t * d % s for t in range(n)) + 1 for n, d, s in split]
    steps = [o + (n - 1) * d // s for o, (n, d, s) in zip(k.spatial, split, strict=True)]
    image = view(x, (k.fan_in * max(1, k.channels // k.fan_out), *phases, *steps), (k.channel, *k.phase, *k.step))
    for g in range(k.groups):
        base = g * k.v // k.fan_out * k.fan_in if k.fan_out < k.channels else 0
        planes = []
        for i in index[g]:
            channel, tap = divmod(int(i), len(taps))
            at = [t * d for t, d in zip(taps[tap], k.dilation, strict=True)]
            phase = [a % s for a, s in zip(at, k.stride, strict=True)]
            inside = [slice(a // s, a // s + o) for a, s, o in zip(at, k.stride, k.spatial, strict=True)]
            planes.append(image[(base + channel, *phase, *inside)])
        sums = np.tensordot(w[g].T.astype(np.float64), np.array(planes, np.float64).reshape(len(planes), *k.spatial), 1)
        y[order[g * k.v:(g + 1) * k.v]] = sums + bias[g * k.v:(g + 1) * k.v].reshape(-1, *[1] * len(k.spatial))
    extras = _extras(k.extras, rest[:-1], shape)
    _result(view(rest[-1], shape, k.output.strides), body(k.post, [y.astype(np.float32), *extras]))


def run_depthwise(k: spec.Depthwise, x, w, bias, *rest) -> None:
    shape = (k.batch, k.channels, *k.spatial)
    images = view(x, (k.batch, k.channels // k.fan_out, *k.size), (*k.x, 1)).astype(np.float64)
    below = [max(0, (o - 1) * s + (n - 1) * d + 1 - lo - size)
             for o, s, n, d, lo, size in zip(k.spatial, k.stride, k.kernel, k.dilation, k.pads, k.size, strict=True)]
    padded = np.pad(images, [(0, 0), (0, 0), *zip(k.pads, below, strict=True)]).repeat(k.fan_out, axis=1)
    y = np.zeros(shape) + bias[:k.channels].reshape(-1, 1, 1)
    for tap in np.ndindex(*k.kernel):
        rows, columns = (slice(t * d, t * d + (o - 1) * s + 1, s) for t, d, o, s in zip(tap, k.dilation, k.spatial, k.stride, strict=True))
        y += padded[:, :, rows, columns] * w[:k.channels * k.kernel[0] * k.kernel[1]].reshape(-1, *k.kernel)[(slice(None), *tap)].reshape(-1, 1, 1)
    extras = _extras(k.extras, rest[:-1], shape)
    _result(view(rest[-1], shape, k.output.strides), body(k.post, [y.astype(np.float32), *extras]))


FORWARD = {2: np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1.]]),
           4: np.array([[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1.]])}
BACK = {2: np.array([[1, 1, 1, 0], [0, 1, -1, -1.]]),
        4: np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1.]])}


def run_winograd_input(k: spec.WinogradInput, x, out) -> None:
    size, (down, across) = k.m + 2, k.tiles
    tiles = view(x, (k.batch, k.channels, down, across, size, size), (*k.x[:2], k.m * k.x[2], k.m, k.x[2], 1)).astype(np.float64)
    y = np.einsum("ia,ncrtab,jb->ijcnrt", FORWARD[k.m], tiles, FORWARD[k.m])
    out[:y.size] = y.reshape(-1)


def run_winograd_output(k: spec.WinogradOutput, x, bias, *rest) -> None:
    size, shape = k.m + 2, (k.batch, k.channels, *k.spatial)
    down, across = (-(-n // k.m) for n in k.spatial)
    p = x[:size ** 2 * k.channels * k.batch * down * across].reshape(size, size, k.channels, k.batch, down, across).astype(np.float64)
    y = np.einsum("ai,ijcnrt,bj->ncratb", BACK[k.m], p, BACK[k.m]).reshape(k.batch, k.channels, down * k.m, across * k.m)
    y = y[:, :, :k.spatial[0], :k.spatial[1]] + bias[:k.channels].reshape(-1, 1, 1)
    extras = _extras(k.extras, rest[:-1], shape)
    _result(view(rest[-1], shape, k.output.strides), body(k.post, [y.astype(np.float32), *extras]))


def run_matmul(k: spec.MatMul, a, b, *args) -> None:
    av, bv = view(a, (*k.batch, k.m, k.k), k.a.strides), view(b, (*k.batch, k.k, k.n), k.b.strides)
    wide = np.float64 if av.dtype.kind == "f" else av.dtype
    y = (av.astype(wide) @ bv.astype(wide)).astype(k.a.dtype)
    extras = _extras(k.extras, args[:-1], y.shape)
    _result(view(args[-1], y.shape, k.output.strides), body(k.post, [y, *extras]))


def run_attention(k: spec.Attention, q, key, value, *args) -> None:
    qv, kv, vv = (view(a, (*k.batch, n, d), t.strides).astype(np.float64) for a, n, d, t in (
        (q, k.m, k.depth, k.q), (key, k.n, k.depth, k.key), (value, k.n, k.width, k.value)))
    scores = (qv @ np.moveaxis(kv, -1, -2)).astype(np.float32)
    scores = body(k.pre, [scores, *_extras(k.masks, args[:len(k.masks)], scores.shape)]).astype(np.float64)
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    y = (powers @ vv / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    _result(view(args[-1], y.shape, k.output.strides), body(k.post, [y, *_extras(k.extras, args[len(k.masks):-1], y.shape)]))


def run_recurrent(k: spec.Recurrent, xp, *args) -> None:
    w, bias, index, order, rest = _operands(k, args)
    peephole = rest.pop(0)[:3 * k.hidden].reshape(3, k.hidden) if k.peephole else np.zeros((3, k.hidden), np.float32)
    lens = rest.pop(0)[:k.batch] if k.lens else np.full(k.batch, k.steps)
    h = rest.pop(0)[:k.batch * k.hidden].reshape(k.batch, k.hidden)
    c = rest.pop(0)[:k.batch * k.hidden].reshape(k.batch, k.hidden) if k.cell == "LSTM" else np.zeros_like(h)
    y = view(rest.pop(0), (k.steps, k.batch, k.hidden), (*k.y, 1))
    x = view(xp, (k.steps, k.batch, k.gates * k.hidden), (*k.xp, 1))
    r = np.zeros((k.gates * k.hidden, k.hidden), np.float32)
    rb = np.zeros(k.gates * k.hidden, np.float32)
    for g in range(k.groups):
        rows = order[g * k.v:(g + 1) * k.v]
        r[rows[:, None], index[g][None]] = w[g].T
        rb[rows] = bias[g * k.v:(g + 1) * k.v]

    def act(which, value):
        return body(k.activations[which], [np.clip(value, -k.clip, k.clip) if k.clip else value])
    for n in range(k.batch):
        for s in range(k.steps):
            if s >= lens[n]:
                y[s, n] = 0
                continue
            t = lens[n] - 1 - s if k.reverse else s
            gates = x[t, n].reshape(k.gates, k.hidden)
            sums = (r @ h[n] + rb).reshape(k.gates, k.hidden)
            if k.cell == "LSTM":
                i = act(0, gates[0] + sums[0] + peephole[0] * c[n])
                f = 1 - i if k.input_forget else act(0, gates[2] + sums[2] + peephole[2] * c[n])
                c[n] = f * c[n] + i * act(1, gates[3] + sums[3])
                h[n] = act(0, gates[1] + sums[1] + peephole[1] * c[n]) * body(k.activations[2], [c[n]])
            elif k.cell == "GRU":
                z, reset = act(0, gates[0] + sums[0]), act(0, gates[1] + sums[1])
                inner = reset * sums[2] if k.linear_before_reset else (r @ (reset * h[n]) + rb).reshape(k.gates, k.hidden)[2]
                h[n] = (1 - z) * act(1, gates[2] + inner) + z * h[n]
            else:
                h[n] = act(0, gates[0] + sums[0])
            y[t, n] = h[n]


RUN = {spec.Map: run_map, spec.Gather: run_gather, spec.Scatter: run_scatter, spec.Reduce: run_reduce, spec.Arg: run_arg, spec.Norm: run_norm, spec.Linear: run_linear,
       spec.Conv: run_conv, spec.Depthwise: run_depthwise, spec.WinogradInput: run_winograd_input, spec.WinogradOutput: run_winograd_output, spec.MatMul: run_matmul, spec.Attention: run_attention, spec.Recurrent: run_recurrent}


def run_kernel(kernel, *args: np.ndarray) -> None:
    """One kernel on flat arrays, in the order of the C function's parameters."""
    RUN[type(kernel)](kernel, *args)


POISON = 0xFF  # bytes of NaN, -1, or a bool that is none


class Machine:
    """A plan in numpy: one arena of bytes, one block of weights. What a step has not written yet is NaN."""

    def __init__(self, plan: Plan, weights: dict[str, np.ndarray]):
        self.plan = plan
        self.arena = np.full(plan.arena_bytes, POISON, np.uint8)
        self.arena[:plan.state_bytes] = 0
        self.weights = np.zeros(plan.weights_bytes + 256, np.uint8)
        for c in plan.constants:
            self.weights[c.offset:c.offset + c.nbytes] = np.frombuffer(weights[c.name].tobytes(), np.uint8)

    def flat(self, buffer, offset: int = 0) -> np.ndarray:
        """From element `offset` of a buffer to its end."""
        space = self.weights if buffer.space == "weights" else self.arena
        return space[buffer.offset:buffer.offset + buffer.nbytes].view(buffer.dtype)[offset:]

    def run(self, entry: Entry, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        buffers = self.plan.buffers(entry)
        for p in entry.inputs:
            self.flat(buffers[p.buffer])[...] = np.asarray(inputs[p.name], p.dtype).reshape(-1)
        fresh = {b.name for b in entry.buffers} - {p.buffer for p in entry.inputs}
        for step in entry.steps:
            for name in fresh & {r.buffer for r in step.args}:
                self.flat(buffers[name]).view(np.uint8)[...] = POISON
                fresh.remove(name)
            run_kernel(step.kernel, *(self.flat(buffers[r.buffer], r.offset) for r in step.args))
        for state, source in entry.updates:
            self.flat(buffers[state])[...] = self.flat(buffers[source])
        return {p.name: self.flat(buffers[p.buffer]).reshape(p.shape).copy() for p in entry.outputs}
