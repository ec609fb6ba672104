"""Which rows share a group: clustering by what they read, in the metric of the quadratic loss, with exchange by exact loss."""
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from edgekit.exporters.sparsify.permute import assign, cluster, neighbours
from edgekit.exporters.sparsify.reconstruction.quadratic import Quadratic, inverse, losses, saliency, supports

ROUNDS = 4
WORTH = 1.001    # neighbours are left where they are unless that is worth this


@dataclass(frozen=True, eq=False)
class Grouping:
    """rows: (groups, v), -1 is padding. index: (groups, kept), ascending. loss: of the best weights on that support."""

    rows: np.ndarray
    index: np.ndarray
    loss: float


def grouped(q: Quadratic, v: int, kept: int, permute: bool = True) -> Grouping:
    """Groups of v rows and the inputs they keep. permute=False: neighbouring rows. Deterministic.

    Alternates like k-means between the supports of the groups, by elimination, and the balanced assignment of rows to
    supports of least exact loss. Never worse than neighbours.
    """
    inverted = inverse(q)
    plain = _evaluate(q, inverted, neighbours(len(q.optimum), v), kept)[0]
    if not permute or len(plain.rows) == 1 or v == 1 or kept >= q.optimum.shape[1]:
        return plain
    best, cost = _evaluate(q, inverted, cluster(saliency(q, inverted).float().numpy(), v, kept), kept)
    for _ in range(ROUNDS):
        padded = np.zeros((best.rows.size, len(best.rows)))
        padded[:len(cost)] = -cost / max(cost.max(), 1e-300)
        rows = assign(padded, v)
        tried, tried_cost = _evaluate(q, inverted, np.where(rows < len(cost), rows, -1), kept)
        if tried.loss >= best.loss * (1 - 1e-4):
            break
        best, cost = tried, tried_cost
    return plain if plain.loss <= WORTH * best.loss else best


def _evaluate(q: Quadratic, inverted: Tensor, rows: np.ndarray, kept: int) -> tuple[Grouping, np.ndarray]:
    index = supports(q, inverted, rows, kept)
    cost = losses(q, inverted, index)
    group = np.repeat(np.arange(len(rows)), rows.shape[1])
    there = rows.ravel() >= 0
    return Grouping(rows, index, float(cost[rows.ravel()[there], group[there]].sum())), cost
