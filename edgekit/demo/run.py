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

from edgekit import targets as devices
from edgekit.bundle import Bundle
from edgekit.demo import networks, page, pictures
from edgekit.demo.evaluate import baselines, driving, forecasting
from edgekit.demo.networks import FORECASTER, POLICY, Network
from edgekit.demo.simulator import drive_episodes, observe
from edgekit.demo.traces import windows
from edgekit.export import need_tools

DENSE, ONE_SHOT, TUNED = "dense", "pruned 50 %", "50 %, fine-tuned"
FORMS = {DENSE: "dense", ONE_SHOT: "pruned", TUNED: "tuned"}                # and the ending of the bundle's name
RUNNERS = {"arm64": "unicorn", "wasm": "wasmtime"}                          # the package that runs a target here
FORECAST_SEEDS = np.arange(24)                  # held out: training used seeds past a million
VECTOR_SEEDS = np.arange(900, 901)              # where the bundles' test vectors come from
Tell = Callable[[str], None]
Judged = tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]], pictures.Picture]


def _stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(output: Path, *, progress: Tell = _stderr, targets: Sequence[str] = ("host", "arm64", "wasm"),
         episodes: int = 128) -> dict[str, Any]:
    """Exports both networks, dense and pruned, and measures what pruning did to speed, forecasts and driving.

    Writes one bundle a network and form, and report.html, into the folder `output`, over those of an earlier run.
    Targets whose runner is not installed are left out, and `progress` says so. episodes: driven by each policy.
    Returns everything measured, ready for JSON, and "text": tables to read. Raises what `edgekit.export` raises.
    """
    began = time.monotonic()
    need_tools("demo")
    output.mkdir(parents=True, exist_ok=True)
    chosen = [target for target in targets if _runs_here(target, progress)]
    result: dict[str, Any] = {"targets": chosen, "left_out": [t for t in targets if t not in chosen], "networks": {}}
    scenes: dict[str, pictures.Picture] = {}
    for network in (FORECASTER, POLICY):
        bundles: dict[str, Bundle] = {}
        try:
            for form in FORMS:
                bundles[form] = _export(network, form, output, chosen, progress)
            forms = {form: _facts(bundle, network, progress) for form, bundle in bundles.items()}
            progress(f"{network.name}: dense and pruned in turns")
            ratios = speedups(bundles)
            reference, judged, scenes[network.name] = (
                _forecast(bundles, progress) if network is FORECASTER else _drive(bundles, episodes, progress))
        finally:
            for bundle in bundles.values():
                bundle.close()
        result["networks"][network.name] = {
            "forms": {form: forms[form] | {"speedup": ratios[form]} | judged[form] for form in FORMS},
            "reference": reference, "provenance": network.provenance}
    (output / "report.html").write_text(page.html(result, scenes), "utf-8")
    return result | {"seconds": time.monotonic() - began, "report": str(output / "report.html"),
                     "text": page.text(result)}


def speedups(bundles: Mapping[str, Bundle], rounds: int = 300) -> dict[str, float]:
    """How many times as fast as the first bundle each is on the host: ratio of median times, measured in turns."""
    sessions = {form: (bundle.session(), bundle.entries[0]) for form, bundle in bundles.items()}
    _, entry = next(iter(sessions.values()))
    rng = np.random.default_rng(0)
    inputs = {port.name: rng.normal(size=port.shape).astype(port.dtype) for port in entry.inputs}
    times: dict[str, list[float]] = {form: [] for form in bundles}
    for _ in range(rounds):
        for form, (session, entry) in sessions.items():
            times[form].append(session.time(inputs, entry.name))
    middle = {form: statistics.median(sample) for form, sample in times.items()}
    first = next(iter(middle.values()))
    return {form: first / seconds for form, seconds in middle.items()}


def _runs_here(target: str, progress: Tell) -> bool:
    package = RUNNERS.get(target)
    if package is None or find_spec(package):
        return True
    progress(f"{target}: left out, {package} is not installed (pip install 'edgekit-deploy[{target}]')")
    return False


