"""The result of a fit for people: lines for a terminal, sections of the report."""
from typing import Any

from edgekit.report import charts
from edgekit.tables import budget_value, count, duration, share, table


def sections(r: dict) -> list[dict]:
    """Of the report: the curve, what each layer may lose, what stays dense."""
    told = f"{'Measured' if r['measured'] else 'Executed instructions, not time,'} on {r['target']}. " + (
        "Damage is the drop of the evaluation's score in its worst domain." if r["accuracy"] else
        "Damage is the squared difference to the dense outputs over their spread, on inputs held back.")
    points: dict[str, list[tuple[float, float]]] = {}
    for p in r["curve"]:
        points.setdefault(p["kind"], []).append((p["cost"], damage(r, p)))
    found = [{"title": "What else could be done", "text": [told, *r["notes"]], "table": {"head": HEAD, "rows": rows(r)},
              "figures": [{"svg": charts.scatter(points, f"response time, {r['unit']}" if r["measured"] else r["unit"], "damage"),
                           "caption": "Lower is better, and left is faster."}]}]
    if r["sensitivity"]:
        levels = sorted({o["sparsity"] for x in r["sensitivity"] for o in x["levels"] if o["sparsity"]})
        lines = [[x["layer"], *(next((f"{o['damage']:.2g} at {o['cost']:.3g}" for o in x["levels"] if o["sparsity"] == s), "-") for s in levels)]
                 for x in r["sensitivity"]]
        found.append({"title": "What each layer may lose", "text": [f"Damage where it alone is pruned, at its forecast cost in {r['unit']}."],
                      "table": {"head": ["layer", *(f"at {s:.0%}" for s in levels)], "rows": lines}})
    if r["refused"]:
        found.append({"title": "What stays dense", "text": [], "table": {"head": ["layer", "reason"], "rows": [[x["layer"], x["reason"]] for x in r["refused"]]}})
    return found


HEAD = ["", "cost", "damage", "in the budget", "pruned", ""]


def damage(r: dict, p: dict) -> float:
    """Of a point of the curve."""
    return next((x for x in (p["drop"] if r["accuracy"] else None, p["error"]) if x is not None), 0.0)


def rows(r: dict) -> list[list[Any]]:
    """The points of the curve, ours first."""
    def cost(p: dict) -> str:
        return duration(p["cost"]) if r["unit"] == "ms" else count(p["cost"])
    return [[p["kind"] + (", tuned" if p["tuned"] else ""), cost(p), f"{damage(r, p):.2%}" if r["accuracy"] else f"{damage(r, p):.3g}",
             "yes" if p["met"] else "no", _sparsity(p["sparsity"]), "chosen" if p["chosen"] else ""] for p in r["curve"]]


def _sparsity(by_layer: dict) -> str:
    if "" in by_layer:
        return f"{share(by_layer[''])} of the channels removed"
    if not by_layer:
        return "-"
    layers = "1 layer" if len(by_layer) == 1 else f"{len(by_layer)} layers"
    return f"{layers} at {share(min(by_layer.values()))} to {share(max(by_layer.values()))}"


def text(r: dict) -> str:
    """What `edgekit fit` prints."""
    verdicts = "; ".join(f"{v['rule']}: {budget_value(v)}" for v in r["budget"])
    basis = "measured" if r["measured"] else "executed instructions, counted; no time was measured"
    parts = [f"{r['bundle']}: {r['model']} on {r['target']}, {basis}: {verdicts}", table(HEAD, rows(r))]
    if r["accuracy"]:
        a = r["accuracy"]
        parts.append("score: " + ", ".join(f"{d + ' ' if d else ''}{a['scores'][d]:.5g} (dense {a['dense'][d]:.5g})" for d in a["dense"])
                     + f"; drop {a['drop']:.2%}" + (f", {a['limit']:.2%} is allowed" if a["limit"] is not None else ""))
    if r["configuration"]["sparsity"]:
        parts.append(table(["layer", "sparsity"], [[n, share(s)] for n, s in r["configuration"]["sparsity"].items()]))
    if r["refused"]:
        parts.append(table(["stays dense", "because"], [[x["layer"], x["reason"]] for x in r["refused"]]))
    return "\n\n".join([*parts, *(f"note: {n}" for n in r["notes"]), f"all results are kept in {r['state']}: remove it when you are done"])
