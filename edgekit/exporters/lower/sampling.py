"""GridSample, DFT and STFT: samples of a grid where the data says, and transforms as products with constant matrices."""
from itertools import product as cartesian
from math import prod

import numpy as np

from edgekit.exporters.kernels import spec
from edgekit.exporters.kernels.spec import Tensor
from edgekit.exporters.lower.builder import Builder, Node
from edgekit.exporters.lower.matmul import matmul_values
from edgekit.exporters.lower.movement import ints
from edgekit.exporters.lower.selection import calc, kept, where
from edgekit.exporters.lower.values import Value, of_view
from edgekit.exporters.lower.views import View, row_major

# -- grid sample -----------------------------------------------------------------------------------------------------


def _reflected(b: Builder, x: Value, low: float, high: float) -> Value:
    """x folded back into [low, high] as often as it takes."""
    span = high - low
    if span == 0:
        return calc(b, "clip", x, attrs=(low, high))
    away = kept(b, calc(b, "mod", calc(b, "sub", x, low), 2 * span))
    return calc(b, "add", where(b, calc(b, "greater", away, span, dtype="bool"), calc(b, "sub", away, calc(b, "mul", calc(
        b, "sub", away, span), 2)), away), low)


def _cubic(b: Builder, t: Value, a: float = -0.75) -> list[Value]:
    """Keys' weights of the neighbours at -1, 0, 1, 2 of a point at t in [0, 1)."""
    def near(d: Value) -> Value:
        return calc(b, "add", calc(b, "mul", calc(b, "mul", calc(b, "sub", calc(b, "mul", d, a + 2), a + 3), d), d), 1)

    def far(d: Value) -> Value:
        inner = calc(b, "add", calc(b, "mul", calc(b, "sub", calc(b, "mul", d, a), 5 * a), d), 8 * a)
        return calc(b, "sub", calc(b, "mul", inner, d), 4 * a)
    rest = kept(b, calc(b, "add", calc(b, "neg", t), 1))
    return [kept(b, w) for w in (far(kept(b, calc(b, "add", t, 1))), near(t), near(rest), far(kept(b, calc(b, "add", rest, 1))))]


def _axis_taps(b: Builder, node: Node, grid: Value, n: int) -> list[tuple[Value, Value]]:
    """(int32 index within the axis, weight) of the neighbours of each sample along one axis of n elements."""
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(node.attrs.get("mode", "linear"), node.attrs.get("mode", "linear"))
    padding, corners = node.attrs.get("padding_mode", "zeros"), bool(node.attrs.get("align_corners", 0))
    low, high = (0.0, n - 1.0) if corners else (-0.5, n - 0.5)
    position = calc(b, "add", calc(b, "mul", calc(b, "add", grid, 1), (high - low) / 2), low)
    if mode == "nearest":
        position = calc(b, "round", position)
    if padding == "border":
        position = calc(b, "clip", position, attrs=(0.0, n - 1.0)) if mode != "cubic" else position
    elif padding == "reflection":
        position = _reflected(b, kept(b, position), low, high) if mode != "cubic" else position
    elif padding != "zeros":
        raise node.unsupported(f"padding_mode {padding!r}", "use zeros, border or reflection")
    position = kept(b, position)
    base = kept(b, calc(b, "floor", position))
    t = kept(b, calc(b, "sub", position, base))
    if mode == "nearest":
        found = [(base, b.of_array(np.ones((), base.dtype)))]
    elif mode == "linear":
        found = [(base, kept(b, calc(b, "add", calc(b, "neg", t), 1))), (calc(b, "add", base, 1), t)]
    elif mode == "cubic":
        found = [(calc(b, "add", base, k - 1), w) for k, w in enumerate(_cubic(b, t))]
    else:
        raise node.unsupported(f"mode {mode!r}", "use linear, nearest or cubic")
    taps = []
    for at, weight in found:
        at = kept(b, at)
        if padding == "zeros":
            inside = calc(b, "and", calc(b, "greaterequal", at, 0, dtype="bool"), calc(b, "lessequal", at, n - 1, dtype="bool"), dtype="bool")
            weight = kept(b, where(b, inside, weight, 0)) if weight.inputs else kept(b, calc(b, "cast", inside, dtype=at.dtype))
        elif padding == "reflection":
            at = kept(b, _reflected(b, at, low, high))
        at = kept(b, calc(b, "cast", calc(b, "clip", at, attrs=(0.0, n - 1.0)), dtype="int32"))
        taps.append((at, weight))
    return taps


