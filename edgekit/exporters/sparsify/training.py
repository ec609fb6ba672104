"""Pruning of torch modules as a parametrisation: the masks hold whatever an optimiser does, and export as zeros.

Needs torch: `import edgekit` does not import this module, `ek.prune` does.
"""
import copy
from typing import Any

import numpy as np

from edgekit.errors import InputError, MissingToolError

try:
    import torch
    from torch import nn
    from torch.nn.utils import parametrize
except ImportError:
    raise MissingToolError("torch is not installed", fix="pip install 'edgekit-deploy[torch]'") from None

from edgekit.exporters.sparsify.mask import choose, mask
from edgekit.exporters.sparsify.observe import Tensor, observe
from edgekit.exporters.sparsify.rules import Choice, Group, Layer, checked, decide
from edgekit.exporters.sparsify.scores import l2


class GroupMask(nn.Module):
    """Parametrisation weight * mask. The gradient is masked with it; assigning to the weight masks what is assigned."""

    def __init__(self, keep: torch.Tensor):
        super().__init__()
        self.register_buffer("mask", keep)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.mask

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.mask


def prune(module: nn.Module, example_inputs: Any, *, sparsity: float = 0.5, group: Group = 8) -> nn.Module:
    """A copy of the module, pruned by magnitude in balanced groups, to fine-tune in any training loop.

    example_inputs: a tuple of arguments, a dict of keyword arguments, or the one argument; a run on them shows which
    layer is the first and which the head. sparsity: share of the inputs that each group drops, 0 <= sparsity < 1.
    group: outputs that share their inputs, 1 to 64, or "auto" (by layer, as on ONNX models). `summary` says what became
    of each layer.

    Weights become parametrised (torch.nn.utils.parametrize): the optimiser trains `parametrizations.<weight>.original`,
    so make it after pruning. state_dict holds the masks. A module that was pruned before is pruned anew. InputError for
    arguments that do not fit and for modules that do not run on the inputs.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"{type(module).__name__} is no torch.nn.Module", fix="give the module that is to be pruned")
    sparsity, group = checked(sparsity, group)
    pruned = remove(copy.deepcopy(module))
    layers = []
    for tensor in observe(pruned, example_inputs):
        choice = decide(tensor.facts, sparsity, group)
        if not choice.reason:
            _attach(pruned.get_submodule(tensor.module), tensor, choice)
        dense = bool(choice.reason)
        layers.append(Layer(tensor.name, tensor.op, tensor.shape, tensor.facts.macs,
                            0.0 if dense else 1 - choice.kept / tensor.facts.inputs, None if dense else choice.v,
                            choice.reason))
    pruned._edgekit_layers = tuple(layers)
    return pruned


def summary(module: nn.Module) -> tuple[Layer, ...]:
    """What `prune` did to each layer of a module that it returned, and why some stayed dense."""
    layers = getattr(module, "_edgekit_layers", None)
    if layers is None:
        raise InputError("the module was not pruned by edgekit", where=type(module).__name__,
                         fix="call edgekit.prune first")
    return layers


def remove(module: nn.Module) -> nn.Module:
    """Makes the masks permanent, in place: plain modules and weights, zeros where the masks were. Returns module."""
    for m in list(module.modules()):
        if not parametrize.is_parametrized(m):
            continue
        ours = [name for name, chain in m.parametrizations.items() if any(isinstance(p, GroupMask) for p in chain)]
        # Copies of a parametrised module share its class, and removal deletes from the class: give this one its own.
        kind = type(m)
        m.__class__ = type(kind.__name__, kind.__bases__,
                           {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")})
        for name in ours:
            parametrize.remove_parametrizations(m, name, leave_parametrized=True)
        if ours and isinstance(m, nn.RNNBase) and not parametrize.is_parametrized(m):
            m._init_flat_weights()
            m.flatten_parameters()
    return module


def _attach(m: nn.Module, tensor: Tensor, choice: Choice) -> None:
    weight = getattr(m, tensor.parameter)
    values = weight.detach().to("cpu", torch.float32).numpy()
    if not np.isfinite(values).all():
        raise InputError("the weights are not finite", where=tensor.name)
    parts = values.reshape(tensor.parts, tensor.facts.outputs, tensor.facts.inputs)
    keep = np.stack([mask(choose(l2(w), choice.v, choice.kept), *w.shape) for w in parts]).reshape(values.shape)
    parametrize.register_parametrization(m, tensor.parameter, GroupMask(torch.from_numpy(keep).to(weight.device)))
    if isinstance(m, nn.RNNBase):
        _read_masked_weights(m)


def _read_masked_weights(m: nn.Module) -> None:
    """Lets a recurrent module compute with its parametrised weights.

    nn.LSTM and its like run on a list of tensors, `_flat_weights`, that they keep beside their parameters: it would
    hold the unmasked ones, or results of an earlier step that can neither be copied nor trained. Here it is made anew
    at each use. parametrize has given this module a class of its own, so no other module is touched.
    """
    kind = type(m)

    def flat(self: nn.Module) -> list[torch.Tensor]:
        return [getattr(self, name) for name in self._flat_weights_names]

    m.__dict__.pop("_flat_weights", None)
    m.__dict__["_flat_weight_refs"] = []
    kind._flat_weights = property(flat, lambda self, value: None)
    kind._init_flat_weights = kind._update_flat_weights = kind.flatten_parameters = lambda self: None
