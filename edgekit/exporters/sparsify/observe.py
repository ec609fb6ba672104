"""The layers of a torch module as the rules see them, from one run on example inputs."""
import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from edgekit.errors import InputError
from edgekit.exporters.sparsify.rules import TRANSPOSED, Facts, grouped

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Tensor:
    """A weight that may be pruned: `parameter` of submodule `module`; parts: matrices stacked in it along axis 0.

    columns: it is one matrix, inputs first.
    """

    name: str
    module: str
    parameter: str
    op: str
    shape: tuple[int, ...]
    parts: int
    facts: Facts
    columns: bool = False

    @property
    def weight(self) -> str:
        """The name of the parameter in the whole module."""
        return _join(self.module, self.parameter)


@dataclass(frozen=True)
class _Site:
    """A weight of a module; only the weight of the `last` product of a module can be the head."""

    module: str
    parameter: str
    parts: int
    last: bool


def observe(module: nn.Module, example_inputs: Any) -> list[Tensor]:
    """The weights of a module in the order of its submodules. It is not changed: a copy runs once, in eval mode.

    A submodule with a method `prunable() -> list[Tensor]`, as an ONNX graph has, lists its own.

    example_inputs: a tuple or list of arguments, a dict of keyword arguments, or the one argument.
    What lies before and behind a layer is read from the autograd graph of that run.
    """
    probe = copy.deepcopy(module).eval()
    for parameter in probe.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    names = {m: name for name, m in probe.named_modules()}
    sites = {m: _sites(name, m) for m, name in names.items()}
    macs: dict[tuple[str, str], int] = {}
    shallow: set[str] = set()          # modules that no layer lies before
    makers: dict[Any, str] = {}        # autograd node of an output -> the module that made it

    def hook(m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        given = list(_tensors((args, kwargs)))
        made = list(_tensors(out))
        if not any(t.requires_grad for t in given):
            shallow.add(names[m])
        for site in sites[m]:
            key = (site.module, site.parameter)
            macs[key] = macs.get(key, 0) + _macs(m, site, given, made)
        makers.update({t.grad_fn: names[m] for t in made if t.grad_fn is not None})

    handles = [m.register_forward_hook(hook, with_kwargs=True) for m, found in sites.items() if found]
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            outputs = _call(probe, example_inputs)
    except Exception as error:
        raise InputError(f"the module does not run on its example inputs: {error}",
                         where=type(module).__name__) from error
    finally:
        for handle in handles:
            handle.remove()
    heads = _heads({t.grad_fn for t in _tensors(outputs) if t.grad_fn is not None}, makers)
    owners: dict[int, list[str]] = {}
    for m, name in names.items():
        for parameter_name, parameter in m.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(_join(name, parameter_name))
    listed = {m: [replace(t, name=_join(name, t.name), module=_join(name, t.module)) for t in m.prunable()]
              for m, name in names.items() if hasattr(m, "prunable")}
    return [t for m, found in sites.items() for t in
            (*listed.get(m, ()), *(_tensor(probe, m, names[m], site, macs, shallow, heads, owners) for site in found))]


def weight_names(module: nn.Module) -> dict[str, str]:
    """{layer: parameter} of every layer that `observe` lists, in its order, without a run."""
    found: dict[str, str] = {}
    for path, m in module.named_modules():
        if hasattr(m, "prunable"):
            found |= {_join(path, t.name): _join(path, t.weight) for t in m.prunable() if t.parameter}
        found |= {_name(m, site): _join(site.module, site.parameter) for site in _sites(path, m)}
    return found


def _name(m: nn.Module, site: _Site) -> str:
    if site.parameter != "weight":
        return _join(site.module, site.parameter)
    return site.module or type(m).__name__


def _join(*path: str) -> str:
    return ".".join(filter(None, path))


def _call(module: nn.Module, example_inputs: Any) -> Any:
    def detached(value: Any) -> Any:
        return value.detach().clone() if isinstance(value, torch.Tensor) else value

    if isinstance(example_inputs, dict):
        return module(**{k: detached(v) for k, v in example_inputs.items()})
    if isinstance(example_inputs, (tuple, list)):
        return module(*map(detached, example_inputs))
    return module(detached(example_inputs))


def _sites(name: str, m: nn.Module) -> list[_Site]:
    """The weights of one module, without those of submodules that are modules of their own."""
    if isinstance(m, nn.MultiheadAttention):
        whole = m.in_proj_weight is not None
        projections = ["in_proj_weight"] if whole else ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
        return [_Site(name, p, 3 if whole else 1, False) for p in projections] + [
            _Site(_join(name, "out_proj"), "weight", 1, True)]
    if isinstance(m, nn.RNNBase):
        return [_Site(name, p, 1, False) for p in m._flat_weights_names if p.startswith(("weight_ih", "weight_hh"))]
    if isinstance(m, nn.RNNCellBase):
        return [_Site(name, p, 1, False) for p in ("weight_ih", "weight_hh")]
    # The output projection of attention, a kind of Linear, never runs as a module: it is listed with the attention.
    known = isinstance(m, (nn.Linear, *CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS))
    inner = isinstance(m, nn.modules.linear.NonDynamicallyQuantizableLinear)
    return [_Site(name, "weight", 1, True)] if known and not inner else []


def _macs(m: nn.Module, site: _Site, given: list[torch.Tensor], made: list[torch.Tensor]) -> int:
    """Multiply-adds of one call. given, made: tensors that go in and come out."""
    if isinstance(m, nn.MultiheadAttention):
        query, key, value = (given + given[-1:] * 2)[:3]
        rows = {"in_proj_weight": [query, key, value], "q_proj_weight": [query], "k_proj_weight": [key],
                "v_proj_weight": [value], "weight": [query]}[site.parameter]
        weight = m.out_proj.weight if site.parameter == "weight" else getattr(m, site.parameter)
        return sum(t.numel() // t.shape[-1] for t in rows) * (weight.numel() // site.parts)
    weight = getattr(m, site.parameter)
    if isinstance(m, (nn.RNNBase, nn.RNNCellBase)):
        return given[0].numel() // m.input_size * weight.numel()
    if isinstance(m, TRANSPOSED_CONVOLUTIONS):
        return given[0].numel() * weight[0].numel()
    return made[0].numel() * weight[0].numel()


def _tensor(probe: nn.Module, m: nn.Module, name: str, site: _Site, macs: dict[tuple[str, str], int], shallow: set[str],
            heads: set[str], owners: dict[int, list[str]]) -> Tensor:
    weight = getattr(probe.get_submodule(site.module), site.parameter)
    recurrent = isinstance(m, (nn.RNNBase, nn.RNNCellBase))
    conv = isinstance(m, (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS))
    ran = macs.get((site.module, site.parameter))
    blocked = ""
    if ran is None:
        blocked = "it did not run on the example inputs"
    elif isinstance(m, TRANSPOSED_CONVOLUTIONS):
        blocked = TRANSPOSED
    elif isinstance(m, CONVOLUTIONS) and m.groups > 1:
        blocked = grouped(m.in_channels // m.groups)
    elif id(weight) not in owners:
        blocked = "its weights are computed from other parameters"
    elif len(owners[id(weight)]) > 1:
        others = [o for o in owners[id(weight)] if o != _join(site.module, site.parameter)]
        blocked = f"its weights are also used as {others[0]}"
    return Tensor(_name(m, site), site.module, site.parameter, type(m).__name__, tuple(weight.shape), site.parts,
                  Facts("recurrent" if recurrent else "conv" if conv else "linear", weight.shape[0] // site.parts,
                        math.prod(weight.shape[1:]), ran or 0, name in shallow, site.last and name in heads, blocked))


def _tensors(value: Any) -> Iterable[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _heads(outputs: set[Any], makers: dict[Any, str]) -> set[str]:
    """Modules whose result becomes an output of the model with no layer behind it, and not through a gate.

    The same definition as for ONNX graphs, on autograd nodes.
    """
    inner = {n for n in _before(_parents(makers)) if n in makers}
    deep: dict[Any, bool] = {}

    def is_deep(node: Any) -> bool:
        if node not in deep:
            deep[node] = any(n in makers for n in _before([node]))
        return deep[node]

    def computed(node: Any) -> list[Any]:
        return [n for n, _ in node.next_functions if n is not None and is_deep(n)]

    def sigmoid(node: Any) -> bool:
        """sigmoid(z), 1 - sigmoid(z) and the like."""
        while not node.name().startswith(("Sigmoid", "Hardsigmoid")):
            behind = computed(node)
            if len(behind) != 1 or not node.name().startswith(("Add", "Sub", "Rsub", "Neg", "Split", "Slice")):
                return False
            node = behind[0]
        return True

    def gate(node: Any) -> bool:
        kind, factors = node.name(), computed(node)
        if kind.startswith("Mul"):
            return len(factors) > 1 or any(map(sigmoid, factors))
        return len(factors) > 1 and kind.startswith(("Mm", "Bmm", "Baddbmm", "ScaledDot"))

    heads, seen, left = set(), set(outputs), list(outputs)
    while left:
        node = left.pop()
        if node in makers:
            heads |= {makers[node]} if node not in inner else set()
        elif not gate(node):
            new = [n for n in _parents([node]) if n not in seen]
            seen.update(new)
            left += new
    return heads


def _parents(nodes: Iterable[Any]) -> list[Any]:
    return [n for node in nodes for n, _ in node.next_functions if n is not None]


def _before(nodes: Iterable[Any]) -> set[Any]:
    """The nodes and all that lie before them."""
    left = list(nodes)
    seen = set(left)
    while left:
        new = [n for n in _parents([left.pop()]) if n not in seen]
        seen.update(new)
        left += new
    return seen
