"""Masks that change while a module is trained: gradually tighter, or with connections dropped and grown.

    sparse = ek.prune(dense, x, sparsity=0.7)
    optimizer = torch.optim.Adam(sparse.parameters())
    schedule = ek.Gradual(sparse, optimizer, steps=2000)
    for ...:
        loss.backward(); optimizer.step(); schedule.step()

Both begin with what `prune` has decided: the layers, the outputs that form a group, and how many inputs a group keeps. After
every step each group of a layer reads equally many inputs, and all else is exactly zero. What an optimiser remembers of a
weight (momentum and the like: every tensor of the weight's shape) is cleared when the weight is dropped or grown.
Deterministic. Needs torch.
"""
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.errors import InputError, MissingToolError

try:
    import torch
    from torch import Tensor, nn
except ImportError:
    raise MissingToolError("torch is not installed", fix="pip install 'edgekit-deploy[torch]'") from None

from edgekit.exporters.sparsify.mask import kept_inputs
from edgekit.exporters.sparsify.masked import GroupMask, masks
from edgekit.exporters.sparsify.ratios import Candidate, global_score
from edgekit.exporters.sparsify.scores import random


class Schedule:
    """What both have in common: the layers, the count of steps, and the state to save and resume.

    To resume, prune and make the schedule as in the first run, then load the states of module, optimiser and schedule, in
    any order: training goes on as if it had never stopped.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, steps: int, every: int):
        for name, value in (("steps", steps), ("every", every)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
        self.steps, self.every, self.done = steps, every, 0
        self._optimizer = optimizer
        self._layers = {name: chain for name, chain in masks(module) if chain[0].rows is not None}
        if not self._layers:
            raise InputError("the module has no layer in groups", where=type(module).__name__,
                             fix="give what edgekit.prune returned; edgekit.prune's summary says why layers stay dense")
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not any(id(chain.original) in trained for chain in self._layers.values()):
            raise InputError("the optimizer does not train the pruned weights", fix="make it from the parameters of the pruned module")

    def step(self) -> None:
        """To be called once after each `optimizer.step()`; after `steps` of them the masks stay as they are."""
        if self.done < self.steps:
            self.done += 1
            with torch.no_grad():
                self._update()

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and tensors: torch.load(..., weights_only=True) reads them."""
        return {"done": self.done, "reads": {name: chain[0].reads for name, chain in self._layers.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Of a schedule of the same kind on the same layers; InputError for any other."""
        if set(state) != set(self.state_dict()):
            raise InputError(f"this is no state of {type(self).__name__}: it has {', '.join(map(str, state)) or 'nothing'}")
        shapes = {name: tuple(chain[0].reads.shape) for name, chain in self._layers.items()}
        saved = {name: tuple(reads.shape) for name, reads in state["reads"].items()}
        for name in sorted(shapes.keys() | saved.keys()):
            if shapes.get(name) != saved.get(name):
                raise InputError(f"the state is of another model: there {_groups(saved.get(name))}, here {_groups(shapes.get(name))}",
                                 where=name, fix="prune the same module with the same arguments as in the run that was saved")
        self.done = int(state["done"])
        for name, chain in self._layers.items():
            chain[0].read(state["reads"][name].to(chain[0].mask.device))

    def _update(self) -> None:
        raise NotImplementedError

    def _worth(self, name: str) -> Tensor:
        """Sum of w^2 of each input of each group (matrices, groups, inputs), -inf where it is not read."""
        chain = self._layers[name]
        worth, reads = chain[0].sums(chain.original.float().square()), chain[0].reads
        if not worth[reads].isfinite().all():
            raise InputError(f"the weights are not finite after {self.done} steps", where=name,
                             fix="lower the learning rate, or clip the gradients")
        return torch.where(reads, worth, -torch.inf)

    def _read(self, name: str, reads: Tensor) -> None:
        """Gives the groups of a layer these inputs; weights that are new to it begin at zero, without a past."""
        chain = self._layers[name]
        before = chain[0].mask.clone()
        chain[0].read(reads)
        stale = before != chain[0].mask
        chain.original[stale & chain[0].mask] = 0
        for value in self._optimizer.state.get(chain.original, {}).values():
            if isinstance(value, Tensor) and value.shape == stale.shape:
                value[stale] = 0


class Gradual(Schedule):
    """From dense to the sparsity that `prune` chose for each layer along s(t) = s (1 - (1 - t/steps)^3) (Zhu & Gupta 2017).

    module: as `prune` returned it; the weights behind its masks are still those of the dense module, and its masks are
    opened at once. steps: of the optimiser, until the sparsity is reached; the last fifth to third of the training should
    follow after that. every: steps between two changes. Each time the groups of a layer drop the inputs of least w^2.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, *, steps: int, every: int = 10):
        super().__init__(module, optimizer, steps, every)
        self._kept = {name: _kept(chain[0]) for name, chain in self._layers.items()}
        for chain in self._layers.values():
            chain[0].read(torch.ones_like(chain[0].reads))

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"kept": dict(self._kept)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._kept = dict(state["kept"])

    def _update(self) -> None:
        if self.done % self.every and self.done < self.steps:
            return
        way = 1 - (1 - self.done / self.steps) ** 3
        for name, chain in self._layers.items():
            inputs = chain[0].reads.shape[-1]
            kept = max(self._kept[name], kept_inputs(inputs, (1 - self._kept[name] / inputs) * way))
            if kept < _kept(chain[0]):
                self._read(name, _largest(self._worth(name), kept))


class Dynamic(Schedule):
    """Connections of least w^2 are dropped, others grown in their place, under one budget of weights for all layers.

    module: as `prune` returned it, a trained one or one with random masks (`score="random"`). steps: of the optimiser, for
    which masks change: three quarters of the training or so. every: steps between two changes. fraction: of the weights that
    is exchanged at the first of them; it falls along a cosine. growth: "gradient", where the gradient of the whole weight is
    largest in this step (RigL, Evci et al. 2020), or "random", drawn by `seed` (SET, Mocanu et al. 2018).

    redistribute: how much is dropped and grown where is decided over all layers at once, by score per weight, so that the
    budget moves to the layers that use it (Mostafa & Wang 2019; Dynamic Sparse Learning, Wang et al. 2024); else each layer
    keeps its own. A step in which a gradient is not finite changes nothing; the next one that is does.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, *, steps: int, every: int = 100, fraction: float = 0.3,
                 growth: str = "gradient", redistribute: bool = True, seed: int = 0):
        super().__init__(module, optimizer, steps, every)
        if growth not in ("gradient", "random"):
            raise InputError(f"there is no growth {growth!r}", fix="use 'gradient' or 'random'")
        if not 0 < fraction < 1:
            raise InputError(f"fraction must be between 0 and 1, not {fraction!r}")
        self.fraction, self.growth, self.redistribute, self.seed = fraction, growth, redistribute, seed
        random(np.empty(0), [seed])   # InputError for a seed that is none
        self._due = every
        self._budget = sum(_kept(c[0]) * _step(c) for c in self._layers.values())
        self._watch()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"due": self._due, "budget": self._budget}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._due, self._budget = int(state["due"]), int(state["budget"])
        self._watch()

    def _watch(self) -> None:
        """Gathers whole gradients where the coming step will need them."""
        for chain in self._layers.values():
            chain[0].watch(self.growth == "gradient" and self.done + 1 >= self._due and self.done < self.steps)

    def _update(self) -> None:
        if self.done >= self._due:
            worth = {name: self._worth(name) for name in self._layers}
            promise = self._promise()
            self._due = self.done + 1
            if promise is not None:
                self._exchange({name: worth[name] for name in promise}, promise)
                self._due = (self.done // self.every + 1) * self.every
        self._watch()

    def _promise(self) -> dict[str, Tensor] | None:
        """What each input of each group (matrices, groups, inputs) promises; None where that is not finite."""
        if self.growth == "random":
            # In proportion to what an input costs, so that any place of any layer is as likely as any other.
            drawn = {name: random(np.empty(chain[0].reads.shape), [self.seed, self.done, number]) * _step(chain)
                     for number, (name, chain) in enumerate(self._layers.items())}
            return {name: torch.from_numpy(x).to(self._layers[name][0].mask.device) for name, x in drawn.items()}
        found = {name: chain[0].sums(chain[0].gradient.float().square()) for name, chain in self._layers.items()
                 if chain[0].gradient is not None}
        if not found:
            raise InputError(f"no gradient has reached the pruned weights in step {self.done}",
                             fix="call schedule.step() once after each loss.backward() and optimizer.step()")
        return found if all(x.isfinite().all() for x in found.values()) else None

    def _exchange(self, worth: Mapping[str, Tensor], promise: Mapping[str, Tensor]) -> None:
        share = self.fraction / 2 * (1 + math.cos(math.pi * self.done / self.steps))
        kept = {name: _kept(self._layers[name][0]) for name in promise}
        if self.redistribute:
            budget = self._budget - sum(_kept(c[0]) * _step(c) for n, c in self._layers.items() if n not in promise)
            # By LAMP (Lee et al. 2021): w^2 over the sum of all that are as large. The best of every layer is worth 1, so that
            # none loses all to layers whose weights are larger in general.
            gains = {name: _gains(worth[name], count) for name, count in kept.items()}
            lamp = {name: gain / np.maximum(np.cumsum(gain), 1e-30) for name, gain in gains.items()}
            left = self._shares(lamp, dict.fromkeys(promise, 1), (1 - share) * budget)
        else:
            left = {name: max(1, count - round(share * count)) for name, count in kept.items()}
        stay = {name: _largest(worth[name], left[name]) for name in promise}
        promise = {name: torch.where(stay[name], -torch.inf, found) for name, found in promise.items()}
        if self.redistribute:
            kept = self._shares({n: np.concatenate([np.zeros(left[n]), _gains(found, found.shape[-1] - left[n])])
                                 for n, found in promise.items()}, left, budget)
        for name, found in promise.items():
            self._read(name, stay[name] | _largest(found, kept[name] - left[name]))

    def _shares(self, gains: Mapping[str, np.ndarray], least: Mapping[str, int], budget: float) -> dict[str, int]:
        """How many inputs each layer gets, at least so many, when the budget goes to where an input gains most."""
        step = {name: _step(self._layers[name]) for name in gains}
        layers = [Candidate(n, (1, len(g)), step[n] * len(g), 1 - least[n] / len(g)) for n, g in gains.items()]
        total = sum(x.cost for x in layers)
        budget = min(max(budget, sum(least[n] * step[n] for n in gains)), total)
        ratios = global_score(layers, 1 - budget / total, gains)
        return {x.name: round((1 - ratios[x.name]) * x.inputs) for x in layers}


def _groups(shape: tuple[int, ...] | None) -> str:
    return "no such layer" if shape is None else f"{shape[0] * shape[1]} groups over {shape[2]} inputs"


def _kept(mask: GroupMask) -> int:
    """Inputs that each group of a layer reads."""
    return int(mask.reads[0, 0].sum())


def _step(chain: Any) -> int:
    """Weights that one input more of every group of a layer brings."""
    mask = chain[0]
    return mask.mask.numel() // mask.reads.shape[-1]


def _gains(score: Tensor, count: int) -> np.ndarray:
    """(count,) what the p-th best input of every group scores, all groups together."""
    return score.sort(dim=-1, descending=True).values[..., :count].double().sum((0, 1)).cpu().numpy()


def _largest(score: Tensor, count: int) -> Tensor:
    """True at the `count` largest along the last axis; of equals, the first."""
    order = score.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, order, True)
