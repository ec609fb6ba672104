"""Times of steps as one row a layer, and each against its roofline: the time that arithmetic or memory allows at best."""
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.bench.peaks import Peaks


def rows(steps: Sequence[dict], measured: dict[str, Sequence[float]]) -> list[dict]:
    """Steps of one ONNX node added up, in the order of their first.

    steps: those of the manifest; measured: `ms` or `instructions` of each. op, sparsity and group are those of the step with
    the most multiply-adds. A bundle that does not say what a step moves has None for it.
    """
    numbers: dict[str, list[int]] = {}
    for k, step in enumerate(steps):
        numbers.setdefault(step["name"], []).append(k)
    found = []
    for name, own in numbers.items():
        main = max((steps[k] for k in own), key=lambda step: step["macs"])
        found.append({"name": name, "op": main["op"], "steps": len(own), **{key: float(sum(v[k] for k in own)) for key, v in measured.items()},
                      "sparsity": main["sparsity"], "group": main["group"],
                      **{key: _sum(steps[k].get(key) for k in own) for key in ("macs", "dense_macs", "bytes", "weight_bytes")}})
    key = next(iter(measured))
    whole = max(sum(row[key] for row in found), 1e-12)
    for row in found:
        row["share"] = row[key] / whole
    return found


def against_roofline(found: list[dict], steps: Sequence[dict], peaks: Peaks | None, model_bytes: int) -> dict:
    """Adds `gflops`, `possible_ms`, `bound` and `reached` to the rows, which `steps` gave; the row of the sum.

    A layer's activations and what it reads again come from the level of memory that holds all it touches; its weights,
    which were used an inference ago, from the level that holds the model (model_bytes). The time that is possible is the
    longer of the arithmetic and of these reads (Williams, Waterman and Patterson 2009); None where peaks are unknown.
    """
    for row in found:
        again = sum((s.get("rounds", 1) - 1) * s.get("weight_bytes", 0) for s in steps if s["name"] == row["name"])
        row["gflops"] = 2 * row["macs"] / max(row["ms"], 1e-9) / 1e6
        if peaks is None or row["weight_bytes"] is None:
            row |= {"possible_ms": None, "bound": None, "reached": None}
            continue
        near, far = peaks.level(row["bytes"] + row["weight_bytes"]), peaks.level(model_bytes)
        parts = {"FMA": 2 * row["macs"] / peaks.flops, near.name: (row["bytes"] + again) / near.rate}
        parts[far.name] = parts.get(far.name, 0.0) + row["weight_bytes"] / far.rate
        memory = sum(s for name, s in parts.items() if name != "FMA")
        slowest = max((name for name in parts if name != "FMA"), key=parts.__getitem__)
        row["bound"] = "FMA" if parts["FMA"] >= memory else slowest
        row["possible_ms"] = max(parts["FMA"], memory) * 1e3
        row["reached"] = row["possible_ms"] / max(row["ms"], 1e-9)
    total: dict[str, Any] = {key: _sum(row[key] for row in found) for key in ("steps", "ms", "macs", "dense_macs", "bytes", "weight_bytes", "possible_ms")}
    return total | {"gflops": 2 * total["macs"] / max(total["ms"], 1e-9) / 1e6,
                    "reached": None if total["possible_ms"] is None else total["possible_ms"] / max(total["ms"], 1e-9)}


def per_product(found: list[dict]) -> dict:
    """Adds `per_mac`, instructions a multiply-add (None where there are none); the row of the sum."""
    for row in found:
        row["instructions"] = int(row["instructions"])
        row["per_mac"] = row["instructions"] / row["macs"] if row["macs"] else None
    total = {key: _sum(row[key] for row in found) for key in ("steps", "instructions", "macs", "dense_macs", "bytes", "weight_bytes")}
    return total | {"per_mac": total["instructions"] / total["macs"] if total["macs"] else None}


def _sum(values: Any) -> Any:
    kept = list(values)
    return None if any(v is None for v in kept) else float(np.sum(kept)) if any(isinstance(v, float) for v in kept) else sum(kept)
