"""Prunes and scores: what is measured is kept at once, one file a row, so rows may run side by side and be interrupted."""
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx

from benchmarks.accuracy.methods import METHODS, Trial
from benchmarks.accuracy.rows import Row, runner
from edgekit.errors import EdgekitError, MissingToolError
from edgekit.exporters.sparsify import Pruned
from edgekit.exporters.sparsify.graph import weights

LEFT = "multiply-adds"


def measure(row: Row, methods: Iterable[str], levels: Iterable[float], seeds: int, folder: Path, say: Callable[[str], None]) -> dict:
    """All trials of a row that are not in its file yet; returns what the file then holds."""
    path = folder / f"{row.name}.json"
    dense = scored(row, runner(row.model(), row))
    kept = json.loads(path.read_text("utf-8")) if path.exists() else {"methods": {}}
    kept |= {"title": row.title, "split": row.split, "published": row.published, "figures": dict(row.figures), "higher": list(row.higher),
             "shares": [*row.shares, LEFT], "baseline": row.baseline, "bars": [asdict(b) for b in row.bars],
             "dense": {k: float(np.mean(v)) for k, v in dense.items()}}
    kept["figures"][LEFT] = "share of the dense net's multiply-adds with weights that are left"
    methods = list(methods)
    for level in levels:
        for seed in range(seeds):
            trial = Trial(row, level, seed)
            for name in methods:
                found = kept["methods"].setdefault(name, {}).setdefault(str(level), {})
                if str(seed) in found or seed and not METHODS[name].seeds:
                    continue
                found[str(seed)] = figures = tried(trial, name, dense)
                say(f"{row.name} {level:.0%} {name}, seed {seed}: {figures}")
                folder.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    return kept


def scored(row: Row, run) -> dict[str, np.ndarray]:
    """Figures on the test split; of rows in closed loop those of each episode."""
    return row.episodes(run, "test") if row.episodes else {k: np.array(v) for k, v in row.score(run, "test").items()}


def tried(trial: Trial, name: str, dense: dict[str, np.ndarray]) -> dict:
    """Figures of one trial, with the interval of the difference from dense of rows in closed loop; or why there are none."""
    try:
        made = METHODS[name].prune(trial)
    except MissingToolError:
        raise
    except EdgekitError as e:
        return {"refused": str(e)}
    if made is None:
        return {"does not apply": "no labels, or no channels that could be removed"}
    model = made.models[0] if isinstance(made, Pruned) else made
    found = scored(trial.row, runner(model, trial.row))
    figures: dict = {k: float(np.mean(v)) for k, v in found.items()} | {LEFT: multiply_adds(model) / multiply_adds(trial.dense)}
    if trial.row.episodes:
        figures["interval"] = {k: difference(v, dense[k]) for k, v in found.items()}
    return figures


def multiply_adds(model: onnx.ModelProto) -> float:
    """Of one inference, with weights that are not zero."""
    arrays = {t.name: t for t in model.graph.initializer}
    found = [(w.facts.macs, onnx.numpy_helper.to_array(arrays[w.places[0][1]])) for w in weights([model]) if w.places]
    return sum(macs * np.count_nonzero(a) / a.size for macs, a in found)


def difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Mean of a - b over the same episodes, and half of its 95 % interval.

    Of shares (0 or 1 an episode) by Agresti and Min (2005), which holds where next to no episode differs.
    """
    d, n = a - b, len(a)
    if np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
        middle = d.sum() / (n + 2)
        return float(middle), float(1.96 * np.sqrt(np.abs(d).sum() + 1 - d.sum() ** 2 / (n + 2)) / (n + 2))
    return float(d.mean()), float(1.96 * d.std(ddof=1) / np.sqrt(n))
