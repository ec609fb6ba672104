"""`fit`: loads, checks what is asked for, runs the search, and writes the bundle of the best configuration."""
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import targets as devices
from edgekit import vectors
from edgekit.bench import bench as measure
from edgekit.bench import machine, stats
from edgekit.budget import Budget
from edgekit.errors import InputError, VerificationError
from edgekit.export import assemble, need_tools
from edgekit.fitting import page
from edgekit.fitting.evaluation import Evaluation, resolve
from edgekit.fitting.evaluation import digest as evaluation_digest
from edgekit.fitting.search import Found, Search, Trial
from edgekit.fitting.subject import Configuration, Job, Subject
from edgekit.fitting.sweep import Sweep, run_all
from edgekit.runtimes.abi import bundle as format

LEVELS = (0.3, 0.5, 0.7, 0.9)
Progress = Callable[[str], None]


def fit(model: Any, target: str = "host", *, budget: str | Budget | Iterable[str | Budget], output: str | Path, calibration: Any = None,
        evaluation: str | Evaluation | None = None, group: int | str = "auto", trials: int = 4, seed: int = 0, workers: int | None = None,
        ray: str | None = None, overwrite: bool = False, progress: Progress = lambda _: None, **options: Any) -> dict:
    """The least damaging configuration of a model that meets a budget on a target, as the bundle `output`, and how it was found.

    budget: rules as for `bench`, at least one of latency, or on a target without a clock one of `instructions`; and
    `accuracy_drop<=0.5%` with an evaluation. calibration: see `export`; configurations are then reconstructed, judged on
    a part held back, and tuned. evaluation: "module:callable" or a callable; it gets a `Runner` and returns a number, higher is
    better, or {domain: number}, of which the worst decides. One of the two has to be given. trials: configurations of ours
    that are built and measured, and as many of random search. workers: processes that judge, by default one a core. ray:
    address of a Ray cluster that does it instead. options: of `exporters.load.load`.

    Every result is kept in the folder OUTPUT.fit: the same call goes on where an earlier one ended, and a call with another
    budget uses what is known. Layers that pruning makes no faster stay dense, and the whole model does if it meets the budget.

    Returns what `edgekit fit --json -` prints. Raises BudgetError where nothing meets the budget, with what could be met;
    InputError for what does not fit. Nothing is written to `output` then.
    """
    begin = time.monotonic()
    output = Path(output)
    rules, limit = _rules(Budget.parse(budget), evaluation)
    device = devices.load(target)
    _check(device, rules, calibration, evaluation, trials, workers)
    if evaluation is not None:
        resolve(evaluation)  # before anything is worked for
    format.check_free(output, overwrite)
    need_tools("export")

    from edgekit.exporters.load import load
    from edgekit.exporters.lower import supported
    from edgekit.predict import forecast
    progress("loading")
    loaded = load(model, keep=supported(), **options)
    given = None if calibration is None else {k.removeprefix("in_"): np.asarray(a) for k, a in vectors.arrays(calibration).items()}
    subject = Subject(tuple(v.model.SerializeToString(deterministic=True) for v in loaded.variants), loaded.states, given, evaluation, group)
    sweep = Sweep(output.with_name(output.name + ".fit"), _fingerprint(subject, target))
    progress(f"results are kept in {sweep.folder}" + (f": {sweep.resumed} are there" if sweep.resumed else ""))
    progress("forecasting what each layer costs")
    table = forecast(loaded, target, LEVELS, group=group)
    count = workers if workers is not None else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if callable(evaluation):
        count = 1  # it lives in this process

    def judge(jobs: Sequence[Job], what: str) -> list[dict]:
        return run_all(sweep, jobs, subject, count, ray, progress, what)

    def narrow(share: float) -> float | None:
        from edgekit.exporters.sparsify import prune_onnx
        try:
            slim = prune_onnx([v.model for v in loaded.variants], sparsity=share, pattern="channels")
        except VerificationError:
            return None  # then there is nothing to compare with
        if not any(x.sparsity for x in slim.layers):
            return None
        variants = tuple(replace(v, model=m) for v, m in zip(loaded.variants, slim.models, strict=True))
        return forecast(replace(loaded, variants=variants), target, (), group=group).total()

    build = partial(_build, loaded, device, given, sweep)
    measured = partial(_measured, build, sweep, target, rules, progress)
    found = Search(table, narrow, judge, measured, trials, given is not None, limit, seed).run()
    assert found.best is not None
    result = _result(loaded.name, target, table, rules, found, sweep, limit, evaluation)
    result |= {"bundle": str(output), "seconds": round(time.monotonic() - begin, 3)}
    progress("writing the bundle")
    build(found.best.configuration, output, overwrite=overwrite,
          shown={"bench": [found.best.bench], "sections": page.sections(result)}, progress=progress)
    return result


def _rules(budget: Budget, evaluation: Any) -> tuple[Budget, float | None]:
    """The rules that a bundle is measured by, and the limit on the drop of accuracy."""
    drops = [r for r in budget.rules if r.name == "accuracy_drop"]
    if drops and evaluation is None:
        raise InputError("a drop of accuracy needs an evaluation that tells it", where=str(drops[0]), fix="give --eval module:callable")
    return Budget(tuple(r for r in budget.rules if r.name != "accuracy_drop")), min((r.limit for r in drops), default=None)


