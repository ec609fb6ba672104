"""Results as text: tables in Markdown with every bound beside its figure, and the plot."""
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import bounds, forecast
from benchmarks.native import reference
from edgekit.report import charts
from edgekit.tables import size

STYLE = ("<style>text{font:12px sans-serif;fill:#444}.head{font-weight:bold}.axis{stroke:#888}.grid{stroke:#ddd}polyline{fill:none;stroke-width:2}"
         + "".join(f".c{i}{{fill:{c}}}.l{i}{{stroke:{c}}}" for i, c in enumerate(
             ("#3366cc", "#cc6633", "#339966", "#993399", "#b8860b", "#777777"))) + "</style>")
PLOTTED = ("mobilenet_v1", "mobilenet_v2", "resnet18", "resnet18_policy", "patchtst")  # if they were measured
PRECISE = "{:.3g}"


def render(results: dict) -> str:
    """All tables."""
    if set(results) == {"forecast"}:
        return forecasts(results["forecast"]) + "\n"
    parts = ["# Results", _machine(results)] if results.get("machine") else ["# Results"]
    parts += [_bounds(results)]
    parts += [_native(name, rows) for name, rows in results.get("native", {}).items()]
    parts += [_wasm(name, rows) for name, rows in results.get("wasm", {}).items()]
    parts += [_arm64(results["arm64"])] if results.get("arm64") else []
    parts += [_layers(results["layers"])] if results.get("layers") else []
    parts += [forecasts(results["forecast"])] if results.get("forecast") else []
    return "\n\n".join(p for p in parts if p) + "\n"


