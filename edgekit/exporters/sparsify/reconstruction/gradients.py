"""Gradients of random projections of a net's outputs: their products average to the Gauss-Newton matrix (Hutchinson)."""
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from edgekit.exporters.sparsify.torch_graph import Graph

BATCH_BYTES = 256 << 20      # values and gradients that are kept at once


def projected(graph: "Graph", inputs: Mapping[str, Tensor], at: Mapping[str, Tensor], others: Mapping[str, Tensor],
              targets: Mapping[str, Tensor], scales: Mapping[str, float], draws: int, seed: int
              ) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """For `draws` normal projections v of each case: the gradients of v . outputs / scales by the weights `at`, (n, *shape)
    each, and v . (outputs - targets) / scales, (n,).

    inputs: {name: (cases, *shape)}. at, others: weights of the net, the latter constant. targets, scales: by output.
    """
    cases = len(next(iter(inputs.values())))
    values = graph.batch(inputs, tuple(scales), BATCH_BYTES, gradient=True)
    size = max(1, min(values, BATCH_BYTES // (4 * draws * sum(t.numel() for t in at.values()))))
    generator = torch.Generator().manual_seed(seed)

    def one(given: tuple[Tensor, ...], wanted: tuple[Tensor, ...], drawn: tuple[Tensor, ...]) -> tuple[dict[str, Tensor], Tensor]:
        def outputs(w: dict[str, Tensor]) -> tuple[Tensor, ...]:
            found = graph.run({n: v[None] for n, v in zip(inputs, given)}, tuple(scales), {**others, **w})
            return tuple((found[n][0] - t) / scales[n] for n, t in zip(scales, wanted))
        left, pull = torch.func.vjp(outputs, dict(at))
        residual = sum((v * r).flatten(1).sum(1) for v, r in zip(drawn, left))
        return torch.vmap(lambda *v: pull(v)[0])(*drawn), residual
    for k in range(0, cases, size):
        part = [tuple(t[k:k + size] for t in which.values()) for which in (inputs, {n: targets[n] for n in scales})]
        drawn = tuple(torch.randn(len(part[0][0]), draws, *graph.shapes[n], generator=generator) for n in scales)
        found, residual = torch.vmap(one)(*part, drawn)
        yield {n: t.flatten(0, 1) for n, t in found.items()}, residual.flatten()
