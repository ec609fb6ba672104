"""A net that is run up to a node once, and from there on as often as its layers are solved."""
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from edgekit.exporters.sparsify.torch_graph import Graph

CUT_BYTES = 256 << 20     # values of all cases that are kept where a net is cut
BATCH_BYTES = 128 << 20   # values of a batch of cases that are alive at once


class Cut:
    """A net up to one of its nodes: the values of all cases that the nodes from there on read, computed once where they fit.

    weights: instead of the graph's; those of nodes behind the cut may be changed.
    """

    def __init__(self, graph: "Graph", inputs: Mapping[str, Tensor], weights: Mapping[str, Tensor]):
        self.graph, self.weights = graph, weights
        self._values = dict(inputs)
        self.cases = len(next(iter(inputs.values())))

    def advance(self, at: int) -> None:
        """Moves the cut to before node `at`, if what crosses it fits. The weights before it do not change any more."""
        graph = self.graph
        before = set(self._values) | {o for n in graph.nodes[:at] for o in n.outputs}
        behind = {i for n in graph.nodes[at:] for i in n.inputs} | set(graph.outputs)
        crossing = sorted(n for n in before & behind if n and n not in graph.initializers)
        if crossing and sum(4 * self.cases * prod(graph.shapes[n]) for n in crossing) <= CUT_BYTES:
            parts = list(self.batches(crossing))
            self._values = {n: torch.cat([p[n] for _, p in parts]) for n in crossing}

    def batches(self, names: Sequence[str]) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """The values `names` of all cases, so many cases at a time."""
        missing = [n for n in names if n not in self._values]
        size = self.graph.batch(self._values, missing, BATCH_BYTES) if missing else self.cases
        for k in range(0, self.cases, size):
            cases = slice(k, k + size)
            given = {n: v[cases] for n, v in self._values.items()}
            with torch.no_grad():
                made = self.graph.run(given, missing, self.weights) if missing else {}
            yield cases, {n: made[n] if n in made else given[n] for n in names}
