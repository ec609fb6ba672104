"""Which channels go: those of least score over all that they are coupled with."""
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import InputError
from edgekit.exporters.sparsify.channels.coupling import KEEP, Graph, Labels, trace
from edgekit.exporters.sparsify.channels.remove import removed
from edgekit.exporters.sparsify.channels.verify import verify
from edgekit.exporters.sparsify.graph import Weight, finite, matrices, require_onnx, shapes_of, weights
from edgekit.exporters.sparsify.rules import LEFT, TRANSPOSED, Sparsity, checked, grouped

if TYPE_CHECKING:
    import onnx

OWN = {"": True, LEFT: True, TRANSPOSED: True, grouped(1): True}  # layers whose rows are channels


def narrower(models: "Sequence[onnx.ModelProto]", sparsity: Sparsity,
             score: Callable[[np.ndarray], np.ndarray]) -> "tuple[onnx.ModelProto, ...]":
    """The models (variants of one, clean graphs) without the channels of least score.

    sparsity: share of its channels that each set of coupled layers loses, for all sets, the first convolution included;
    or {layer: share}, of which a set takes the largest that one of its layers is given, and sets without one lose none.
    At least one channel of everything stays. score: from a matrix (outputs, inputs) to scores of its shape; a channel
    counts by its rows' share of each layer that makes it. Channels that reach an output of the model or an operator whose
    effect on them is not known stay. The result is compared with the given models in onnxruntime: VerificationError.
    """
    to_array = require_onnx().numpy_helper.to_array
    labels = Labels()
    graphs = [trace(m, shapes_of(m), {t.name: to_array(t) for t in m.graph.initializer}, labels) for m in models]
    layers = [w for w in weights(models) if w.places]
    for layer in layers:
        _unite_variants(graphs, layer)
    class_of = labels.table()
    rows = {k: class_of[_rows(graphs[w.model], w)] for k, w in enumerate(layers) if w.facts.blocked in OWN}
    wanted = _wanted(layers, rows, sparsity)
    worth: dict[int, float] = defaultdict(float)
    for k, channels in rows.items():
        for channel, value in zip(channels.tolist(), _row_scores(graphs[layers[k].model], layers[k], score).tolist()):
            worth[channel] += value
    gone = _least(_sets(rows), wanted, worth, _never_empty(graphs, class_of))
    if not gone:
        return tuple(models)
    out = tuple(removed(g, class_of, gone) for g in graphs)
    for graph, model in zip(graphs, out):
        verify(graph, class_of, gone, model)
    return out


def _axis(layer: Weight, layout: str) -> int:
    """Of the outputs in a layer's weights."""
    return 1 if layer.op == "ConvTranspose" or layout in ("columns", "stack") else 0


def _rows(graph: Graph, layer: Weight) -> np.ndarray:
    _, name, layout = layer.places[0]
    return graph.axes(name)[_axis(layer, layout)]


def _row_scores(graph: Graph, layer: Weight, score: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Each output's share of a layer's score, times the number of outputs."""
    _, name, layout = layer.places[0]
    w = graph.constants[name]
    stack = w.swapaxes(0, 1).reshape(1, w.shape[1], -1) if layer.op == "ConvTranspose" else matrices(w, layout)
    found = sum(score(m.astype(np.float32)).sum(1, dtype=np.float64) for m in finite(layer.name, stack))
    return found / max(float(np.mean(found)), 1e-30)


def _unite_variants(graphs: Sequence[Graph], layer: Weight) -> None:
    """Weights that several variants share lose the same channels; where they lie otherwise, none."""
    first, name, layout = layer.places[0]
    for model, other, other_layout in layer.places[1:]:
        if model == first:
            continue
        a, b = graphs[first].axes(name), graphs[model].axes(other)
        if layout == other_layout and list(map(len, a)) == list(map(len, b)):
            for one, two in zip(a, b):
                graphs[first].labels.unite(one, two)
        else:
            graphs[first].keep(name)
            graphs[model].keep(other)


def _wanted(layers: Sequence[Weight], rows: Mapping[int, np.ndarray], sparsity: Sparsity) -> dict[int, float]:
    """Share of its channels that each layer is to lose."""
    if not isinstance(sparsity, Mapping):
        return dict.fromkeys(rows, checked(sparsity, 1)[0])
    by_name = {layer.name: k for k, layer in enumerate(layers)}
    for name, value in sparsity.items():
        if name not in by_name:
            raise InputError(f"there is no layer {name!r}", fix="the layers are: " + ", ".join(sorted(by_name)))
        if checked(value, 1, name)[0] and not rows.get(by_name[name], np.zeros(1)).any():
            raise InputError("none of its channels can be removed", where=name, fix="leave it out")
    return {k: float(sparsity.get(layers[k].name, 0)) for k in rows}


def _sets(rows: Mapping[int, np.ndarray]) -> list[tuple[list[int], list[int]]]:
    """(layers, channels) of each set: layers that share a channel, and all channels of theirs that may go."""
    found: list[tuple[set[int], set[int]]] = []
    for k, channels in rows.items():
        own = ({k}, set(channels.tolist()) - {KEEP})
        apart = []
        for other in found:
            if own[1] & other[1]:
                own = (own[0] | other[0], own[1] | other[1])
            else:
                apart.append(other)
        found = [*apart, own]
    return [(sorted(ks), sorted(channels)) for ks, channels in found if channels]


def _never_empty(graphs: Sequence[Graph], class_of: np.ndarray) -> list[frozenset[int]]:
    """The channels of every axis of which one at least has to stay."""
    axes = {frozenset(class_of[a].tolist()) for g in graphs for axes in g.values.values() for a in axes if len(a)}
    return [a for a in axes if KEEP not in a]


def _least(sets: Sequence[tuple[list[int], list[int]]], wanted: Mapping[int, float], worth: Mapping[int, float],
           axes: Sequence[frozenset[int]]) -> set[int]:
    left = [len(a) for a in axes]
    at: dict[int, list[int]] = defaultdict(list)
    for k, axis in enumerate(axes):
        for channel in axis:
            at[channel].append(k)
    gone: set[int] = set()
    for layers, channels in sets:
        count = round(len(channels) * max(wanted[k] for k in layers))
        for channel in sorted(channels, key=lambda c: (worth[c], c)):
            if not count:
                break
            if all(left[k] > 1 for k in at[channel]):
                gone.add(channel)
                count -= 1
                for k in at[channel]:
                    left[k] -= 1
    return gone
