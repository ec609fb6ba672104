"""Whole output channels, really removed: a narrower dense model in plain ONNX.

    coupling, rules   which channels go together, found on the graph (Fang et al. 2023, DepGraph, by labels of indices)
    remove            slices the weights and mends the nodes that state sizes
    verify            the narrower model against the given one with those channels left out of every sum
"""
from edgekit.exporters.sparsify.channels.choose import narrower

__all__ = ["narrower"]
