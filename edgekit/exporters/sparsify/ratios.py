"""How one global budget is shared out among layers: pure functions from facts about layers to {layer: sparsity}.

All of them spend `(1 - sparsity) * sum(cost)`, to the rounding of floating-point numbers, on the layers that they are
given: leave those that stay dense out of the list. No layer gets less than one input a group or more than all of them;
what a layer at its limit cannot take goes to the others.
"""
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.errors import InputError


@dataclass(frozen=True)
class Candidate:
    """A layer that may become sparse.

    shape: (outputs, inputs, *kernel) of its weights. cost: of the layer while dense, in the unit of the budget: weights or
    multiply-adds, say. most: the highest sparsity that it may get; at most the one that leaves a group one input.
    """

    name: str
    shape: tuple[int, ...]
    cost: float
    most: float = 1.0

    @property
    def inputs(self) -> int:
        """Inputs of an output, taps of a kernel included."""
        return math.prod(self.shape[1:])

    @property
    def least(self) -> float:
        """The lowest density it may get."""
        return max(1 - self.most, 1 / self.inputs)


def uniform(layers: Sequence[Candidate], sparsity: float) -> dict[str, float]:
    """The same for all."""
    return _scaled(layers, sparsity, [1.0] * len(layers))


def erdos_renyi(layers: Sequence[Candidate], sparsity: float) -> dict[str, float]:
    """Density in proportion to (outputs + inputs) / (outputs * inputs), channels without taps (SET, Mocanu et al. 2018)."""
    return _scaled(layers, sparsity, [sum(x.shape[:2]) / math.prod(x.shape[:2]) for x in layers])


def erdos_renyi_kernel(layers: Sequence[Candidate], sparsity: float) -> dict[str, float]:
    """Density in proportion to the sum of all extents over their product, taps too (RigL, Evci et al. 2020, section 3)."""
    return _scaled(layers, sparsity, [sum(x.shape) / math.prod(x.shape) for x in layers])


def global_score(layers: Sequence[Candidate], sparsity: float, gains: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Inputs go where they bring most score for their cost, one at a time, whichever layer that is.

    gains: by layer, (inputs,), what the p-th input of every group brings, larger first (`mask.gains`): total score is
    concave in the number of inputs, so the greedy choice is the best one. Each layer gets a whole number of inputs, and
    together they miss the budget by at most half of what one input of one layer costs. InputError for gains of another
    shape, or not finite.
    """
    budget = _budget(layers, sparsity)
    for x in layers:
        if np.shape(gains[x.name]) != (x.inputs,) or not np.isfinite(gains[x.name]).all():
            raise InputError("the gains of a layer must be one finite number for each input", where=x.name)
    least = np.array([math.ceil(x.least * x.inputs - 1e-9) for x in layers], int)
    step = np.array([x.cost / x.inputs for x in layers])
    owner = np.repeat(np.arange(len(layers)), [x.inputs - n for x, n in zip(layers, least)])
    rate = np.concatenate([np.zeros(0), *(gains[x.name][n:] for x, n in zip(layers, least))]) / step[owner]
    owner = owner[np.argsort(-rate, kind="stable")]
    spent = least @ step + np.concatenate([[0.0], np.cumsum(step[owner])])
    taken = owner[:int(np.abs(spent - budget).argmin())]
    kept = least + np.bincount(taken, minlength=len(layers))
    return {x.name: 1 - int(n) / x.inputs for x, n in zip(layers, kept)}


def _budget(layers: Sequence[Candidate], sparsity: float) -> float:
    """What may be spent, or InputError if that is less than the least that the layers need."""
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity must be at least 0 and less than 1, not {sparsity!r}")
    total = sum(x.cost for x in layers)
    budget, least = (1 - sparsity) * total, sum(x.least * x.cost for x in layers)
    if least > budget * (1 + 1e-9):
        raise InputError(f"a sparsity of {sparsity:.4g} over all layers is more than they can take together",
                         fix=f"ask for {math.floor((1 - least / total) * 1e4) / 1e4:.4g} or less")
    return budget


def _scaled(layers: Sequence[Candidate], sparsity: float, raw: Sequence[float]) -> dict[str, float]:
    """Densities in proportion to `raw`, each within its limits, that together meet the budget."""
    budget = _budget(layers, sparsity)
    if not layers:
        return {}
    rate, cost = np.array(raw), np.array([x.cost for x in layers])
    least = np.array([x.least for x in layers])

    def density(scale: np.ndarray) -> np.ndarray:
        return np.clip(scale[..., None] * rate, least, 1)

    # What is spent grows with the scale along straight lines that meet where a layer comes to one of its limits.
    corners = np.unique(np.concatenate([least / rate, 1 / rate]))
    scale = np.interp(budget, density(corners) @ cost, corners)
    return {x.name: float(1 - d) for x, d in zip(layers, density(np.array(scale)))}
