"""The costs of a processor, found by measuring networks of random layers: non-negative least squares of the relative errors."""
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from edgekit import targets
from edgekit.bench import machine
from edgekit.bench.peaks import caches
from edgekit.errors import MissingToolError
from edgekit.exporters.lower.plan import Plan
from edgekit.files import check_place, write_text
from edgekit.predict import measure
from edgekit.predict.costs import Costs, text_of, works
from edgekit.predict.samples import samples
from edgekit.predict.work import Work
from edgekit.targets import Target, processor

COUNT = 34           # networks: each family at least once
TURNS = 3            # measurements of each, apart in time: a busy machine makes steps slower, never faster
COUNTED = 20_000_000 # multiply-adds of a network at most, where instructions are counted: the emulator takes its time
SMALL = {"seconds": 2e-7, "instructions": 200.0}  # below, an error counts by its size and not by its share
OUTLIER = 0.1        # relative errors beyond count by their size and not by its square (Huber 1964)
PASSES = 400

Row = tuple[str, Work, float]  # kind, work, cost of a step


def calibrate(name: str = "host", *, count: int = COUNT, output: Path | str | None = None, progress: Callable[[str], None] = lambda _: None) -> dict:
    """Costs of every processor of a target that runs here; the result as `edgekit calibrate --json -` prints it.

    count: of networks that are measured. output: a folder for PROCESSOR.toml, which `check` and `fit` read where
    EDGEKIT_COSTS names it. Measurements are kept by content: one that was interrupted goes on where it was.
    MissingToolError where nothing here runs the target.
    """
    chosen = targets.load(name)
    if not chosen.runner:
        raise MissingToolError(f"nothing here runs the target {name!r}", fix="calibrate on the device, or a target that runs here: see `edgekit targets`")
    from edgekit.export import need_tools
    need_tools("export")
    if output is not None:
        with suppress(OSError):
            Path(output).mkdir(parents=True, exist_ok=True)
        check_place(Path(output) / "PROCESSOR.toml")
    unit = "instructions" if chosen.runner == "arm" else "seconds"
    result: dict = {"target": name, "unit": unit, "processors": {}}
    for level in chosen.here:
        known = {} if chosen.runner == "arm" else caches()
        rows = _rows(level, count, known, progress)
        kinds = {kind: fitted([r for r in rows if r[0] == kind], SMALL[unit]) for kind in sorted({r[0] for r in rows})}
        progress(f"{name}: an inference that does nothing")
        kinds["inference"] = measure.inference(level)
        own = processor(level.cpu, level.features)
        costs = Costs(own, unit, machine.describe()["cpu"] if unit == "seconds" else "emulator", known, kinds)
        from edgekit import __version__
        text = text_of(costs, f"Found by `edgekit calibrate {name}`, edgekit {__version__}: {len(rows)} steps of {count} networks of random layers.")
        result["processors"][own] = {"kinds": {k: _quality(costs, [r for r in rows if r[0] == k]) for k in sorted({r[0] for r in rows})}, "toml": text}
        if output is not None:
            write_text(Path(output) / f"{own}.toml", text)
    return result


def _rows(target: Target, count: int, known: Mapping[str, int], progress: Callable[[str], None]) -> list[Row]:
    """Every step of the networks, measured several times with all the others between, the least of each; once where it is counted."""
    from edgekit.exporters.load import load
    from edgekit.exporters.lower import lower, supported
    counted, found = target.runner == "arm", {}
    for turn in range(1 if counted else TURNS):
        for number, (label, model) in enumerate(samples(count)):
            loaded = load(model, keep=supported(), name="sample")
            plan, arrays = lower("sample", [("run", loaded.variants[0].model)])
            if counted and sum(s.macs for s in plan.entries[0].steps) > COUNTED:
                continue
            file = _kept(target, plan)
            try:
                runs = json.loads(file.read_text("utf-8"))
            except (OSError, ValueError):
                runs = []
            if len(runs) <= turn:
                progress(f"{target.name}: {label}, network {number + 1} of {count}: {len(plan.entries[0].steps)} steps" + ("" if counted else f", turn {turn + 1} of {TURNS}"))
                runs.append(measure.measured(plan, arrays, target))
                file.parent.mkdir(parents=True, exist_ok=True)
                write_text(file, json.dumps(runs) + "\n")
            found[label] = list(zip(works(plan, plan.entries[0], target, known), np.min(runs, axis=0).tolist(), strict=True))
    return [(kind, parts, cost) for steps in found.values() for (kind, parts), cost in steps]


def _kept(target: Target, plan: Plan) -> Path:
    """Where the measurements of a plan on this machine are kept."""
    from edgekit.exporters.emit.compile import cache_folder, generation
    said = repr((generation(), processor(target.cpu, target.features), machine.describe()["cpu"], target.schedule, plan))
    return cache_folder() / "costs" / f"{hashlib.sha256(said.encode()).hexdigest()[:40]}.json"


def fitted(rows: Sequence[Row], small: float) -> dict[str, float]:
    """Costs >= 0 of each work, of steps of one kind, by relative errors (below `small` absolute ones), outliers held down."""
    names = sorted({name for _, parts, _ in rows for name in parts})
    amounts = np.array([[parts.get(name, 0.0) for name in names] for _, parts, _ in rows])
    costs = np.array([cost for *_, cost in rows])
    weight = 1 / (costs + small)
    found = np.zeros(len(names))
    for _ in range(8):  # iteratively reweighted
        held = weight / np.sqrt(np.maximum(np.abs(amounts @ found - costs) / (costs + small) / OUTLIER, 1)) if found.any() else weight
        found = _non_negative(amounts * held[:, None], costs * held)
    return {name: float(value) for name, value in zip(names, found, strict=True) if value > 0}


def _non_negative(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """x >= 0 of least |a x - b|, one coordinate after the other (Franc, Hlavac and Navara 2005)."""
    scale = np.sqrt((a * a).sum(0))
    used = scale > 0
    a = a[:, used] / scale[used]
    square, right, x = a.T @ a, a.T @ b, np.zeros(int(used.sum()))
    for _ in range(PASSES):
        for j in range(len(x)):
            x[j] = max(0.0, x[j] + right[j] - square[j] @ x)
    found = np.zeros(len(scale))
    found[used] = x / scale[used]
    return found


def _quality(costs: Costs, rows: Sequence[Row]) -> dict:
    """steps, median relative error, and the ratio of all predicted to all measured cost."""
    predicted, measured = np.array([costs.of(kind, parts) for kind, parts, _ in rows]), np.array([cost for *_, cost in rows])
    return {"steps": len(rows), "cost": float(measured.sum()), "median_error": float(np.median(np.abs(predicted - measured) / (measured + SMALL[costs.unit]))),
            "total": float(predicted.sum() / max(measured.sum(), 1e-30))}
