"""What each layer of a model costs on a target, dense and at levels of sparsity, before anything is trained or compiled.

The model is lowered as it is, and once for every level with random groups in place of its weights: the plans, whose
kernels are those that an export would compile, are costed from the processor's table.
"""
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit import targets
from edgekit.bench import machine
from edgekit.errors import InputError
from edgekit.exporters.kernels import spec
from edgekit.exporters.lower import lower
from edgekit.exporters.lower.plan import Plan, Step
from edgekit.exporters.sparsify.benefit import LEVELS
from edgekit.exporters.sparsify.graph import Weight, matrices, products, require_onnx, restore, weights, with_values
from edgekit.exporters.sparsify.rules import LEFT, Group, checked, decide
from edgekit.exporters.sparsify.zeros import zeros
from edgekit.predict.costs import Costs, costs_of, works
from edgekit.predict.samples import masked
from edgekit.targets import Target

if TYPE_CHECKING:
    import onnx

    from edgekit.exporters.load import Loaded

PAYS = 0.02    # of a layer's cost: less is no gain
KIN = {"aarch64": "arm64", "arm64": "arm64", "x86_64": "x64"}  # targets whose costs stand in for a processor that has none


@dataclass(frozen=True)
class LayerForecast:
    """Costs of a layer with all that it takes: the copies and transforms of its input, what is fused to it.

    name, op: as in `rules.Layer`. dense: of the layer as it is. costs: {sparsity: cost}; dense where the layer stays so.
    macs: {sparsity: multiply-adds that its kernels execute}, of the layer as it is at 0. group: V, None if it stays dense
    at every level. reason: why it does, or gains nothing or late; or "".
    """

    name: str
    op: str
    dense: float
    costs: Mapping[float, float]
    macs: Mapping[float, int]
    group: int | None
    reason: str


@dataclass(frozen=True)
class Forecast:
    """Costs of one inference of a model's first entry, in `unit`: "ms" or "instructions".

    rest: of all that is in no layer. basis: what the costs were measured on. estimate: whether that is another processor.
    """

    target: str
    unit: str
    basis: str
    estimate: bool
    layers: tuple[LayerForecast, ...]
    rest: float

    def total(self, sparsity: float | Mapping[str, float] = 0.0) -> float:
        """Of the whole net, at one level or with a level for each layer by name (0 for others). InputError for a level that
        was not asked for."""
        each = sparsity if isinstance(sparsity, Mapping) else {x.name: sparsity for x in self.layers}
        if unknown := set(each) - {x.name for x in self.layers}:
            raise InputError(f"the model has no layer {min(unknown)!r}")
        return self.rest + sum(self._of(x, each.get(x.name, 0.0)) for x in self.layers)

    @staticmethod
    def _of(layer: LayerForecast, sparsity: float) -> float:
        if not sparsity:
            return layer.dense
        if sparsity not in layer.costs:
            raise InputError(f"{layer.name} has no forecast at {sparsity}", fix="name the level when the forecast is made")
        return layer.costs[sparsity]


def forecast(loaded: "Loaded", target: str = "host", levels: Sequence[float] = LEVELS, *, group: Group = "auto") -> Forecast:
    """Of a loaded model (`exporters.load.load`) on a target.

    levels: sparsities above 0 and below 1. group: as in `sparsify.prune_onnx`. A layer whose own zeros are used and are
    more than a level asks for keeps them. Raises UnsupportedError as `lower` does, InputError for a level out of range or
    where no table of costs fits the target.
    """
    if outside := [s for s in levels if not checked(s, group)[0]]:
        raise InputError(f"a level of sparsity must be above 0 and below 1, not {outside[0]}")
    costs, level, estimate = _table(targets.load(target))
    models = [v.model for v in loaded.variants]
    known = weights(models)
    owner = _owners(models[0], known)
    scale = 1e3 if costs.unit == "seconds" else 1.0

    def lowered(given: "list[onnx.ModelProto]") -> Plan:
        return lower(loaded.name, [(v.name, m) for v, m in zip(loaded.variants, given, strict=True)], loaded.states)[0]
    plan = lowered(models)
    dense, rest = _by_layer(plan, costs, level, owner)
    at = {s: _by_layer(lowered(_sparse(models, known, s, group)), costs, level, owner)[0] for s in levels}
    layers = []
    for weight in known:
        if weight.model:  # of another entry alone
            continue
        choices = {s: decide(weight.facts, s, group) for s in levels}
        own = {s: at[s][weight.name] if not choices[s].reason else dense[weight.name] for s in levels}
        v = next((c.v for c in choices.values() if not c.reason), None)
        reason = next((c.reason for c in choices.values()), "") if v is None else _why(dense[weight.name], own)
        layers.append(LayerForecast(weight.name, weight.op, dense[weight.name].cost * scale, {s: x.cost * scale for s, x in own.items()},
                                    {0.0: dense[weight.name].macs, **{s: x.macs for s, x in own.items()}}, v, reason))
    unit = "ms" if costs.unit == "seconds" else "instructions"
    basis = f"kernels timed on {costs.cpu}" if unit == "ms" else "executed instructions, no time"
    return Forecast(target, unit, f"{basis}; code for {costs.processor}", estimate, tuple(layers), rest * scale)


