"""Operators that move elements: shapes, slices, joins, gathers, scatters, orders."""
from collections.abc import Callable
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.exporters.sparsify.torch_graph.node import Node, NotInTorch, Result


def reshape(node: Node, x: Tensor, *shape: Tensor) -> Tensor:
    return x.reshape(node.shapes[0])


def expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(node.shapes[0])


def tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(node.ints(1) or [])


def transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(tuple(node.attrs.get("perm", range(x.ndim - 1, -1, -1))))


def concat(node: Node, *parts: Tensor) -> Tensor:
    return torch.cat(parts, node.attrs["axis"])


def split(node: Node, x: Tensor, *sizes: Tensor) -> Result:
    axis = node.attrs.get("axis", 0)
    return torch.split(x, [shape[axis] for shape in node.shapes], axis)


def slice_(node: Node, x: Tensor, *where: Tensor) -> Tensor:
    starts, ends = node.ints(1) or [], node.ints(2) or []
    axes, steps = node.ints(3) or range(len(starts)), node.ints(4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        taken = range(x.shape[axis])[start:end:step] if step > 0 or end >= -x.shape[axis] else range(x.shape[axis])[start::step]
        x = _take(x, axis, taken)
    return x


def _take(x: Tensor, axis: int, at: range) -> Tensor:
    if not at:
        return x.narrow(axis, 0, 0)
    if at.step < 0:
        return _take(x, axis, at[::-1]).flip(axis)
    x = x.narrow(axis, at[0], at[-1] + 1 - at[0])
    return x if at.step == 1 else x[(slice(None),) * (axis % x.ndim) + (slice(None, None, at.step),)]


def pad(node: Node, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    given = node.ints(1) or []
    which = [a % x.ndim for a in node.ints(3) or range(x.ndim)]
    low, high = [0] * x.ndim, [0] * x.ndim
    for k, a in enumerate(which):
        low[a], high[a] = given[k], given[k + len(which)]
    mode = node.attrs.get("mode", "constant")
    if mode == "constant":
        ends = [n for lo, hi in zip(low[::-1], high[::-1]) for n in (lo, hi)]
        known = node.known[2] if value is not None else np.zeros(1)
        if known is None:
            return torch.where(F.pad(torch.ones_like(x, dtype=torch.bool), ends), F.pad(x, ends), value)
        fill = known.reshape(-1)[0]
        return F.pad(x, ends, value=float(fill) if x.is_floating_point() else int(fill))
    for a, (lo, hi) in enumerate(zip(low, high)):
        if lo or hi:
            at = np.pad(np.arange(x.shape[a]), (max(lo, 0), max(hi, 0)), mode)  # edge, reflect, wrap: the same words
            at = at[max(-lo, 0):len(at) - max(-hi, 0)]
            x = x.index_select(a, torch.from_numpy(at).to(x.device))
    return x


def gather(node: Node, x: Tensor, index: Tensor) -> Tensor:
    axis, known = node.attrs.get("axis", 0) % x.ndim, node.known[1]
    if known is not None and known.ndim == 0:
        return x.select(axis, int(known))
    if known is not None and known.size and known.ndim == 1 and (np.diff(known) == 1).all() and known[0] >= 0:
        return x.narrow(axis, int(known[0]), len(known))
    return x[(slice(None),) * axis + (_positive(index, x.shape[axis]),)]


def _positive(index: Tensor, extent: int) -> Tensor:
    index = index.long()
    return torch.where(index < 0, index + extent, index)


def gather_elements(node: Node, x: Tensor, index: Tensor) -> Tensor:
    axis = node.attrs.get("axis", 0) % x.ndim
    return torch.gather(x, axis, _positive(index, x.shape[axis]))


def gather_nd(node: Node, x: Tensor, index: Tensor) -> Tensor:
    if node.attrs.get("batch_dims", 0):
        raise NotInTorch("batch_dims")
    flat, rest = _flat_index(index, x.shape)
    return x.reshape(-1, *rest)[flat].reshape(node.shapes[0])


def _flat_index(index: Tensor, shape: torch.Size) -> tuple[Tensor, list[int]]:
    """Index tuples (..., k) as numbers into the first k axes taken as one; and the extents of the others."""
    k = index.shape[-1]
    flat = torch.zeros_like(index[..., 0], dtype=torch.long)
    for a in range(k):
        flat = flat * shape[a] + _positive(index[..., a], shape[a])
    return flat, list(shape[k:])


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def scatter_elements(node: Node, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    axis = node.attrs.get("axis", 0) % x.ndim
    return _scatter(node, x, axis, _positive(index, x.shape[axis]), updates)


def scatter_nd(node: Node, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    flat, rest = _flat_index(index, x.shape)
    rows = flat.reshape(-1, 1).expand(-1, prod(rest))
    y = _scatter(node, x.reshape(-1, prod(rest)), 0, rows, updates.reshape(-1, prod(rest)))
    return y.reshape(x.shape)


def _scatter(node: Node, x: Tensor, axis: int, index: Tensor, updates: Tensor) -> Tensor:
    kind = node.attrs.get("reduction", "none")
    if kind == "none":
        return torch.scatter(x, axis, index, updates)
    return torch.scatter_reduce(x, axis, index, updates, _REDUCTIONS[kind], include_self=True)


def depth_to_space(node: Node, x: Tensor) -> Tensor:
    size, (n, c, h, w) = node.attrs["blocksize"], x.shape
    if node.attrs.get("mode", "DCR") == "DCR":
        y = x.reshape(n, size, size, c // size ** 2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, c // size ** 2, size, size, h, w).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(node.shapes[0])


def space_to_depth(node: Node, x: Tensor) -> Tensor:
    size, (n, c, h, w) = node.attrs["blocksize"], x.shape
    return x.reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4).reshape(node.shapes[0])


def trilu(node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = (node.ints(1) or [0])[0]
    return torch.triu(x, diagonal) if node.attrs.get("upper", 1) else torch.tril(x, diagonal)


def one_hot(node: Node, index: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    extent = (node.ints(1) or [0])[0]
    axis = node.attrs.get("axis", -1) % (index.ndim + 1)
    hot = _positive(index, extent).unsqueeze(axis) == torch.arange(extent, device=index.device).reshape(-1, *[1] * (index.ndim - axis))
    return torch.where(hot, values[1], values[0])


def cum_sum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    along = (node.ints(1) or [0])[0]
    back = node.attrs.get("reverse", 0)
    y = torch.cumsum(x.flip(along) if back else x, along, dtype=x.dtype)
    if node.attrs.get("exclusive", 0):
        y = torch.cat([torch.zeros_like(y.narrow(along, 0, 1)), y.narrow(along, 0, y.shape[along] - 1)], along)
    return y.flip(along) if back else y


def top_k(node: Node, x: Tensor, k: Tensor) -> Result:
    """A stable sort: of equal elements the first, as ONNX wants it."""
    axis, largest = node.attrs.get("axis", -1), bool(node.attrs.get("largest", 1))
    count = (node.ints(1) or [0])[0]
    index = torch.sort(x, dim=axis, descending=largest, stable=True).indices.narrow(axis, 0, count)
    return torch.gather(x, axis, index), index


def hardmax(node: Node, x: Tensor) -> Tensor:
    axis = node.attrs.get("axis", -1) % x.ndim
    first = torch.argmax(x, axis, keepdim=True)
    at = torch.arange(x.shape[axis], device=x.device).reshape(-1, *[1] * (x.ndim - 1 - axis))
    return (at == first).to(x.dtype)


def reverse_sequence(node: Node, x: Tensor, lengths: Tensor) -> Tensor:
    batch, time = node.attrs.get("batch_axis", 1), node.attrs.get("time_axis", 0)
    at = torch.arange(x.shape[time], device=x.device).reshape([-1 if a == time else 1 for a in range(x.ndim)])
    size = lengths.long().reshape([-1 if a == batch else 1 for a in range(x.ndim)])
    return torch.gather(x, time, torch.where(at < size, size - 1 - at, at).expand(x.shape))


OPERATORS: dict[str, Callable[..., Result]] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), reshape), "Concat": concat, "CumSum": cum_sum,
    "DepthToSpace": depth_to_space, "Expand": expand, "Gather": gather, "GatherElements": gather_elements, "GatherND": gather_nd,
    "Hardmax": hardmax, "OneHot": one_hot, "Pad": pad, "ReverseSequence": reverse_sequence, "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd, "Slice": slice_, "SpaceToDepth": space_to_depth, "Split": split, "Tile": tile, "TopK": top_k,
    "Transpose": transpose, "Trilu": trilu,
}
