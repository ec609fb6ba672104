"""One benchmark: open a session, warm up, choose the period, run the open loop, judge the budget."""
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import vectors
from edgekit.bench import layers, machine, peaks, stats
from edgekit.bench import trace as traces
from edgekit.bench.openloop import REAL, Clock, Responses, back_to_back, open_loop, undisturbed
from edgekit.budget import Budget, Evidence, seconds
from edgekit.errors import BundleError, InputError, MissingToolError
from edgekit.files import check_place, write_text

_RUNS, _ENOUGH = 500, stats.runs_needed(stats.PERCENTILES["p99"])
_SOON, _LONG = 30.0, 120.0     # seconds that the default number of runs may take: for _RUNS, for _ENOUGH
_TRACED = 20                   # inferences in a file of trace events
_HEADROOM = 1.5                # the default period, in 90th percentiles of a call
_NO_MODEL = "no cycle model of this target yet: nothing is predicted"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class _Plan:
    """What is asked for. Seconds; None: to be chosen."""

    runs: int | None
    warmup: int | None
    period: float | None
    deadline: float | None
    layers: bool  # the times of steps are wanted
    threads: int


def bench(bundle: Any, target: str = "host", *, entry: str | None = None, runs: int | None = None,
          warmup: int | None = None, period: str | float | None = None, deadline: str | float | None = None,
          budget: str | Budget | Iterable[str | Budget] | None = None, allow_predicted: bool = False, threads: int = 1,
          layers: bool = False, trace: str | Path | None = None, progress: Tell = lambda _: None, session: Any = None, clock: Clock = REAL) -> dict:
    """Response times of a bundle (a path or what was read from one) on a target, as in docs of `bench --json -`.

    Inputs are the bundle's own vectors in turn. Without `period`, inputs arrive every 1.5 times the 90th percentile of a
    call; without `deadline`, a result is due when the next input arrives. `latency_ms` counts from the arrival,
    `service_ms` is the inference alone. Without `runs`, enough for p99 unless that takes minutes (then a note says so).
    Where the target cannot be timed here, exact `instructions` take the place of latency and latency rules stay undecided.
    layers: add a row a layer, with the time that the machine's measured peaks allow. trace: a file for the steps of some
    inferences, to be opened in chrome://tracing or ui.perfetto.dev.
    allow_predicted: judge p50 by a prediction where there is one (there is none yet, and the verdict says so).
    Durations are "50ms" or seconds. session, clock: in place of the real ones. InputError for unusable arguments.
    """
    plan = _Plan(_count("runs", runs, 1), _count("warmup", warmup, 0),
                 None if period is None else seconds(period, what="period"),
                 None if deadline is None else seconds(deadline, what="deadline"), layers or trace is not None, threads)
    _count("threads", threads, 1)
    rules = Budget.parse(budget)
    if trace is not None:
        check_place(Path(trace))
    files = _files(bundle)
    manifest = files.manifest
    chosen = vectors.entry_of(manifest, entry)
    if target not in manifest["targets"] and target != "onnx":
        raise InputError(f"this bundle has no target {target!r}", fix="use one of: " + ", ".join(manifest["targets"]))
    cases = vectors.load(files, chosen["name"]).cases

    machine.restart_peak_rss()
    with closing(session or _open(files, target, threads)) as opened, machine.one_core(threads == 1) as core:
        opened.reset()
        head: dict = {"model": manifest["name"], "target": target, "entry": chosen["name"], "measured": opened.measured}
        steps = None
        if trace is not None and not opened.measured:
            raise InputError("a trace shows times, and this target has none here", where=target, fix="trace the host or wasm")
        if opened.measured:
            body, known, steps = _timed(opened, chosen, cases, plan, clock, progress)
            body |= {"threads": threads, "core": core}
        else:
            body, known = _counted(opened, chosen, cases, plan, allow_predicted, progress)
        # an emulator lives in a process of its own, so the memory of this one says nothing about the model
        memory = {**opened.memory(), "peak_rss_bytes": machine.peak_rss() if head["measured"] else None}
        if steps is not None:
            body |= _layers(chosen, steps, manifest, target, plan, progress)
    if trace is not None and steps is not None:
        events = traces.trace(steps[-_TRACED:].tolist(), chosen["layers"], manifest["name"], target, threads)
        write_text(Path(trace), json.dumps(events) + "\n")
    known |= {name.removesuffix("_bytes"): Evidence.exactly(v) for name, v in memory.items() if v is not None}
    verdicts = [v.to_json() for v in rules.judge(known)]
    return head | body | {"memory": memory, "budget": verdicts, "machine": machine.describe()}


