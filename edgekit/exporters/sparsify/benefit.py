"""What groups would bring to each layer of a model, before anyone trains, and what zeros bring that it has: by its
multiply-adds and bytes."""
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.exporters.sparsify.graph import Weight, require_onnx, weights
from edgekit.exporters.sparsify.rules import Choice, Group, decide
from edgekit.exporters.sparsify.zeros import Zeros, zeros

if TYPE_CHECKING:
    import onnx

LEVELS = (0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Cost:
    """A layer at a sparsity. macs: multiply-adds of one inference, padding of groups included; bytes: float32 weights,
    index and order lists."""

    sparsity: float
    macs: int
    bytes: int


@dataclass(frozen=True)
class LayerBenefit:
    """A layer dense and at each of LEVELS. name, op, shape: see `rules.Layer`. macs, bytes: dense.

    group: V, or None if the layer stays dense at every level; then `reason` says why and `levels` is empty.
    zeros: those that the weights have as they are, None where there are no constant weights.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    macs: int
    bytes: int
    group: int | None
    levels: tuple[Cost, ...]
    reason: str
    zeros: Zeros | None


def benefit(model: "onnx.ModelProto", group: Group = "auto") -> tuple[LayerBenefit, ...]:
    """The layers of a clean graph in its order. Counts, not times: memory, caches and call overhead are left out."""
    to_array = require_onnx().numpy_helper.to_array
    tensors = {t.name: t for t in model.graph.initializer}

    def there(weight: Weight) -> Zeros | None:
        if not weight.places:
            return None
        _, name, layout = weight.places[0]
        return zeros(to_array(tensors[name]), layout, weight.facts)
    return tuple(_layer(weight, group, there(weight)) for weight in weights([model]))


def _layer(weight: Weight, group: Group, there: Zeros | None) -> LayerBenefit:
    dense = Cost(0, weight.facts.macs, 4 * math.prod(weight.shape) if weight.places else 0)
    choices = {s: decide(weight.facts, s, group) for s in LEVELS}
    groups = [c.v for c in choices.values() if not c.reason]
    reason = "" if groups else choices[LEVELS[-1]].reason
    levels = tuple(_cost(weight, dense, s, c) for s, c in choices.items()) if groups else ()
    return LayerBenefit(weight.name, weight.op, weight.shape, dense.macs, dense.bytes,
                        groups[0] if groups else None, levels, reason, there)


def _cost(weight: Weight, dense: Cost, sparsity: float, choice: Choice) -> Cost:
    if choice.reason:
        return Cost(sparsity, dense.macs, dense.bytes)
    outputs, inputs = weight.facts.outputs, weight.facts.inputs
    count = -(-outputs // choice.v)
    rows, matrices = count * choice.v, math.prod(weight.shape) // (outputs * inputs)
    index = count * choice.kept * (2 if inputs <= 1 << 16 else 4)
    macs = dense.macs // (outputs * inputs) * rows * choice.kept
    return Cost(sparsity, macs, matrices * (4 * rows * choice.kept + index + 4 * rows))
