"""Strided views of buffers: what numpy does for arrays, done for places in the arena, before anything runs."""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod


@dataclass(frozen=True)
class View:
    """Elements of `buffer` at offset + sum of index * stride; offset and strides in elements."""

    buffer: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def contiguous(self) -> bool:
        """Row-major without gaps, whatever the strides of axes of extent 1."""
        return all(n == 1 or s == e for n, s, e in zip(self.shape, self.strides, row_major(self.shape), strict=True))

    def transpose(self, order: Sequence[int]) -> "View":
        return replace(self, shape=tuple(self.shape[a] for a in order), strides=tuple(self.strides[a] for a in order))

    def slice(self, axis: int, start: int, count: int, step: int = 1) -> "View":
        """`count` elements of an axis from `start` on, `step` apart (negative runs backwards)."""
        return replace(self, offset=self.offset + start * self.strides[axis],
                       shape=_put(self.shape, axis, count), strides=_put(self.strides, axis, self.strides[axis] * step))

    def broadcast(self, shape: Sequence[int]) -> "View":
        """ONNX (numpy) broadcasting to `shape`."""
        if self.shape == tuple(shape):
            return self
        extra = len(shape) - len(self.shape)
        strides = [0] * extra + [0 if n == 1 else s for n, s in zip(self.shape, self.strides, strict=True)]
        return replace(self, shape=tuple(shape), strides=tuple(strides))

    def reshape(self, shape: Sequence[int]) -> "View | None":
        """The same elements in row-major order under another shape, or None where strides cannot say that."""
        shape = tuple(shape)
        if prod(shape) == 0:
            return replace(self, shape=shape, strides=row_major(shape))
        old = [(n, s) for n, s in zip(self.shape, self.strides, strict=True) if n != 1]
        strides: list[int] = []
        i = 0
        for part in _blocks([n for n, _ in old], shape):
            taken, new = part
            run = old[i:i + taken]
            i += taken
            if any(a[1] != b[1] * b[0] for a, b in pairwise(run)):
                return None
            step = run[-1][1] if run else 0
            block = []
            for n in reversed(new):
                block.append(step)
                step *= n
            strides.extend(reversed(block))
        return replace(self, shape=shape, strides=tuple(strides))


def _put(values: tuple[int, ...], at: int, value: int) -> tuple[int, ...]:
    return (*values[:at], value, *values[at + 1:])


def _blocks(old: list[int], new: tuple[int, ...]) -> list[tuple[int, list[int]]]:
    """Splits both shapes into the shortest runs of equal size: (number of old axes, new axes)."""
    out: list[tuple[int, list[int]]] = []
    i = 0
    block: list[int] = []
    size = have = 1
    taken = 0
    for n in new:
        block.append(n)
        size *= n
        while have < size:
            have *= old[i]
            i, taken = i + 1, taken + 1
        if have == size:
            out.append((taken, block))
            block, taken, size, have = [], 0, 1, 1
    if block:
        out.append((taken, block))
    return out


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def collapse(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The shortest iteration space that visits the same elements in the same order for all operands.

    strides: one sequence per operand. Axes of extent 1 go, neighbours whose strides continue each other merge.
    """
    axes = [(n, tuple(s[a] for s in strides)) for a, n in enumerate(shape) if n != 1]
    merged: list[tuple[int, tuple[int, ...]]] = []
    for n, s in axes:
        if merged and all(before == here * n for before, here in zip(merged[-1][1], s, strict=True)):
            merged[-1] = (merged[-1][0] * n, s)
        else:
            merged.append((n, s))
    return tuple(n for n, _ in merged), [tuple(s[k] for _, s in merged) for k in range(len(strides))]
