"""Weight matrices in the kernels' layout: the groups that their zeros form, or dense groups of neighbours."""
from dataclasses import dataclass

import numpy as np

from edgekit.exporters.lower.builder import Builder
from edgekit.exporters.lower.views import View
from edgekit.exporters.sparsify.groups import (
    CHANNEL_MAJOR,
    POSITION_MAJOR,
    Form,
    Groups,
    dense_groups,
    find_groups,
    pack,
)

__all__ = ["CHANNEL_MAJOR", "POSITION_MAJOR", "Packed", "best", "packed", "packed_dense"]


@dataclass(frozen=True)
class Packed:
    """Operands of a group-sparse product, and its sizes.

    order is None where packed row r is output r, starts where all groups read `kept` inputs; else kept is the most that a
    group could read. weights: multiply-adds of one position. cost: an estimate of its time, of that of the dense product.
    """

    w: View
    bias: View
    index: View | None
    starts: View | None
    order: View | None
    groups: int
    v: int
    kept: int
    weights: int
    cost: float
    sparsity: float
    group: int | None

    @property
    def operands(self) -> list[View]:
        return [a for a in (self.w, self.bias, self.index, self.starts, self.order) if a is not None]

    @property
    def index_dtype(self) -> str | None:
        return self.index.dtype if self.index is not None else None


def best(sizes: tuple[int, ...], outputs: int) -> int:
    """The size that wastes the fewest padded outputs, the larger one where they tie."""
    return min(sizes, key=lambda v: (-(-outputs // v) * v, -v))


def packed(b: Builder, w: np.ndarray, bias: np.ndarray | None, form: Form) -> Packed:
    """w (outputs, inputs) and bias (outputs,) packed: the groups that zeros form, or the best dense ones of the form."""
    groups = find_groups(w, form)
    if groups is not None:
        return _pack(b, w, bias, groups, form.cost(groups) / w.size)
    outputs = w.shape[0]
    small = outputs < min(form.dense) and form is CHANNEL_MAJOR
    return packed_dense(b, w, bias, outputs if small else best(form.dense, outputs))


def packed_dense(b: Builder, w: np.ndarray, bias: np.ndarray | None, v: int) -> Packed:
    """Dense groups of v rows."""
    return _pack(b, w, bias, dense_groups(w.shape[0], w.shape[1], v), None)


def _pack(b: Builder, w: np.ndarray, bias: np.ndarray | None, groups: Groups, cost: float | None) -> Packed:
    """cost: of groups that zeros form, None of dense ones. A row of padding repeats the first row of its group, which then needs no guard when outputs are stored."""
    (outputs, inputs), sparse = w.shape, cost is not None
    weights, rows = pack(w, groups), groups.order.reshape(groups.count, groups.v).copy()
    for g in np.flatnonzero((rows < 0).any(1)):
        padding = rows[g] < 0
        first = int(np.argmin(padding))
        mine = weights[groups.starts[g]:groups.starts[g + 1]]
        mine[:, padding] = mine[:, [first]]
        rows[g, padding] = rows[g, first]
    order = rows.reshape(-1)
    identity = np.array_equal(order, np.arange(outputs))
    bias = np.zeros(outputs, np.float32) if bias is None else bias
    index = b.constant(groups.index.astype(np.uint16 if inputs <= 65535 else np.int32)) if sparse else None
    return Packed(b.constant(np.ascontiguousarray(weights, np.float32)), b.constant(bias[order].astype(np.float32)), index,
                  None if groups.equal else b.constant(groups.starts), None if identity else b.constant(order.astype(np.int32)),
                  groups.count, groups.v, groups.kept if groups.equal else inputs, groups.weights, 1.0 if cost is None else cost,
                  1 - groups.weights / w.size if sparse else 0.0, groups.v if sparse else None)