def _table(device: Target) -> tuple[Costs, Target, bool]:
    """The costs of a target's processor or of one of its kind, the level that they are of, and whether that is another one."""
    level = (device.here if device.runner else device.levels)[0]
    costs = costs_of(level)
    if costs is not None:
        return costs, level, device.runner == "host" and costs.cpu != machine.describe()["cpu"]
    architecture = device.triple.split("-")[0]
    for level in targets.load(KIN[architecture]).levels if architecture in KIN else ():
        costs = costs_of(level)
        if costs is not None:
            return costs, level, True
    raise InputError(f"there are no costs of kernels for {device.name}", fix=f"make them with `edgekit calibrate {device.name}`")


# --- layers ----------------------------------------------------------------------------------------------------------


@dataclass
class _Share:
    """Cost of a layer, by what it goes for. tiled: whether it is computed by Winograd's filtering."""

    cost: float = 0.0
    macs: int = 0
    products: float = 0.0
    memory: float = 0.0
    copies: float = 0.0
    finish: float = 0.0
    tiled: bool = False


_FINISH = ("store", "light", "slow", "heavy", "extra", "ordered", "scattered", "cell")


def _by_layer(plan: Plan, costs: Costs, level: Target, owner: Mapping[str, str]) -> tuple[dict[str, _Share], float]:
    """The share of each layer in the first entry, and the cost of all other steps."""
    entry = plan.entries[0]
    found: defaultdict[str, _Share] = defaultdict(_Share)
    buffers = plan.buffers(entry)
    rest = costs.of("inference", {"call": 1, "byte": sum(buffers[p.buffer].nbytes for p in (*entry.inputs, *entry.outputs))})
    for step, (kind, parts) in zip(entry.steps, works(plan, entry, level, costs.caches), strict=True):
        cost = costs.of(kind, parts)
        name = _layer_of(step, owner)
        if name is None:
            rest += cost
            continue
        share = found[name]
        share.cost += cost
        share.macs += step.macs
        share.tiled |= isinstance(step.kernel, spec.WinogradInput)
        if kind in ("map", "gather", "scatter", "winograd_input", "winograd_output"):
            share.copies += cost
            continue
        memory = costs.of(kind, {k: n for k, n in parts.items() if k.startswith(("moved", "weights_past"))})
        finish = costs.of(kind, {k: n for k, n in parts.items() if k in _FINISH})
        share.memory += memory
        share.finish += finish
        share.products += cost - memory - finish
    return found, rest


def _layer_of(step: Step, owner: Mapping[str, str]) -> str | None:
    part = ".R" if isinstance(step.kernel, spec.Recurrent) else ".W" if isinstance(step.kernel, spec.Linear) else ""
    return owner.get(step.name + part) or owner.get(step.name)


def _owners(model: "onnx.ModelProto", known: Sequence[Weight]) -> dict[str, str]:
    """The layer that each product of the graph belongs to: that of its weights, which several may share."""
    places = {(name, layout): w.name for w in known for number, name, layout in w.places if number == 0}
    return {p.name: places.get((p.weight, p.layout), p.name) for p in products(model)}


def _why(dense: _Share, at: Mapping[float, _Share]) -> str:
    """Why a layer that may be pruned gains nothing, or only from some level on."""
    gains = [s for s in sorted(at) if at[s].cost < (1 - PAYS) * dense.cost]
    if gains and gains[0] == min(at):
        return ""
    first = f"gains from {gains[0]:.0%} on: " if gains else ""
    last = at[max(at)]
    if dense.tiled:
        return f"{first}dense it goes by Winograd's filtering, which takes fewer products than it has weights"
    most = max(("copies", "memory", "finish", "products"), key=lambda part: getattr(last, part))
    return first + {"copies": "most of its time copies what it reads", "memory": "most of its time moves data from and to memory",
                    "finish": "most of its time goes into its activation and the stores of its outputs",
                    "products": "its groups are too small to be faster than the dense product"}[most]


def _sparse(models: "Sequence[onnx.ModelProto]", known: Sequence[Weight], sparsity: float, group: Group) -> "list[onnx.ModelProto]":
    """Copies whose layers read random groups, as pruning to that sparsity would leave them."""
    to_array = require_onnx().numpy_helper.to_array
    random = np.random.default_rng(0)
    tensors = [{t.name: t for t in model.graph.initializer} for model in models]
    values: list[dict[str, np.ndarray]] = [{} for _ in models]
    for weight in known:
        choice = decide(weight.facts, sparsity, group)
        if choice.reason or weight.facts.blocked not in ("", LEFT) or not weight.places:
            continue
        for number, name, layout in weight.places:
            array = to_array(tensors[number][name])
            there = zeros(array, layout, weight.facts)
            stack = matrices(array, layout)
            if there.group and there.kept * stack.shape[2] <= choice.kept:
                continue
            grouped = np.stack([masked(np.ones(w.shape, array.dtype), choice.v, choice.kept, random, permute=True) for w in stack])
            values[number][name] = restore(grouped, array.shape, layout)
    return list(map(with_values, models, values))
