"""Which initializers of a graph training may change, and in which of them zeros must stay."""
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.exporters.sparsify.torch_graph.graph import Graph
    from edgekit.exporters.sparsify.torch_graph.node import Node

# Inputs by number. A constant left factor of a MatMul is not among them: it mixes positions (the adjacency of a graph).
WEIGHTS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (1,), "MatMul": (1,), "Einsum": (0, 1, 2), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2)}
OFFSETS = {"Conv": (2,), "ConvTranspose": (2,), "Gemm": (2,), "LSTM": (3, 7), "GRU": (3,), "RNN": (3,), "PRelu": (1,), "Gather": (0,),
           "InstanceNormalization": (1, 2), "LayerNormalization": (1, 2), "GroupNormalization": (1, 2), "RMSNormalization": (1,)}
SCALES, SHIFTS = ("Mul", "Div"), ("Add", "Sub")


def trainable(graph: "Graph") -> dict[str, bool]:
    """{initializer: whether its zeros stay}: weights of products, biases, norms, embeddings; scales and shifts behind a layer.

    Single numbers in an Add or Mul are part of a formula (1 - z), and constants before the first layer are units of the
    inputs: both stay. So do shifts that are not finite: masks.
    """
    found: dict[str, bool] = {}
    deep: set[str] = set()
    for node in graph.nodes:
        kept = _weights(graph, node, WEIGHTS.get(node.op, ()))
        behind = bool(deep.intersection(node.inputs))
        if behind and node.op in SCALES:
            kept += _weights(graph, node, (0, 1), least=2)
        free = _weights(graph, node, OFFSETS.get(node.op, ()))
        if behind and node.op in SHIFTS:
            free += _weights(graph, node, (0, 1), least=2)
        found.update({name: found.get(name, False) for name in free} | dict.fromkeys(kept, True))
        if kept or behind:
            deep.update(node.outputs)
    return found


def _weights(graph: "Graph", node: "Node", numbers: tuple[int, ...], least: int = 1) -> list[str]:
    """The inputs of these numbers that are finite floating-point initializers of at least so many elements."""
    names = [node.inputs[k] for k in numbers if k < len(node.inputs) and node.inputs[k]]
    return [n for n in names if graph.is_weight(n) and graph.weight(n).numel() >= least and bool(graph.weight(n).isfinite().all())]


def inputs_of(node: "Node", number: int, rank: int) -> tuple[int, ...] | None:
    """The axes of weights, input `number` of the node, that one output sums over; None where the node is no product."""
    if number not in WEIGHTS.get(node.op, ()) or node.op == "Einsum":
        return None
    if node.op in ("Conv", "ConvTranspose"):
        return tuple(a for a in range(rank) if a != (node.op == "ConvTranspose"))
    if node.op in ("Gemm", "MatMul"):
        return (1,) if node.attrs.get("transB", 0) else (rank - 2,) if rank > 1 else (0,)
    return (2,)
