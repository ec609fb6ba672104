"""Weights whose effect comes back to them (recurrent layers, loops written out): what a change does to the outputs of the net.

One step's least squares would be the wrong measure: its error is fed back. To first order the outputs change by J dw, with
all uses of the weight over the whole sequence in J, so the loss of a row is dw J'J dw': the Gauss-Newton matrix, a block
a row. J'J is the mean of g g' over gradients g of random projections of the outputs.
"""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgekit.exporters.sparsify.graph import GATES
from edgekit.exporters.sparsify.reconstruction.gradients import projected
from edgekit.exporters.sparsify.reconstruction.quadratic import Quadratic, damped
from edgekit.exporters.sparsify.reconstruction.uses import Use

if TYPE_CHECKING:
    from edgekit.exporters.sparsify.torch_graph import Graph

PROJECTIONS = 1024           # gradients that a Gauss-Newton matrix is made of
SEED = 0
BLOCKS = 1 << 27             # numbers of a Gauss-Newton matrix with a block a row; past that its rows share the mean block


@dataclass(frozen=True)
class Part:
    """A weight by its initializer and layout (see `graph.matrices`), and its bias: numbers from `start` on of the initializer
    `bias`, of each direction; "" if there is none."""

    weight: str
    layout: str
    bias: str = ""
    start: int = 0


def part(graph: "Graph", uses: Sequence[Use], weight: str, layout: str, layer: str) -> Part:
    """The part of a layer: of a recurrent one, .R has the second half of the node's biases."""
    first = uses[0]
    rows = graph.shapes[weight][1] if first.node.op in GATES and layer.endswith(".R") else 0
    return Part(weight, layout, first.bias if len({u.bias for u in uses}) == 1 else "", rows)


def gauss_newton(graph: "Graph", inputs: Mapping[str, Tensor], parts: Sequence[Part], targets: Mapping[str, Tensor],
                 scales: Mapping[str, float], progress: Callable[[str], None] = lambda _: None) -> list[Tensor]:
    """For each part its blocks (directions, R or 1, K + 1, K + 1), of the weights and last of the bias.

    inputs: {name: (cases, *shape)}. targets: the outputs of the dense net. scales: {output: what one unit of error is}. Without a bias the last
    row and column are zero; where a block a row would be too much, see BLOCKS, R is 1.
    """
    at = {n: graph.weight(n).detach() for p in parts for n in (p.weight, p.bias) if n}
    cases = len(next(iter(inputs.values())))
    draws = -(-PROJECTIONS // cases)
    sums: list[Tensor] = []
    count = 0
    for found, _ in projected(graph, inputs, at, {}, targets, scales, draws, SEED):
        blocks = [_products(_rows(p, found)) for p in parts]
        sums = [s + b for s, b in zip(sums, blocks)] if sums else blocks
        count += len(found[parts[0].weight])
        progress(f"gradients over the whole sequence: {count} of {cases * draws}")
    return [s.double() / count for s in sums]


def _rows(part: Part, gradients: Mapping[str, Tensor]) -> Tensor:
    """(n, directions, R, K + 1): gradients by the weight, and last by the bias."""
    g = gradients[part.weight]
    g = g if part.layout == "stack" else g.transpose(1, 2)[:, None] if part.layout == "columns" else g.reshape(len(g), 1, g.shape[1], -1)
    b = g.new_zeros(g.shape[:3])
    if part.bias:
        b = gradients[part.bias].reshape(len(g), g.shape[1], -1)[:, :, part.start:part.start + g.shape[2]]
    return torch.cat([g, b[..., None]], -1)


def _products(g: Tensor) -> Tensor:
    _, directions, rows, inputs = g.shape
    if directions * rows * inputs ** 2 <= BLOCKS:
        return torch.einsum("ndrk,ndrl->drkl", g, g)
    return torch.einsum("ndrk,ndrl->dkl", g, g)[:, None] / rows


def quadratic(blocks: Tensor, dense: Tensor, damping: float) -> tuple[Quadratic, Tensor]:
    """Of one direction: blocks (m, K + 1, K + 1), dense (R, K) -> the loss with the bias at its best, and the slope (m, K)
    by which it follows: bias - slope . (weights - dense)."""
    h, cross, own = blocks[:, :-1, :-1], blocks[:, :-1, -1], blocks[:, -1, -1]
    # a bias that does nothing cannot follow
    slope = torch.where(own[:, None] > 1e-12 * h.diagonal(dim1=1, dim2=2).mean(1)[:, None], cross / own.clamp_min(1e-300)[:, None], 0.0)
    return Quadratic(damped(h - slope[:, :, None] * cross[:, None], damping), dense.double()), slope
