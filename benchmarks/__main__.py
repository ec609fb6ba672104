"""`python -m benchmarks`: see README.md beside this file."""
import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import edgekit
from benchmarks import counting, forecast, native, tables, wasm
from benchmarks.models import Level, Workshop
from edgekit.bench import machine, peaks

ROOT = Path(__file__).parents[1]
TRAINED = ("metadrive_ppo_expert", "sb3_ppo_bipedalwalker", "tgcn_los", "social_stgcnn_zara1", "stgat_hotel_erm", "pilotnet")
FORECAST = ("squeezenet11", "mobilenet_v1_025_224")  # of the trained networks, by the part `forecast` alone
NETWORKS = ("mobilenet_v1", "mobilenet_v2", "resnet18", "resnet18_policy", "patchtst", "lstm", "lstm_step",
            "transformer_step", "mlp")
LEVELS = (0.0, 0.3, 0.5, 0.7, 0.9)


def main() -> None:
    """Measures what is asked for, keeps it in results.json of the work folder, prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="edgekit beside its peers, in one run")
    parser.add_argument("part", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all), or tables: print what was measured before")
    parser.add_argument("--nets", nargs="+", metavar="NAME", help="default: " + ", ".join((*NETWORKS, *TRAINED)))
    parser.add_argument("--sparsity", nargs="+", type=float, metavar="S", help="default: 0 0.3 0.5 0.7 0.9, for mobilenet_v1 also 0.05, 0.1, and 0.7 and 0.9 without a pattern")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--prepare", action="store_true", help="only make the files that are missing")
    parser.add_argument("--core", type=int, help="default: the last one")
    parser.add_argument("--work", type=Path, default=Path(__file__).with_name(".work"), help="folder of what is made")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder of trained networks, where there is one")
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--results", action="store_true", help="also write RESULTS.md, results.json and results.svg beside this file")
    arguments = parser.parse_args()
    for part in arguments.part:
        if part not in (*PARTS, "tables"):
            parser.error(f"there is no part {part!r}")
    kept = arguments.work / "results.json"
    results = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    if arguments.part != ["tables"]:
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        for part in arguments.part or PARTS:
            if cores:  # files are made on all; two threads need two, a browser is many processes
                alone = {max(cores) if arguments.core is None else arguments.core}
                os.sched_setaffinity(0, cores if arguments.prepare or part in ("threads", "chromium") else alone)
            for shop in filter(None, (_shop(arguments, name) for name in arguments.nets or _named(part))):
                PARTS[part](shop, arguments, results)
                kept.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    if arguments.prepare:
        return
    print(tables.render(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    if arguments.results:
        tables.write(results, Path(__file__).parent)


def _named(part: str) -> tuple[str, ...]:
    return (*NETWORKS, *TRAINED, *(FORECAST if part == "forecast" else ()))


def _shop(arguments: argparse.Namespace, name: str) -> Workshop | None:
    """None for a trained network whose file is not here."""
    if name in NETWORKS:
        return Workshop(arguments.work, name)
    trained = next(arguments.shared.rglob(f"{name}.onnx"), None) if arguments.shared.is_dir() else None
    if trained is None:
        say(f"{name}: not measured, {arguments.shared} has no {name}.onnx")
        return None
    return Workshop(arguments.work, name, trained)


def _levels(arguments: argparse.Namespace, shop: Workshop) -> list[Level]:
    if arguments.sparsity is not None:
        return [Level(s) for s in arguments.sparsity]
    more = [Level(0.05), Level(0.1), Level(0.7, True), Level(0.9, True)] if shop.name == "mobilenet_v1" else []
    return [*map(Level, LEVELS), *more]


def _native(shop: Workshop, arguments: argparse.Namespace, results: dict) -> None:
    levels = _levels(arguments, shop)
    if arguments.prepare:
        list(native.entries(shop, levels, say))
        return
    rows = native.run(shop, levels, arguments.rounds, say)
    results.setdefault("native", {})[shop.name] = rows
    results["machine"] = {k: v for k, v in machine.describe().items() if k != "packages"}
    results.setdefault("peaks", {})["host"] = peaks.measure("host").to_json()
    results.setdefault("versions", {}).update({"edgekit": edgekit.__version__, **{r["runtime"]: r["version"] for r in rows
                                              if r["version"] and not r["runtime"].startswith("edgekit") and r["runtime"] != "products"}})


def _wasm(engine: str) -> Callable[[Workshop, argparse.Namespace, dict], None]:
    def measure(shop: Workshop, arguments: argparse.Namespace, results: dict) -> None:
        levels = _levels(arguments, shop)
        if arguments.prepare:
            wasm.entries(shop, engine, levels, say)
            return
        rows = wasm.run(shop, engine, levels, arguments.rounds, say)
        known = results.setdefault("wasm", {})
        known[shop.name] = sorted([r for r in known.get(shop.name, []) if r["engine"] != engine] + rows, key=lambda r: r["engine"])
        results.setdefault("versions", {}).update(wasm.versions(rows))
    return measure


def _threads(shop: Workshop, arguments: argparse.Namespace, results: dict) -> None:
    if not arguments.prepare:
        say(f"{shop.name}: one thread and two")
        results.setdefault("threads", {})[shop.name] = native.threads(shop, arguments.rounds)


def _arm64(shop: Workshop, arguments: argparse.Namespace, results: dict) -> None:
    for level in _levels(arguments, shop):
        say(f"{shop.name}: counting instructions, {level}")
        results.setdefault("arm64", {}).setdefault(shop.name, {})[str(level)] = counting.count(shop, level)


def _layers(shop: Workshop, arguments: argparse.Namespace, results: dict) -> None:
    for level in (Level(), Level(0.5)):
        if not arguments.prepare:
            say(f"{shop.name}: layer by layer, {level}")
            results.setdefault("layers", {}).setdefault(shop.name, {})[str(level)] = counting.layers(shop, level)


def _forecast(shop: Workshop, arguments: argparse.Namespace, results: dict) -> None:
    levels = [s for s in arguments.sparsity or LEVELS if s]
    for target in forecast.TARGETS:
        if arguments.prepare:
            for s in (0.0, *levels):
                shop.bundle(Level(s), target)
            continue
        results.setdefault("forecast", {}).setdefault(shop.name, {})[target] = forecast.compare(shop, target, levels, arguments.rounds, say)


PARTS = {"native": _native, "node": _wasm("node"), "chromium": _wasm("chromium"), "arm64": _arm64, "layers": _layers,
         "threads": _threads, "forecast": _forecast}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
