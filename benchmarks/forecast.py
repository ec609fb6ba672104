"""How far `edgekit check` is off: what it says a network would take at each level of sparsity, and what bundles then take.

The tables behind a forecast come from networks of random layers: every network here is one that they have not seen.
"""
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np

import edgekit
from benchmarks.models import Level, Refused, Workshop
from benchmarks.timing import TURN
from edgekit.bench.machine import one_core
from edgekit.checking import check
from edgekit.runtimes import open_session
from edgekit.runtimes.abi.bundle import read

TARGETS = ("host", "wasm")
BOUND = 0.10  # median error of the ratio to the dense network


def compare(shop: Workshop, target: str, levels: Sequence[float], rounds: int, say: Callable[[str], None]) -> dict:
    """{"dense": {"measured", "forecast"} in ms, "seconds": of the check, "levels": {level: {"measured", "forecast"}: ratios to
    dense}}; or {"why"}."""
    try:
        files = {s: shop.bundle(Level(s), target).path for s in (0.0, *levels)}
        start = time.perf_counter()
        told = check(shop.onnx, target)
        seconds = time.perf_counter() - start
    except (Refused, edgekit.EdgekitError) as e:
        return {"why": str(e)}
    say(f"{shop.name}: {target}, forecast and measured")
    with np.load(shop.inputs) as inputs:
        taken = _taken(files, target, dict(inputs), rounds)
    quiet = np.argsort(sum(taken.values()))[:max(1, rounds // 2)]
    forecast = {level["sparsity"]: level["cost"] / told["total"]["cost"] for level in told["total"]["levels"]}
    return {"seconds": seconds, "dense": {"measured": 1e3 * float(np.median(taken[0.0][quiet])), "forecast": told["total"]["cost"]},
            "levels": {f"{s:.0%}": {"measured": float(np.median((taken[s] / taken[0.0])[quiet])), "forecast": forecast.get(s, 1.0)} for s in levels}}


def _taken(files: Mapping[float, object], target: str, inputs: dict, rounds: int) -> dict[float, np.ndarray]:
    """Seconds of an inference of each bundle, (rounds,), in turn."""
    sessions, entries = {}, {}
    try:
        for s, path in files.items():
            bundle = read(path)
            sessions[s], entries[s] = open_session(bundle, target), bundle.manifest["entries"][0]["name"]
        calls = {s: min(200, max(1, round(TURN / max(min(x.time(inputs, entries[s]) for _ in range(3)), 1e-9)))) for s, x in sessions.items()}
        with one_core(True):
            rows = [[_turn(x, inputs, entries[s], calls[s]) for s, x in sessions.items()] for _ in range(rounds)]
        return dict(zip(sessions, np.array(rows).T, strict=True))
    finally:
        for session in sessions.values():
            session.close()


def _turn(session, inputs: dict, entry: str, calls: int) -> float:
    """Median of the calls after some that are not counted."""
    return median([session.time(inputs, entry) for _ in range(calls + 1 + calls // 4)][-calls:])


def errors(found: Mapping[str, dict], target: str) -> list[float]:
    """|forecast / measured - 1| of the ratio, of every network and level."""
    return [abs(x["forecast"] / x["measured"] - 1) for by_target in found.values() if "levels" in by_target.get(target, {})
            for x in by_target[target]["levels"].values()]
