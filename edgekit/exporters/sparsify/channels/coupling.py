"""Which channels of a graph have to go together: every axis of every value carries a label for each of its indices.

Indices with the same label are kept or removed at once; label KEEP is never removed. Labels of a layer's outputs are new;
an addition unites those of its operands, a concatenation joins them end to end, a depthwise layer hands them on, and what
an operator without a rule reads or makes is kept. So a set of coupled channels is a class of labels, wherever they went.
"""
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

KEEP = 0


class Labels:
    """A partition of numbers (union-find); the class of KEEP takes in whatever is united with it."""

    def __init__(self) -> None:
        self._parent = [KEEP]

    def fresh(self, count: int) -> np.ndarray:
        """New labels, each a class of its own; an axis of one index is kept."""
        if count == 1:
            return np.zeros(1, int)
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def roots(self, labels: np.ndarray) -> np.ndarray:
        """The class of each label."""
        return np.array([self._find(x) for x in labels.tolist()], int)

    def unite(self, a: np.ndarray, b: np.ndarray) -> None:
        """Makes equals of the labels at the same places."""
        for x, y in set(zip(a.tolist(), b.tolist())):
            x, y = sorted((self._find(x), self._find(y)))
            self._parent[y] = x

    def table(self) -> np.ndarray:
        """The class of every label by its number."""
        return self.roots(np.arange(len(self._parent)))

    def keep(self, labels: np.ndarray) -> None:
        """Unites them with KEEP."""
        for x in set(labels.tolist()):
            self._parent[self._find(x)] = KEEP

    def _find(self, x: int) -> int:
        while self._parent[x] != x:
            self._parent[x] = x = self._parent[self._parent[x]]
        return x


Axes = list[np.ndarray]  # labels of each axis of a value


@dataclass
class Graph:
    """A model whose axes are labelled. values: by name. sums: (node, operand, axis) of activations that a node sums over:
    there a removed channel has to count as zero. columns: constants that are summed over likewise, with the axis."""

    model: Any
    shapes: dict[str, tuple[int, ...]]
    constants: dict[str, np.ndarray]
    labels: Labels
    values: dict[str, Axes] = field(default_factory=dict)
    sums: list[tuple[int, int, int]] = field(default_factory=list)
    columns: list[tuple[str, int]] = field(default_factory=list)

    @property
    def opset(self) -> int:
        return max((o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")), default=1)

    def axes(self, name: str) -> Axes:
        """Labels of a value; those of a constant are made when it is first read."""
        if name not in self.values:
            shape = self.constants[name].shape if name in self.constants else self.shapes.get(name, ())
            free = name in self.constants
            self.values[name] = [self.labels.fresh(n) if free else np.zeros(n, int) for n in shape]
        return self.values[name]

    def keep(self, *names: str) -> None:
        for name in names:
            for labels in self.axes(name) if name else ():
                self.labels.keep(labels)

    def keep_axes(self, name: str, axes: Sequence[int]) -> None:
        for axis in axes:
            self.labels.keep(self.axes(name)[axis])

    def ints(self, node: Any, operand: int) -> list[int] | None:
        """A constant operand as whole numbers; None where it is missing or computed."""
        name = node.input[operand] if operand < len(node.input) else ""
        return np.asarray(self.constants[name]).astype(int).ravel().tolist() if name in self.constants else None


def trace(model: Any, shapes: dict[str, tuple[int, ...]], constants: dict[str, np.ndarray], labels: Labels) -> Graph:
    """Labels all values of a clean graph. constants: its initializers."""
    from edgekit.exporters.sparsify.channels.rules import label_outputs
    graph = Graph(model, shapes, constants, labels)
    for number, node in enumerate(model.graph.node):
        inner = _inner(node)
        made = None if inner or node.domain not in ("", "ai.onnx") else label_outputs(graph, number, node)
        if made is None:
            graph.keep(*node.input, *(n for n in inner if n in graph.values or n in constants))
            made = []
        for name, axes in zip(node.output, made):
            # An operator that was misread cannot make labels of another shape.
            if name and tuple(map(len, axes)) == shapes.get(name, ()):
                graph.values[name] = axes
            else:
                for a in axes:
                    labels.keep(a)
    graph.keep(*(v.name for v in model.graph.output))
    return graph


def _inner(node: Any) -> set[str]:
    """Names that the graphs inside a node read."""
    found: set[str] = set()
    for attribute in node.attribute:
        for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
            for n in inner.node:
                found |= set(n.input) | _inner(n)
            found |= {v.name for v in inner.output}
    return found
