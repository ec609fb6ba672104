"""One matrix under a quadratic loss: which inputs a group of rows can spare, and the best weights on those it keeps.

Row r of the weights costs (w - optimum[r]) hessian[r] (w - optimum[r])'. Removing inputs R from a row and setting the others
anew, as well as possible, costs  o_R (inverse_RR)^-1 o_R'  (Hassibi and Stork 1993, Optimal Brain Surgeon; Frantar and
Alistarh 2022, Optimal Brain Compression, section 4). Here the rows of a group lose the same inputs, so their costs add up.
"""
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

STEPS = 48          # inputs go one by one while there are few, else in so many batches
WORK = 4e12         # multiply-adds of an elimination; past that the inputs are chosen at once, by the diagonal


@dataclass(frozen=True, eq=False)
class Quadratic:
    """hessian: (1, K, K) for all rows, or (R, K, K); positive definite. optimum: (R, K). Both float64."""

    hessian: Tensor
    optimum: Tensor


def damped(hessian: Tensor, damping: float) -> Tensor:
    """hessian (m, K, K) with a share of its mean diagonal added to the diagonal; positive definite afterwards."""
    mean = hessian.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-12)
    return hessian + (damping * mean)[:, None, None] * torch.eye(hessian.shape[-1], dtype=hessian.dtype)


def inverse(q: Quadratic) -> Tensor:
    """(m, K, K), of the Hessian."""
    return torch.cholesky_inverse(torch.linalg.cholesky(q.hessian))


def saliency(q: Quadratic, inverted: Tensor) -> Tensor:
    """(R, K): what removing one weight costs when the others of its row make up for it."""
    return q.optimum ** 2 / inverted.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300)


def supports(q: Quadratic, inverted: Tensor, groups: np.ndarray, kept: int) -> np.ndarray:
    """Inputs (groups, kept), ascending, that each group of rows (groups, v; -1 is padding) keeps."""
    inputs = q.optimum.shape[1]
    removed = inputs - kept
    if len(groups) * len(inverted[:groups.shape[1]]) * removed * inputs ** 2 > WORK:
        score = saliency(q, inverted)
        return np.stack([_first(-score[rows[rows >= 0]].sum(0), kept) for rows in groups])
    # In float32: an elimination reads the whole inverse at every step.
    small = Quadratic(q.hessian, q.optimum.float())
    lean = inverted.float()
    return np.stack([_eliminate(small.optimum[rows[rows >= 0]], lean if len(lean) == 1 else lean[rows[rows >= 0]], kept)
                     for rows in groups])


def _first(cost: Tensor, count: int) -> np.ndarray:
    return np.sort(torch.argsort(cost, stable=True)[:count].numpy())


def _eliminate(w: Tensor, inverted: Tensor, kept: int) -> np.ndarray:
    """Backward elimination of a group: w (v, K), inverted (1 or v, K, K)."""
    w, a = w.clone(), inverted.clone()
    inputs = w.shape[1]
    batch, alive = max(1, inputs // STEPS), torch.ones(inputs, dtype=torch.bool)
    left = inputs
    while left > kept:
        count = min(batch, left - kept)
        cost = (w ** 2 / a.diagonal(dim1=1, dim2=2).clamp_min(1e-30)).sum(0)
        cost[~alive] = torch.inf
        if count == 1:
            r = int(cost.argmin())
            row = a[:, r] / a[:, r, r, None]
            w -= w[:, r, None] * row
            a -= a[:, :, r, None] * row[:, None]
            gone = torch.tensor([r])
        else:
            gone = torch.argsort(cost, stable=True)[:count]
            rows = torch.linalg.solve(a[:, gone][:, :, gone], a[:, gone])
            w -= (w[:, None, gone] @ rows)[:, 0]
            a -= a[:, :, gone] @ rows
        w[:, gone], a[:, gone], a[:, :, gone] = 0, 0, 0
        alive[gone] = False
        left -= count
    return np.flatnonzero(alive.numpy())


def losses(q: Quadratic, inverted: Tensor, index: np.ndarray) -> np.ndarray:
    """(R, groups): the least cost of every row if it kept what each group keeps; index (groups, kept)."""
    inputs, found = q.optimum.shape[1], []
    for kept in index:
        gone = torch.from_numpy(np.setdiff1d(np.arange(inputs), kept))
        if not len(gone):
            found.append(torch.zeros(len(q.optimum), dtype=torch.float64))
            continue
        factor = torch.linalg.cholesky(inverted[:, gone][:, :, gone])
        w = q.optimum[:, gone].T[None] if len(factor) == 1 else q.optimum[:, gone, None]
        z = torch.linalg.solve_triangular(factor, w, upper=False)
        found.append((z ** 2).sum(1).reshape(-1))
    return torch.stack(found, 1).numpy()


def solve(q: Quadratic, groups: np.ndarray, index: np.ndarray) -> Tensor:
    """(R, K): the weights of least cost that are zero outside of what their group keeps."""
    pull = (q.hessian @ q.optimum[:, :, None])[..., 0]
    found = torch.zeros_like(q.optimum)
    for rows, kept in zip(groups, index):
        rows, s = torch.from_numpy(rows[rows >= 0]), torch.from_numpy(kept)
        h = q.hessian if len(q.hessian) == 1 else q.hessian[rows]
        factor = torch.linalg.cholesky(h[:, s][:, :, s])
        right = pull[rows][:, s]
        solved = torch.cholesky_solve(right.T[None], factor)[0].T if len(factor) == 1 else torch.cholesky_solve(right[..., None], factor)[..., 0]
        found[rows[:, None], s] = solved
    return found
