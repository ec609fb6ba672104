"""Results as text: a table for each row, every bar beside its figure."""
from collections.abc import Iterable, Mapping
from statistics import fmean

from benchmarks.accuracy.measure import LEFT
from benchmarks.accuracy.methods import METHODS
from benchmarks.accuracy.rows import MODULES, Bar


def render(results: Mapping[str, dict]) -> str:
    """All tables. results: {row: what `measure.measure` keeps}."""
    from benchmarks.tables import table

    bars = [line for kept in results.values() for line in _bars(kept)]
    count = {said: sum(line[-1] == said for line in bars) for said in ("held", "missed", "not run")}
    told = ", ".join(f"{said}: {n}" for said, n in count.items()) + "."
    left = [name for name in MODULES if name not in results]
    told += f" Rows of which nothing was run: {', '.join(left)}." if left else ""
    parts = ["# Accuracy", INTRODUCTION, f"## Bars\n\n{told}\n\n" + table(
        ["", "method", "zeros", "figure", "dense", "bar", "measured", "seeds", ""], bars)]
    for kept in results.values():
        about = [f"{kept['split'][0].upper()}{kept['split'][1:]}."]
        about += [f"Dense: {', '.join(f'{k} {_number(v)}' for k, v in kept['dense'].items())}."]
        about += [f"Published: {kept['published']}."] if kept["published"] else []
        about += [f"A forecast that needs no net, {name}: {', '.join(f'{k} {_number(v)}' for k, v in figures.items())}."
                  for name, figures in filter(None, [kept["baseline"]])]
        about += [f"{', '.join(f'{k}: {v}' for k, v in kept['figures'].items())}."]
        parts.append(f"## {kept['title']}\n\n" + " ".join(about) + "\n\n" + _table(kept, table))
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """Trained nets, pruned, on real data. Every layer that group sparsity applies to drops the same share of its inputs, unless a bar says otherwise; \
the groups are those of `group="auto"`. A cell is the mean over seeds, its change over the dense net, and half of the range over the seeds; a seed chooses the \
calibration inputs, the random masks and the order of training. A net that is worse than a trivial predictor is \
shown here; `edgekit export` would refuse it. \
Recipes were chosen on data that are not scored here. The columns: ours by reconstruction from calibration inputs alone; tuned to the dense net's outputs on the same \
inputs, without labels; fine-tuned on the row's own data; ours with neighbours as groups; the least weights by magnitude in groups; random groups; channels that are \
really removed, by magnitude, so many that the multiply-adds are as few; the bound, reconstruction with every output choosing its own inputs. `python -m benchmarks.accuracy` makes this page."""


def plotted(results: Mapping[str, dict], method: str = "tuned") -> str:
    """The first figure of each row over that of its dense net, against sparsity: rows whose figure is an error, one method."""
    from benchmarks.tables import STYLE
    from edgekit.report import charts

    series: dict[str, list[tuple[float, float]]] = {}
    for name, kept in results.items():
        figure = next(iter(kept["figures"]))
        dense = kept["dense"][figure]
        by_level = {float(level): found for level, found in kept["methods"].get(method, {}).items() if not any(map(why_not, found.values()))}
        if figure not in kept["higher"] and dense and by_level and len(series) < 5:  # a plot has five colours
            series[name] = [(0.0, 1.0), *((100 * s, fmean(f[figure] for f in by_level[s].values()) / dense) for s in sorted(by_level))]
    return charts.lines(series, "weights that are zero, %", "error over dense", points=True, from_zero=False).replace(">", ">" + STYLE, 1) if series else ""


def _table(kept: dict, table) -> str:
    levels = sorted({level for by_level in kept["methods"].values() for level in by_level}, key=float)
    used = [m for m in METHODS if m in kept["methods"]]
    body = [[f"{float(level):.0%}", figure, *(_cell(kept, m, level, figure) for m in used)] for level in levels for figure in kept["figures"]]
    return table(["zeros", "", *(METHODS[m].title for m in used)], body)


def _cell(kept: dict, method: str, level: str, figure: str) -> str | None:
    found = kept["methods"][method].get(level)
    if not found:
        return None
    if said := next((why for why in map(why_not, found.values()) if why), None):
        return said
    values = [f[figure] for f in found.values() if figure in f]
    if not values:
        return None
    if figure == LEFT:
        return f"{fmean(values):.0%}"
    spread = f" ±{_number((max(values) - min(values)) / 2)}" if len(values) > 1 else ""
    interval = f" (95 %: {_interval(found.values(), figure)})" if any(figure in f.get("interval", {}) for f in found.values()) else ""
    share = figure in kept["shares"]
    change = "" if share or not kept["dense"][figure] else f" ({fmean(values) / kept['dense'][figure] - 1:+.1%})"
    return f"{_number(fmean(values))}{change}{spread}{interval}"


def why_not(found: Mapping) -> str:
    """Why a trial has no figures, in a word or two; else ""."""
    return next((k for k in ("refused", "does not apply") if isinstance(found.get(k), str)), "")


def _bars(kept: dict) -> Iterable[list]:
    for fields in kept["bars"]:
        bar = Bar(**fields)
        found = kept["methods"].get(bar.method, {}).get(str(bar.sparsity), {})
        measured, said = judge(bar, kept, found)
        limit = {"relative": f"{bar.most:+.0%}" if bar.most else "no worse", "least": f"at least {bar.most:.0%}",
                 "margin": f"within {_number(bar.most)}", "improves": "better than one-shot"}[bar.kind]
        yield [kept["title"], bar.method, f"{bar.sparsity:.0%}", bar.figure, _number(kept["dense"][bar.figure]), limit, measured, len(found) or None, said]


def judge(bar: Bar, kept: dict, found: Mapping[str, Mapping]) -> tuple[str, str]:
    """What was measured and whether the bar is held, by the mean over the seeds; "not run" where there is nothing."""
    if not found:
        return "", "not run"
    if said := next((why for why in map(why_not, found.values()) if why), None):
        return said, "missed"
    sign = -1 if bar.figure in kept["higher"] else 1
    value, dense = fmean(f[bar.figure] for f in found.values()), kept["dense"][bar.figure]
    if bar.kind == "least":
        return f"{value:.1%}", "held" if value >= bar.most else "missed"
    if bar.kind == "improves":
        before = kept["methods"].get("one-shot", {}).get(str(bar.sparsity), {})
        if not before or any(map(why_not, before.values())):
            return _number(value), "not run"
        first = fmean(f[bar.figure] for f in before.values())
        return f"{_number(first)} to {_number(value)}", "held" if sign * value < sign * first else "missed"
    if bar.kind == "margin":
        worst = max(sign * f["interval"][bar.figure][0] + f["interval"][bar.figure][1] for f in pooled(found.values()))
        return _interval(found.values(), bar.figure), "held" if worst <= bar.most else "missed"
    change = sign * (value - dense) / dense
    return f"{sign * change:+.1%}", "held" if change <= bar.most else "missed"


def pooled(found: Iterable[Mapping]) -> list[dict]:
    """One trial for all: differences from dense averaged over the seeds, and their half-widths too, as if the seeds erred
    together."""
    every = list(found)
    figures = every[0]["interval"]
    return [{"interval": {k: [fmean(f["interval"][k][i] for f in every) for i in (0, 1)] for k in figures}}]


def _interval(found: Iterable[Mapping], figure: str) -> str:
    (middle, half), = (f["interval"][figure] for f in pooled(found))
    return f"{middle - half:+.3g} to {middle + half:+.3g}"


def _number(value: float) -> str:
    return f"{value:.4g}"

