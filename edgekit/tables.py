"""Results as text for a terminal. Each function takes what `--json` prints and gives lines to read."""
from collections.abc import Iterable, Sequence
from typing import Any

_MARK = {True: "met", False: "MISSED", None: "undecided"}


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns aligned: text to the left, numbers to the right."""
    raw = [list(r) for r in rows]
    cells = [list(head)] + [[_cell(c) for c in r] for r in raw]
    right = [all(isinstance(r[i], (int, float, type(None))) for r in raw) and bool(raw) for i in range(len(head))]
    widths = [max(len(r[i]) for r in cells) for i in range(len(head))]
    lines = ["  ".join(c.rjust(w) if e else c.ljust(w) for c, w, e in zip(r, widths, right)).rstrip() for r in cells]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def size(n: float | None) -> str:
    """Bytes in a unit that people read: 2048 is "2.05 kB"."""
    return "-" if n is None else _scaled(n, ("B", "kB", "MB", "GB"))


def count(n: float) -> str:
    """A count with k, M or G behind it."""
    return _scaled(n, ("", "k", "M", "G")).strip()


def _scaled(n: float, units: Sequence[str]) -> str:
    for unit in units[:-1]:
        if abs(n) < 999.5:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} {units[-1]}"


def duration(ms: float | None) -> str:
    """Milliseconds in a unit that people read."""
    if ms is None:
        return "-"
    for scale, unit in ((1e3, "us"), (1, "ms")):
        if ms * scale < 1000:
            return f"{ms * scale:.3g} {unit}" if ms * scale >= 1 or unit == "us" else f"{ms * 1e3:.3g} us"
    return f"{ms / 1e3:.3g} s"


def share(x: float) -> str:
    """A fraction in percent; 0 as "-"."""
    return f"{x:.0%}" if x else "-"


def bench(r: dict) -> str:
    parts = [f"{r['model']} ({r['entry']}) on {r['target']}" + (f", {r['machine']['cpu']}" if r["measured"] else "")]
    if r["measured"]:
        due = r["deadline"]
        rows = [[name, *(duration(r[key][name]) for key in ("latency_ms", "service_ms"))] for name in r["latency_ms"]]
        parts.append(table(["", "response", "inference"], rows))
        parts.append(f"{r['runs']} runs, an input every {duration(due['period_ms'])} ({due['period_from']}); "
                     f"{r['throughput_per_s']:.4g} a second back to back")
        parts.append(f"due within {duration(due['deadline_ms'])} ({due['deadline_from']}): {due['misses']} missed, "
                     f"the rate is under {due['miss_rate_upper95']:.2%} (95 % sure)")
    else:
        parts.append(f"{r['instructions']:,} instructions an inference (exact); not measured here, so no latency")
    m = r["memory"]
    parts.append("memory: " + ", ".join(f"{name} {size(m[key])}" for name, key in (
        ("arena", "arena_bytes"), ("weights", "weights_bytes"), ("code", "code_bytes"), ("peak of this process", "peak_rss_bytes"))))
    if r.get("layers"):
        parts.append(_layers_of_bench(r))
    parts += [f"note: {note}" for note in r["notes"]]
    if r["budget"]:
        parts.append(table(["budget", "value", "verdict", ""], [
            [v["rule"], budget_value(v), _MARK[v["ok"]], v.get("note", "")] for v in r["budget"]]))
    return "\n\n".join(parts)


def _layers_of_bench(r: dict) -> str:
    """A row a layer; 120 columns at most."""
    rows = [*r["layers"], {"name": "all", "op": "", "share": 1.0, "bound": "", "sparsity": 0.0, **r["layers_total"]}]
    names = [[short(x["name"], 24), short(x["op"], 14)] for x in rows]
    if not r["measured"]:
        return table(["layer", "operators", "instructions", "share", "MACs", "a MAC", "sparsity"], [
            [*name, f"{x['instructions']:,}", f"{x['share']:.1%}", count(x["macs"]), "-" if x["per_mac"] is None else f"{x['per_mac']:.3g}",
             share(x["sparsity"])] for name, x in zip(names, rows)])
    text = table(["layer", "operators", "time", "share", "MACs", "sparsity", "GFLOP/s", "moved", "possible", "reached", "bound"], [
        [*name, duration(x["ms"]), f"{x['share']:.1%}", count(x["macs"]), share(x["sparsity"]), f"{x['gflops']:.1f}" if x["macs"] else "-", size(moved(x)),
         duration(x["possible_ms"]), "-" if x["reached"] is None else f"{x['reached']:.0%}", x["bound"]] for name, x in zip(names, rows)])
    return f"{text}\n{peaks(r['roofline'])}"


def moved(layer: dict) -> int | None:
    """Bytes that a layer reads and writes."""
    return None if layer["bytes"] is None else layer["bytes"] + layer["weight_bytes"]


def peaks(roofline: dict) -> str:
    """The machine's measured limits in a sentence."""
    if "missing" in roofline:
        return f"what is possible is not known: {roofline['missing']}: {roofline['fix']}"
    levels = ", ".join(f"{e['gbytes_per_s']:.0f} GB/s from {e['name']}" + (f" ({size(e['bytes'])})" if e["bytes"] else "") for e in roofline["levels"])
    return f"possible, by this machine's peaks of this run: {roofline['gflops']:.0f} GFLOP/s; {levels}"


