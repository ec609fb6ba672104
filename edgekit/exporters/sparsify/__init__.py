"""Which weights go: patterns, scores, permutation and pruning. Plain numpy; onnx and torch are imported when they are used."""
from edgekit.exporters.sparsify.benefit import Cost, LayerBenefit, benefit
from edgekit.exporters.sparsify.groups import Groups, dense_groups, find_groups, pack, unpack
from edgekit.exporters.sparsify.oneshot import Pruned, prune_onnx
from edgekit.exporters.sparsify.rules import Layer

__all__ = ["Cost", "Groups", "Layer", "LayerBenefit", "Pruned", "benefit", "dense_groups", "find_groups", "pack",
           "prune_onnx", "unpack"]
