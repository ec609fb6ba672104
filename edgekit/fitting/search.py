"""The search: from tables of cost and damage to configurations that are built and measured, until one is good enough."""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgekit.errors import BudgetError, InputError
from edgekit.exporters.sparsify.allocation import Option, Tables, knapsack, random_search
from edgekit.fitting.evaluation import drop
from edgekit.fitting.subject import CHANNELS, DENSE, GROUPS, RANDOM, SMALL, Configuration, Job

PAYS = 0.02     # of a layer's cost: what gains less stays dense
CLOSE = 0.97    # of the budget used is near enough to stop
SAFE = 0.98     # of the budget is aimed at, since measurements scatter
BISECTIONS = 7  # of the share of channels
CORRECTIONS = 3  # of its forecast
TRIVIAL = 1.0   # the error of answering with the mean output of all cases

Judge = Callable[[Sequence[Job], str], list[dict]]
Measure = Callable[[Configuration], dict]


@dataclass(frozen=True)
class Trial:
    """A configuration that was judged and measured. kind: what it stands for on the curve. error, drop: see `Workshop.do` and
    `evaluation.drop`; None where not judged so. load: the measured share of the budget, the worst rule's. cost: in ms, or
    instructions. met: every rule of the budget. bench: of its bundle."""

    kind: str
    configuration: Configuration
    error: float | None
    drop: float | None
    scores: Mapping[str, float] | None
    load: float
    cost: float
    met: bool
    bench: dict

    @property
    def damage(self) -> float:
        """What decides between configurations: the evaluation where there is one, else the error."""
        return self.drop if self.drop is not None else self.error if self.error is not None else 0.0


@dataclass(frozen=True)
class Found:
    """best: the chosen one, None where none met the budget; trials: all, the dense one first; refused: {layer: why it stays
    dense}; tables: what the knapsack chose from; notes: what the user would want to be told."""

    best: Trial | None
    trials: tuple[Trial, ...]
    refused: Mapping[str, str]
    tables: Tables
    notes: tuple[str, ...]