def grid_sample(b: Builder, node: Node) -> None:
    x, grid, shape = b.dense(b.value(node.input(0))), kept(b, b.value(node.input(1))), b.shape(node.output(0))
    if x.dtype != "float32" or grid.dtype != "float32":
        raise node.unsupported(f"{x.dtype} images on {grid.dtype} grids", "convert the model to float32")
    n, c, *extents = x.shape
    r, points = len(extents), prod(shape[2:])
    axes = [_axis_taps(b, node, b.reshaped(b.sliced(grid, 1 + r, r - 1 - a, 1), (n, 1, points)), extents[a]) for a in range(r)]
    steps = row_major(tuple(extents))
    total: Value | None = None
    for corner in cartesian(*axes):
        at, weight = None, None
        for (index, w), step in zip(corner, steps, strict=True):
            index = calc(b, "mul", index, step)
            at = index if at is None else calc(b, "add", at, index)
            weight = w if weight is None else calc(b, "mul", weight, w)
        assert at is not None and weight is not None
        index_view = b.memory(at).broadcast((n, c, points))
        part = b.fresh(x.dtype, (n, c, points))
        b.step(spec.Gather((n, c, points), 2, prod(extents), Tensor(x.dtype, (*x.strides[:2], 1)), Tensor("int32", index_view.strides),
                           Tensor(x.dtype, part.strides)), [x, index_view, part])
        term = calc(b, "mul", of_view(part), weight)
        total = term if total is None else calc(b, "add", total, term)
    assert total is not None
    b.set(node.output(0), b.reshaped(total, shape))


# -- Fourier ---------------------------------------------------------------------------------------------------------

def _transform(b: Builder, x: Value, matrix: np.ndarray) -> Value:
    """x (..., n, parts) times a constant (n, parts, bins, parts out), in float64: sums that cancel are 0, not noise."""
    n, parts, bins, made = matrix.shape
    rows = prod(x.shape[:-2])
    flat = calc(b, "cast", b.reshaped(x, (rows, n * parts)), dtype="float64")
    y = matmul_values(b, flat, b.of_array(np.ascontiguousarray(matrix.reshape(n * parts, bins * made), np.float64)), (rows, bins * made))
    return b.reshaped(calc(b, "cast", kept(b, y), dtype=x.dtype), (*x.shape[:-2], bins, made))


def _fourier(n: int, parts: int, bins: int, sign: int) -> np.ndarray:
    """(n, parts, bins, 2): e^(sign 2 pi i k j / n) as it acts on real and imaginary parts."""
    angle = sign * 2 * np.pi * (np.outer(np.arange(n), np.arange(bins)) % n) / n
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)[:, :parts]


def _real_inverse(n: int) -> np.ndarray:
    """(n // 2 + 1, 2, n, 1): the real signal of half a spectrum, whose other half is its mirror image."""
    half = _fourier(n, 2, n // 2 + 1, 1)[..., 0].transpose(2, 1, 0)  # (bins, 2, n)
    twice = np.array([1 if k == 0 or 2 * k == n else 2 for k in range(n // 2 + 1)])
    return (half * twice[:, None, None] / n)[..., None]


def dft(b: Builder, node: Node) -> None:
    x = b.value(node.input(0))
    if x.dtype not in ("float32", "float64"):
        raise node.unsupported(f"{x.dtype} signals", "cast to float32 before")
    rank = len(x.shape)
    axis = (ints(b, node, 2) or [node.attrs.get("axis", -2)])[0] % rank
    inverse, onesided = bool(node.attrs.get("inverse", 0)), bool(node.attrs.get("onesided", 0))
    order = [a for a in range(rank) if a not in (axis, rank - 1)] + [axis, rank - 1]
    length = ints(b, node, 1)
    x = b.transposed(x, order)
    n = length[0] if length else 2 * (x.shape[-2] - 1) if inverse and onesided else x.shape[-2]
    x = _of_length(b, x, n // 2 + 1 if inverse and onesided else n)
    if inverse and onesided:
        matrix = _real_inverse(n)
    else:
        matrix = _fourier(n, x.shape[-1], n // 2 + 1 if onesided else n, 1 if inverse else -1) / (n if inverse else 1)
    b.set(node.output(0), b.transposed(_transform(b, x, matrix), [order.index(a) for a in range(rank)]))


def _of_length(b: Builder, x: Value, n: int) -> Value:
    """x (..., have, parts) cut or filled up with zeros to (..., n, parts)."""
    axis, have = len(x.shape) - 2, x.shape[-2]
    if n <= have:
        return b.sliced(x, axis, 0, n)
    padded = b.fresh(x.dtype, (*x.shape[:-2], n, x.shape[-1]))
    b.write(x, padded.slice(axis, 0, have))
    b.fill(padded.slice(axis, have, n - have), 0.0)
    return of_view(padded)


def stft(b: Builder, node: Node) -> None:
    x = b.value(node.input(0))
    step, shape = (ints(b, node, 1) or [0])[0], b.shape(node.output(0))
    signal = b.dense(x if len(x.shape) == 3 else b.reshaped(x, (*x.shape, 1)))
    batch, _, parts = signal.shape
    taps = b.value(node.input(2)) if node.input(2) else None
    n = taps.shape[0] if taps is not None else (ints(b, node, 3) or [0])[0]
    frames = View(signal.buffer, signal.dtype, signal.offset, (batch, shape[1], n, parts), (signal.strides[0], step * parts, parts, 1))
    y = of_view(frames)
    if taps is not None:
        y = calc(b, "mul", y, b.reshaped(taps, (n, 1)))
    b.set(node.output(0), _transform(b, y, _fourier(n, parts, shape[2], -1)))


OPERATORS = {"GridSample": grid_sample, "DFT": dft, "STFT": stft}
