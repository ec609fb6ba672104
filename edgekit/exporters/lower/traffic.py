"""The bytes that a layer has to move: what the roofline of a layer is drawn from (Williams, Waterman and Patterson 2009).

Counted is what an ideal program moves: every operand once. What one step of a layer leaves for the next (a padded copy of
its input, phases) is not among it, so that such a copy shows as time lost.
"""
from collections import defaultdict
from dataclasses import dataclass
from math import prod

import numpy as np

from edgekit.exporters.kernels import spec
from edgekit.exporters.kernels.spec import Tensor
from edgekit.exporters.lower.plan import Entry, Plan, Step


@dataclass(frozen=True)
class Traffic:
    """Bytes of a step. activations: read and written in the arena; weights: read; rounds: how often it goes through the
    weights (the steps of a recurrent layer)."""

    activations: int
    weights: int
    rounds: int


def traffic(plan: Plan, entry: Entry) -> tuple[Traffic, ...]:
    """One for each step of the entry."""
    buffers = plan.buffers(entry)
    users: dict[str, set[str | None]] = defaultdict(set)  # the layers that touch a buffer; the world outside is one
    for s in entry.steps:
        for a in s.args:
            users[a.buffer].add(s.name)
    for outside in (*(p.buffer for p in (*entry.inputs, *entry.outputs)), *(b.name for b in plan.state_buffers)):
        users[outside].add(None)
    seen: set[tuple[str, str, int]] = set()
    found = []
    for s in entry.steps:
        moved = {"arena": 0, "weights": 0}
        for ref, nbytes in zip(s.args, _touched(s, [buffers[a.buffer].nbytes for a in s.args]), strict=True):
            space, place = buffers[ref.buffer].space, (s.name, ref.buffer, ref.offset)
            if place not in seen and (space == "weights" or len(users[ref.buffer]) > 1):
                moved[space] += nbytes
            seen.add(place)
        found.append(Traffic(moved["arena"], moved["weights"], s.kernel.steps if isinstance(s.kernel, spec.Recurrent) else 1))
    return tuple(found)


def _touched(step: Step, whole: list[int]) -> list[int]:
    """Bytes of each argument that the kernel touches: those of its strided operands, which come last; else the buffer."""
    tail = [prod(n for n, s in zip(shape, t.strides, strict=True) if s) * np.dtype(t.dtype).itemsize
            for t, shape in strided(step.kernel)]
    return whole[:len(whole) - len(tail)] + [min(a, b) for a, b in zip(whole[len(whole) - len(tail):], tail, strict=True)]


def strided(k: spec.Kernel) -> list[tuple[Tensor, tuple[int, ...]]]:
    """The last operands of a kernel with the extents that they are walked over."""
    match k:
        case spec.Map():
            return [(t, k.shape) for t in (*k.inputs, k.output)]
        case spec.Reduce():
            return [*((t, k.shape) for t in k.inputs), *((t, k.shape[:k.outer]) for t in (*k.extras, k.output))]
        case spec.Arg():
            return [(k.x, k.shape), (k.output, k.shape[:-1])]
        case spec.Norm():
            return [(t, k.shape) for t in (k.x, *k.extras, k.output)]
        case spec.Gather():
            return [(t, k.shape) for t in (k.x, k.index, k.output)]
        case spec.Conv():
            return [(t, (k.channels, *k.spatial)) for t in (*k.extras, k.output)]
        case spec.Depthwise() | spec.WinogradOutput():
            return [(t, (k.batch, k.channels, *k.spatial)) for t in (*k.extras, k.output)]
        case spec.Linear():
            return [(t, (k.rows, k.outputs)) for t in (*k.extras, k.output)]
        case spec.MatMul():
            wide = [(t, (*k.batch, k.m, k.n)) for t in (*k.extras, k.output)]
            return [(k.a, (*k.batch, k.m, k.k)), (k.b, (*k.batch, k.k, k.n)), *wide]
        case spec.Attention():
            rows = [(k.q, (k.m, k.depth)), (k.key, (k.n, k.depth)), (k.value, (k.n, k.width)), *((t, (k.m, k.n)) for t in k.masks),
                    *((t, (k.m, k.width)) for t in (*k.extras, k.output))]
            return [(t, (*k.batch, *shape)) for t, shape in rows]
    return []
