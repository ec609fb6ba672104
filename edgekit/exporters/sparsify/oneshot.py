"""Pruning of ONNX models without data: by magnitude, in balanced groups. The result is plain ONNX with more zeros."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import InputError
from edgekit.exporters.sparsify.graph import Weight, matrices, require_onnx, restore, weights
from edgekit.exporters.sparsify.mask import choose, mask
from edgekit.exporters.sparsify.rules import LEFT, Choice, Group, Layer, checked, decide
from edgekit.exporters.sparsify.scores import l2
from edgekit.exporters.sparsify.zeros import zeros

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Pruned:
    """models: as given, pruned, in their order. layers: every product of theirs, weights of the same content once."""

    models: "tuple[onnx.ModelProto, ...]"
    layers: tuple[Layer, ...]


def prune_onnx(models: "Sequence[onnx.ModelProto]", *, sparsity: float, group: Group = "auto") -> Pruned:
    """Sets the least weights, by magnitude, of every layer that group sparsity applies to, to zero.

    models: clean graphs (see `exporters/load`), variants of one model; they are not changed. sparsity: share of the
    inputs that each group drops, 0 <= sparsity < 1. group: outputs that share their inputs, 1 to 64, or "auto".
    Only values of initializers change. Weights that occur several times, in one or in several of the models, are pruned
    once and alike. Zeros that are there already stay, and count where kernels use them. InputError for bad arguments.
    """
    sparsity, group = checked(sparsity, group)
    onnx = require_onnx()
    copies = []
    for model in models:
        copies.append(onnx.ModelProto())
        copies[-1].CopyFrom(model)
    tensors = [{t.name: t for t in model.graph.initializer} for model in copies]
    layers = []
    for weight in weights(copies):
        choice = decide(weight.facts, sparsity, group)
        arrays = [onnx.numpy_helper.to_array(tensors[m][name]) for m, name, _ in weight.places]
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
            pruned = _prune(weight.name, stack, choice)
            for (m, name, layout), array in zip(weight.places, arrays):
                value = restore(pruned, array.shape, layout)
                tensors[m][name].CopyFrom(onnx.numpy_helper.from_array(value, name))
            layers.append(_layer(weight, 1 - choice.kept / stack.shape[2], choice.v, ""))
    return Pruned(tuple(copies), tuple(layers))


def _prune(name: str, stack: np.ndarray, choice: Choice) -> np.ndarray:
    if not np.isfinite(stack).all():
        raise InputError("the weights are not finite", where=name, fix="train or export the model again")
    keep = [mask(choose(l2(w.astype(np.float32)), choice.v, choice.kept), *w.shape) for w in stack]
    return np.where(keep, stack, np.zeros((), stack.dtype))


def _layer(weight: Weight, sparsity: float, group: int | None, reason: str) -> Layer:
    return Layer(weight.name, weight.op, weight.shape, weight.facts.macs, sparsity, group, reason)
