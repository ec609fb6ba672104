"""Will a model compile, operator by operator, what do its zeros bring, and what would groups cost and gain: before anyone trains."""
from collections.abc import Callable
from typing import Any

from edgekit import targets
from edgekit.errors import UnsupportedError


def check(model: Any, target: str = "host", *, progress: Callable[[str], None] = lambda _: None, **options: Any) -> dict:
    """ok, unsupported [{entry, node, op, reason, fix}], operators {op: count}, layers and total with levels of sparsity.

    macs: multiply-adds that the kernels execute at a level; those of a layer itself are of its plain product, `executed`
    those of its kernels. cost: forecast, in `unit`, "ms" or "instructions"; gain: share of the cost that is saved; both null
    where the model does not compile. The total's cost has the `rest` that is in no layer. basis: what the costs were
    measured on; estimate: whether that is another processor than the target's.

    zeros of a layer: what its weights have as they are: share, and the group, the groups and the macs of the kernel that
    uses them. group is null where none does; where zeros form groups all the same, reason says what is faster. zeros is
    null where no weights are constant. Of the total: the macs with all of them.

    Every target compiles the same operators. options are those of `load`. What the loader refuses as unsupported is
    reported as such; every other InputError of the loader is raised.
    """
    from edgekit.exporters.load import load
    from edgekit.exporters.lower import supported, survey
    from edgekit.exporters.sparsify import benefit
    from edgekit.predict import forecast
    targets.load(target)
    out: dict = {"model": "", "target": target, "ok": False, "unsupported": [], "operators": {}, "layers": [], "unit": None, "basis": "", "estimate": False,
                 "total": {"macs": 0, "bytes": 0, "executed": 0, "cost": None, "rest": None, "zeros": {"macs": 0}, "levels": []}}
    progress("loading the model")
    try:
        loaded = load(model, keep=supported(), **options)
    except UnsupportedError as error:
        return out | {"unsupported": [{"entry": "", "node": error.where, "op": "", "reason": error.what, "fix": error.fix}]}
    operators: dict[str, int] = {}
    wrong, dense = [], []
    for variant in loaded.variants:
        for node in variant.model.graph.node:
            operators[node.op_type] = operators.get(node.op_type, 0) + 1
        problems, densely = survey(variant.model)
        wrong += [{"entry": variant.name, "node": node, "op": op, "reason": reason, "fix": fix} for node, op, reason, fix in problems]
        dense.append(densely)
    progress("counting what zeros save, and what groups would")
    layers = [{"name": x.name, "op": x.op, "shape": list(x.shape), "macs": x.macs, "bytes": x.bytes, "executed": x.macs, "cost": None, "group": x.group,
               "reason": x.reason, "zeros": _zeros(x, dense[0].get(x.name, "")),
               "levels": [{"sparsity": c.sparsity, "macs": c.macs, "bytes": c.bytes, "cost": None, "gain": None} for c in x.levels]}
              for x in benefit(loaded.variants[0].model)]
    out |= {"model": loaded.name, "ok": not wrong, "unsupported": wrong, "operators": operators, "layers": layers, "total": _total(layers)}
    if wrong:
        return out
    progress("forecasting its cost at each level")
    return _forecast(out, forecast(loaded, target))


def _forecast(out: dict, found: Any) -> dict:
    """With the costs, what the kernels execute, and why layers gain nothing."""
    layers = {x.name: x for x in found.layers}
    for row in out["layers"]:
        layer = layers[row["name"]]
        row |= {"executed": layer.macs[0.0], "cost": layer.dense, "reason": layer.reason}
        for level in row["levels"]:
            s = level["sparsity"]
            level |= {"macs": layer.macs[s], "cost": layer.costs[s], "gain": _gain(layer.dense, layer.costs[s])}
    dense = found.total()
    total = _total(out["layers"]) | {"cost": dense, "rest": found.rest}
    for level in total["levels"]:
        cost = found.total(level["sparsity"])
        level |= {"cost": cost, "gain": _gain(dense, cost)}
    return out | {"unit": found.unit, "basis": found.basis, "estimate": found.estimate, "total": total}


def _gain(dense: float, cost: float) -> float:
    return 1 - cost / dense if dense else 0.0


def _zeros(layer: Any, densely: str) -> dict | None:
    """densely: how the kernel computes it that uses no zeros, "" where one does."""
    z = layer.zeros
    if z and z.group and densely:
        return {"share": round(z.share, 4), "group": None, "groups": 0, "macs": layer.macs, "reason": densely}
    return z and {"share": round(z.share, 4), "group": z.group, "groups": z.groups, "macs": round(layer.macs * z.kept), "reason": ""}


def _total(layers: list[dict]) -> dict:
    """Of all layers, those that stay dense counted as they are."""
    levels = sorted({c["sparsity"] for x in layers for c in x["levels"]})

    def at(sparsity: float, what: str, dense: str) -> int:
        return sum(next((c[what] for c in x["levels"] if c["sparsity"] == sparsity), x[dense]) for x in layers)
    return {**{what: sum(x[what] for x in layers) for what in ("macs", "bytes", "executed")}, "cost": None, "rest": None,
            "zeros": {"macs": sum(x["zeros"]["macs"] if x["zeros"] else x["macs"] for x in layers)},
            "levels": [{"sparsity": s, "macs": at(s, "macs", "executed"), "bytes": at(s, "bytes", "bytes"), "cost": None, "gain": None} for s in levels]}