def write(results: dict, folder: Path) -> None:
    """RESULTS.md with its plot, and the numbers behind them; FORECAST.md and its numbers, which are a run of their own."""
    import json
    results = dict(results)
    if found := results.pop("forecast", None):
        (folder / "forecast.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        (folder / "FORECAST.md").write_text(forecasts(found).replace("## ", "# ", 1) + "\n", "utf-8")
    if not results:
        return
    plot = plotted(results)
    (folder / "results.svg").write_text(plot, "utf-8")
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    text = render(results).replace("# Results\n", "# Results\n\n![time over the fastest dense peer](results.svg)\n", 1)
    (folder / "RESULTS.md").write_text(text, "utf-8")


def plotted(results: dict) -> str:
    """Time over the fastest dense peer against sparsity, a line for each of five networks and the bounds of MobileNet-v1."""
    series: dict[str, list[tuple[float, float]]] = {}
    measured = results.get("native", {})
    for name in sorted(measured, key=lambda n: (n not in PLOTTED, n))[:5]:  # a plot has six colours
        rows = measured[name]
        points = sorted((100 * _share(r["level"]), r["over_fastest"]) for r in _ours(rows) if r["over_fastest"] and "un" not in r["level"])
        if len(points) > 1:
            series[name] = points
    if "mobilenet_v1" in series:
        series["bound of mobilenet_v1"] = [(100 * _share(b.level), b.most) for b in bounds.NATIVE
                                           if b.network == "mobilenet_v1" and b.over == bounds.FASTEST]
    svg = charts.lines(series, "weights that are zero, %", "time over the fastest dense peer", points=True)
    return svg.replace(">", ">" + STYLE, 1)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; None is empty."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join("" if c is None else str(c).replace("|", "/").replace("\n", " ") for c in line) + " |" for line in lines)


def _machine(results: dict) -> str:
    m, peaks = results["machine"], results.get("peaks", {})
    lines = [f"{m['cpu']}, {m['cores']} cores, {m['os']}, Python {m['python']}. One thread on one core, float32, batch 1, seeded random weights."]
    for target, p in peaks.items():
        levels = ", ".join(f"{e['name']} {e['gbytes_per_s']:.0f} GB/s" for e in p["levels"])
        lines.append(f"Measured peaks, {target}: {p['gflops']:.0f} GFLOP/s; {levels}.")
    lines.append("Versions: " + ", ".join(f"{k} {v}" for k, v in sorted(results.get("versions", {}).items())) + ".")
    return "\n\n".join(lines)


def _bounds(results: dict) -> str:
    """Every bound, its figure and whether it is held; those that nothing was measured for say so."""
    rows: list[Sequence[object]] = []
    for b in bounds.NATIVE:
        measured = results.get("native", {}).get(b.network, [])
        row = next((r for r in _ours(measured) if r["level"] == b.level), None)
        rows.append(_bound("native", b, reference(row, b.over, measured) if row else None))
    for engine in ("node", "chromium"):
        for b in bounds.WASM:
            measured = [r for r in results.get("wasm", {}).get(b.network, []) if r["engine"] == engine]
            row = next((r for r in _ours(measured) if r["level"] == b.level), None)
            rows.append(_bound(engine, b, row and row["over_litert" if b.over == bounds.LITERT else "over_dense"]))
    for level, most in bounds.ARM64.items():
        counted = results.get("arm64", {}).get("mobilenet_v1", {}).get(level, {}).get("millions")
        rows.append(["arm64", "mobilenet_v1", level, "million instructions", most, counted and f"{counted:.0f}",
                     _said(counted, most)])
    for b in bounds.BREAK_EVEN:
        counted, dense = (results.get("arm64", {}).get(b.network, {}).get(v, {}).get("millions") for v in (b.level, "dense"))
        value = counted / dense if counted and dense else None
        rows.append(["arm64", b.network, b.level, "instructions over dense", f"{b.most:.3g}", value and f"{value:.3f}", _said(value, b.most)])
    two = results.get("threads", {}).get("mobilenet_v1", {}).get("ratio")
    rows.append(["native", "mobilenet_v1", "dense", "two threads over one", f"{bounds.TWO_THREADS:.2f}", two and f"{two:.3f}",
                 _said(two, bounds.TWO_THREADS)])
    rows += _absolute(results)
    return "## Bounds\n\n" + table(["", "network", "zeros", "figure", "bound", "measured", ""], rows)


def _bound(where: str, b: bounds.Bound, value: float | None) -> list[object]:
    return [where, b.network, b.level, f"time over {b.over}", f"{b.most:.3g}", value and f"{value:.3f}", _said(value, b.most)]


def _said(value: float | None, most: float) -> str:
    return "not measured" if value is None else bounds.verdict(value, most)


def _absolute(results: dict) -> list[list[object]]:
    """Memory, export time, size and start of MobileNet-v1."""
    found: list[list[object]] = []

    def add(where: str, figure: str, value: float | None, most: float, write=PRECISE.format) -> None:
        found.append([where, "mobilenet_v1", "dense", figure, write(most), None if value is None else write(value), _said(value, most)])
    native = next((r for r in _ours(results.get("native", {}).get("mobilenet_v1", [])) if r["level"] == "dense" and r["ms"]), None)
    most = native["weights"] + native["arena"] + bounds.MEMORY_SLACK if native else bounds.MEMORY_SLACK
    add("native", "peak memory over a process without the model", native and native["rss"], most, size)
    add("native", "seconds of an export", native and native["export_seconds"], bounds.EXPORT_SECONDS)
    page = next((r for r in _ours(results.get("wasm", {}).get("mobilenet_v1", [])) if r["page_ms"] and r["level"] == "dense"), None)
    node = next((r for r in _ours(results.get("wasm", {}).get("mobilenet_v1", [])) if r["engine"] == "node" and r["level"] == "dense"), None)
    add("wasm", "code", node and node["code"], bounds.WASM_CODE, size)
    add("chromium", "ms from page to first result", page and page["page_ms"], 1e3 * bounds.PAGE_TO_RESULT)
    return found


def _native(name: str, rows: Sequence[dict]) -> str:
    body = []
    for r in rows:
        if r["why"]:
            body.append([r["runtime"], r["level"], *[None] * 6, r["why"]])
            continue
        body.append([r["runtime"], r["level"], PRECISE.format(r["ms"]), _ratio(r["over_fastest"]), _ratio(r["over_onnxruntime"]),
                     f"{r['zeros']:.1%}" if r["zeros"] else None, None if r["error"] is None else f"{r['error']:.0e}", size(r["rss"]),
                     "fastest dense peer" if r["fastest"] else None])
    return f"## {name}, native\n\n" + table(
        ["", "zeros", "ms", "over fastest", "over onnxruntime", "zeros counted", "off onnxruntime", "memory", ""], body)


def _wasm(name: str, rows: Sequence[dict]) -> str:
    body = []
    for r in rows:
        if r["why"]:
            body.append([r["engine"], r["runtime"], r["level"], *[None] * 6, r["why"]])
            continue
        page = r["page_ms"] and PRECISE.format(r["page_ms"])
        body.append([r["engine"], r["runtime"], r["level"], PRECISE.format(r["ms"]), _ratio(r["over_litert"]), PRECISE.format(r["cold_ms"]),
                     page, size(r["code"]) if r["code"] else None, f"{r['error']:.0e}", None])
    return f"## {name}, WebAssembly\n\n" + table(
        ["", "", "zeros", "ms, warm", "over LiteRT.js", "first call, ms", "page to result, ms", "code", "off onnxruntime", ""], body)


def _arm64(counted: dict) -> str:
    levels = list(bounds.ARM64)
    body: list[Sequence[object]] = []
    for name, by_level in counted.items():
        body.append([f"edgekit, {name}", *(PRECISE.format(by_level[v]["millions"]) if v in by_level and by_level[v].get("millions") else None
                                           for v in levels)])
    body += [[f"{peer}, mobilenet_v1", *(by_level.get(v) for v in levels)] for peer, by_level in bounds.ARM64_PEERS.items()]
    whys = [f"{name}, {level}: {v['why']}" for name, by_level in counted.items() for level, v in by_level.items() if v.get("why")]
    return ("## AArch64, million instructions of an inference\n\n" + table(["", *levels], body) + "\n\nThe peers' figures are constants: counted "
            "once in qemu (Cortex-A76 feature set, one thread) with the releases of late 2026." + "".join(f"\n\n{w}" for w in whys))


def _layers(found: dict) -> str:
    """The sum of the layers against the roofline, and where the most time is lost."""
    body, lost = [], []
    for name, by_level in found.items():
        for level, layers in by_level.items():
            if "why" in layers or not layers["total"]["possible_ms"]:
                body.append([name, level, None, None, None, layers.get("why")])
                continue
            total = layers["total"]
            body.append([name, level, PRECISE.format(total["ms"]), PRECISE.format(total["possible_ms"]), f"{total['reached']:.0%}", None])
            worst = sorted(layers["rows"], key=lambda r: r["possible_ms"] - r["ms"])[:4]
            lost += [[name, level, r["name"], r["op"], PRECISE.format(r["ms"]), PRECISE.format(r["possible_ms"]), r["bound"], f"{r['reached']:.0%}"]
                     for r in worst]
    return ("## Against the roofline\n\n" + table(["", "zeros", "ms, sum of the layers", "ms possible", "reached", ""], body)
            + "\n\nThe layers that lose the most time:\n\n"
            + table(["", "zeros", "layer", "", "ms", "possible", "bound by", "reached"], lost))


def forecasts(found: dict) -> str:
    """What `check` said of each network at each level beside what was measured; the median error against its bound."""
    body: list[Sequence[object]] = []
    levels = sorted({v for by_target in found.values() for x in by_target.values() for v in x.get("levels", {})})
    for name, by_target in found.items():
        for target, x in by_target.items():
            if "why" in x:
                body.append([name, target, *[None] * (2 + len(levels)), x["why"]])
                continue
            cells = [f"{r['forecast']:.2f} / {r['measured']:.2f}" if (r := x["levels"].get(v)) else None for v in levels]
            body.append([name, target, *(PRECISE.format(x["dense"][k]) for k in ("forecast", "measured")), *cells, f"{x['seconds']:.1f}"])
    said = []
    for target in forecast.TARGETS:
        off = forecast.errors(found, target)
        if off:
            said.append(f"{target}: median error of the ratio to dense {np.median(off):.1%}, nine of ten within {np.quantile(off, 0.9):.1%}; bound "
                        f"{forecast.BOUND:.0%}: {'held' if np.median(off) < forecast.BOUND else 'MISSED'}.")
    return ("## Forecasts of `edgekit check`\n\nNo network here was measured for the tables that forecasts come from. Each cell: time over dense, forecast / "
            "measured.\n\n" + table(["network", "target", "dense, ms, forecast", "measured", *levels, "seconds of the check"], body) + "\n\n" + "\n\n".join(said))


def _ours(rows: Iterable[dict]) -> list[dict]:
    return [r for r in rows if r["runtime"] == "edgekit"]


def _ratio(value: float | None) -> str | None:
    return value and f"{value:.3f}"


def _share(level: str) -> float:
    return 0.0 if level == "dense" else float(level.split("%")[0]) / 100
