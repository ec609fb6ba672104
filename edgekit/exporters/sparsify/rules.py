"""Which layers are pruned, in what groups, and why the others stay dense: one set of rules for ONNX and torch."""
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.errors import InputError
from edgekit.exporters.sparsify.groups import PADDING, WORTH
from edgekit.exporters.sparsify.mask import kept_inputs

MIN_INPUTS = 8     # with fewer there is next to nothing to choose from
MIN_MACS = 1024    # below, a layer costs about as much as calling it
LEFT = "its constant is the left factor"
TRANSPOSED = "transposed convolutions have no sparse kernel"

Group = int | str
Sparsity = float | Mapping[str, float]


@dataclass(frozen=True)
class Layer:
    """A layer with weights, or a product of two activations, and what pruning did to it.

    name: the ONNX node or torch module; of a recurrent layer with .W or .R behind it. Weights used by several nodes are
    one layer, named after the first. shape: of the weights. macs: dense multiply-adds of one inference, all uses.
    sparsity: share of the weights that are zeros, or left with removed channels. group: V of the lists that its kernel
    reads, or None where it has none. reason: why it is computed densely although the rules or zeros would allow more, or "".
    """

    name: str
    op: str
    shape: tuple[int, ...]
    macs: int
    sparsity: float
    group: int | None
    reason: str


@dataclass(frozen=True)
class Facts:
    """What the rules look at. outputs, inputs: of the weight matrix. kind: "conv" | "linear" | "recurrent".

    first: no other layer lies before it. head: it makes an output of the model and no other layer lies behind it.
    blocked: a reason to stay dense that the reader of the model has found, or "".
    """

    kind: str
    outputs: int
    inputs: int
    macs: int
    first: bool = False
    head: bool = False
    blocked: str = ""


@dataclass(frozen=True)
class Choice:
    """Groups of v outputs that keep `kept` inputs; or a reason to stay dense."""

    v: int
    kept: int
    reason: str = ""


def checked(sparsity: float, group: Group, where: str = "") -> tuple[float, Group]:
    """The arguments of pruning, or InputError. where: the layer that the sparsity is for."""
    try:
        number = float(sparsity)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < 1:
        raise InputError(f"sparsity must be at least 0 and less than 1, not {sparsity!r}", where=where,
                         fix="0.5 prunes half of the weights")
    whole = isinstance(group, numbers.Real) and not isinstance(group, bool) and group in range(1, 65)
    if group != "auto" and not whole:
        raise InputError(f"group must be 'auto' or a whole number from 1 to 64, not {group!r}")
    return number, group if isinstance(group, str) else int(group)


def auto_group(kind: str, outputs: int) -> int:
    """Group size of a layer: what the kernels like, where rounding up to it wastes little. outputs >= 4.

    Convolutions have positions as vector lanes and take 8; linear and recurrent layers have the outputs of a group as
    lanes and take 16, or 32 where there are many outputs.
    """
    sizes = (8, 4) if kind == "conv" else (32, 16, 8, 4) if outputs >= 512 else (16, 8, 4)
    waste = {v: -(-outputs // v) * v / outputs for v in sizes if v <= outputs}
    return next((v for v in waste if waste[v] <= PADDING), min(waste, key=lambda v: waste[v]))


def decide_all(layers: Sequence[tuple[str, Facts]], sparsity: Sparsity, group: Group) -> list[Choice]:
    """The groups of every layer, in their order. layers: names and facts.

    sparsity: one number for all layers that the rules prune; or {name: sparsity}: layers that are not named stay dense,
    and one that is named is pruned where it can be, be it a head, a first convolution or tiny. InputError for numbers
    and names that do not fit, and for a named layer that cannot be pruned.
    """
    if not isinstance(sparsity, Mapping):
        sparsity, group = checked(sparsity, group)
        return [decide(facts, sparsity, group) for _, facts in layers]
    _, group = checked(0, group)
    known = {name for name, _ in layers}
    for name, value in sparsity.items():
        if name not in known:
            raise InputError(f"there is no layer {name!r}", fix="the layers are: " + ", ".join(sorted(known)))
        checked(value, group, name)
    choices = [decide(facts, float(sparsity.get(name, 0)), group, bool(sparsity.get(name))) for name, facts in layers]
    for (name, _), choice in zip(layers, choices):
        if sparsity.get(name) and not choice.v:
            raise InputError(f"it cannot be pruned: {choice.reason}", where=name, fix="leave it out, or change the group")
    return choices


def decide(facts: Facts, sparsity: float, group: Group, named: bool = False) -> Choice:
    """The groups of a layer at `sparsity`, or why it stays dense. named: the user asked for this very layer."""
    if facts.blocked:
        return Choice(0, 0, facts.blocked)
    if not named and (habit := _habit(facts)):
        return Choice(0, 0, habit)
    if facts.outputs < 4 or group != "auto" and facts.outputs < int(group):
        needed = 4 if group == "auto" else max(4, int(group))
        return Choice(0, 0, f"it has {_number(facts.outputs, 'output')}, fewer than the {needed} of a group")
    v = auto_group(facts.kind, facts.outputs) if group == "auto" else int(group)
    kept = kept_inputs(facts.inputs, sparsity)
    if -(-facts.outputs // v) * v * kept > WORTH * facts.outputs * facts.inputs:
        return Choice(v, kept, f"groups of {v} over {facts.outputs} outputs that keep {kept} of {facts.inputs} inputs "
                               f"would save less than {1 - WORTH:.0%}" if sparsity else "no sparsity was asked for")
    return Choice(v, kept)


def _habit(facts: Facts) -> str:
    """Why a layer that could be pruned usually is not, or ""."""
    if facts.head and facts.kind != "recurrent":
        return "it is the head: it makes an output of the model"
    if facts.first and facts.kind == "conv":
        return "it is the first convolution: it reads the input of the model"
    if facts.inputs < MIN_INPUTS:
        return f"it has {_number(facts.inputs, 'input')}: too few to choose from"
    return f"it is tiny: {facts.macs} multiply-adds" if facts.macs < MIN_MACS else ""


def grouped(fan_in: int) -> str:
    """Why a convolution in groups of `fan_in` input channels stays dense."""
    return "it is depthwise: a channel reads only itself" if fan_in == 1 else "it is a grouped convolution"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
