"""From data to the page: each function makes one part, "" where there are no data for it."""
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any, NamedTuple

from edgekit import tables
from edgekit.errors import InputError
from edgekit.report import charts
from edgekit.tables import count, duration, size

Data = Mapping[str, Any]
_MOST = 40  # layers that are drawn
_BANNER = {"met": "Every budget is met", "missed": "A limit was missed", "undecided": "Undecided: not everything could be judged",
           "none": "No budget was set"}
_OK = {True: ("met", "ok"), False: ("missed", "bad"), None: ("undecided", "open")}


def render(data: Data) -> str:
    """The whole page as HTML text; the package's docstring describes `data`."""
    parts = (_head, _verdict, _tiles, _sections, _latency, _instructions, _layers, _targets, _memory, _provenance)
    body = "\n".join(filter(None, (part(data) for part in parts)))
    style = resources.files("edgekit.report").joinpath("style.css").read_text("utf-8")
    return ('<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(_title(data))}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n")


def _title(data: Data) -> str:
    name = data.get("manifest", {}).get("name") or next((b["model"] for b in data.get("bench", ())), "")
    return str(data.get("title") or name or "edgekit")


def _head(data: Data) -> str:
    out = f"<h1>{escape(_title(data))}</h1>"
    out += "".join(_paragraph(text) for text in data.get("summary", ()))
    for entry in data.get("manifest", {}).get("entries", ()):
        out += f"<p><code>{escape(entry['name'])}({_ports(entry['inputs'])}) &rarr; {_ports(entry['outputs'])}</code></p>"
    return out


def _ports(ports: Iterable[Data]) -> str:
    return escape(", ".join(f"{p['name']} {p['dtype']}[{', '.join(map(str, p['shape']))}]" for p in ports))


def _verdict(data: Data) -> str:
    rules = [(b["target"], v) for b in data.get("bench", ()) for v in b["budget"]]
    verify = data.get("verify")
    answers = [v["ok"] for _, v in rules]
    if not (answers or verify or data.get("bench")):
        return ""
    wrong = verify is not None and not verify["ok"] and bool(verify["targets"])
    state = "missed" if wrong or False in answers else "undecided" if None in answers else "met" if answers else "none"
    checked = ", ".join(verify["targets"]) if verify else ""
    said = [f"Numbers differ from the reference on {', '.join(t for t, v in verify['targets'].items() if not v['ok'])}."
            if wrong and verify else f"Numbers agree with the reference on {checked}." if checked else "",
            *(f"{v['rule']} on {target}: {v.get('note', '')}" for target, v in rules if v["ok"] is None)]
    title, colour = (_BANNER[state], state) if state != "none" or not checked else (f"Verified. {_BANNER[state]}", "met")
    banner = (f'<div class="verdict {colour}"><strong>{title}</strong>'
              + "".join(f"<span>{escape(s)}</span><br>" for s in said if s) + "</div>")
    rows = [[target, v["rule"], tables.budget_value(v), _Cell(*_OK[v["ok"]]), v.get("note", "")] for target, v in rules]
    return banner + (_table(["target", "budget", "value", "verdict", ""], rows) if rows else "")


def _tiles(data: Data) -> str:
    tiles = []
    for b in (b for b in data.get("bench", ()) if b["measured"]):
        ms = b["latency_ms"]
        for name, word in (("p50", "half of the responses within"), ("p99", "99 of 100 within")):
            if ms[name] is not None:
                tiles.append((duration(ms[name]), f"{word}, {b['target']}"))
    m = data.get("manifest")
    if m:
        tiles += [(size(m["weights_bytes"]), "weights"), (size(m["arena_bytes"]), "working memory")]
        macs, dense = (sum(s[k] for e in m["entries"][:1] for s in e["layers"]) for k in ("macs", "dense_macs"))
        if dense and macs < dense:
            tiles.append((f"{macs / dense:.0%}", f"of {count(dense)} multiply-adds left"))
    return '<div class="tiles">' + "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(word)}</span></div>' for value, word in tiles) + "</div>" if tiles else ""


def _sections(data: Data) -> str:
    return "".join(_section(s) for s in data.get("sections", ()))


def _section(section: Data) -> str:
    out = f"<h2>{escape(section['title'])}</h2>" + "".join(_paragraph(t) for t in section.get("text", ()))
    if section.get("table"):
        out += _table(section["table"]["head"], section["table"]["rows"])
    return out + "".join(_figure(f["svg"], f.get("caption", "")) for f in section.get("figures", ()))


def _latency(data: Data) -> str:
    out = ""
    for b in (b for b in data.get("bench", ()) if b["measured"]):
        ms, service, due, h = b["latency_ms"], b["service_ms"], b["deadline"], b["histogram"]
        due_at = "deadline" if due["deadline_from"] == "user" else "next input"
        marks = {n: ms[n] for n in ("p50", "p90", "p99", "p999") if ms[n] is not None}
        out += (f"<h3>{escape(b['target'])}, {escape(b['entry'])}</h3>"
                + _paragraph(f"{b['runs']} inputs, one every {duration(due['period_ms'])} ({due['period_from']}). A response is timed "
                             f"from the arrival of its input. {due['misses']} came after {duration(due['deadline_ms'])} "
                             f"({due_at}): with 95 % certainty the rate is "
                             f"under {due['miss_rate_upper95']:.2%}.")
                + _figure(charts.histogram(h["edges_ms"], h["counts"], marks, (due_at, due["deadline_ms"])))
                + _table(["", *ms], [["response", *map(duration, ms.values())], ["inference alone", *map(duration, service.values())]])
                + "".join(_paragraph(n, "soft") for n in b["notes"]))
    return "<h2>Latency</h2>" + out if out else ""


def _instructions(data: Data) -> str:
    rows = [[b["target"], b["entry"], f"{b['instructions']:,}", "; ".join(b["notes"])]
            for b in data.get("bench", ()) if not b["measured"]]
    return ("<h2>Not measured here</h2>" + _paragraph("Exact instruction counts of an emulator. They are no latency.")
            + _table(["target", "entry", "instructions", ""], rows)) if rows else ""


def _layers(data: Data) -> str:
    timed = next((b for b in data.get("bench", ()) if b.get("layers")), None)
    if timed:
        return _timed_layers(timed) + _why_dense(data)
    layers = [x for x in data.get("manifest", {}).get("layers", ()) if x["macs"]]
    shown = _largest(layers, "macs")
    if not shown:
        return ""
    chart = charts.bars([x["name"] for x in shown], {"multiply-adds, dense": [x["macs"] for x in shown],
                        "sparsity": [x["sparsity"] for x in shown]}, {"multiply-adds, dense": count, "sparsity": "{:.0%}".format})
    return "<h2>Layers</h2>" + _figure(chart, _left_out(layers, shown)) + _why_dense(data)


def _timed_layers(timed: Data) -> str:
    if not timed["measured"]:
        return _counted_layers(timed)
    shown = _largest(timed["layers"], "ms")
    columns = {"time": [x["ms"] for x in shown], "possible / time": [x["reached"] for x in shown], "sparsity": [x["sparsity"] if x["macs"] else None for x in shown],
               "multiply-adds": [x["macs"] or None for x in shown]}
    chart = charts.bars([f"{x['name']}  {x['op']}" for x in shown], columns,
                        {"time": duration, "possible / time": "{:.0%}".format, "sparsity": "{:.0%}".format, "multiply-adds": count})
    whole = timed["layers_total"]
    note = (f"Median times on {timed['target']}, back to back; {duration(whole['ms'])} in all"
            + ("" if whole["reached"] is None else f", of which {duration(whole['possible_ms'])} ({whole['reached']:.0%}) are what "
               "arithmetic and memory need at least") + f". {tables.peaks(timed['roofline']).capitalize()}. " + _left_out(timed["layers"], shown))
    return "<h2>Layers</h2>" + _figure(chart, note)


def _counted_layers(counted: Data) -> str:
    shown = _largest(counted["layers"], "instructions")
    columns = {"instructions": [x["instructions"] for x in shown], "a multiply-add": [x["per_mac"] for x in shown],
               "sparsity": [x["sparsity"] if x["macs"] else None for x in shown]}
    chart = charts.bars([f"{x['name']}  {x['op']}" for x in shown], columns,
                        {"instructions": count, "a multiply-add": "{:.3g}".format, "sparsity": "{:.0%}".format})
    return "<h2>Layers</h2>" + _figure(chart, f"Instructions on {counted['target']}. " + _left_out(counted["layers"], shown))


def _largest(layers: Sequence[Data], key: str) -> list[Data]:
    """The costliest layers, in the order of the model."""
    kept = sorted(range(len(layers)), key=lambda i: -layers[i][key])[:_MOST]
    return [layers[i] for i in sorted(kept)]


def _left_out(layers: Sequence[Data], shown: Sequence[Data]) -> str:
    return f"The {len(shown)} costliest of {len(layers)} are shown." if len(shown) < len(layers) else ""


def _why_dense(data: Data) -> str:
    layers = data.get("manifest", {}).get("layers", ())
    rows = [[x["name"], x["op"], x["reason"]] for x in layers if x.get("reason")]
    pruned = any(x["sparsity"] for x in layers)
    return "<h3>Left dense</h3>" + _table(["layer", "operator", "because"], rows) if rows and pruned else ""


def _targets(data: Data) -> str:
    verify = data.get("verify") or {"targets": {}, "not_run": {}}
    known: Data = data.get("manifest", {}).get("targets", {})
    rows = []
    for name in [*known, *(t for t in verify["targets"] if t not in known)]:
        seen = verify["targets"].get(name) or known.get(name, {}).get("verified")
        ok = _Cell("not run here", "open") if not seen else _Cell("agrees", "ok") if seen.get("ok", True) else _Cell("WRONG", "bad")
        rows.append([name, size(known.get(name, {}).get("code_bytes")), ok, *(f"{seen[k]:.1e}" if seen else "-" for k in (
            "max_abs_error", "max_rel_error")), verify["not_run"].get(name, "")])
    note = _paragraph("Outputs of the compiled code against onnxruntime on the same (pruned) model.")
    return "<h2>Targets</h2>" + note + _table(["target", "code", "numbers", "max abs. error", "max rel. error", ""], rows) if rows else ""


def _memory(data: Data) -> str:
    m = data.get("manifest")
    if not m:
        return ""
    rows = [["weights, read-only", size(m["weights_bytes"])], ["arena (working memory)", size(m["arena_bytes"])],
            ["of it kept from call to call (state)", size(m["state_bytes"])]]
    rows += [[f"code, {name}", size(t["code_bytes"])] for name, t in m["targets"].items()]
    rows += [[f"peak of the benchmark's process with Python, {b['target']}", size(b["memory"]["peak_rss_bytes"])]
             for b in data.get("bench", ()) if b["memory"]["peak_rss_bytes"] is not None]
    return "<h2>Memory</h2>" + _table(["", "bytes"], rows)


def _provenance(data: Data) -> str:
    machine: Data = data.get("machine") or next((b["machine"] for b in data.get("bench", ()) if b.get("machine")), {})
    manifest = data.get("manifest", {})
    made_by = manifest.get("made_by")
    rows = [[k, str(v)] for k, v in (("made by", tables.makers(made_by) if made_by else ""), ("licence of the model", manifest.get("license")),
            ("processor", machine.get("cpu")), ("cores", machine.get("cores")), ("system", machine.get("os")),
            ("Python", machine.get("python")),
            ("packages", ", ".join(f"{p} {v}" for p, v in machine.get("packages", {}).items()))) if v]
    return "<h2>Provenance</h2>" + _table(["", ""], rows) if rows else ""


class _Cell(NamedTuple):
    """The text of a cell with a class of the style sheet."""

    text: str
    kind: str


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns of figures are set to the right."""
    right = [bool(rows) and all(_is_figure(r[i]) for r in rows) for i in range(len(head))]
    wide = [any(map(_text, (r[i] for r in rows))) or bool(h) for i, h in enumerate(head)]  # a column of nothing is left out

    def row(tag: str, cells: Sequence[Any]) -> str:
        return "<tr>" + "".join(f'<{tag}{_class(c, number)}>{escape(_text(c))}</{tag}>'
                                for c, number, used in zip(cells, right, wide) if used) + "</tr>"
    head_row = row("th", head) if any(head) else ""
    return f'<div class="wide"><table>{head_row}{"".join(row("td", r) for r in rows)}</table></div>'


def _class(cell: Any, number: bool) -> str:
    kind = cell.kind if isinstance(cell, _Cell) else "number" if number else ""
    return f' class="{kind}"' if kind else ""


def _text(cell: Any) -> str:
    if isinstance(cell, _Cell):
        return cell.text
    return "-" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _is_figure(cell: Any) -> bool:
    text = _text(cell)
    return text == "-" or text[:1].isdigit() or (text[:1] == "-" and text[1:2].isdigit())


def _figure(svg: str, caption: str = "") -> str:
    if not isinstance(svg, charts.Svg):
        raise InputError("a picture of a report has to be charts.Svg", fix="wrap what you drew yourself: charts.Svg(text)")
    return f"<figure>{svg}" + (f"<figcaption>{escape(caption)}</figcaption>" if caption else "") + "</figure>"


def _paragraph(text: str, kind: str = "") -> str:
    opening = f'<p class="{kind}">' if kind else "<p>"
    return f"{opening}{escape(str(text))}</p>"
