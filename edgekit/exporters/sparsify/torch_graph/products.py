"""Operators that multiply by weights: convolutions, Gemm, MatMul, Einsum."""
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.exporters.sparsify.torch_graph.node import Node, NotInTorch, Result

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def window_pads(node: Node, extents: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
                ) -> list[tuple[int, int]]:
    """(before, after) of every spatial axis, such that windows without padding of their own make the node's output.

    What is `after` follows from the shape of the output; a negative pad is a crop.
    """
    auto, r = node.attrs.get("auto_pad", "NOTSET"), len(kernel)
    pads = []
    for a, (n, k, s, d, out) in enumerate(zip(extents, kernel, stride, dilation, node.shapes[0][2:], strict=True)):
        need = (out - 1) * s + (k - 1) * d + 1
        total = max(0, need - n)
        before = {"SAME_UPPER": total // 2, "SAME_LOWER": total - total // 2, "VALID": 0}.get(auto)
        before = node.attrs.get("pads", [0] * 2 * r)[a] if before is None else before
        pads.append((before, need - n - before))
    return pads


def padded(x: Tensor, pads: Sequence[tuple[int, int]], fill: float = 0.0) -> Tensor:
    """The last axes of x with (before, after) more."""
    if not any(map(any, pads)):
        return x
    return F.pad(x, [n for pair in reversed(pads) for n in pair], value=fill)


def conv(node: Node, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    r = w.ndim - 2
    if r not in _CONV:
        raise NotInTorch("more than 3 spatial axes")
    stride, dilation = node.attrs.get("strides", [1] * r), node.attrs.get("dilations", [1] * r)
    pads = window_pads(node, x.shape[2:], w.shape[2:], stride, dilation)
    inner = [0] * r
    if all(lo >= max(hi, 0) and lo - hi < s for (lo, hi), s in zip(pads, stride)):  # the rest of a stride reads nothing
        inner, pads = [lo for lo, _ in pads], []
    return _CONV[r](padded(x, pads), w, bias, stride, inner, dilation, node.attrs.get("group", 1))


def conv_transpose(node: Node, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    r = w.ndim - 2
    if r not in _TRANSPOSED:
        raise NotInTorch("more than 3 spatial axes")
    stride, dilation = node.attrs.get("strides", [1] * r), node.attrs.get("dilations", [1] * r)
    extra, auto = node.attrs.get("output_padding", [0] * r), node.attrs.get("auto_pad", "NOTSET")
    y = _TRANSPOSED[r](x, w, None, stride, 0, 0, node.attrs.get("group", 1), dilation)
    crop = []
    for a, (have, out) in enumerate(zip(y.shape[2:], node.shapes[0][2:], strict=True)):
        total = max(0, have + extra[a] - out)
        if "output_shape" in node.attrs or auto not in ("NOTSET", ""):
            before = total // 2 if auto == "SAME_UPPER" else total - total // 2
        else:
            before = node.attrs.get("pads", [0] * 2 * r)[a]
        crop.append((-before, out - have + before))
    y = padded(y, crop)
    return y if bias is None else y + bias.reshape(-1, *[1] * r)


def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    alpha, beta = node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)
    a = a.T if node.attrs.get("transA", 0) else a
    b = b.T if node.attrs.get("transB", 0) else b
    y = a @ b if alpha == 1 else alpha * (a @ b)
    if c is None or beta == 0:
        return y
    return y + (c if beta == 1 else beta * c)


def matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


def einsum(node: Node, *inputs: Tensor) -> Tensor:
    return torch.einsum(node.attrs["equation"].replace(" ", ""), *inputs)


OPERATORS: dict[str, Callable[..., Result]] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "Einsum": einsum, "Gemm": gemm, "MatMul": matmul,
}
