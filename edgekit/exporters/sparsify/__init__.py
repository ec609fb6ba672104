"""Which weights go: patterns, scores, permutation and pruning. Plain numpy; onnx and torch are imported where used."""
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgekit.exporters.sparsify.benefit import Cost, LayerBenefit, benefit
from edgekit.exporters.sparsify.groups import Groups, dense_groups, find_groups, pack, unpack
from edgekit.exporters.sparsify.oneshot import Pruned, prune_onnx
from edgekit.exporters.sparsify.patterns import Pattern, parse
from edgekit.exporters.sparsify.rules import Layer
from edgekit.exporters.sparsify.saliency import Saliency, saliency_kept

if TYPE_CHECKING:
    from edgekit.exporters.sparsify.gradients import fisher, taylor
    from edgekit.exporters.sparsify.onnx_module import trainable
    from edgekit.exporters.sparsify.reconstruction import Calibration, judge, judged, read_calibration, reconstruct
    from edgekit.exporters.sparsify.schedules import Dynamic, Gradual
    from edgekit.exporters.sparsify.training import prune, remove, summary
    from edgekit.exporters.sparsify.tuning import tune

__all__ = ["Calibration", "Cost", "Dynamic", "Gradual", "Groups", "Layer", "LayerBenefit", "Pattern", "Pruned", "Saliency", "benefit",
           "dense_groups", "find_groups", "fisher", "judge", "judged", "pack", "parse", "prune", "prune_onnx", "read_calibration",
           "reconstruct", "remove", "saliency_kept", "summary", "taylor", "trainable", "tune", "unpack"]

_TORCH = {"prune": "training", "remove": "training", "summary": "training", "trainable": "onnx_module", "tune": "tuning", "Gradual": "schedules",
          "Dynamic": "schedules", "fisher": "gradients", "taylor": "gradients",  # these need torch
          **dict.fromkeys(("Calibration", "judge", "judged", "read_calibration", "reconstruct"), "reconstruction")}


def __getattr__(name: str) -> Any:
    if name in _TORCH:
        return getattr(import_module(f"edgekit.exporters.sparsify.{_TORCH[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
