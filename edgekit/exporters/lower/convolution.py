"""Conv, ConvTranspose: images padded and split into phases, so that a kernel's taps are offsets."""
from dataclasses import replace
from itertools import product as cartesian
from math import prod

import numpy as np

from edgekit.exporters.kernels import spec
from edgekit.exporters.kernels.spec import Tensor
from edgekit.exporters.lower import depthwise, winograd
from edgekit.exporters.lower.builder import Builder, Node
from edgekit.exporters.lower.movement import frame
from edgekit.exporters.lower.products import F, floats_only, in_float32, linear, narrowed, rooted, tensors
from edgekit.exporters.lower.values import Value, of_view
from edgekit.exporters.lower.views import View, row_major
from edgekit.exporters.lower.weights import CHANNEL_MAJOR, packed, packed_dense

NARROW = 16          # rows of fewer positions waste vectors: such an image is copied so that its positions are one row
READ_BY = 64         # where on average so many outputs read each input, which pays for the copy
COLUMNS = 4 << 20    # of at most so many elements


def conv_pads(node: Node, extents, kernel, stride, dilation) -> list[tuple[int, int]]:
    """(before, after) of every spatial axis, from `pads` or `auto_pad`."""
    auto = node.attrs.get("auto_pad", "NOTSET")
    r = len(kernel)
    if auto in ("NOTSET", ""):
        pads = node.attrs.get("pads", [0] * 2 * r)
        return [(pads[a], pads[a + r]) for a in range(r)]
    if auto == "VALID":
        return [(0, 0)] * r
    out = []
    for n, k, s, d in zip(extents, kernel, stride, dilation, strict=True):
        total = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        small, large = total // 2, total - total // 2
        out.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return out


