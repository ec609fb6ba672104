"""Convolutions whose output channels read one input channel each, over images as they lie: nothing is padded or copied."""
from dataclasses import replace
from math import prod

import numpy as np

from edgekit.exporters.kernels import spec
from edgekit.exporters.kernels.spec import Tensor
from edgekit.exporters.lower.builder import Builder
from edgekit.exporters.lower.products import rooted, tensors
from edgekit.exporters.lower.values import Value
from edgekit.exporters.lower.views import View
from edgekit.exporters.lower.weights import packed_dense

UNROLLED = 512  # FMAs of one vector that the kernel writes out


def fits(kernel, stride, dilation) -> bool:
    """Whether the depthwise kernel takes it: one or two spatial axes, strides 1 and 2, and not too much to unroll."""
    reach = (kernel[0] - 1) * dilation[0] + 1 if len(kernel) == 2 else 1
    return len(kernel) <= 2 and max(stride) <= 2 and prod(kernel) * reach <= UNROLLED


def depthwise(b: Builder, x: Value, w: np.ndarray, bias, kernel, stride, dilation, pads, shape, op: str) -> Value:
    """w (outputs, taps) over x (N, C, *spatial) -> a value of `shape`; output c reads channel c // (outputs / C)."""
    n, outputs, *out = shape
    p = packed_dense(b, w, bias, 1)
    node = b.node

    def rows(v: View) -> View:
        """One spatial axis is an image of one row."""
        return v if len(kernel) == 2 else replace(v, shape=(*v.shape[:2], 1, v.shape[2]), strides=(*v.strides[:2], 0, v.strides[2]))

    def pair(values, of_one_row: int) -> tuple[int, int]:
        return (of_one_row, values[0]) if len(kernel) == 1 else (values[0], values[1])
    image = rows(b.lined(x, x.shape))
    by_batch, by_channel, by_row, _ = image.strides

    def emit(post, extras, target, ops):
        kernel_spec = spec.Depthwise(n, outputs, outputs // x.shape[1], pair(kernel, 1), pair(stride, 1), pair(dilation, 1),
                                     pair([before for before, _ in pads], 0), pair(x.shape[2:], 1), pair(out, 1), (by_batch, by_channel, by_row),
                                     tensors(extras), post, Tensor(target.dtype, target.strides))
        b.step(kernel_spec, [image, *p.operands, *extras, target], node=node, ops=ops, macs=prod(shape) * p.kept)
    return rooted(shape, emit, rows, op)
