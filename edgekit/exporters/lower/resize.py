"""Resize: along one axis after the other, every output a weighted sum of a few neighbours, all of them known beforehand."""
from collections.abc import Callable, Sequence
from math import ceil, floor

import numpy as np

from edgekit.exporters.lower.builder import Builder, Node
from edgekit.exporters.lower.movement import ints, take
from edgekit.exporters.lower.values import Value


def source_positions(node: Node, n: int, out: int, scale: float, roi: tuple[float, float]) -> np.ndarray:
    """Where in the input each output of an axis lies."""
    mode = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    x = np.arange(out, dtype=np.float64)
    wanted = scale * n  # not rounded
    if mode == "half_pixel":
        return (x + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        return n / 2 * (1 - out / wanted) + (x + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return (x + 0.5) / scale - 0.5 if out > 1 else np.zeros(out)
    if mode == "align_corners":
        return x * (n - 1) / (wanted - 1) if wanted != 1 and out > 1 else np.zeros(out)
    if mode == "asymmetric":
        return x / scale
    if mode == "tf_crop_and_resize":
        start, end = roi
        return start * (n - 1) + x * (end - start) * (n - 1) / (wanted - 1) if out > 1 else np.full(out, 0.5 * (start + end) * (n - 1))
    raise node.unsupported(f"coordinate_transformation_mode {mode!r}", "use half_pixel, asymmetric or align_corners")


def _nearest(node: Node, position: np.ndarray) -> np.ndarray:
    mode = node.attrs.get("nearest_mode", "round_prefer_floor")
    rules: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "round_prefer_floor": lambda p: np.ceil(p - 0.5), "round_prefer_ceil": lambda p: np.floor(p + 0.5), "floor": np.floor, "ceil": np.ceil}
    if mode not in rules:
        raise node.unsupported(f"nearest_mode {mode!r}", "use one of " + ", ".join(rules))
    return rules[mode](position).astype(np.int64)


def _kernel(mode: str, distance: np.ndarray, a: float) -> np.ndarray:
    """Weight of a neighbour at a distance: a triangle, or Keys' cubic."""
    d = np.abs(distance)
    if mode == "linear":
        return np.maximum(0, 1 - d)
    return np.where(d <= 1, ((a + 2) * d - (a + 3)) * d * d + 1, np.where(d < 2, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a, 0))


def taps(node: Node, n: int, position: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """(index, weight) of the neighbours of every output, both (neighbours, outputs). Weights sum to 1."""
    mode = node.attrs.get("mode", "nearest")
    if mode == "nearest":
        return np.clip(_nearest(node, position), 0, n - 1)[None], np.ones((1, len(position)))
    if mode not in ("linear", "cubic"):
        raise node.unsupported(f"mode {mode!r}", "use nearest, linear or cubic")
    shrink = min(scale, 1.0) if node.attrs.get("antialias", 0) else 1.0
    reach = (1 if mode == "linear" else 2) / shrink
    base = np.floor(position).astype(np.int64)
    at = base + np.arange(floor(-reach) + 1, ceil(reach) + 1)[:, None]
    weight = _kernel(mode, (at - position) * shrink, node.attrs.get("cubic_coeff_a", -0.75))
    if node.attrs.get("exclude_outside", 0):
        weight = np.where((at >= 0) & (at < n), weight, 0)
    used = (weight != 0).any(1)
    at, weight = at[used], weight[used]
    return np.clip(at, 0, n - 1), weight / weight.sum(0)


def along(b: Builder, x: Value, axis: int, at: np.ndarray, weight: np.ndarray, outside: np.ndarray, fill: float) -> Value:
    """The weighted sum of gathered neighbours along an axis; `fill` where `outside`."""
    shape = tuple(at.shape[1] if a == axis else n for a, n in enumerate(x.shape))
    row = [at.shape[1] if a == axis else 1 for a in range(len(shape))]
    total: Value | None = None
    for k in range(len(at)):
        part = take(b, x, axis, at[k])
        if len(at) > 1:
            part = b.apply("mul", part, b.of_array(weight[k].astype(x.dtype).reshape(row)), dtype=x.dtype, shape=shape)
        total = part if total is None else b.apply("add", total, part, dtype=x.dtype, shape=shape)
    assert total is not None
    if outside.any():
        total = b.apply("where", b.of_array(outside.reshape(row)), b.of_array(np.asarray(fill, x.dtype)), total, dtype=x.dtype, shape=shape)
    return total


def _floats(b: Builder, node: Node, k: int) -> Sequence[float] | None:
    name = node.input(k)
    if not name:
        return None
    array = b.array(name)
    if array is None:
        raise node.unsupported(f"input {k} ({name}) is computed at run time", "make it a constant: shapes are fixed when compiling")
    return [float(v) for v in array.reshape(-1)] or None


def resize(b: Builder, node: Node) -> None:
    x, shape = b.value(node.input(0)), b.shape(node.output(0))
    rank = len(shape)
    roi, scales, sizes = _floats(b, node, 1), _floats(b, node, 2), ints(b, node, 3)
    axes = [a % rank for a in node.attrs.get("axes", range(rank))]
    policy = node.attrs.get("keep_aspect_ratio_policy", "stretch")
    ratio = [shape[a] / x.shape[a] for a in axes]
    if sizes and policy != "stretch":
        wanted = [s / x.shape[a] for s, a in zip(sizes, axes, strict=True)]
        ratio = [min(wanted) if policy == "not_larger" else max(wanted)] * len(axes)
    whole = not x.dtype.startswith("float")
    dtype = x.dtype
    if whole and node.attrs.get("mode", "nearest") != "nearest":
        x = b.apply("cast", x, dtype="float32", shape=x.shape)
    for k, axis in enumerate(axes):
        n, scale = x.shape[axis], scales[k] if scales else ratio[k]
        window = (roi[k], roi[k + len(axes)]) if roi else (0.0, 1.0)
        crop = node.attrs.get("coordinate_transformation_mode", "") == "tf_crop_and_resize"
        if scale == 1 and shape[axis] == n and not crop:
            continue
        position = source_positions(node, n, shape[axis], scale, window)
        outside = (position < 0) | (position > n - 1) if crop else np.zeros(len(position), bool)
        at, weight = taps(node, n, position, scale)
        x = along(b, x, axis, at, weight, outside, node.attrs.get("extrapolation_value", 0.0))
    if x.dtype != dtype:
        x = b.apply("cast", b.apply("round", x, dtype=x.dtype, shape=shape), dtype=dtype, shape=shape)
    b.set(node.output(0), x)


OPERATORS = {"Resize": resize}