def image(b: Builder, x: Value, pads, kernel, stride, dilation, out, fill=0.0) -> tuple[View, tuple[int, ...], tuple[int, ...]]:
    """x (N, C, *spatial) where every tap of every output lies in memory: padded, and split into phases where there are strides.

    Returns a view (N, C, *steps), and the phase and step strides of the spatial axes.
    """
    r = len(kernel)
    need = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(out, stride, kernel, dilation, strict=True)]
    inside = all(lo == 0 and n <= have for (lo, _), n, have in zip(pads, need, x.shape[2:], strict=True))
    if inside and all(s == 1 for s in stride):
        view = b.lined(x, x.shape)
        return view, (0,) * r, (*view.strides[2:-1], 1)
    phases = tuple(1 if k == 1 else min(s, n) for k, s, n in zip(kernel, stride, need, strict=True))
    steps = tuple(-(-n // s) for n, s in zip(need, stride, strict=True))
    padded = b.fresh(x.dtype, (*x.shape[:2], *phases, *steps))
    source = x if prod(phases) == 1 else of_view(b.memory(x))
    for phase in cartesian(*(range(p) for p in phases)):
        lo, hi = [], []
        for p, s, (before, _), n, q in zip(phase, stride, pads, x.shape[2:], steps, strict=True):
            lo.append(min(q, max(0, -(-(before - p) // s))))
            hi.append(max(lo[-1], min(q, (n - 1 + before - p) // s + 1)))
        plane = padded
        for a, p in enumerate(phase):
            plane = plane.slice(2 + a, p, 1)
        plane = replace(plane, shape=(*x.shape[:2], *steps), strides=(*padded.strides[:2], *padded.strides[2 + r:]))
        inner = frame(b, plane, [0, 0, *lo], [*x.shape[:2], *hi], fill)
        part = source
        for a in range(r):
            start, count, step = lo[a] * stride[a] + phase[a] - pads[a][0], hi[a] - lo[a], stride[a]
            if (start, count, step) != (0, part.shape[2 + a], 1):
                part = b.sliced(part, 2 + a, start, count, step)
        b.write(part, inner)
    view = replace(padded, shape=(*x.shape[:2], *steps), strides=(*padded.strides[:2], *padded.strides[2 + r:]))
    return view, padded.strides[2:2 + r], padded.strides[2 + r:]


def window(b: Builder, x: Value, pads, kernel, stride, dilation, out, fill) -> Value:
    """x as (N, C, *out, *kernel): every window as a view of the padded image. Overlapping windows are overlapping views."""
    ones = (1,) * len(kernel)
    reach = tuple((o - 1) * s + 1 for o, s in zip(out, stride, strict=True))  # of the first taps: phases are not split
    view, _, step = image(b, x, pads, kernel, ones, dilation, reach, fill)
    strides = (*view.strides[:2], *(q * s for q, s in zip(step, stride, strict=True)), *(q * d for q, d in zip(step, dilation, strict=True)))
    return of_view(replace(view, shape=(*view.shape[:2], *out, *kernel), strides=strides))


def columns(b: Builder, x: Value, pads, kernel, stride, dilation, out) -> View:
    """What every tap reads, as the channels of an image of its own: (N, C * taps, *out). A convolution of it is a pointwise one."""
    n, c, r = x.shape[0], x.shape[1], len(kernel)
    windows = window(b, x, pads, kernel, stride, dilation, out, 0.0)
    made = b.fresh(x.dtype, (n, c, *kernel, *out))
    b.write(b.transposed(windows, (0, 1, *range(2 + r, 2 + 2 * r), *range(2, 2 + r))), made)
    shape = (n, c * prod(kernel), *out)
    return replace(made, shape=shape, strides=row_major(shape))


def conv(b: Builder, node: Node) -> None:
    floats_only(b, node, *node.inputs[:2])
    w = b.array(node.input(1))
    if w is None:
        raise node.unsupported("the weights are computed at run time", "make them a constant of the model")
    bias = b.array(node.input(2))
    if node.input(2) and bias is None:
        raise node.unsupported("the bias is computed at run time", "add it with an Add node after the convolution")
    r = w.ndim - 2
    groups = node.attrs.get("group", 1)
    stride, dilation = node.attrs.get("strides", [1] * r), node.attrs.get("dilations", [1] * r)
    x = b.value(node.input(0))
    pads = conv_pads(node, x.shape[2:], w.shape[2:], stride, dilation)
    b.set(node.output(0), convolve(b, x, w, bias, groups, tuple(stride), tuple(dilation), pads, b.shape(node.output(0)), "Conv"))


def convolve(b: Builder, x: Value, w: np.ndarray, bias, groups: int, stride, dilation, pads, shape, op: str) -> Value:
    """w (outputs, inputs / groups, *kernel) over x (N, C, *spatial) -> a value of `shape` (N, outputs, *out)."""
    n, outputs, *out = shape
    kernel = w.shape[2:]
    flat = np.ascontiguousarray(w.reshape(outputs, -1), np.float32)
    if groups == 1 and prod(out) == 1 and tuple(x.shape[2:]) == kernel and not any(map(any, pads)):
        return linear(b, b.reshaped(x, (n, flat.shape[1])), flat, bias, shape, op)
    fan_out = outputs // groups
    if groups == x.shape[1] and depthwise.fits(kernel, stride, dilation):
        return depthwise.depthwise(b, x, flat, bias, kernel, stride, dilation, pads, shape, op)
    if groups == 1:
        p = packed(b, flat, bias, CHANNEL_MAJOR)
    else:
        p = packed_dense(b, flat, bias, max(d for d in range(1, 9) if fan_out % d == 0))
    by_tiles = groups == 1 and b.products == F
    m = winograd.tile(x.shape[1], outputs, n, out, kernel, stride, dilation, p.cost) if by_tiles else None
    if m is not None:
        view, _, _ = image(b, x, pads, kernel, stride, dilation, [-(-extent // m) * m for extent in out])
        return winograd.winograd(b, view, w, bias, m, shape, op)
    x, p = narrowed(b, x, p)
    fan_in, ones = x.shape[1] // groups, (1,) * len(kernel)
    narrow = len(out) > 1 and out[-1] < NARROW and prod(kernel) > 1 and n * prod(out) * flat.shape[1] <= COLUMNS
    if groups == 1 and narrow and p.weights >= READ_BY * flat.shape[1]:
        x = of_view(columns(b, x, pads, kernel, stride, dilation, out))
        fan_in, pads, kernel, stride, dilation = x.shape[1], ((0, 0),) * len(kernel), ones, ones, ones
    view, phase, step = image(b, x, pads, kernel, stride, dilation, out)
    node = b.node
    point = all(k == 1 for k in kernel)
    spatial = tuple(out)
    if point:  # positions need no rows
        merged = replace(view, shape=tuple(out), strides=step).reshape((prod(out),))
        if merged is not None and prod(out) > 1 and merged.strides[0] == 1:
            spatial, step, phase, kernel, stride, dilation = (prod(out),), (1,), (0,), (1,), (1,), (1,)
    if n > 1:
        spatial, step, phase = (n, *spatial), (view.strides[0], *step), (0, *phase)
        kernel, stride, dilation = (1, *kernel), (1, *stride), (1, *dilation)
    taps = prod(kernel)

    def reshape(v: View) -> View | None:
        order = (1, 0, *range(2, len(shape)))
        return v.transpose(order).reshape((outputs, *spatial))

    def emit(post, extras, target, ops):
        kernel_spec = spec.Conv(outputs, p.groups, p.v, p.kept, fan_in, fan_out, tuple(kernel), tuple(stride), tuple(dilation),
                                view.strides[1], tuple(phase), tuple(step), spatial, p.index_dtype, p.order is not None, tensors(extras),
                                post, Tensor(target.dtype, target.strides), p.starts is not None, view.dtype)
        positions = prod(spatial)
        b.step(kernel_spec, [view, *p.operands, *extras, target], node=node, ops=ops, macs=p.weights * positions,
               dense_macs=outputs * fan_in * taps * positions, sparsity=p.sparsity, group=p.group)
    return rooted(shape, emit, reshape, op)


def conv_transpose(b: Builder, node: Node) -> None:
    """A convolution of the image spread out with zeros, by the kernel turned round."""
    floats_only(b, node, *node.inputs[:2])
    w, bias = b.array(node.input(1)), b.array(node.input(2))
    if w is None:
        raise node.unsupported("the weights are computed at run time", "make them a constant of the model")
    r, groups = w.ndim - 2, node.attrs.get("group", 1)
    stride, dilation = node.attrs.get("strides", [1] * r), node.attrs.get("dilations", [1] * r)
    x, shape = b.value(node.input(0)), b.shape(node.output(0))
    kernel = w.shape[2:]
    extra = node.attrs.get("output_padding", [0] * r)
    lead = []
    for a in range(r):
        full = (x.shape[2 + a] - 1) * stride[a] + (kernel[a] - 1) * dilation[a] + 1 + extra[a]
        total = max(0, full - shape[2 + a])
        if "output_shape" in node.attrs or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", ""):
            lead.append(total // 2 if node.attrs.get("auto_pad") == "SAME_UPPER" else total - total // 2)
        else:
            lead.append(node.attrs.get("pads", [0] * 2 * r)[a])
    spread_shape = tuple((n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True))
    if any(s > 1 for s in stride):
        spread = b.fresh(F, (*x.shape[:2], *spread_shape))
        b.fill(spread, 0.0)
        holes = spread
        for a in range(r):
            holes = holes.slice(2 + a, 0, x.shape[2 + a], stride[a])
        b.write(x, holes)
        x = of_view(spread)
    turned = w.reshape(groups, w.shape[0] // groups, w.shape[1], *kernel).swapaxes(1, 2)[(slice(None),) * 3 + (slice(None, None, -1),) * r]
    turned = np.ascontiguousarray(turned.reshape(w.shape[1] * groups, w.shape[0] // groups, *kernel))
    pads = [((k - 1) * d - p, 0) for k, d, p in zip(kernel, dilation, lead, strict=True)]
    for a, (before, _) in enumerate(pads):  # a negative pad is a crop
        if before < 0:
            cut = -before
            x = b.sliced(x, 2 + a, cut, x.shape[2 + a] - cut)
            pads[a] = (0, 0)
    y = convolve(b, x, turned, bias, groups, (1,) * r, tuple(dilation), pads, shape, "ConvTranspose")
    if node.input(2) and bias is None:
        y = b.apply("add", y, b.reshaped(b.value(node.input(2)), (1, shape[1], *[1] * r)), dtype=F, shape=shape)
    b.set(node.output(0), y)


OPERATORS = {"ConvTranspose": in_float32(conv_transpose)}
