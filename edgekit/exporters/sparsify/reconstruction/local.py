"""A layer by itself: least squares from its inputs in the pruned net to its outputs in the dense one.

The inputs already carry what pruning did to the layers before, so each layer makes up for them (SparseGPT, Frantar and
Alistarh 2023; the asymmetric targets are those of He et al. 2017, channel pruning). Where a ReLU or Clip follows, what both nets
clip costs nothing: the targets there are whatever the pruned layer says (after Zhang et al. 2015, nonlinear responses).
"""
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgekit.exporters.sparsify.reconstruction.grouping import Grouping
from edgekit.exporters.sparsify.reconstruction.quadratic import Quadratic, damped, solve

CLIPPED = 6   # rounds of setting the targets that are clipped anew


@dataclass(frozen=True, eq=False)
class Samples:
    """inputs (n, K) of the pruned net, targets (n, R) of the dense one, float32; low, high: of the activation behind.

    centred: whether a bias takes up the means.
    """

    inputs: Tensor
    targets: Tensor
    low: float
    high: float
    centred: bool


@dataclass(frozen=True, eq=False)
class Moments:
    """Means of the inputs and targets, 0 where there is no bias; inputs less their mean; the Hessian, damped (1, K, K).

    pull: (R, K), what damping adds to the products of targets and inputs: towards the dense weights.
    """

    inputs: Tensor
    centre: Tensor
    hessian: Tensor
    pull: Tensor


def moments(samples: Samples, dense: Tensor, damping: float) -> Moments:
    """dense: the weights (R, K), float64."""
    x = samples.inputs
    centre = x.mean(0) if samples.centred else torch.zeros(x.shape[1])
    x = x - centre
    plain = ((x.T @ x).double() / len(x))[None]
    hessian = damped(plain, damping)
    return Moments(x, centre, hessian, dense @ (hessian - plain)[0])


def quadratic(samples: Samples, m: Moments) -> Quadratic:
    """The loss of the layer as a function of its weights, the bias following them."""
    right = _right(samples, m, samples.targets)
    return Quadratic(m.hessian, torch.linalg.solve(m.hessian[0], right.T).T)


def _right(samples: Samples, m: Moments, targets: Tensor) -> Tensor:
    t = targets - targets.mean(0) if samples.centred else targets
    return (t.T @ m.inputs).double() / len(t) + m.pull


def fitted(samples: Samples, m: Moments, found: Grouping) -> tuple[Tensor, Tensor]:
    """The weights (R, K) on the support of the groups, and the bias (R,), zero where there is none; float64."""
    targets = samples.targets
    clipped = np.isfinite((samples.low, samples.high)).any()
    for k in range(CLIPPED + 1 if clipped else 1):
        q = Quadratic(m.hessian, torch.linalg.solve(m.hessian[0], _right(samples, m, targets).T).T)
        weights = solve(q, found.rows, found.index)
        mean = targets.mean(0) if samples.centred else torch.zeros(targets.shape[1])
        if clipped and k < CLIPPED:
            made = m.inputs @ weights.float().T + mean
            targets = torch.where(samples.targets <= samples.low, made.clamp(max=samples.low),
                                  torch.where(samples.targets >= samples.high, made.clamp(min=samples.high), samples.targets))
    bias = mean.double() - weights @ m.centre.double() if samples.centred else torch.zeros(len(weights), dtype=torch.float64)
    return weights, bias
