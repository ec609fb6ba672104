"""The search: costs of the candidates over the cases, kept in a cache; the best of each kind; the table of a processor."""
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgekit import targets
from edgekit.bench import machine
from edgekit.errors import InputError, MissingToolError
from edgekit.files import check_place, write_text
from edgekit.targets import Target
from edgekit.tune import shapes
from edgekit.tune.shapes import Case

_SCREENED = 2   # cases on which all candidates are tried; the rest judges the best of them
_KEPT = 8
_TIE = 0.02     # two schedules closer than this are one, and the default comes first: a count sees no latency, a clock has its days

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Found:
    """What was found for a kind on a processor. scores: cost relative to the default, geometric mean over the cases, of
    every schedule that was tried on all of them, best first; noise: how far two measurements of the default
    lay apart, on average."""

    kind: str
    default: Any
    best: Any
    scores: tuple[tuple[Any, float], ...]
    noise: float
    cases: tuple[str, ...]


def tune(target: str = "host", kinds: Sequence[str] = (), model: Any = None, *, output: Path | str | None = None,
         progress: Tell = lambda _: None, **load_options: Any) -> dict:
    """Schedules for every processor of a target that runs here; the result as `edgekit tune --json -` prints it.

    kinds: of kernels, all by default; model: tune on its layers instead of representative ones. output: a folder for
    PROCESSOR.toml, which `export` reads where EDGEKIT_SCHEDULES names it. Costs are cached by content: a search that was
    interrupted goes on where it was. InputError, and MissingToolError where nothing here runs the target.
    """
    chosen = targets.load(target)
    if not chosen.runner:
        raise MissingToolError(f"nothing here runs the target {target!r}", fix="tune on the device, or a target that runs here: see `edgekit targets`")
    if unknown := set(kinds) - set(shapes.kinds()):
        raise InputError(f"no kind of kernel {min(unknown)!r}", fix="use one of: " + ", ".join(shapes.kinds()))
    from edgekit.export import need_tools
    need_tools("export")
    if output is not None:
        with suppress(OSError):
            Path(output).mkdir(parents=True, exist_ok=True)
        check_place(Path(output) / "PROCESSOR.toml")
    progress("preparing layers")
    cases = shapes.of_model(model, **load_options) if model is not None else [c for k in kinds or shapes.kinds() for c in shapes.representative(k)]
    wanted = [k for k in shapes.kinds() if (not kinds or k in kinds) and any(c.kind == k for c in cases)]
    if not wanted:
        raise InputError("no layer of this model is of these kinds: " + ", ".join(kinds), fix="leave out the kinds, or the model")
    result: dict = {"target": target, "unit": "instructions" if chosen.runner == "arm" else "seconds", "processors": {}}
    for level in chosen.here:
        found = [_search(k, [c for c in cases if c.kind == k], level, progress) for k in wanted]
        name = targets.processor(level.cpu, level.features)
        text = table(level, found)
        result["processors"][name] = {"kinds": {f.kind: _to_json(f) for f in found}, "toml": text}
        if output is not None:
            write_text(Path(output) / f"{name}.toml", text)
    return result


def _search(kind: str, cases: list[Case], target: Target, progress: Tell) -> Found:
    """All candidates on the first cases, then the best with one of its values changed, then the best few on all cases."""
    from edgekit.exporters.kernels.schedule import KINDS, machine_of
    at_hand = machine_of(target)
    default = getattr(at_hand, kind)
    candidates = list(KINDS[kind].candidates(at_hand.accumulators))
    costs: dict[str, dict[Any, float]] = {c.label: {default: 1.0} for c in cases}
    noise: list[float] = []

    def measure(some: Sequence[Case], schedules: Sequence[Any]) -> None:
        for case in some if schedules else ():
            absolute = _cached(case, target, [default, default, *schedules], progress)  # the default twice: apart by the noise
            noise.append(abs(absolute[0] / absolute[1] - 1))
            costs[case.label] |= dict(zip(schedules, (cost / min(absolute[:2]) for cost in absolute[2:]), strict=True))
    tried = [default, *(s for s in candidates if s != default)]
    measure(cases[:_SCREENED], tried[1:])
    best = _ranked(tried, costs, cases[:_SCREENED])[0][0]
    changed = {replace(best, **{f.name: getattr(c, f.name)}) for c in candidates for f in fields(default)} - set(tried)
    neighbours = sorted(changed, key=repr)
    measure(cases[:_SCREENED], neighbours)
    tried += neighbours
    kept = [default, *(s for s, _ in _ranked(tried, costs, cases[:_SCREENED]) if s != default)][:_KEPT]
    measure(cases[_SCREENED:], kept[1:])
    scores = _ranked(kept, costs, cases)
    apart = sum(noise) / len(noise)
    good_enough = scores[0][1] * (1 + max(_TIE, apart))
    taken = next(s for s in kept if dict(scores)[s] <= good_enough)
    return Found(kind, default, taken, tuple(scores), apart, tuple(costs))


def _ranked(tried: Sequence[Any], costs: dict[str, dict[Any, float]], cases: Sequence[Case]) -> list[tuple[Any, float]]:
    """(schedule, cost relative to the default), best first: geometric mean over the cases, each as often as it is called."""
    def score(s: Any) -> float:
        logs = [c.times * math.log(costs[c.label][s]) if math.isfinite(costs[c.label][s]) else math.inf for c in cases]
        return math.exp(min(sum(logs) / sum(c.times for c in cases), 50.0))
    return sorted(((s, score(s)) for s in tried), key=lambda pair: pair[1])


def _cached(case: Case, target: Target, schedules: list, progress: Tell) -> list[float]:
    from edgekit.exporters.emit.compile import cache_folder, generation
    from edgekit.tune.harness import clock, costs
    said = repr((generation(), clock(target), targets.processor(target.cpu, target.features), target.triple, target.llvm_options, machine.describe()["cpu"],
                 case.kernel, schedules))
    file = cache_folder() / "tune" / f"{hashlib.sha256(said.encode()).hexdigest()[:40]}.json"
    try:
        known = json.loads(file.read_text("utf-8"))
        return [math.inf if c is None else float(c) for c in known]
    except (OSError, ValueError, TypeError):
        pass
    measured = costs(case, target, schedules, progress)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps([c if math.isfinite(c) else None for c in measured]) + "\n")
    return measured


def table(target: Target, found: Sequence[Found]) -> str:
    """PROCESSOR.toml: what was known, and what was found in its place."""
    from edgekit import __version__
    from edgekit.tune.harness import clock
    kinds = {kind: dict(values) for kind, values in target.schedule} | {f.kind: asdict(f.best) for f in found}
    by = clock(target) + ("" if target.runner == "arm" else f" on {machine.describe()['cpu']}")
    head = f"# Found by `edgekit tune {target.name}`, edgekit {__version__}, by {by}.\n"
    return head + "".join(f"\n[{kind}]\n" + "".join(f"{k} = {v}\n" for k, v in kinds[kind].items()) for kind in sorted(kinds))


def _to_json(f: Found) -> dict:
    return {"schedule": asdict(f.best), "default": asdict(f.default), "cost": dict(f.scores)[f.best], "noise": f.noise, "cases": list(f.cases),
            "tried": [{**asdict(s), "cost": c} for s, c in f.scores]}
