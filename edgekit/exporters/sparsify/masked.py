"""Weights of torch modules under a mask that holds whatever an optimiser does.

Needs torch: see `training`.
"""
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class GroupMask(nn.Module):
    """Parametrisation: the weight where `mask` is true, zero elsewhere.

    Its gradient is zero there too, and assigning to the weight masks what is assigned. The parameter behind it is left
    alone: where the mask is false it keeps the value that it had.

    mask: of the weight's shape. rows: (matrices, groups, V) outputs that share their inputs, -1 is padding; None for a
    mask without groups, which no schedule changes. columns: the weight is one matrix, inputs first.
    """

    def __init__(self, mask: Tensor, rows: Tensor | None = None, columns: bool = False):
        super().__init__()
        self.register_buffer("mask", mask)
        self.register_buffer("rows", rows)
        self.columns = columns
        self.watching = False                   # whether backward passes leave the gradient of the whole weight
        self.gradient: Tensor | None = None     # here, added up, that of zeros included

    def forward(self, weight: Tensor) -> Tensor:
        # A selection, not a product: what is not finite behind the mask, or in a gradient, stays behind it.
        out = torch.where(self.mask, weight, 0.0)
        if self.watching and out.requires_grad:
            out.register_hook(self._gather)
        return out

    def right_inverse(self, weight: Tensor) -> Tensor:
        return torch.where(self.mask, weight, 0.0)

    def watch(self, on: bool) -> None:
        """Starts or ends gathering; what was gathered is forgotten."""
        self.watching, self.gradient = on, None

    def _gather(self, gradient: Tensor) -> None:
        self.gradient = gradient.detach().clone() if self.gradient is None else self.gradient + gradient.detach()

    def sums(self, score: Tensor) -> Tensor:
        """score, of the weight's shape, summed over the outputs of a group: (matrices, groups, inputs)."""
        padded = nn.functional.pad(self._matrices(score).float(), (0, 0, 0, 1))
        return torch.stack([matrix[rows].sum(1) for matrix, rows in zip(padded, self.rows)])

    @property
    def reads(self) -> Tensor:
        """Boolean (matrices, groups, inputs): which inputs each group reads."""
        some = self.rows.max(2).values          # an output of the group that is no padding
        return torch.stack([matrix[rows] for matrix, rows in zip(self._matrices(self.mask), some)])

    def read(self, reads: Tensor) -> None:
        """Makes the groups read these inputs: the inverse of `reads`."""
        mask = self._matrices(self.mask)
        new = torch.zeros_like(nn.functional.pad(mask, (0, 0, 0, 1)))
        for matrix, rows, kept in zip(new, self.rows, reads):
            matrix[rows] = kept[:, None]        # the last row takes what padding reads
        new = new[:, :-1]
        self.mask.copy_(new[0].T if self.columns else new.reshape(self.mask.shape))

    def _matrices(self, x: Tensor) -> Tensor:
        return x.T[None] if self.columns else x.reshape(len(self.rows), int(self.rows.max()) + 1, -1)


def masks(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name of the weight, its chain of parametrisations: `chain.original`, `chain[0]`) of every masked weight."""
    for path, m in module.named_modules():
        for name, chain in getattr(m, "parametrizations", {}).items():
            if isinstance(chain[0], GroupMask):
                yield f"{path}.{name}".lstrip("."), chain


def attach(m: nn.Module, parameter: str, mask: GroupMask) -> None:
    """Puts a parameter under a mask; its value, that behind the mask too, stays what it was."""
    value = getattr(m, parameter).detach().clone()
    parametrize.register_parametrization(m, parameter, mask)
    with torch.no_grad():
        m.parametrizations[parameter].original.copy_(value)
    if isinstance(m, nn.RNNBase):
        _read_masked_weights(m)


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


def _read_masked_weights(m: nn.Module) -> None:
    """Lets a recurrent module compute with its parametrised weights.

    nn.LSTM and its like run on a list of tensors, `_flat_weights`, that they keep beside their parameters: it would
    hold the unmasked ones, or results of an earlier step that can neither be copied nor trained. Here it is made anew
    at each use. parametrize has given this module a class of its own, so no other module is touched.
    """
    kind = type(m)

    def flat(self: nn.Module) -> list[Tensor]:
        return [getattr(self, name) for name in self._flat_weights_names]

    m.__dict__.pop("_flat_weights", None)
    m.__dict__["_flat_weight_refs"] = []
    kind._flat_weights = property(flat, lambda self, value: None)
    kind._init_flat_weights = kind._update_flat_weights = kind.flatten_parameters = lambda self: None