def _export(network: Network, form: str, output: Path, targets: Sequence[str], progress: Tell) -> Bundle:
    """The bundle of one form of a network, verified on every target that runs here.

    Pruned by magnitude, as without inputs: the form shows what pruning alone costs, and needs no torch.
    """
    from edgekit.export import assemble
    from edgekit.exporters.load import load
    from edgekit.exporters.lower import supported
    from edgekit.exporters.sparsify import prune_onnx
    name = f"{network.name}-{FORMS[form]}"

    def tell(line: str) -> None:
        progress(f"{name}: {line}")
    sparsity = 0.5 if form == ONE_SHOT else 0.0
    loaded = load(network.tuned if form == TUNED else network.dense, states=network.states, name=name.replace("-", "_"), keep=supported())
    pruned = prune_onnx([v.model for v in loaded.variants], sparsity=sparsity, group="auto")
    how = {"pattern": "groups", "sparsity": sparsity, "method": "magnitude" if sparsity else "none", "held_back": None}
    return assemble(loaded, pruned, [devices.load(t) for t in targets], output / f"{name}.ekb", calibration=_inputs(network),
                    pruning=how, overwrite=True, progress=tell)


def _inputs(network: Network, cases: int = 32) -> dict[str, np.ndarray]:
    """Real inputs for a bundle's test vectors, the case as axis 0: histories, or the observations of one episode."""
    if network is FORECASTER:
        return {"history": windows(VECTOR_SEEDS).history[:cases, None]}
    seen: list[np.ndarray] = []
    drive_episodes(VECTOR_SEEDS, None, cases, lambda now, _, __: seen.append(observe(now.world)))
    return {"obs": np.stack(seen)}


def _facts(bundle: Bundle, network: Network, progress: Tell) -> dict[str, Any]:
    """Sizes, errors of verification, and the latency on the host: open loop, due before the next input. Inputs come a
    hundred times as often as in use, so that 500 of them take a second.
    """
    manifest = bundle.manifest
    layers = manifest["entries"][0]["layers"]
    progress(f"{bundle.name}: bench on the host")
    period = network.period / 100
    return {"bundle": bundle.name, "macs": sum(layer["macs"] for layer in layers),
            "dense_macs": sum(layer["dense_macs"] for layer in layers), "weights_bytes": manifest["weights_bytes"],
            "arena_bytes": manifest["arena_bytes"],
            "verified": {name: target["verified"] for name, target in manifest["targets"].items()},
            "bench": bundle.bench(runs=500, period=period, deadline=period)}


def _forecast(bundles: Mapping[str, Bundle], progress: Tell) -> Judged:
    """Forecast errors of the compiled forecasters on traffic recorded now."""
    truth = windows(FORECAST_SEEDS)
    progress(f"forecaster: {len(truth.future)} forecasts with each form")
    compiled = {form: networks.forecaster(bundle) for form, bundle in bundles.items()}
    judged = {form: asdict(forecasting(predict, truth)) for form, predict in compiled.items()}
    reference = {name: asdict(errors) for name, errors in baselines(truth).items()}
    return reference, judged, pictures.forecasts(compiled, truth, FORECAST_SEEDS)


def _drive(bundles: Mapping[str, Bundle], episodes: int, progress: Tell) -> Judged:
    """Closed-loop driving of the compiled policies, and of the expert that they imitate, over the same episodes."""
    progress(f"expert: {episodes} episodes")
    results = {"expert": driving(None, episodes)}
    for form, bundle in bundles.items():
        progress(f"policy, {form}: {episodes} episodes")
        results[form] = driving(networks.policy(bundle), episodes)
    judged = {form: asdict(r) | {"failure_rate": r.failure_rate, "failure_interval": r.failure_interval}
              for form, r in results.items()}
    seed = min(set(results[ONE_SHOT].failed) - set(results[TUNED].failed), default=0)
    picture = pictures.drives({"expert": None} | {form: networks.policy(b) for form, b in bundles.items()}, seed)
    return {"expert": judged.pop("expert")}, judged, picture