def _timed(session: Any, entry: dict, cases: tuple, plan: _Plan, clock: Clock,
           progress: Tell) -> tuple[dict, dict, np.ndarray | None]:
    """The measured part of the result, the evidence for the budget, and the seconds of every step if they are wanted."""
    notes: list[str] = []

    def serve(i: int) -> float:
        return session.time(cases[i % len(cases)], entry["name"])

    with undisturbed():
        progress("warming up")
        warmed = back_to_back(serve, clock, *((plan.warmup,) * 2 if plan.warmup is not None else (3, 50)))
        calls = back_to_back(serve, clock, 5, 50)
        period = plan.period or _HEADROOM * _p90(calls.response)
        runs = plan.runs or _default_runs(period, notes)
        deadline = plan.deadline or period
        if calls.response.mean() > period:
            notes.append(f"inputs arrive every {period * 1e3:.4g} ms but a call takes {calls.response.mean() * 1e3:.4g} ms "
                         f"(inference {calls.service.mean() * 1e3:.4g} ms): they queue up, so responses grow with the runs")
        progress(f"{runs} runs, an input every {period * 1e3:.4g} ms: {runs * period:.0f} s")
        times = open_loop(serve, runs, period, clock=clock, progress=progress)
        late = _p90(times.late)
        if late > max(0.1 * _p90(times.service), 50e-6):
            notes.append(f"this machine was busy: one input in ten waited {late * 1e3:.3g} ms or more for a free core, not for the "
                         "model; that counts, and goes away on a quiet machine")
        steps = _step_seconds(session, entry, cases[0], clock, progress) if plan.layers else None

    misses = int(np.count_nonzero(times.response > deadline))
    upper = stats.rate_upper(misses, runs)
    due = {"period_ms": period * 1e3, "period_from": "user" if plan.period else "1.5 x p90 of a call",
           "deadline_ms": deadline * 1e3, "deadline_from": "user" if plan.deadline else "period",
           "misses": misses, "miss_rate": misses / runs, "miss_rate_upper95": upper}
    body = {"runs": runs, "warmup": len(warmed.service), "latency_ms": stats.summary_ms(times.response),
            "service_ms": stats.summary_ms(times.service), "histogram": stats.histogram_ms(times.response),
            "throughput_per_s": 1 / max(float(calls.service.mean()), 1e-12), "deadline": due, "notes": notes}
    known = _latency_evidence(times)
    if plan.period or plan.deadline:
        known["miss_rate"] = Evidence(misses / runs, misses / runs, upper,
                                      f"{misses} misses in {runs} runs: at most {upper:.3%}, 95 % sure")
    else:
        known["miss_rate"] = Evidence(note="give a period or a deadline")
    return body, known, steps


