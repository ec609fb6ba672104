"""Clean ONNX graphs run and differentiated by torch: any values from any others, batched over cases."""
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.exporters.sparsify.torch_graph.graph import Graph

__all__ = ["Graph"]


def __getattr__(name: str) -> Any:
    if name == "Graph":  # needs torch
        from edgekit.exporters.sparsify.torch_graph import graph
        return graph.Graph
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
