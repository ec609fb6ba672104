"""Zeros that are in a layer already: how many, and what of them the kernels use."""
from dataclasses import dataclass

import numpy as np

from edgekit.exporters.sparsify.graph import matrices
from edgekit.exporters.sparsify.groups import CHANNEL_MAJOR, POSITION_MAJOR, find_groups
from edgekit.exporters.sparsify.rules import LEFT, Facts


@dataclass(frozen=True)
class Zeros:
    """share: of the weights that are zero. group: rows that share a list of inputs, None where no zero is used.
    groups: how many lists. kept: share of the weights that are stored and multiplied."""

    share: float
    group: int | None
    groups: int
    kept: float


def zeros(weight: np.ndarray, layout: str, facts: Facts) -> Zeros:
    """Of a layer's weights: the groups that its kernel will find in all of their matrices, or none."""
    share = 1 - np.count_nonzero(weight) / max(weight.size, 1)
    if facts.blocked not in ("", LEFT):
        return Zeros(share, None, 0, 1.0)
    stack = matrices(weight, layout)
    form = CHANNEL_MAJOR if facts.kind == "conv" or facts.blocked == LEFT else POSITION_MAJOR
    found = [find_groups(w, form) for w in stack]
    there = [g for g in found if g is not None]
    if len(there) < len(found) or not there:
        return Zeros(share, None, 0, 1.0)
    kept = sum(g.weights for g in there) / weight.size
    return Zeros(share, min(g.v for g in there), sum(g.count for g in there), kept)
