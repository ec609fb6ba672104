"""Where a graph multiplies by a weight: what goes in, what comes out with its bias, and the activation behind."""
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from edgekit.exporters.sparsify.graph import GATES
from edgekit.exporters.sparsify.torch_graph.products import padded, window_pads

if TYPE_CHECKING:
    from edgekit.exporters.sparsify.torch_graph import Graph
    from edgekit.exporters.sparsify.torch_graph.node import Node

BIASED = ("Conv", "Gemm", "MatMul", *GATES)  # operators whose bias is looked for


@dataclass(frozen=True, eq=False)
class Use:
    """One node that multiplies by a weight.

    node, at: the node and its place in the graph. source, result: names of its input and of its output, bias included.
    bias: the initializer that is added, "" if there is none. low, high: of the ReLU or Clip that alone reads the result.
    """

    node: "Node"
    at: int
    source: str
    result: str
    bias: str
    low: float
    high: float


class Uses:
    """The uses of all weights of a graph."""

    def __init__(self, graph: "Graph"):
        self.graph = graph
        self._readers: dict[str, list[tuple[int, Node]]] = defaultdict(list)
        for at, node in enumerate(graph.nodes):
            for name in node.inputs:
                self._readers[name].append((at, node))

    def of(self, weight: str) -> tuple[Use, ...]:
        """In the graph's order."""
        found = self._readers[weight]
        return tuple(self._use(at, node, [n for _, n in found]) for at, node in found)

    def feeds_itself(self, uses: Sequence[Use]) -> bool:
        """Whether what the weight does reaches another use of it: a recurrent node, or a loop written out."""
        if any(u.node.op in GATES for u in uses):
            return True
        reached: set[str] = set()
        for at in range(uses[0].at, uses[-1].at + 1):
            node, mine = self.graph.nodes[at], any(at == u.at for u in uses)
            behind = any(i in reached for i in node.inputs)
            if mine and behind:
                return True
            if mine or behind:
                reached.update(node.outputs)
        return False

    def _use(self, at: int, node: "Node", sharers: "list[Node]") -> Use:
        result, bias = node.outputs[0], ""
        if node.op not in BIASED:
            return Use(node, at, node.inputs[0], result, "", -inf, inf)
        rows = _rows(self.graph, node)
        if node.op in GATES:
            bias = node.inputs[3] if len(node.inputs) > 3 and self._reader(node.inputs[3]) is node and self.graph.is_weight(node.inputs[3]) else ""
        elif node.op in ("Conv", "Gemm") and len(node.inputs) > 2 and node.inputs[2]:
            bias = node.inputs[2] if self._only(node.inputs[2], sharers, rows) else ""
        else:
            follower = self._reader(result)
            other = [i for i in follower.inputs if i != result] if follower and follower.op == "Add" else []
            if follower and len(other) == 1 and self._broadcasts(other[0], node, rows) and self._only(other[0], sharers, rows, behind=True):
                result, bias = follower.outputs[0], other[0]
        low, high = self._clip(result)
        return Use(node, at, node.inputs[0], result, bias, low, high)

    def _reader(self, name: str) -> "Node | None":
        """The node that alone reads a value, which is no output of the graph."""
        readers = self._readers[name]
        return readers[0][1] if len(readers) == 1 and name not in self.graph.outputs else None

    def _only(self, bias: str, sharers: "list[Node]", rows: int, behind: bool = False) -> bool:
        """Whether an initializer is the bias of this weight's uses and of nothing else."""
        if not self.graph.is_weight(bias) or prod(self.graph.shapes[bias]) != rows:
            return False
        mine = [self._reader(n.outputs[0]) for n in sharers] if behind else sharers
        return all(any(node is m for m in mine) for _, node in self._readers[bias]) and len(self._readers[bias]) == len(sharers)

    def _broadcasts(self, name: str, node: "Node", rows: int) -> bool:
        """Whether adding it gives every row of the weight one number."""
        shape, out = self.graph.shapes.get(name, ()), node.shapes[0]
        axis = 1 if node.op == "Conv" else len(out) - 1
        aligned = (1,) * (len(out) - len(shape)) + tuple(shape)
        return len(aligned) == len(out) and all(n == (rows if a == axis else 1) for a, n in enumerate(aligned))

    def _clip(self, result: str) -> tuple[float, float]:
        node = self._reader(result)
        if node is None:
            return -inf, inf
        if node.op == "Relu":
            return 0.0, inf
        if node.op == "Clip" and node.inputs[0] == result and all(k is not None or not n for n, k in zip(node.inputs[1:], node.known[1:])):
            bounds = [float(k.reshape(-1)[0]) if k is not None else d for k, d in zip([*node.known[1:], None, None], (-inf, inf))]
            return bounds[0], bounds[1]
        return -inf, inf


def _rows(graph: "Graph", node: "Node") -> int:
    shape = graph.shapes[node.inputs[1]]
    if node.op in GATES:
        return shape[1]
    if node.op == "Gemm":
        return shape[0] if node.attrs.get("transB", 0) else shape[1]
    return shape[0] if node.op == "Conv" else shape[-1]


def positions(use: Use) -> int:
    """Rows of inputs that one case gives."""
    shape = use.node.shapes[0]
    return prod(shape) // (shape[1] if use.node.op == "Conv" else shape[-1])


def taken(use: Use, source: Tensor, at: np.ndarray) -> Tensor:
    """What the weight multiplies: (cases * n, K) of source (cases, *shape) at the positions at (cases, n)."""
    node, cases, at = use.node, np.arange(len(source))[:, None], np.ascontiguousarray(at)
    if node.op == "Gemm":
        rows = source.transpose(1, 2) if node.attrs.get("transA", 0) else source
        return rows[cases, at].flatten(0, 1) * node.attrs.get("alpha", 1.0)
    if node.op == "MatMul":
        return source.reshape(len(source), -1, source.shape[-1])[cases, at].flatten(0, 1)
    rank = source.ndim - 3
    stride, dilation = (node.attrs.get(k, [1] * rank) for k in ("strides", "dilations"))
    kernel = _kernel(node, rank)
    x = padded(source, window_pads(node, source.shape[3:], kernel, stride, dilation))
    batch, *place = np.unravel_index(at, (node.shapes[0][0], *node.shapes[0][2:]))
    spots = [p.reshape(-1, *[1] * rank) * s + (np.arange(k) * d).reshape(-1, *[1] * (rank - a - 1))
             for a, (p, s, k, d) in enumerate(zip(place, stride, kernel, dilation))]
    first = [np.array(np.broadcast_to(i, at.shape)).reshape(-1, *[1] * rank) for i in (cases, batch)]
    found = x[first[0], first[1], :, *spots]  # (cases * n, *kernel, channels)
    return found.movedim(-1, 1).flatten(1)


def _kernel(node: "Node", rank: int) -> list[int]:
    weight = node.known[1]
    assert weight is not None
    return list(weight.shape[2:])


def made(use: Use, result: Tensor, at: np.ndarray) -> Tensor:
    """What the weight gives at these positions, with its bias: (cases * n, R)."""
    flat = result.movedim(2, -1) if use.node.op == "Conv" else result
    return flat.reshape(len(result), -1, flat.shape[-1])[torch.arange(len(result))[:, None], torch.tensor(at)].flatten(0, 1)