def _check(device: devices.Target, budget: Budget, calibration: Any, evaluation: Any, trials: int, workers: int | None) -> None:
    if calibration is None and evaluation is None:
        raise InputError("nothing tells what a configuration does to the model", fix="give calibration inputs, or an evaluation, or both")
    if trials < 1 or workers is not None and workers < 1:
        raise InputError("trials and workers have to be 1 or more")
    if not device.runner:
        raise InputError("it cannot be measured here", where=device.name, fix="fit on host, wasm or arm64 first, and measure on the device")
    wanted, other = ("count", "time") if device.runner == "arm" else ("time", "count")
    if any(r.kind == other for r in budget.rules) or not any(r.kind == wanted for r in budget.rules):
        fix = 'write "instructions<=100M": an emulator\'s time is no latency' if wanted == "count" else 'write one such as "p99<=10ms"'
        raise InputError(f"the budget of a fit on {device.name} needs a rule of " + ("instructions, and none of time" if wanted == "count" else "latency"),
                         where=str(budget), fix=fix)


def _fingerprint(subject: Subject, target: str) -> str:
    """Of all that results depend on but the budget."""
    from edgekit import __version__
    digest = hashlib.sha256()
    for part in subject.models:
        digest.update(hashlib.sha256(part).digest())
    for name, array in sorted((subject.calibration or {}).items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode() + hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest())
    told = "" if subject.evaluation is None else evaluation_digest(resolve(subject.evaluation))
    return f"{digest.hexdigest()} {target} {subject.group} {told} {subject.states} {__version__}"


def _build(loaded: Any, device: devices.Target, calibration: Any, sweep: Sweep, c: Configuration, output: Path, **how: Any) -> Any:
    import onnx

    from edgekit.exporters.sparsify import Layer, Pruned
    key = Job(c).key
    known = sweep.find(key) or {}
    layers = tuple(Layer(**{**x, "shape": tuple(x["shape"])}) for x in known["layers"])
    pruned = Pruned(tuple(map(onnx.load_from_string, sweep.models(key))), layers)
    by_layer = dict(c.sparsity)
    pruning = {"pattern": "channels" if "" in by_layer else "groups", "sparsity": by_layer.get("", by_layer or 0.0), "method": f"fit: {c.method}", "held_back": None}
    return assemble(loaded, pruned, [device], output, calibration=calibration, pruning=pruning, **how)


def _measured(build: Callable[..., Any], sweep: Sweep, target: str, budget: Budget, progress: Progress, c: Configuration) -> dict:
    """load, cost, met, bench of a configuration's bundle (see `Trial`); from the sweep where it was measured on this machine."""
    key = f"bench {c.key} {budget} {machine.describe()['cpu']}"
    result = sweep.find(key)
    if result is None:
        runs = max((stats.runs_needed(stats.PERCENTILES[r.name]) for r in budget.rules if r.name in stats.PERCENTILES), default=0)
        with tempfile.TemporaryDirectory(prefix="edgekit-fit-") as folder:
            bundle = build(c, Path(folder, "trial.ekb"), progress=lambda _: None)
            progress(f"measuring {c.method} on {target}")
            result = measure(bundle.files, target, budget=budget, runs=runs if runs > 500 else None, progress=lambda _: None)
            bundle.close()
        result = sweep.add(key, json.loads(json.dumps(result, default=float)))
    speed = [v for v, r in zip(result["budget"], budget.rules) if r.kind in ("time", "count")]
    return {"load": max(_share(v) for v in speed), "cost": speed[0]["value"], "met": all(v["ok"] for v in result["budget"]), "bench": result}


def _share(verdict: dict) -> float:
    if verdict["value"] is None:
        raise InputError(f"{verdict['rule']} could not be measured: {verdict.get('note', '')}", fix="ask for another percentile")
    return verdict["value"] / verdict["limit"]


def _result(name: str, target: str, table: Any, budget: Budget, found: Found, sweep: Sweep, limit: float | None, evaluation: Any) -> dict:
    best = found.best
    assert best is not None
    dense = found.trials[0]
    told = evaluation if isinstance(evaluation, str) or evaluation is None else getattr(evaluation, "__name__", "")
    return {
        "model": name, "target": target, "measured": best.bench["measured"], "unit": table.unit, "budget": best.bench["budget"], "ok": True,
        "configuration": asdict(best.configuration) | {"sparsity": dict(best.configuration.sparsity)},
        "accuracy": None if told is None else {"evaluation": told, "dense": dense.scores, "scores": best.scores, "drop": best.drop, "limit": limit},
        "error": best.error, "curve": [_point(t, best) for t in found.trials],
        "sensitivity": [{"layer": n, "levels": [asdict(o) for o in options]} for n, options in found.tables.items()],
        "refused": [{"layer": n, "reason": r} for n, r in found.refused.items()],
        "forecast": {"basis": table.basis, "estimate": table.estimate}, "state": str(sweep.folder), "resumed": sweep.resumed, "notes": list(found.notes)}


def _point(t: Trial, best: Trial) -> dict:
    sparsity = dict(t.configuration.sparsity)
    return {"kind": t.kind, "method": t.configuration.method, "tuned": t.configuration.tuned, "cost": t.cost, "error": t.error, "drop": t.drop,
            "scores": t.scores, "met": t.met, "chosen": t is best, "sparsity": sparsity}
