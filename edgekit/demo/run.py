"""The demo from end to end: export, verify, bench, forecast and drive with the compiled code, report."""
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Bundle
from edgekit.demo import networks, pictures
from edgekit.demo.evaluate import baselines, driving, forecasting
from edgekit.demo.networks import FORECASTER, POLICY, Network
from edgekit.demo.traces import windows
from edgekit.tables import count, duration, share, size, table

DENSE, ONE_SHOT, TUNED = "dense", "pruned 50 %", "pruned 50 %, fine-tuned"
FORMS = (DENSE, ONE_SHOT, TUNED)
RUNNERS = {"arm64": ("unicorn", "arm64"), "wasm": ("wasmtime", "wasm")}     # package that runs a target, and its extra
FORECAST_SEEDS = np.arange(24)          # held out: training used seeds past a million
Tell = Callable[[str], None]
Judged = tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]], list[pictures.Picture]]


def _stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(output: Path, *, progress: Tell = _stderr, targets: Sequence[str] = ("host", "arm64", "wasm"),
         episodes: int = 128) -> dict[str, Any]:
    """Exports both networks, dense and pruned, and measures what pruning did to speed, forecasts and driving.

    Writes one bundle a network and form, and report.html, into the folder `output`, over those of an earlier run.
    Targets whose runner is not installed are left out, and `progress` says so. episodes: driven by each policy.
    Returns everything measured, ready for JSON. Raises what `edgekit.export` raises.
    """
    began = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    chosen = [target for target in targets if _runs_here(target, progress)]
    result: dict[str, Any] = {"targets": chosen, "left_out": [t for t in targets if t not in chosen], "networks": {}}
    scenes: list[pictures.Picture] = []
    for network in (FORECASTER, POLICY):
        bundles = {form: _export(network, form, output, chosen, progress) for form in FORMS}
        try:
            forms = {form: _facts(bundle, network, progress) for form, bundle in bundles.items()}
            progress(f"{network.name}: dense against pruned, interleaved")
            for form, ratio in speedups(bundles).items():
                forms[form]["speedup"] = ratio
            reference, judged, drawn = (_forecast(bundles, progress) if network is FORECASTER
                                        else _drive(bundles, episodes, progress))
        finally:
            for bundle in bundles.values():
                bundle.close()
        result["networks"][network.name] = {
            "reference": reference, "forms": {form: forms[form] | judged[form] for form in FORMS},
            "provenance": network.provenance}
        scenes += drawn
    result |= {"seconds": time.monotonic() - began}
    return result | {"text": text(result)}


def text(result: Mapping[str, Any]) -> str:
    """What was measured, as tables to read."""
    lines = []
    for name, network in result["networks"].items():
        forms, reference = network["forms"], network["reference"]
        if name == FORECASTER.name:
            head = ["ADE m", "FDE m"]
            judged = {form: [facts["ade"], facts["fde"]] for form, facts in (reference | forms).items()}
        else:
            head = ["failed", "95 % interval", "progress m", "jerk m/s3"]
            judged = {form: [share(facts["failure_rate"]), " - ".join(map(share, facts["failure_interval"])),
                             facts["progress"], facts["jerk"]] for form, facts in (reference | forms).items()}
        rows = [[form, *judged[form], *_cost(forms.get(form), result["targets"])] for form in judged]
        lines.append(table([name, *head, "p50", "p99", "speed", "MACs", "weights", *result["targets"]], rows))
    lines.append("speed: of the dense network, on the host, in turns. host, arm64, wasm: largest error against "
                 "onnxruntime, relative.")
    return "\n\n".join(lines)


def _cost(facts: Mapping[str, Any] | None, targets: Sequence[str]) -> list[str]:
    """Cells for latency, speed, size and verification of one form; dashes for a reference that is not compiled."""
    if facts is None:
        return ["-"] * (5 + len(targets))
    latency = facts["bench"]["latency_ms"]
    errors = [f"{facts['verified'][target]['max_rel_error']:.0e}" for target in targets]
    return [duration(latency["p50"]), duration(latency["p99"]), f"{facts['speedup']:.2f}x", count(facts["macs"]),
            size(facts["weights_bytes"]), *errors]


