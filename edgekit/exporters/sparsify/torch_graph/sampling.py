"""Operators that read images between their points."""
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.exporters.sparsify.torch_graph.node import Node, NotInTorch, Result


def resize(node: Node, x: Tensor, *how: Tensor | None) -> Tensor:
    """Along one axis after the other a matrix, which is what the operator makes of the unit matrix."""
    attrs = node.attrs
    known = attrs.get("keep_aspect_ratio_policy", "stretch"), attrs.get("coordinate_transformation_mode", "half_pixel")
    if known[0] != "stretch" or known[1] == "tf_crop_and_resize" or not x.is_floating_point():
        raise NotInTorch("this form of a Resize")
    axes = [a % x.ndim for a in attrs.get("axes", range(x.ndim))]
    scales = node.constant(2)
    for k, axis in enumerate(axes):
        have, out = x.shape[axis], node.shapes[0][axis]
        scale = None if scales is None or not scales.size else float(scales.reshape(-1)[k])
        if have != out or scale not in (None, 1.0):
            x = (x.movedim(axis, -1) @ _matrix(node, have, out, scale).to(x)).movedim(-1, axis)
    return x


def _matrix(node: Node, have: int, out: int, scale: float | None) -> Tensor:
    """(have, out): the weights of an axis that is resized."""
    from onnx import TensorProto

    from edgekit.exporters.load.evaluate import evaluate

    attrs = {k: v for k, v in node.attrs.items() if k not in ("axes", "keep_aspect_ratio_policy")}
    unit = np.eye(have, dtype=np.float32).reshape(1, have, have, 1)
    how = [np.array([1, 1, scale, 1], np.float32)] if scale else [None, np.array([1, have, out, 1], np.int64)]
    found = evaluate("Resize", [unit, None, *how], attrs, [(TensorProto.FLOAT, (1, have, out, 1))], 21)
    if found is None:
        raise NotInTorch("this form of a Resize")
    return torch.from_numpy(found[0].reshape(have, out))


def grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    mode = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}[node.attrs.get("mode", "linear")]
    if x.ndim not in (4, 5) or x.ndim == 5 and mode == "bicubic":
        raise NotInTorch("rank")
    return F.grid_sample(x, grid, mode, node.attrs.get("padding_mode", "zeros"), bool(node.attrs.get("align_corners", 0)))


OPERATORS: dict[str, Callable[..., Result]] = {"GridSample": grid_sample, "Resize": resize}
