"""Weight matrices in the kernels' layout: the groups that their zeros form, or dense groups of neighbours."""
from dataclasses import dataclass

import numpy as np

from edgekit.exporters.lower.builder import Builder
from edgekit.exporters.lower.views import View, row_major
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


def constant(b: Builder, array: np.ndarray) -> View:
    """An array of the weights as a view."""
    return View(b.constants.add(array), str(array.dtype), 0, array.shape, row_major(array.shape))


def best(sizes: tuple[int, ...], outputs: int) -> int:
    """The size that wastes the fewest padded outputs, the larger one where they tie."""
    return min(sizes, key=lambda v: (-(-outputs // v) * v, -v))


def packed(b: Builder, w: np.ndarray, bias: np.ndarray | None, sizes: tuple[int, ...]) -> Packed:
    """w (outputs, inputs) and bias (outputs,) packed; sizes: of dense groups, the best is taken."""
    outputs, inputs = w.shape
    groups = find_groups(w)
    sparse = groups is not None
    if groups is None:
        groups = dense_groups(outputs, inputs, outputs if outputs < min(sizes) and sizes is CHANNEL_MAJOR else best(sizes, outputs))
    rows = _repeat_for_padding(groups)
    full = Groups(groups.v, rows, groups.index)
    bias = np.zeros(outputs, np.float32) if bias is None else bias
    identity = np.array_equal(rows, np.arange(len(rows))) and len(rows) == outputs
    index = order = None
    if sparse:
        index = constant(b, groups.index.astype(np.uint16 if inputs <= 65535 else np.int32))
    if not identity:
        order = constant(b, rows.astype(np.int32))
    weights = _take(w, full)
    return Packed(constant(b, weights), constant(b, bias[rows].astype(np.float32)), index, order, groups.count, groups.v,
                  groups.kept, 1 - groups.kept / inputs if sparse else 0.0, groups.v if sparse else None)


def packed_dense(b: Builder, w: np.ndarray, bias, v: int) -> Packed:
    """Dense groups of exactly v rows."""
    outputs, inputs = w.shape
    grouped = np.ascontiguousarray(w.reshape(outputs // v, v, inputs).transpose(0, 2, 1))
    bias = np.zeros(outputs, np.float32) if bias is None else np.ascontiguousarray(bias, np.float32)
    return Packed(constant(b, grouped), constant(b, bias), None, None, outputs // v, v, inputs, 0.0, None)


def _take(w: np.ndarray, groups: Groups) -> np.ndarray:
    """`pack` without its check on lost weights, for orders that name a row twice."""
    pack(w, Groups(groups.v, _mark_repeats(groups.order), groups.index))  # the check, on each row once
    rows = groups.order.reshape(groups.count, 1, groups.v)
    return np.ascontiguousarray(w[rows, groups.index[:, :, None]], np.float32)


def _repeat_for_padding(groups: Groups) -> np.ndarray:
    """The order with every row of padding a copy of the first real row of its group."""
    table = groups.order.reshape(groups.count, groups.v).copy()
    for row in table:
        real = row[row >= 0]
        row[row < 0] = real[0] if real.size else 0
    return table.reshape(-1)


def _mark_repeats(order: np.ndarray) -> np.ndarray:
    out = np.full_like(order, -1)
    _, first = np.unique(order, return_index=True)
    out[first] = order[first]
    return out
