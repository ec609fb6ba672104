"""The demo's results to read: tables for the terminal, and the report with pictures."""
from collections.abc import Mapping
from typing import Any

from edgekit import report
from edgekit.demo.networks import FORECASTER
from edgekit.demo.pictures import Picture
from edgekit.report import charts
from edgekit.tables import count, duration, size, table

Result = Mapping[str, Any]
TITLES = {"forecaster": "Motion forecaster", "policy": "Driving policy"}
ABOUT = {
    "forecaster": "Two LSTM layers of 96 read 4 s of a car and its surroundings (20 samples of 32 numbers) and say "
                  "where it will be over the next 5 s (25 positions). Errors on recorded traffic that training never "
                  "saw: ADE over the whole horizon, FDE at its end.",
    "policy": "A GRU of 128 between linear layers turns 64 numbers, ten times a second, into steering and "
              "acceleration; its memory is state of the bundle. It drives the simulator in closed loop; an episode "
              "fails when the car touches another or leaves the road.",
}
HOW = ("Every number of a dense or pruned network comes from its compiled code on this machine, now. p50 and p99 are "
       "response times of an open loop; speed is the ratio to the dense network, measured in turns.")
SAME = "Largest relative error of the compiled code against onnxruntime, on real inputs of the simulator."


def text(result: Result) -> str:
    """What was measured, as tables for a terminal."""
    parts = [f"{TITLES[name]}\n" + table(*_measured(name, network)) for name, network in result["networks"].items()]
    return "\n\n".join([*parts, SAME + "\n" + table(*_verified(result)), HOW, *_findings(result)])


def html(result: Result, pictures: Mapping[str, Picture]) -> str:
    """The report. pictures: one a network."""
    left_out = [f"Left out, for want of what runs it: {', '.join(result['left_out'])}."] if result["left_out"] else []
    sections: list[dict[str, Any]] = []
    for name, network in result["networks"].items():
        head, rows = _measured(name, network)
        picture = pictures[name]
        captions = [""] * (len(picture.svgs) - 1) + [picture.caption]
        sections.append({"title": TITLES[name], "text": [ABOUT[name]], "table": {"head": head, "rows": rows},
                         "figures": [{"svg": _bars(name, network)},
                                     *({"svg": svg, "caption": c} for svg, c in zip(picture.svgs, captions)),
                                     *_histograms(network["forms"])]})
    head, rows = _verified(result)
    same = {"head": head, "rows": rows}
    sections.append({"title": "The same numbers on every target", "text": [SAME], "table": same})
    first = next(iter(next(iter(result["networks"].values()))["forms"].values()))
    return report.render({"title": "edgekit demo", "summary": [*_findings(result), HOW, *left_out],
                          "sections": sections, "machine": first["bench"]["machine"]})


def _findings(result: Result) -> list[str]:
    """What pruning did, in a sentence a network: the dense form, pruned, and pruned and fine-tuned."""
    said = []
    for name, network in result["networks"].items():
        dense, pruned, tuned = network["forms"].values()
        if name == FORECASTER.name:
            words = [f"an average error of {facts['ade']:.2f} m" for facts in (dense, pruned, tuned)]
        else:
            words = [f"{facts['crashes'] + facts['off_road']} of {facts['episodes']} episodes failed"
                     for facts in (dense, pruned, tuned)]
        said.append(f"{TITLES[name]}: dense, {words[0]}; half of the weights pruned and nothing else done, {words[1]}; "
                    f"fine-tuned after it, {words[2]}, at {tuned['speedup']:.2f} times the speed of dense and "
                    f"{tuned['weights_bytes'] / dense['weights_bytes']:.0%} of its bytes.")
    return said


def _measured(name: str, network: Result) -> tuple[list[str], list[list[str]]]:
    """Head and rows: what needs no network or is imitated first, then each form."""
    everything = network["reference"] | network["forms"]
    if name == FORECASTER.name:
        head = ["ADE", "FDE"]
        judged = {form: [f"{facts['ade']:.2f} m", f"{facts['fde']:.2f} m"] for form, facts in everything.items()}
    else:
        head = ["failed", "95 % interval", "progress", "return"]
        judged = {form: [f"{facts['crashes'] + facts['off_road']} of {facts['episodes']}",
                         "{:.1%} to {:.1%}".format(*facts["failure_interval"]), f"{facts['progress']:.0f} m",
                         f"{facts['reward']:.3f}"] for form, facts in everything.items()}
    rows = [[form, *judged[form], *_cost(network["forms"].get(form))] for form in everything]
    return ["", *head, "p50", "p99", "speed", "MACs", "weights"], rows


def _cost(facts: Result | None) -> list[str]:
    """Cells for latency, speed and size of one form; dashes for a reference that is not compiled."""
    if facts is None:
        return ["-"] * 5
    latency = facts["bench"]["latency_ms"]
    return [duration(latency["p50"]), duration(latency["p99"]), f"{facts['speedup']:.2f}x", count(facts["macs"]),
            size(facts["weights_bytes"])]


def _verified(result: Result) -> tuple[list[str], list[list[str]]]:
    """Head and rows: each form of each network on each target."""
    targets = result["targets"]
    rows = []
    for name, network in result["networks"].items():
        for form, facts in network["forms"].items():
            errors = [facts["verified"][target] for target in targets]
            rows.append([TITLES[name], form, *(f"{e['max_rel_error']:.1e}" if e else "not run here" for e in errors)])
    return ["", "", *targets], rows


def _bars(name: str, network: Result) -> charts.Svg:
    everything = network["reference"] | network["forms"]
    shown = ({"ADE, m": "ade", "FDE, m": "fde"} if name == FORECASTER.name
             else {"failed": "failure_rate", "progress, m": "progress", "jerk, m/s3": "jerk"})
    columns = {title: [facts[key] for facts in everything.values()] for title, key in shown.items()}
    return charts.bars(list(everything), columns, {"failed": "{:.1%}".format})


def _histograms(forms: Result) -> list[dict[str, Any]]:
    """Response times of the dense and the last form."""
    figures = []
    for form in (next(iter(forms)), list(forms)[-1]):
        bench = forms[form]["bench"]
        latency, due, shape = bench["latency_ms"], bench["deadline"], bench["histogram"]
        marks = {name: latency[name] for name in ("p50", "p99") if latency[name] is not None}
        caption = (f"Response times on the host, {form}: {bench['runs']} inputs, one every "
                   f"{duration(due['period_ms'])}, {due['misses']} late; with 95 % certainty the rate is under "
                   f"{due['miss_rate_upper95']:.1%}.")
        caption = " ".join([caption, *bench["notes"]])
        limit = ("deadline", due["deadline_ms"])
        figures.append({"svg": charts.histogram(shape["edges_ms"], shape["counts"], marks, limit), "caption": caption})
    return figures