class Search:
    """forecast: costs of layers (`predict.forecast`). narrow: forecast of the whole net with a share of its channels removed,
    None where none can be. judge, measure: do jobs, and build and time a configuration. tuned: whether there are calibration
    inputs to tune with. limit: on the drop of the evaluation's score, None without one."""

    def __init__(self, forecast: Any, narrow: Callable[[float], float | None], judge: Judge, measure: Measure, trials: int, tuned: bool,
                 limit: float | None, seed: int):
        self.forecast, self.narrow, self.judge, self.measure = forecast, narrow, judge, measure
        self.count, self.tuned, self.limit, self.seed = trials, tuned, limit, seed
        self._dense_scores: Mapping[str, float] | None = None

    def run(self) -> Found:
        """BudgetError where no configuration meets the budget, with what could be met."""
        dense = self._trial("dense", Configuration(DENSE))
        if dense.met:
            return Found(dense, (dense,), {}, {}, ("the dense model meets the budget: nothing was pruned",))
        tables, refused = self._tables()
        if not tables:
            raise BudgetError(f"no layer gets faster by pruning, and the dense model takes {dense.load:.3g} times the budget",
                              fix=f"ask for {dense.load:.3g} times as much, or use a smaller model")
        ours = self._propose(tables, dense)
        if not any(t.met for t in ours):
            raise self._impossible(ours)
        trials = ours + self._random_search(tables, min((t for t in ours if t.met), key=lambda t: t.damage), len(ours))
        best = min((t for t in trials if t.met), key=lambda t: t.damage)
        if self.tuned:
            trials.append(self._trial(best.kind, replace(best.configuration, tuned=True)))
        if not any(map(self._good, trials)):
            raise self._impossible(trials)
        best = min(filter(self._good, trials), key=lambda t: t.damage)
        others, notes = self._others(best)
        best = min(filter(self._good, [best, *others]), key=lambda t: t.damage)
        if best.kind != "ours":
            notes += (f"what does the least damage is no allocation of ours but {best.kind}: it is what the bundle holds",)
        return Found(best, (dense, *trials, *others), refused, tables, notes)

    def _trial(self, kind: str, c: Configuration) -> Trial:
        result, = self.judge([Job(c)], f"{kind}: {_told(c)}")
        return self._measured(kind, c, result)

    def _measured(self, kind: str, c: Configuration, result: dict) -> Trial:
        if c.method == DENSE:
            self._dense_scores = result["scores"]
        worse = None if self._dense_scores is None or result["scores"] is None else drop(dict(self._dense_scores), result["scores"])
        return Trial(kind, c, result["error"], worse, result["scores"], **self.measure(c))

    def _good(self, t: Trial) -> bool:
        """Within the budget and the limit of accuracy; where no evaluation tells, better than a trivial predictor."""
        if t.drop is None:
            return t.met and (t.error is None or t.error < TRIVIAL)
        return t.met and (self.limit is None or t.drop <= self.limit)

    def _tables(self) -> tuple[dict[str, list[Option]], dict[str, str]]:
        """Options of the layers that gain, each pruned alone and judged; and why the others stay dense."""
        gain = {x.name: [s for s, c in sorted(x.costs.items()) if c < (1 - PAYS) * x.dense] for x in self.forecast.layers}
        refused = {x.name: x.reason or "pruned it would not be faster" for x in self.forecast.layers if not gain[x.name]}
        jobs = [Job(Configuration(GROUPS, ((name, s),)), scored=False, kept=False) for name, levels in gain.items() for s in levels]
        results = dict(zip(((j.configuration.sparsity[0]) for j in jobs), self.judge(jobs, "sensitivity of each layer"), strict=True))
        if any(r["error"] is None for r in results.values()):  # no calibration inputs: the evaluation has to tell
            jobs = [replace(j, scored=True) for j in jobs]
            results = dict(zip(results, self.judge(jobs, "sensitivity of each layer"), strict=True))
        layers = {x.name: x for x in self.forecast.layers}
        tables = {}
        for name, levels in gain.items():
            options = [Option(0.0, layers[name].dense, 0.0)]
            for s in levels:
                damage = max(0.0, self._damage(results[name, s]))
                if damage < float("inf"):
                    options.append(Option(s, layers[name].costs[s], damage))
            if len(options) > 1:
                tables[name] = options
        return tables, refused

    def _damage(self, result: dict) -> float:
        return result["error"] if result["error"] is not None else drop(dict(self._dense_scores or {}), result["scores"])

    def _total(self, by_layer: Mapping[str, float]) -> float:
        return self.forecast.total({n: s for n, s in by_layer.items() if s})

    def _propose(self, tables: Tables, dense: Trial) -> list[Trial]:
        """Allocations for a forecast of the budget that every measurement corrects."""
        fixed = self._total({}) - sum(options[0].cost for options in tables.values())
        cheapest = {name: min(options, key=lambda o: o.cost).sparsity for name, options in tables.items()}
        aim, least_missed, most_met = SAFE * self._total({}) / dense.load, float("inf"), 0.0
        found: list[Trial] = []
        while len(found) < self.count:
            try:
                chosen = knapsack(tables, aim - fixed)
            except InputError:
                chosen = cheapest
            trial = self._trial("ours", Configuration(GROUPS, tuple((n, s) for n, s in sorted(chosen.items()) if s)))
            if trial.configuration in [t.configuration for t in found]:
                break
            found.append(trial)
            total = self._total(chosen)
            if trial.met:
                most_met = max(most_met, total)
                if trial.load > CLOSE:
                    break
            else:
                least_missed = min(least_missed, total)
                if chosen == cheapest:
                    break
            aim = total / trial.load * SAFE
            if not most_met < aim < least_missed:
                aim = (most_met + least_missed) / 2 if most_met and least_missed < float("inf") else aim * SAFE if aim >= least_missed else aim
                if aim <= most_met:
                    break
        if not any(t.met for t in found) and not any(dict(t.configuration.sparsity) == {n: s for n, s in cheapest.items() if s} for t in found):
            found.append(self._trial("ours", Configuration(GROUPS, tuple((n, s) for n, s in sorted(cheapest.items()) if s))))
        return found

    def _impossible(self, ours: Sequence[Trial]) -> BudgetError:
        met = [t for t in ours if t.met]
        if met:
            best = min(met, key=lambda t: t.damage)
            if best.drop is None or self.limit is None:
                return BudgetError(f"within the budget the model is no better than answering with its mean output: its error on inputs held back is {best.error:.3g} "
                                   "of their spread", fix="allow a slower model, or fine-tune the pruned one on its data (`edgekit.prune`)")
            return BudgetError(f"no configuration within the budget keeps the accuracy: the best loses {best.drop:.3%}, {self.limit:.3%} is allowed",
                               fix=f"allow a drop of {best.drop:.2%}, a slower model, or fine-tune the pruned one on its data (`edgekit.prune`)")
        fastest = min(ours, key=lambda t: t.load)
        shown = ", ".join(f"{v['rule'].split('<')[0]} {_value(v)}" for v in fastest.bench["budget"] if v["value"] is not None)
        return BudgetError(f"no configuration meets the budget: the fastest that was measured takes {fastest.load:.3g} times of it ({shown})",
                           fix="ask for that much, or use a smaller model")

    def _random_search(self, tables: Tables, best: Trial, count: int) -> list[Trial]:
        """As many configurations, drawn at random, of the same forecast as the best of ours."""
        fixed = self._total({}) - sum(options[0].cost for options in tables.values())
        total = self._total(dict(best.configuration.sparsity))
        drawn = random_search(tables, max(total - fixed, 0.0) + 1e-9 * total, count, self.seed)
        wanted = [Configuration(GROUPS, tuple((n, s) for n, s in sorted(d.items()) if s)) for d in drawn]
        results = self.judge([Job(c) for c in wanted], "random search")
        return [self._measured("random search", c, r) for c, r in zip(wanted, results, strict=True)]

    def _others(self, best: Trial) -> tuple[list[Trial], tuple[str, ...]]:
        """What else could be done at the same latency."""
        total, tuned, notes = self._total(dict(best.configuration.sparsity)), best.configuration.tuned, []
        wanted = [("random mask", Configuration(RANDOM, best.configuration.sparsity, tuned, self.seed))]
        share = self._share(best, total)
        if share is None:
            notes.append("no channels can be removed until the net is as fast: the comparison with narrower dense nets is left out")
        else:
            wanted.append(("whole channels", Configuration(CHANNELS, (("", share),), tuned)))
            if self.tuned:
                wanted.append(("smaller dense net", Configuration(SMALL, (("", share),), True, self.seed)))
        results = self.judge([Job(c) for _, c in wanted], "what else could be done")
        return [self._measured(kind, c, r) for (kind, c), r in zip(wanted, results, strict=True)], tuple(notes)

    def _share(self, best: Trial, total: float) -> float | None:
        """The least share of channels whose removal makes the net as fast: by bisection of the forecast, which measurements
        correct."""
        aim, found = total, None
        for _ in range(CORRECTIONS):
            share = self._narrowed(aim)
            if share is None:
                break
            trial = self._trial("whole channels", Configuration(CHANNELS, (("", share),)))
            if trial.load <= best.load:
                found = min(share, found or 1.0)
                if trial.load >= CLOSE * best.load:
                    break
            aim *= best.load / trial.load * (SAFE if trial.load > best.load else 1.0)
        return found

    def _narrowed(self, total: float) -> float | None:
        low, high = 0.0, 0.97
        last = self.narrow(high)
        if last is None or last > total:
            return None
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            cost = self.narrow(middle)
            low, high = (low, middle) if cost is not None and cost <= total else (middle, high)
        return high


def _told(c: Configuration) -> str:
    if not c.sparsity:
        return "as it is"
    if c.method in (CHANNELS, SMALL):
        return f"{c.sparsity[0][1]:.0%} of the channels removed"
    layers = "1 layer" if len(c.sparsity) == 1 else f"{len(c.sparsity)} layers"
    return f"{layers} at {min(s for _, s in c.sparsity):.0%} to {max(s for _, s in c.sparsity):.0%}" + (", tuned" if c.tuned else "")


def _value(verdict: dict) -> str:
    from edgekit.tables import budget_value
    return budget_value(verdict)
