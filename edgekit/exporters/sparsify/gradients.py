"""Scores from the gradients of a user's loss: what removing a weight costs, by the first or second order of its change.

Needs torch.
"""
import copy
from collections.abc import Callable, Iterable
from typing import Any

from edgekit.errors import InputError, MissingToolError

try:
    import torch
    from torch import Tensor, nn
except ImportError:
    raise MissingToolError("torch is not installed", fix="pip install 'edgekit-deploy[torch]'") from None

from edgekit.exporters.sparsify.masked import remove
from edgekit.exporters.sparsify.observe import weight_names

Loss = Callable[[nn.Module, Any], Tensor]


def fisher(module: nn.Module, loss: Loss, batches: Iterable[Any]) -> dict[str, Tensor]:
    """w^2 E[g^2] / 2, the second-order cost of removal by the diagonal of the empirical Fisher matrix (OBD, LeCun et al.
    1989; Theis et al. 2018).

    loss: from the module and one item of `batches` to a mean over cases, a scalar. batches: the smaller, the closer to the
    Fisher matrix: g is the gradient of one batch. Returns {layer: scores of the weight's shape}, for `prune(score=)`. The
    module is left alone: a copy runs, in the mode (train or eval) that it is in. InputError for no batches, and for a loss
    that is no finite scalar or does not depend on the weights.
    """
    return _collected(module, loss, batches, lambda weight, gradient: (weight * gradient).square() / 2)


def taylor(module: nn.Module, loss: Loss, batches: Iterable[Any]) -> dict[str, Tensor]:
    """E[|w g|], the first-order cost of removal (Molchanov et al. 2017). Arguments and result as of `fisher`."""
    return _collected(module, loss, batches, lambda weight, gradient: (weight * gradient).abs())


def _collected(module: nn.Module, loss: Loss, batches: Iterable[Any], score: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
    """Mean of `score` over the batches, by layer."""
    if not isinstance(module, nn.Module):
        raise InputError(f"{type(module).__name__} is no torch.nn.Module", fix="give the module that is to be pruned")
    module = remove(copy.deepcopy(module))
    parameters = dict(module.named_parameters(remove_duplicate=False))
    weights = {layer: parameters[name] for layer, name in weight_names(module).items() if name in parameters}
    for weight in weights.values():
        weight.requires_grad_(True)
    sums = {layer: torch.zeros_like(weight, dtype=torch.float32, requires_grad=False) for layer, weight in weights.items()}
    count = 0
    for batch in batches:
        with torch.enable_grad():
            value = loss(module, batch)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.isfinite().all():
            raise InputError(f"the loss of batch {count} is no finite scalar tensor", fix="return the mean loss of the batch")
        if not value.requires_grad:
            raise InputError(f"the loss of batch {count} does not depend on the weights of the module",
                             fix="compute it from the module that the loss is given, without torch.no_grad()")
        gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
        for layer, gradient in zip(weights, gradients):
            if gradient is not None:
                sums[layer] += score(weights[layer].detach().float(), gradient.float())
        count += 1
    if not count:
        raise InputError("there are no batches", fix="give at least one")
    return {layer: total / count for layer, total in sums.items()}
