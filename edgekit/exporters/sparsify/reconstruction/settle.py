"""All weights that are left, together: Gauss-Newton steps towards the outputs of the dense net.

Pruning layer by layer leaves what the layers do to each other. One step solves  min |r + J dw|^2 + damping |dw|^2  over the kept
weights of all layers, r and J the residuals and gradients of random projections of the outputs. There are fewer of those than
weights, so it is solved in their space: dw = -D J' (J D J' + damping)^-1 r (the dual form of Levenberg and Marquardt's step),
D the inverse of the diagonal of J'J. A quarter of the cases, another at each step, chooses the damping or refuses the step.
"""
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgekit.exporters.sparsify.reconstruction.gradients import projected

if TYPE_CHECKING:
    from edgekit.exporters.sparsify.torch_graph import Graph

STEPS = 4
GRADIENTS = 512                  # of a step
LEAST = 128                      # with fewer a step is not worth its time
NUMBERS = 1 << 27                # in the gradients of a step
DAMPINGS = (1e-2, 1e-1, 1.0)     # of the mean diagonal of J D J'
FLAT = 0.1                       # what D takes a weight's curvature for at least, of the mean


def settle(graph: "Graph", inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], scales: Mapping[str, float],
           free: Mapping[str, Tensor], held: Mapping[str, Tensor], progress: Callable[[str], None] = lambda _: None) -> dict[str, Tensor]:
    """free: weights to start from, whose zeros stay; held: other weights that are not the graph's. Returns the free ones, better.

    inputs, targets: {name: (cases, *shape)}; scales: {output: what one unit of error is}. Nothing is done for nets with too many
    weights for NUMBERS, or with too few cases to keep a quarter back.
    """
    at = {n: t.detach().float() for n, t in free.items()}
    keep = torch.cat([t.flatten() != 0 for t in at.values()])
    cases = len(next(iter(inputs.values())))
    gradients = min(GRADIENTS, NUMBERS // max(len(keep), 1))
    if gradients < LEAST or cases < 8:
        return at
    for step in range(STEPS):
        judging = torch.arange(cases) % 4 == step % 4
        fit, judge = ({n: t[which] for n, t in inputs.items()} for which in (~judging, judging))
        fit_targets, judge_targets = ({n: t[which] for n, t in targets.items()} for which in (~judging, judging))
        count = int((~judging).sum())
        if count > gradients:
            chosen = torch.randperm(count, generator=torch.Generator().manual_seed(step))[:gradients].sort().values
            fit, fit_targets = ({n: t[chosen] for n, t in which.items()} for which in (fit, fit_targets))
        j, r = [], []
        for found, residual in projected(graph, fit, at, held, fit_targets, scales, max(1, gradients // count), step):
            j.append(torch.cat([found[n].flatten(1) for n in at], 1)[:, keep])
            r.append(residual)
        before = _loss(graph, judge, judge_targets, scales, {**held, **at})
        best, best_loss = at, before
        for move in _moves(torch.cat(j), torch.cat(r)):
            tried = _moved(at, keep, move)
            loss = _loss(graph, judge, judge_targets, scales, {**held, **tried})
            if loss < best_loss:
                best, best_loss = tried, loss
        progress(f"all layers together, step {step + 1} of {STEPS}: error {best_loss ** 0.5:.4f} of the outputs' deviation")
        if best is at:
            break
        at = best
    return at


def _moves(j: Tensor, r: Tensor) -> Iterator[Tensor]:
    """The step for each damping; j (n, weights), r (n,)."""
    curvature = j.square().mean(0)
    d = 1 / (curvature + FLAT * curvature.mean()).clamp_min(1e-30)
    gram = ((j * d) @ j.T).double()
    for damping in DAMPINGS:
        z = torch.linalg.solve(gram + damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype), -r.double())
        yield d * (z.float() @ j)


def _moved(at: Mapping[str, Tensor], keep: Tensor, move: Tensor) -> dict[str, Tensor]:
    flat = torch.cat([t.flatten() for t in at.values()])
    flat[keep] += move
    parts = flat.split([t.numel() for t in at.values()])
    return {n: p.reshape(t.shape) for (n, t), p in zip(at.items(), parts)}


def _loss(graph: "Graph", inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], scales: Mapping[str, float], weights: Mapping[str, Tensor]) -> float:
    """Mean over the outputs of the squared error in their scales; infinite where it is no number."""
    with torch.no_grad():
        made = graph.run(inputs, tuple(scales), weights)
    errors = [float(((made[n] - targets[n]) / scales[n]).double().square().mean()) for n in scales]
    loss = sum(errors) / len(errors)
    return loss if math.isfinite(loss) else math.inf
