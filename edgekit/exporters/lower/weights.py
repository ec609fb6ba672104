"""Weight matrices in the kernels' layout: the groups that their zeros form, or dense groups of neighbours."""
from dataclasses import dataclass

import numpy as np

from edgekit.exporters.lower.builder import Builder
from edgekit.exporters.lower.views import View
from edgekit.exporters.sparsify.groups import Groups, dense_groups, find_groups, pack

CHANNEL_MAJOR = (8, 7, 6, 5, 4)      # rows of a tile when positions are the lanes
POSITION_MAJOR = (32, 16, 8, 4)      # outputs of a tile when outputs are the lanes


@dataclass(frozen=True)
class Packed:
    """Operands of a group-sparse product, and its sizes. order is None where packed row r is output r."""

    w: View
    bias: View
    index: View | None
    order: View | None
    groups: int
    v: int
    kept: int
    sparsity: float
    group: int | None

    @property
    def operands(self) -> list[View]:
        return [a for a in (self.w, self.bias, self.index, self.order) if a is not None]

    @property
    def index_dtype(self) -> str | None:
        return self.index.dtype if self.index is not None else None


def best(sizes: tuple[int, ...], outputs: int) -> int:
    """The size that wastes the fewest padded outputs, the larger one where they tie."""
    return min(sizes, key=lambda v: (-(-outputs // v) * v, -v))


def packed(b: Builder, w: np.ndarray, bias: np.ndarray | None, sizes: tuple[int, ...]) -> Packed:
    """w (outputs, inputs) and bias (outputs,) packed; sizes: of dense groups, the best is taken."""
    outputs, inputs = w.shape
    groups = find_groups(w)
    if groups is not None:
        index = b.constant(groups.index.astype(np.uint16 if inputs <= 65535 else np.int32))
        return _pack(b, w, bias, groups, index)
    small = outputs < min(sizes) and sizes is CHANNEL_MAJOR
    return packed_dense(b, w, bias, outputs if small else best(sizes, outputs))


def packed_dense(b: Builder, w: np.ndarray, bias: np.ndarray | None, v: int) -> Packed:
    """Dense groups of v rows."""
    return _pack(b, w, bias, dense_groups(w.shape[0], w.shape[1], v), None)


def _pack(b: Builder, w: np.ndarray, bias: np.ndarray | None, groups: Groups, index: View | None) -> Packed:
    """A row of padding repeats the first row of its group, which then needs no guard when outputs are stored."""
    outputs, inputs = w.shape
    weights, rows = pack(w, groups), groups.order.reshape(groups.count, groups.v).copy()
    for g, row in enumerate(rows):
        padding = row < 0
        first = int(np.argmin(padding))
        weights[g][:, padding] = weights[g][:, [first]]
        row[padding] = row[first]
    order = rows.reshape(-1)
    identity = np.array_equal(order, np.arange(outputs))
    bias = np.zeros(outputs, np.float32) if bias is None else bias
    return Packed(b.constant(np.ascontiguousarray(weights, np.float32)), b.constant(bias[order].astype(np.float32)), index,
                  None if identity else b.constant(order.astype(np.int32)), groups.count, groups.v, groups.kept,
                  1 - groups.kept / inputs if index is not None else 0.0, groups.v if index is not None else None)
