"""Will a model compile, operator by operator, what do its zeros bring, and what would groups: before anyone trains."""
from collections.abc import Callable
from typing import Any

from edgekit import targets
from edgekit.errors import UnsupportedError

BASIS = "multiply-adds and bytes of each layer, counted; not time"


def check(model: Any, target: str = "host", *, progress: Callable[[str], None] = lambda _: None, **options: Any) -> dict:
    """ok, unsupported [{entry, node, op, reason, fix}], operators {op: count}, layers and total with levels of sparsity.

    zeros of a layer: what its weights have as they are: share, and the group, the groups and the macs of the kernel that
    uses them. group is null where none does; where zeros form groups all the same, reason says what is faster. zeros is
    null where no weights are constant. Of the total: the macs with all of them.

    Every target compiles the same operators; `target` is checked to exist. options are those of `load`. What the loader
    refuses as unsupported is reported as such; every other InputError of the loader is raised.
    """
    from edgekit.exporters.load import load
    from edgekit.exporters.lower import supported, survey
    from edgekit.exporters.sparsify import benefit
    targets.load(target)
    out: dict = {"model": "", "target": target, "ok": False, "unsupported": [], "operators": {}, "layers": [],
                 "total": {"macs": 0, "bytes": 0, "zeros": {"macs": 0}, "levels": []}, "basis": BASIS}
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
    layers = [{"name": x.name, "op": x.op, "shape": list(x.shape), "macs": x.macs, "bytes": x.bytes, "group": x.group,
               "reason": x.reason, "zeros": _zeros(x, dense[0].get(x.name, "")), "levels": [{"sparsity": c.sparsity, "macs": c.macs, "bytes": c.bytes} for c in x.levels]}
              for x in benefit(loaded.variants[0].model)]
    return out | {"model": loaded.name, "ok": not wrong, "unsupported": wrong, "operators": operators, "layers": layers,
                  "total": _total(layers)}


def _zeros(layer: Any, densely: str) -> dict | None:
    """densely: how the kernel computes it that uses no zeros, "" where one does."""
    z = layer.zeros
    if z and z.group and densely:
        return {"share": round(z.share, 4), "group": None, "groups": 0, "macs": layer.macs, "reason": densely}
    return z and {"share": round(z.share, 4), "group": z.group, "groups": z.groups, "macs": round(layer.macs * z.kept), "reason": ""}


def _total(layers: list[dict]) -> dict:
    """Of all layers, those that stay dense counted as they are."""
    levels = sorted({c["sparsity"] for x in layers for c in x["levels"]})

    def at(sparsity: float, what: str) -> int:
        return sum(next((c[what] for c in x["levels"] if c["sparsity"] == sparsity), x[what]) for x in layers)
    return {"macs": sum(x["macs"] for x in layers), "bytes": sum(x["bytes"] for x in layers),
            "zeros": {"macs": sum(x["zeros"]["macs"] if x["zeros"] else x["macs"] for x in layers)},
            "levels": [{"sparsity": s, "macs": at(s, "macs"), "bytes": at(s, "bytes")} for s in levels]}
