"""Pruning of torch modules: a copy whose weights are under masks that hold in any training loop, and export as zeros.

Needs torch: `import edgekit` does not import this module, `ek.prune` does.
"""
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgekit.errors import InputError, MissingToolError

try:
    import torch
    from torch import nn
except ImportError:
    raise MissingToolError("torch is not installed", fix="pip install 'edgekit-deploy[torch]'") from None

from edgekit.exporters.sparsify.mask import choose, gains, kept_inputs, mask
from edgekit.exporters.sparsify.masked import GroupMask, attach, masks, remove
from edgekit.exporters.sparsify.observe import Tensor, observe
from edgekit.exporters.sparsify.patterns import Pattern, agreed, group_of, keep, parse
from edgekit.exporters.sparsify.permute import cluster
from edgekit.exporters.sparsify.ratios import Candidate, erdos_renyi, erdos_renyi_kernel, global_score
from edgekit.exporters.sparsify.rules import Choice, Group, Layer, Sparsity, decide_all
from edgekit.exporters.sparsify.scores import l2, random

__all__ = ["GroupMask", "prune", "remove", "summary"]

Score = str | Callable[[np.ndarray], np.ndarray] | Mapping[str, Any]
ALLOCATIONS = ("uniform", "er", "erk", "global")


def prune(module: nn.Module, example_inputs: Any, *, sparsity: Sparsity | None = None, group: Group = 8, pattern: str = "groups",
          score: Score = "magnitude", allocation: str = "uniform", seed: int = 0) -> nn.Module:
    """A copy of the module, pruned, to train or fine-tune in any loop.

    example_inputs: a tuple of arguments, a dict of keyword arguments, or the one argument; a run on them shows which
    layer is the first and which the head. sparsity: share of the weights that go, 0 <= sparsity < 1, or {layer:
    sparsity}; 0.5, or what an N:M pattern drops, if it is not given. group: outputs that share their inputs, 1 to 64, or "auto" (by layer, as on ONNX models). pattern:
    "groups", "N:M" or "unstructured" (see `patterns`). `summary` says what became of each layer.

    score: what a weight is worth: "magnitude" (w^2); "random", drawn by `seed`, for sparse training from a random mask;
    a function from a matrix (outputs, inputs) to scores of its shape; or {layer: scores of the weight's shape}, as
    `fisher` and `taylor` measure them. allocation: of one budget of weights among the layers that are pruned:
    "uniform", "er", "erk" or "global" (see `ratios`).

    Weights become parametrised (torch.nn.utils.parametrize): the optimiser trains `parametrizations.<weight>.original`,
    so make it after pruning. state_dict holds the masks. A module that was pruned before is pruned anew; zeros of
    layers that are not pruned now stay. InputError for arguments that do not fit and for modules that do not run on the
    inputs.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"{type(module).__name__} is no torch.nn.Module", fix="give the module that is to be pruned")
    wanted = parse(pattern)
    if wanted.kind == "channels":
        raise InputError("a mask does not remove channels", fix="prune whole channels of the ONNX model: edgekit.export(pattern='channels')")
    if sparsity is None:
        sparsity = wanted.sparsity or 0.5
    pruned = copy.deepcopy(module)
    before = {name: chain[0] for name, chain in masks(pruned)}
    remove(pruned)
    found = observe(pruned, example_inputs)
    choices = decide_all([(t.name, t.facts) for t in found], agreed(wanted, sparsity), group_of(wanted, group))
    scores = {t.name: _score(pruned, t, score, [seed, n]) for n, (t, c) in enumerate(zip(found, choices)) if not c.reason}
    if allocation != "uniform":
        choices = _allocated(found, choices, sparsity, allocation, wanted, scores)
    for tensor, choice in zip(found, choices):
        if not choice.reason:
            new = _mask(tensor, choice, wanted, scores[tensor.name], permute=score != "random")
            attach(pruned.get_submodule(tensor.module), tensor.parameter, new.to(_weight(pruned, tensor).device))
    there = dict(masks(pruned))
    for name in before.keys() - there.keys():
        path, _, parameter = name.rpartition(".")
        attach(pruned.get_submodule(path), parameter, before[name])
    pruned._edgekit_layers = tuple(
        (Layer(t.name, t.op, t.shape, t.facts.macs, 0.0, None if c.reason else c.v, c.reason), t.weight)
        for t, c in zip(found, choices))
    return pruned


def summary(module: nn.Module) -> tuple[Layer, ...]:
    """What `prune` did to each layer of a module that it returned, as its masks are, and why some stayed dense."""
    layers = getattr(module, "_edgekit_layers", None)
    if layers is None:
        raise InputError("the module was not pruned by edgekit", where=type(module).__name__,
                         fix="call edgekit.prune first")
    there = {name: 1 - int(chain[0].mask.sum()) / chain[0].mask.numel() for name, chain in masks(module)}
    return tuple(replace(layer, sparsity=there.get(name, 0.0)) for layer, name in layers)


def _weight(module: nn.Module, tensor: Tensor) -> Any:
    return getattr(module.get_submodule(tensor.module), tensor.parameter)


def _matrices(tensor: Tensor, values: np.ndarray) -> np.ndarray:
    """(matrices, outputs, inputs)"""
    return values.T[None] if tensor.columns else values.reshape(tensor.parts, tensor.facts.outputs, tensor.facts.inputs)


def _score(module: nn.Module, tensor: Tensor, score: Score, seed: Sequence[int]) -> np.ndarray:
    """Scores (matrices, outputs, inputs) of a layer, not negative; or InputError."""
    values = _weight(module, tensor).detach().to("cpu", torch.float32).numpy()
    if not np.isfinite(values).all():
        raise InputError("the weights are not finite", where=tensor.name)
    if isinstance(score, Mapping):
        if tensor.name not in score:
            raise InputError("it has no score", where=tensor.name, fix="score every layer that is pruned")
        given = score[tensor.name]
        given = given.detach().float().cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
        if given.shape != values.shape:
            raise InputError(f"its score has the shape {list(given.shape)}, its weights {list(values.shape)}", where=tensor.name)
        found = _matrices(tensor, given)
    elif score == "random":
        found = random(_matrices(tensor, values), seed)
    elif callable(score) or score == "magnitude":
        function = score if callable(score) else l2
        found = np.stack([np.asarray(function(w)) for w in _matrices(tensor, values)])
        if found.shape != _matrices(tensor, values).shape:
            raise InputError(f"the score of a matrix {list(values.shape)} has the shape {list(found.shape[1:])}", where=tensor.name,
                             fix="give one number for each weight")
    else:
        raise InputError(f"there is no score {score!r}", fix='use "magnitude", "random", a function of the weights, or {layer: scores}'
                                                             ' such as edgekit.fisher(module, loss, batches)')
    if found.dtype.kind not in "fiub" or not np.isfinite(found).all() or found.min(initial=0) < 0:
        raise InputError("its scores must be finite and not negative", where=tensor.name)
    return found


def _allocated(found: Sequence[Tensor], choices: Sequence[Choice], sparsity: Sparsity, allocation: str, pattern: Pattern,
               scores: Mapping[str, np.ndarray]) -> list[Choice]:
    """The choices with the inputs that the allocation gives to each layer."""
    if allocation not in ALLOCATIONS:
        raise InputError(f"there is no allocation {allocation!r}", fix="use one of " + ", ".join(ALLOCATIONS))
    if isinstance(sparsity, Mapping) or pattern.m:
        raise InputError(f"the sparsity of each layer is given: there is nothing for {allocation!r} to allocate",
                         fix="give one sparsity for all layers, or leave the allocation out")
    layers = [Candidate(t.name, (t.facts.outputs, *(t.shape[1:] if t.facts.kind == "conv" else [t.facts.inputs])), math.prod(t.shape))
              for t, c in zip(found, choices) if not c.reason]
    if allocation == "global":
        shared = {t.name: np.sum([gains(w, cluster(w, c.v, c.kept)) for w in scores[t.name]], axis=0)
                  for t, c in zip(found, choices) if not c.reason}
        ratios = global_score(layers, float(sparsity), shared)
    else:
        ratios = (erdos_renyi if allocation == "er" else erdos_renyi_kernel)(layers, float(sparsity))

    def given(tensor: Tensor, choice: Choice) -> Choice:
        if choice.reason:
            return choice
        kept = kept_inputs(tensor.facts.inputs, ratios[tensor.name])
        return Choice(choice.v, kept, "its share of the budget is all of its weights" if kept == tensor.facts.inputs else "")
    return [given(t, c) for t, c in zip(found, choices)]


def _mask(tensor: Tensor, choice: Choice, pattern: Pattern, score: np.ndarray, permute: bool) -> GroupMask:
    rows = None
    if pattern.kind == "groups":
        chosen = [choose(w, choice.v, choice.kept, permute) for w in score]
        rows = torch.from_numpy(np.stack([g.order.reshape(-1, g.v) for g in chosen]).astype(np.int64))
        kept = np.stack([mask(g, *score.shape[1:]) for g in chosen])
    else:
        taps = math.prod(tensor.shape[2:]) if tensor.facts.kind == "conv" else 1
        kept = np.stack([keep(w, pattern, choice, taps) for w in score])
    kept = kept[0].T if tensor.columns else kept.reshape(tensor.shape)
    return GroupMask(torch.from_numpy(np.ascontiguousarray(kept)), rows, tensor.columns)