def speedups(bundles: Mapping[str, Bundle], rounds: int = 300) -> dict[str, float]:
    """How many times as fast as the first bundle each is on the host: ratio of median times, measured in turns."""
    sessions = {form: bundle.session() for form, bundle in bundles.items()}
    entry = {form: bundle.entries[0] for form, bundle in bundles.items()}
    rng = np.random.default_rng(0)
    inputs = {p.name: rng.normal(size=p.shape).astype(p.dtype) for p in next(iter(entry.values())).inputs}
    times: dict[str, list[float]] = {form: [] for form in bundles}
    for _ in range(rounds):
        for form, session in sessions.items():
            times[form].append(session.time(inputs, entry[form].name))
    middle = {form: statistics.median(sample) for form, sample in times.items()}
    first = next(iter(middle.values()))
    return {form: first / seconds for form, seconds in middle.items()}


def _runs_here(target: str, progress: Tell) -> bool:
    package, extra = RUNNERS.get(target, ("", ""))
    if not package or find_spec(package):
        return True
    progress(f"{target}: left out, {package} is not installed; pip install 'edgekit-deploy[{extra}]' brings it")
    return False


def _export(network: Network, form: str, output: Path, targets: Sequence[str], progress: Tell) -> Bundle:
    """The bundle of one form of a network; `export` verifies it on every target that runs here."""
    from edgekit.export import export
    name = f"{network.name}-" + {DENSE: "dense", ONE_SHOT: "pruned", TUNED: "tuned"}[form]
    progress(f"{name}: export for " + ", ".join(targets))
    return export(network.tuned if form == TUNED else network.dense, targets=targets, states=network.states,
                  sparsity=0.5 if form == ONE_SHOT else 0.0, group=8, output=output / f"{name}.ekb", overwrite=True)


def _facts(bundle: Bundle, network: Network, progress: Tell) -> dict[str, Any]:
    """Sizes, errors of verification, and the latency on the host: open loop, due before the next input. Inputs come a
    hundred times as often as in use, so that 500 of them take a second."""
    manifest = bundle.manifest
    layers = manifest["entries"][0]["layers"]
    progress(f"{bundle.name}: bench on the host")
    bench = bundle.bench(runs=500, period=network.period / 100, deadline=network.period / 100)
    return {"bundle": Path(bundle.files.path).name, "macs": sum(layer["macs"] for layer in layers),
            "dense_macs": sum(layer["dense_macs"] for layer in layers), "weights_bytes": manifest["weights_bytes"],
            "verified": {name: target["verified"] for name, target in manifest["targets"].items()}, "bench": bench}


def _forecast(bundles: Mapping[str, Bundle], progress: Tell) -> Judged:
    """Forecast errors of the compiled forecasters on traffic recorded now."""
    truth = windows(FORECAST_SEEDS)
    progress(f"forecaster: {len(truth.future)} forecasts with each form")
    compiled = {form: networks.forecaster(bundle) for form, bundle in bundles.items()}
    judged = {form: asdict(forecasting(predict, truth)) for form, predict in compiled.items()}
    reference = {name: asdict(errors) for name, errors in baselines(truth).items()}
    return reference, judged, [pictures.forecasts(compiled, truth, FORECAST_SEEDS)]


def _drive(bundles: Mapping[str, Bundle], episodes: int, progress: Tell) -> Judged:
    """Closed-loop driving of the compiled policies, and of the expert that they imitate, over the same episodes."""
    results = {"expert": driving(None, episodes)}
    for form, bundle in bundles.items():
        progress(f"policy, {form}: {episodes} episodes")
        results[form] = driving(networks.policy(bundle), episodes)
    judged = {form: asdict(r) | {"failure_rate": r.failure_rate, "failure_interval": r.failure_interval}
              for form, r in results.items()}
    seed = min(set(results[ONE_SHOT].failed) - set(results[TUNED].failed), default=0)
    picture = pictures.drives({"expert": None} | {form: networks.policy(b) for form, b in bundles.items()}, seed)
    return {"expert": judged.pop("expert")}, judged, [picture]
