"""How much of the squared weights the groups keep, beside what other choices of the rows of a group would have kept."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit.exporters.sparsify.graph import matrices, require_onnx, weights
from edgekit.exporters.sparsify.mask import kept_inputs, unstructured_bound
from edgekit.exporters.sparsify.oneshot import Pruned, Score
from edgekit.exporters.sparsify.permute import neighbours, saliency
from edgekit.exporters.sparsify.scores import l2

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Saliency:
    """Shares of a layer's score that stay at its sparsity: with the groups that it has; with neighbouring rows as groups;
    with rows sorted by norm; and with the best single weights, which no grouping exceeds."""

    kept: float
    neighbours: float
    by_norm: float
    unstructured: float


def saliency_kept(models: "Sequence[onnx.ModelProto]", pruned: Pruned, score: Score = l2) -> dict[str, Saliency]:
    """Of every layer that was pruned in balanced groups, by name. models: before pruning; score: of a matrix (outputs,
    inputs). Data may say that other weights matter more: this is about weights alone."""
    to_array = require_onnx().numpy_helper.to_array
    before, after = ([{t.name: to_array(t) for t in m.graph.initializer} for m in side] for side in (models, pruned.models))
    groups = {x.name: x.group for x in pruned.layers}
    found = {}
    for weight in weights(models):
        m, name, layout = weight.places[0] if weight.places else (0, "", "")
        v = groups.get(weight.name)
        if not (name and v) or before[m][name].shape != after[m][name].shape:
            continue
        old, new = (matrices(side[m][name], layout) for side in (before, after))
        lists = [np.unique(np.count_nonzero(w, axis=1)) for w in new]
        if np.count_nonzero(old) == np.count_nonzero(new) or any(len(n) > 1 for n in lists):
            continue  # zeros of its own, or lists of unequal length
        kept = kept_inputs(old.shape[2], 1 - int(lists[0][0]) / old.shape[2])
        found[weight.name] = _saliency([score(w.astype(np.float32)) for w in old], new != 0, v, kept)
    return found


def _saliency(scores: list[np.ndarray], stays: np.ndarray, v: int, kept: int) -> Saliency:
    total = sum(s.sum(dtype=np.float64) for s in scores) or 1.0

    def share(values: list[float]) -> float:
        return float(sum(values) / total)

    return Saliency(
        share([float(s[k].sum(dtype=np.float64)) for s, k in zip(scores, stays)]),
        share([saliency(s, neighbours(len(s), v), kept) for s in scores]),
        share([saliency(s[np.argsort(s.sum(1), kind="stable")], neighbours(len(s), v), kept) for s in scores]),
        share([unstructured_bound(s, kept) for s in scores]))
