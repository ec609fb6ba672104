"""Steps of several inferences as a file of trace events, which chrome://tracing and ui.perfetto.dev draw.

Format: "Trace Event Format" (Google, 2016): complete events ("X") with microseconds, named rows by metadata events ("M").
"""
from collections.abc import Sequence

_LAYERS, _STEPS = 1, 2  # rows


def trace(runs: Sequence[Sequence[float]], steps: Sequence[dict], model: str, target: str, threads: int) -> dict:
    """runs: seconds of every step of each inference, laid end to end; steps: those of the manifest."""
    def named(kind: str, row: int, name: str) -> dict:
        return {"ph": "M", "name": kind, "pid": 1, "tid": row, "args": {"name": name}}
    rows = f"steps, on {threads} thread" + ("s" if threads > 1 else "")
    events = [named("process_name", 0, f"{model} on {target}"), named("thread_name", _LAYERS, "layers"), named("thread_name", _STEPS, rows)]
    at = 0.0
    for run in runs:
        layer, since = None, at
        for step, seconds in zip(steps, run, strict=True):
            if step["name"] != layer:
                events += _event(layer, "layer", _LAYERS, since, at, {})
                layer, since = step["name"], at
            more = {k: step[k] for k in ("macs", "sparsity", "group", "bytes", "weight_bytes") if step.get(k) is not None}
            if step["macs"]:
                more["gflops"] = round(2 * step["macs"] / max(seconds, 1e-9) / 1e9, 2)
            events += _event(step["op"], step["kernel"], _STEPS, at, at + seconds * 1e6, {"layer": step["name"], **more})
            at += seconds * 1e6
        events += _event(layer, "layer", _LAYERS, since, at, {})
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": {"model": model, "target": target}}


def _event(name: str | None, category: str, row: int, start: float, end: float, args: dict) -> list[dict]:
    return [] if name is None else [{"ph": "X", "name": name, "cat": category, "pid": 1, "tid": row, "ts": round(start, 3),
                                     "dur": round(end - start, 3), "args": args}]
