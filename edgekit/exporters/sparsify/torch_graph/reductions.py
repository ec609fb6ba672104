"""Operators that bring axes down to one value: reductions, normalisations, pools."""
from collections.abc import Callable, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.exporters.sparsify.torch_graph.node import Node, NotInTorch, Result
from edgekit.exporters.sparsify.torch_graph.products import padded, window_pads

_MAX: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEAN: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _product(x: Tensor, axes: Sequence[int]) -> Tensor:
    for a in axes:
        x = torch.prod(x, a, keepdim=True)
    return x


def _mean(x: Tensor, axes: Sequence[int]) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, axes, keepdim=True)
    total = torch.sum(x, axes, keepdim=True, dtype=x.dtype)
    return torch.div(total, prod(x.shape[a] for a in axes), rounding_mode="trunc")


def _sum(x: Tensor, axes: Sequence[int]) -> Tensor:
    return torch.sum(x, axes, keepdim=True, dtype=x.dtype)


_KINDS: dict[str, Callable[[Tensor, Sequence[int]], Tensor]] = {
    "ReduceSum": _sum, "ReduceMean": _mean, "ReduceProd": _product,
    "ReduceMax": lambda x, axes: torch.amax(x, axes, keepdim=True), "ReduceMin": lambda x, axes: torch.amin(x, axes, keepdim=True),
    "ReduceL1": lambda x, axes: _sum(x.abs(), axes), "ReduceL2": lambda x, axes: torch.linalg.vector_norm(x, 2, axes, True),
    "ReduceSumSquare": lambda x, axes: _sum(x * x, axes), "ReduceLogSum": lambda x, axes: torch.log(_sum(x, axes)),
    "ReduceLogSumExp": lambda x, axes: torch.logsumexp(x, axes, True),
}


def reduce(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    which = node.ints(1, "axes")
    if not which:
        which = [] if node.attrs.get("noop_with_empty_axes", 0) else list(range(x.ndim))
    which = [a % x.ndim for a in which]
    if not which:  # no axis is not all of them, as torch has it
        x, which = x.unsqueeze(-1), [x.ndim]
    if x.dtype == torch.bool or not x.is_floating_point() and node.op in ("ReduceL2", "ReduceLogSum", "ReduceLogSumExp"):
        raise NotInTorch("element type")
    return _KINDS[node.op](x, which).reshape(node.shapes[0])


def arg(node: Node, x: Tensor) -> Tensor:
    axis, last = node.attrs.get("axis", 0), node.attrs.get("select_last_index", 0)
    at = (torch.argmax if node.op == "ArgMax" else torch.argmin)(x.flip(axis) if last else x, axis)
    return (x.shape[axis] - 1 - at if last else at).reshape(node.shapes[0])


def softmax(node: Node, x: Tensor) -> Tensor:
    return (F.softmax if node.op == "Softmax" else F.log_softmax)(x, node.attrs.get("axis", -1))


def layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Result:
    """LayerNormalization, RMSNormalization."""
    axes = list(range(node.attrs.get("axis", -1) % x.ndim, x.ndim))
    mean = x.mean(axes, keepdim=True) if node.op == "LayerNormalization" else torch.zeros_like(x.mean(axes, keepdim=True))
    away = x - mean
    inverse = torch.rsqrt((away * away).mean(axes, keepdim=True) + node.attrs.get("epsilon", 1e-5))
    y = away * inverse * scale
    y = y if bias is None else y + bias
    return (y, mean, inverse)[:len(node.outputs)]


def _normalised(x: Tensor, axes: Sequence[int], epsilon: float) -> Tensor:
    away = x - x.mean(tuple(axes), keepdim=True)
    return away * torch.rsqrt((away * away).mean(tuple(axes), keepdim=True) + epsilon)


def instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    channel = (-1, *[1] * (x.ndim - 2))
    y = _normalised(x, range(2, x.ndim), node.attrs.get("epsilon", 1e-5))
    return y * scale.reshape(channel) + bias.reshape(channel)


def group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups, channel = node.attrs["num_groups"], (-1, *[1] * (x.ndim - 2))
    parts = x.reshape(x.shape[0], groups, -1)
    y = _normalised(parts, [2], node.attrs.get("epsilon", 1e-5)).reshape(x.shape)
    return y * scale.reshape(channel) + bias.reshape(channel)


def lp_norm(node: Node, x: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, node.attrs.get("p", 2), node.attrs.get("axis", -1), True)
    return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, torch.ones_like(norm), norm))


def lrn(node: Node, x: Tensor) -> Tensor:
    """Across channels, size windows: (size - 1) // 2 before, the rest behind."""
    size, (n, c) = node.attrs["size"], x.shape[:2]
    before = (size - 1) // 2
    squares = F.pad((x * x).reshape(n, c, -1).transpose(1, 2), (before, size - 1 - before))
    total = squares.unfold(-1, size, 1).sum(-1).transpose(1, 2).reshape(x.shape)
    scale = node.attrs.get("bias", 1.0) + node.attrs.get("alpha", 1e-4) / size * total
    return x / scale ** node.attrs.get("beta", 0.75)


def global_pool(node: Node, x: Tensor) -> Tensor:
    axes = list(range(2, x.ndim))
    if node.op == "GlobalAveragePool":
        return x.mean(axes, keepdim=True)
    if node.op == "GlobalMaxPool":
        return torch.amax(x, axes, keepdim=True)
    return torch.linalg.vector_norm(x, node.attrs.get("p", 2), axes, True)


def pool(node: Node, x: Tensor) -> Tensor:
    """MaxPool, AveragePool, LpPool. Padding is written out; what an average counts is averaged like the image."""
    r = x.ndim - 2
    kernel, stride = node.attrs["kernel_shape"], node.attrs.get("strides", [1] * r)
    dilation = node.attrs.get("dilations", [1] * r)
    if len([o for o in node.outputs if o]) > 1 or node.attrs.get("storage_order", 0) or r not in _MAX or not x.is_floating_point():
        raise NotInTorch("this form of a pool")
    pads = window_pads(node, x.shape[2:], kernel, stride, dilation)
    if node.op == "MaxPool":
        return _MAX[r](padded(x, pads, -torch.inf), kernel, stride, 0, dilation)
    if any(d > 1 for d in dilation):
        raise NotInTorch("dilated averages")
    if node.op == "LpPool":
        p = node.attrs.get("p", 2)
        return (_MEAN[r](padded(x.abs() ** p, pads), kernel, stride, 0) * prod(kernel)) ** (1 / p)
    counted = x.new_ones(1, 1, *x.shape[2:])
    if node.attrs.get("count_include_pad", 0):
        ends = node.attrs.get("pads", [0] * 2 * r)
        own = [(lo, max(hi, 0) if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "") else ends[a + r])
               for a, (lo, hi) in enumerate(pads)]
        counted = padded(counted, own, 1.0)
        pads_of_counted = [(0, hi - more) for (_, hi), (_, more) in zip(pads, own)]
    else:
        pads_of_counted = pads
    share = _MEAN[r](padded(counted, pads_of_counted), kernel, stride, 0)
    return _MEAN[r](padded(x, pads), kernel, stride, 0) / share


OPERATORS: dict[str, Callable[..., Result]] = {
    **dict.fromkeys(_KINDS, reduce), **dict.fromkeys(("ArgMax", "ArgMin"), arg), **dict.fromkeys(("Softmax", "LogSoftmax"), softmax),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), layer_norm), "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm, "LpNormalization": lp_norm, "LRN": lrn,
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), global_pool),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), pool),
}