def short(text: str, most: int) -> str:
    """The end of a long text, which tells layers apart."""
    return text if len(text) <= most else "..." + text[3 - most:]


def budget_value(verdict: dict) -> str:
    """The value of a verdict in the unit of its kind."""
    name, value = verdict["rule"].split("<")[0], verdict["value"]
    if value is None:
        return "-"
    if name in ("miss_rate", "accuracy_drop"):
        return f"{value:.3%}"
    if name == "instructions":
        return count(value)
    return size(value) if name in ("arena", "weights", "code", "peak_rss") else duration(value)


def verify(r: dict) -> str:
    rows = [[target, o["entry"], o["output"], f"{o['max_abs_error']:.2e}", f"{o['max_rel_error']:.2e}", "ok" if o["ok"] else "WRONG"]
            for target, t in r["targets"].items() for o in t["outputs"]]
    parts = [table(["target", "entry", "output", "max abs", "max rel", f"<= {r['tolerance']:g}"], rows)] if rows else []
    parts += [f"{target}: not run here: {why}" for target, why in r["not_run"].items()]
    if r["distance_to_original"]:
        parts.append(_distance(r["distance_to_original"]))
    return "\n".join(parts)


def _distance(to_original: dict) -> str:
    """What pruning did to the outputs."""
    return "pruned against original, max rel: " + ", ".join(f"{k} {_cell(v)}" for k, v in to_original.items())


def _saliency(layers: dict) -> str:
    """What the groups keep of the squared weights, mean over the layers, and what other groups would have kept."""
    kept, plain, sorted_, bound = (sum(x[k] for x in layers.values()) / len(layers) for k in ("kept", "neighbours", "by_norm", "unstructured"))
    return (f"squared weights kept in {len(layers)} pruned layers: {kept:.1%}; neighbours as groups would keep {plain:.1%}, rows sorted by norm {sorted_:.1%}, "
            f"the best single weights {bound:.1%}")


def makers(made_by: Any) -> str:
    """What made a bundle, with versions."""
    return ", ".join(f"{k} {v}" for k, v in made_by.items()) if isinstance(made_by, dict) else str(made_by)


def inspect(r: dict) -> str:
    return _bundle(r) if r["kind"] == "bundle" else _model(r)


def _ports(ports: Iterable[dict]) -> str:
    return ", ".join(f"{p['name']} {p['dtype']}{p['shape']}" for p in ports)


def _bundle(r: dict) -> str:
    parts = [f"{r['name']}: a bundle of format {r['format']}, {size(r['bytes'])}, made by {makers(r['made_by'])}"
             + (f", licence {r['license']}" if r["license"] else "")]
    for e in r["entries"]:
        saved = f" of {count(e['dense_macs'])} dense" if e["dense_macs"] != e["macs"] else ""
        state = f"; state: {', '.join(str(s['name'] if isinstance(s, dict) else s) for s in e['states'])}" if e["states"] else ""
        parts.append(f"{e['name']}({_ports(e['inputs'])}) -> {_ports(e['outputs'])}\n"
                     f"  {len(e['layers'])} steps, {count(e['macs'])} multiply-adds{saved}{state}")
    parts.append(f"memory: arena {size(r['arena_bytes'])} (state {size(r['state_bytes'])} of it), weights {size(r['weights_bytes'])}")
    parts.append(_targets_of_bundle(r))
    parts.append(_layers(r["layers"]))
    if r["pruning"]:
        parts.append(_distance(r["pruning"]["max_rel_to_original"]))
        if r["pruning"].get("saliency"):
            parts.append(_saliency(r["pruning"]["saliency"]))
    return "\n\n".join(p for p in parts if p)


