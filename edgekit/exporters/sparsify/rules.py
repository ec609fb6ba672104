"""Which layers are pruned, in what groups, and why the others stay dense: one set of rules for ONNX and torch."""
import math
import numbers
from dataclasses import dataclass

from edgekit.errors import InputError
from edgekit.exporters.sparsify.groups import PADDING, WORTH
from edgekit.exporters.sparsify.mask import kept_inputs

MIN_INPUTS = 8     # with fewer there is next to nothing to choose from
MIN_MACS = 1024    # below, a layer costs about as much as calling it
LEFT = "its constant is the left factor"
TRANSPOSED = "transposed convolutions have no sparse kernel"

Group = int | str


@dataclass(frozen=True)
class Layer:
    """A layer with weights, or a product of two activations, and what pruning did to it.

    name: the ONNX node or torch module; of a recurrent layer with .W or .R behind it. Weights used by several nodes are
    one layer, named after the first. shape: of the weights. macs: dense multiply-adds of one inference, all uses.
    sparsity: share of the inputs that a group does not read. group: V, or None when dense. reason: why dense, or "".
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


def checked(sparsity: float, group: Group) -> tuple[float, Group]:
    """The arguments of pruning, or InputError."""
    try:
        number = float(sparsity)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < 1:
        raise InputError(f"sparsity must be at least 0 and less than 1, not {sparsity!r}", 
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


def decide(facts: Facts, sparsity: float, group: Group) -> Choice:
    """The groups of a layer at `sparsity`, or why it stays dense."""
    if facts.blocked:
        return Choice(0, 0, facts.blocked)
    if facts.head and facts.kind != "recurrent":
        return Choice(0, 0, "it is the head: it makes an output of the model")
    if facts.first and facts.kind == "conv":
        return Choice(0, 0, "it is the first convolution: it reads the input of the model")
    if facts.inputs < MIN_INPUTS:
        return Choice(0, 0, f"it has {_number(facts.inputs, 'input')}: too few to choose from")
    if facts.outputs < 4 or group != "auto" and facts.outputs < int(group):
        needed = 4 if group == "auto" else max(4, int(group))
        return Choice(0, 0, f"it has {_number(facts.outputs, 'output')}, fewer than the {needed} of a group")
    if facts.macs < MIN_MACS:
        return Choice(0, 0, f"it is tiny: {facts.macs} multiply-adds")
    v = auto_group(facts.kind, facts.outputs) if group == "auto" else int(group)
    kept = kept_inputs(facts.inputs, sparsity)
    if -(-facts.outputs // v) * v * kept > WORTH * facts.outputs * facts.inputs:
        return Choice(v, kept, f"groups of {v} over {facts.outputs} outputs that keep {kept} of {facts.inputs} inputs "
                               f"would save less than {1 - WORTH:.0%}" if sparsity else "no sparsity was asked for")
    return Choice(v, kept)


def grouped(fan_in: int) -> str:
    """Why a convolution in groups of `fan_in` input channels stays dense."""
    return "it is depthwise: a channel reads only itself" if fan_in == 1 else "it is a grouped convolution"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