def _counted(session: Any, entry: dict, cases: tuple, plan: _Plan, allow_predicted: bool,
             progress: Tell) -> tuple[dict, dict]:
    """The same for a target without a clock: exact instructions of one inference."""
    progress("counting instructions in the emulator")
    instructions = session.instructions(cases[0], entry["name"])
    unmeasured = "not measured: an emulator's time is no latency" + (f", and {_NO_MODEL}" if allow_predicted else "")
    body = {"runs": 1, "instructions": instructions, "predicted_ms": None, "model_error": None, "notes": [_NO_MODEL]}
    if plan.layers:
        progress("counting the instructions of every layer")
        counts = session.step_instructions(cases[0], entry["name"])
        _same_steps(counts, entry)
        found = layers.rows(entry["layers"], {"instructions": counts})
        body |= {"layers": found, "layers_total": layers.per_product(found)}
    names = ("min", "mean", *stats.PERCENTILES, "max", "miss_rate")
    return body, {"instructions": Evidence.exactly(instructions)} | {name: Evidence(note=unmeasured) for name in names}


def _latency_evidence(times: Responses) -> dict[str, Evidence]:
    sample, n = times.response, len(times.response)
    known = {name: Evidence.exactly(float(f(sample))) for name, f in
             (("min", np.min), ("mean", np.mean), ("max", np.max))}
    for name, per_mille in stats.PERCENTILES.items():
        value = stats.percentile(sample, per_mille)
        if value is not None:
            known[name] = Evidence.exactly(value)
        else:
            floor = stats.percentile_floor(sample, per_mille)
            note = f"needs {stats.runs_needed(per_mille)} runs, {n} made" + (
                f"; at least {floor * 1e3:.4g} ms, 95 % sure" if floor else "")
            known[name] = Evidence(low=floor, note=note)
    return known


def _default_runs(period: float, notes: list[str]) -> int:
    if _RUNS * period <= _SOON:
        return _RUNS
    if _ENOUGH * period <= _LONG:
        return _ENOUGH
    runs = max(20, int(_LONG / period))
    notes.append(f"{_ENOUGH} runs, which p99 needs, would take {_ENOUGH * period:.0f} s: {runs} are made; "
                 "ask for more by the number of runs")
    return runs


def _step_seconds(session: Any, entry: dict, case: dict, clock: Clock, progress: Tell) -> np.ndarray:
    """Seconds (inferences, steps) of every step of the plan, back to back."""
    progress("timing the layers")
    rows: list[list[float]] = []
    start = clock.now()
    while len(rows) < 5 or (len(rows) < 200 and clock.now() - start < 2.0):
        rows.append(session.steps(case, entry["name"]))
    _same_steps(rows[0], entry)
    return np.array(rows)


def _same_steps(found: Sequence, entry: dict) -> None:
    if len(found) != len(entry["layers"]):
        raise BundleError(f"its code has {len(found)} steps, its manifest {len(entry['layers'])}", where=entry["name"])


def _layers(entry: dict, seconds: np.ndarray, manifest: dict, target: str, plan: _Plan, progress: Tell) -> dict:
    """Medians of the steps as rows of layers, against the machine's peaks."""
    found = layers.rows(entry["layers"], {"ms": np.median(seconds, axis=0) * 1e3})
    try:
        progress("measuring the machine's peaks")
        limits = peaks.measure(target, plan.threads)
        roofline = limits.to_json()
    except MissingToolError as error:
        limits, roofline = None, {"missing": error.what, "fix": error.fix}
    total = layers.against_roofline(found, entry["layers"], limits, manifest["arena_bytes"] + manifest["weights_bytes"])
    return {"layers": found, "layers_total": total, "roofline": roofline}


def _p90(sample: np.ndarray) -> float:
    return float(np.quantile(sample, 0.9, method="inverted_cdf"))


def _count(what: str, value: int | None, least: int) -> int | None:
    if value is not None and value < least:
        raise InputError(f"{what} {value} has to be {least} or more")
    return value


def _files(bundle: Any) -> Any:
    if not isinstance(bundle, (str, Path)):
        return bundle
    from edgekit.runtimes.abi.bundle import read
    return read(Path(bundle))


def _open(files: Any, target: str, threads: int) -> Any:
    from edgekit.runtimes import open_session
    return open_session(files, target, threads)