def _targets_of_bundle(r: dict) -> str:
    def checked(t: dict) -> str:
        return f"{t['verified']['max_rel_error']:.1e} off" if t["verified"] else "not run here"
    def needs(t: dict) -> str:
        levels = ", ".join(x["name"] for x in t.get("levels", ()))
        return f"any; chosen at load: {levels}" if levels and not t["cpu_features"] else levels or " ".join(t["cpu_features"])
    return table(["target", "code", "verified at export", "CPU features"], [
        [name, size(t["code_bytes"]), checked(t), needs(t)] for name, t in r["targets"].items()])


def _layers(layers: list[dict]) -> str:
    return table(["layer", "op", "MACs (dense)", "sparsity", "group", ""], [
        [x["name"], x["op"], count(x["macs"]), share(x["sparsity"]), x["group"] or "-", x.get("reason", "")]
        for x in layers]) if layers else ""


def _model(r: dict) -> str:
    parts = [f"{r['name']}: a model with {size(r['weights_bytes'])} of weights, {count(r['macs'])} multiply-adds"]
    for e in r["entries"]:
        ops = ", ".join(f"{n} {op}" for op, n in e["operators"].items())
        parts.append(f"{e['name']}({_ports(e['inputs'])}) -> {_ports(e['outputs'])}\n  {ops}")
    parts += [f"state: {a} takes {b} of the call before" for a, b in r["states"]]
    return "\n\n".join([*parts, _layers(r["layers"])])


def check(r: dict) -> str:
    n = sum(r["operators"].values())
    parts = [f"{r['model']}: " + (f"all {n} operators compile, for every target" if r["ok"] else "does not compile")]
    parts += [f"{x['node'] or x['op']}{' (' + x['op'] + ')' if x['op'] and x['node'] else ''}: {x['reason']}"
              + (f"\n  fix: {x['fix']}" if x["fix"] else "") for x in r["unsupported"]]
    used = [x for x in r["layers"] if x["zeros"] and x["zeros"]["group"]]
    if used:
        rows = [[x["name"], x["op"], f"{x['zeros']['share']:.1%}", f"{x['zeros']['groups']} of {x['zeros']['group']}",
                 count(x["macs"]), count(x["zeros"]["macs"])] for x in used]
        rows.append(["all layers", "", "", "", count(r["total"]["macs"]), count(r["total"]["zeros"]["macs"])])
        parts.append("zeros that the model has already and that are used, whatever is pruned:\n"
                     + table(["layer", "op", "zeros", "groups", "MACs dense", "with zeros"], rows))
    parts += [f"{x['name']}: {x['zeros']['share']:.1%} zeros, {x['zeros']['reason']}" for x in r["layers"] if x["zeros"] and x["zeros"]["reason"]]
    return "\n\n".join([*parts, *_prospect(r)])


def _prospect(r: dict) -> list[str]:
    """What pruning would bring: the whole net at each level, then its layers."""
    if not r["layers"]:
        return []
    total, levels = r["total"], [c["sparsity"] for c in r["total"]["levels"]]
    if total["cost"] is None:
        return [table(["layer", "op", "MACs", "weights", "group", ""], [[x["name"], x["op"], count(x["macs"]), size(x["bytes"]), x["group"] or "-", x["reason"]]
                                                                      for x in r["layers"]])]
    said = duration if r["unit"] == "ms" else lambda n: f"{count(n)} instructions"
    what = "time" if r["unit"] == "ms" else "work"
    rows = [["as it is", said(total["cost"]), "100%", "", count(total["executed"]), size(total["bytes"])]]
    rows += [[f"{c['sparsity']:.0%} pruned", said(c["cost"]), f"{1 - c['gain']:.0%}", f"{1 / max(1 - c['gain'], 1e-9):.2f}x", count(c["macs"]), size(c["bytes"])]
             for c in total["levels"]]
    whole = (f"forecast of an inference on {r['target']} ({r['basis']}" + ("; an estimate: this processor was not measured" if r["estimate"] else "") + "):\n"
             + table(["", what, "left", "faster", "multiply-adds", "weights"], rows))
    rest = {"name": "all that has no weights", "op": "", "cost": total["rest"], "group": None, "levels": [], "reason": ""}
    each = [[x["name"], x["op"], said(x["cost"]), f"{x['cost'] / max(total['cost'], 1e-30):.0%}", x["group"] or "-", *(_left(x, s) for s in levels), x["reason"]]
            for x in [*r["layers"], rest]]
    layers = (f"its layers: {what} as it is, its share of the whole, outputs that share a list of inputs, {what} left if so much of the layer is pruned:\n"
              + table(["layer", "op", what, "share", "group", *(f"{s:.0%}" for s in levels), ""], each))
    return [whole, layers, "A forecast from tables of kernels: nothing was compiled or run, and nothing is said of accuracy. `edgekit bench` measures."]


