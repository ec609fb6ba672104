"""Will a model compile, operator by operator, and what would groups bring to each layer: before anyone trains."""
from collections.abc import Callable
from typing import Any

from edgekit import targets
from edgekit.errors import UnsupportedError

BASIS = "multiply-adds and bytes of each layer, counted; not time"


def check(model: Any, target: str = "host", *, progress: Callable[[str], None] = lambda _: None, **options: Any) -> dict:
    """ok, unsupported [{entry, node, op, reason, fix}], operators {op: count}, layers with their levels of sparsity.

    Every target compiles the same operators; `target` is checked to exist. options are those of `load`. What the loader
    refuses as unsupported is reported as such; every other InputError of the loader is raised.
    """
    from edgekit.exporters.load import load
    from edgekit.exporters.lower import unsupported
    from edgekit.exporters.sparsify import benefit
    targets.load(target)
    out: dict = {"model": "", "target": target, "ok": False, "unsupported": [], "operators": {}, "layers": [], "basis": BASIS}
    progress("loading the model")
    try:
        loaded = load(model, **options)
    except UnsupportedError as error:
        return out | {"unsupported": [{"entry": "", "node": error.where, "op": "", "reason": error.what, "fix": error.fix}]}
    operators: dict[str, int] = {}
    wrong = []
    for variant in loaded.variants:
        for node in variant.model.graph.node:
            operators[node.op_type] = operators.get(node.op_type, 0) + 1
        wrong += [{"entry": variant.name, "node": node, "op": op, "reason": reason, "fix": fix}
                  for node, op, reason, fix in unsupported(variant.model)]
    progress("counting what groups would save")
    layers = [{"name": x.name, "op": x.op, "shape": list(x.shape), "macs": x.macs, "bytes": x.bytes, "group": x.group,
               "reason": x.reason, "levels": [{"sparsity": c.sparsity, "macs": c.macs, "bytes": c.bytes} for c in x.levels]}
              for x in benefit(loaded.variants[0].model)]
    return out | {"model": loaded.name, "ok": not wrong, "unsupported": wrong, "operators": operators, "layers": layers}
