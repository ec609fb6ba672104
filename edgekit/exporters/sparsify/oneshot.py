"""Pruning of ONNX models without data, by scores of the weights. The result is plain ONNX with more zeros."""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit.exporters.sparsify.channels import narrower
from edgekit.exporters.sparsify.graph import Weight, finite, matrices, require_onnx, restore, weights, with_values
from edgekit.exporters.sparsify.patterns import Pattern, agreed, group_of, keep, parse
from edgekit.exporters.sparsify.rules import LEFT, Choice, Group, Layer, Sparsity, decide_all
from edgekit.exporters.sparsify.scores import l2
from edgekit.exporters.sparsify.zeros import zeros

if TYPE_CHECKING:
    import onnx

KEPT = "its channels and those that it reads stay"
Score = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Pruned:
    """models: as given, pruned, in their order. layers: every product of theirs, weights of the same content once."""

    models: "tuple[onnx.ModelProto, ...]"
    layers: tuple[Layer, ...]


def prune_onnx(models: "Sequence[onnx.ModelProto]", *, sparsity: Sparsity, group: Group = "auto",
               pattern: str = "groups", score: Score = l2, permute: bool = True) -> Pruned:
    """Sets the weights of least score of the layers to zero.

    models: clean graphs (see `exporters/load`), variants of one model; they are not changed. sparsity: share of its
    weights that each layer drops, 0 <= sparsity < 1, for all that the rules prune, or {layer: sparsity} (see
    `rules.decide_all`); an N:M pattern drops 1 - N/M and nothing else. group: outputs that share their inputs, 1 to
    64, or "auto"; of the pattern "groups". pattern: see `patterns`. score: from a matrix (outputs, inputs) to scores of
    the same shape. permute: whether any outputs may share a group, or only neighbours.

    Only values of initializers change, but for the pattern "channels", where the graph becomes narrower (`channels`). Weights that occur several times, in one or in several of the models, are pruned
    once and alike. Zeros that are there already stay, and count where kernels use them. InputError for bad arguments.
    """
    wanted = parse(pattern)
    to_array = require_onnx().numpy_helper.to_array
    if wanted.kind == "channels":
        return _narrowed(models, narrower(models, sparsity, score))
    tensors = [{t.name: t for t in model.graph.initializer} for model in models]
    values: list[dict[str, np.ndarray]] = [{} for _ in models]
    found = weights(models)
    choices = decide_all([(w.name, w.facts) for w in found], agreed(wanted, sparsity), group_of(wanted, group))
    layers = []
    for weight, choice in zip(found, choices):
        arrays = [to_array(tensors[m][name]) for m, name, _ in weight.places]
        if weight.facts.blocked not in ("", LEFT):
            layers.append(_layer(weight, 0.0, None, choice.reason))
            continue
        stack = matrices(arrays[0], weight.places[0][2])
        there = zeros(arrays[0], weight.places[0][2], weight.facts)
        if there.group and (choice.reason or there.kept * stack.shape[2] <= choice.kept):
            layers.append(_layer(weight, 1 - there.kept, there.group, ""))
        elif choice.reason:
            layers.append(_layer(weight, 0.0, None, choice.reason))
        else:
            taps = math.prod(weight.shape[2:]) if weight.facts.kind == "conv" else 1
            kept = [keep(score(w), wanted, choice, taps, permute) for w in finite(weight.name, stack).astype(np.float32)]
            pruned = np.where(kept, stack, np.zeros((), stack.dtype))
            for (m, name, layout), array in zip(weight.places, arrays):
                values[m][name] = restore(pruned, array.shape, layout)
            layers.append(_seen(weight, choice, wanted, pruned))
    return Pruned(tuple(map(with_values, models, values)), tuple(layers))


def _narrowed(models: "Sequence[onnx.ModelProto]", narrow: "tuple[onnx.ModelProto, ...]") -> Pruned:
    """What each layer lost with its channels and those that it read."""
    sizes = [{t.name: math.prod(t.dims) for t in model.graph.initializer} for model in narrow]
    layers = []
    for weight in weights(models):
        m, name, _ = weight.places[0] if weight.places else (0, "", "")
        left = sizes[m].get(name, 0) / max(math.prod(weight.shape), 1) if weight.places else 1.0
        layers.append(_layer(weight, 1 - left, None, KEPT if left == 1 else ""))
    return Pruned(narrow, tuple(layers))


def _seen(weight: Weight, choice: Choice, pattern: Pattern, pruned: np.ndarray) -> Layer:
    """What the kernel will make of a layer's new zeros."""
    if pattern.kind == "groups":
        return _layer(weight, 1 - choice.kept / pruned.shape[2], choice.v, "")
    there = zeros(pruned, "stack", weight.facts)
    return _layer(weight, there.share, there.group, "" if there.group else "lists of its zeros would not be faster")


def _layer(weight: Weight, sparsity: float, group: int | None, reason: str) -> Layer:
    return Layer(weight.name, weight.op, weight.shape, weight.facts.macs, sparsity, group, reason)