def _left(layer: dict, sparsity: float) -> str:
    return next((f"{1 - c['gain']:.0%}" for c in layer["levels"] if c["sparsity"] == sparsity), "-")


def tune(r: dict) -> str:
    parts = []
    for processor, found in r["processors"].items():
        for kind, f in found["kinds"].items():
            fields = list(f["schedule"])
            shown = f["tried"][:5] + [t for t in f["tried"][5:] if all(t[k] == f["default"][k] for k in fields)]
            rows = [[*(t[k] for k in fields), f"{t['cost']:.3f}", ", ".join(word for word, s in (("default", f["default"]), ("taken", f["schedule"]))
                     if all(t[k] == s[k] for k in fields))] for t in shown]
            parts.append(f"{kind} on {processor}, {r['unit']} of {len(f['cases'])} layers against the default ({f['noise']:.1%} noise):\n"
                         + table([*fields, "cost", ""], rows))
        parts.append(f"{processor}.toml:\n\n" + found["toml"].replace("\\n", "\n").rstrip())  # escaped as all text is
    return "\n\n".join(parts)


def calibrate(r: dict) -> str:
    parts = []
    for processor, found in r["processors"].items():
        rows = [[kind, k["steps"], f"{k['median_error']:.1%}", f"{k['total']:.2f}"] for kind, k in found["kinds"].items()]
        parts += [f"{processor}, {r['unit']}:\n" + table(["kernels", "steps", "median error", "predicted / measured, all steps"], rows),
                  f"{processor}.toml:\n\n{found['toml'].rstrip()}"]
    return "\n\n".join(parts)


def targets(r: dict) -> str:
    rows = [[t["name"], t["title"], t["here"], "yes" if t["can_compile"] else "no",
             "yes" if t["can_run"] else "no"] for t in r["targets"]]
    missing = {(m["what"], m["fix"], t["name"] if kind == "run" else "any target", kind)
               for t in r["targets"] for kind, ms in t["missing"].items() for m in ms}
    lines = [f"to {kind} {name}, {what} is missing: {fix}" for what, fix, name, kind in sorted(missing)]
    return "\n".join([table(["target", "", "figures here", "compiles", "runs"], rows), *lines])


def pack(r: dict) -> str:
    return (f"{r['output']}: {r['name']} as {r['form']}, {len(r['files'])} files, {size(r['bytes'])}; "
            f"entries {', '.join(r['entries'])}\n{r['output']}/README.md says how to check and to use it")


def export(r: dict) -> str:
    layers = r["layers"]
    sparse = sum(1 for x in layers if x["sparsity"])
    rows = [[name, size(x["code_bytes"]), f"{x['max_rel_error']:.1e}" if x["run_here"] else "not run here"] for name, x in r["targets"].items()]
    memory = f"weights {size(r['weights_bytes'])}, arena {size(r['arena_bytes'])}"
    parts = [f"{r['bundle']}: {len(layers)} layers, {sparse} of them sparse, in {r['seconds']:.1f} s; {memory}",
             _layers(layers), table(["target", "code", "max rel error"], rows)]
    if sparse:
        parts.append(_distance(r["distance_to_original"]))
    if r["saliency"]:
        parts.append(_saliency(r["saliency"]))
    return "\n\n".join(p for p in [*parts, *(f"note: {note}" for note in r["notes"])] if p)
