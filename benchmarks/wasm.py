"""The race in WebAssembly: edgekit's module against LiteRT.js, onnxruntime-web and tfjs, in Node and in headless Chromium."""
import base64
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.models import DENSE, TOLERANCE, Level, Refused, Workshop
from benchmarks.steps import write_steps
from benchmarks.timing import Contestant, Failed, Race, Worker, race
from edgekit.pack import pack

WEB = Path(__file__).with_name("web")
PEERS = {"litert": "@litertjs/core", "onnxruntime": "onnxruntime-web", "tfjs": "@tensorflow/tfjs-backend-wasm"}
PAGES = 3   # that are opened to tell how long the first result takes
WARM = 2.0  # seconds of calls after which V8's optimising tier has had its turn
Say = Callable[[str], None]


@dataclass
class Row:
    """A contestant in an engine. cold_ms: its first inference. load_ms: until after that one, from when it was asked to load.
    page_ms: until then since the page was opened. code: bytes of scripts and modules (Chromium), or of the module (Node)."""

    engine: str
    runtime: str
    level: str
    file: Path | None = None
    source: Path | None = None
    version: str = ""
    engine_version: str = ""
    ms: float | None = None
    over_litert: float | None = None
    over_dense: float | None = None
    error: float | None = None
    zeros: float | None = None
    cold_ms: float | None = None
    load_ms: float | None = None
    page_ms: float | None = None
    code: int | None = None
    why: str = ""

    @property
    def label(self) -> str:
        return f"{self.runtime} {self.level}"


def entries(shop: Workshop, engine: str, levels: Sequence[Level], say: Say) -> list[Row]:
    """Every contestant with its file made, or the reason why there is none."""
    rows = []
    for level in levels:
        say(f"{shop.name}: edgekit for wasm, {level}")
        row = Row(engine, "edgekit", str(level))
        try:
            built = shop.bundle(level, "wasm")
            row.file, row.source, row.zeros = built.path.with_suffix(".npm"), built.source, built.sparsity()
            row.code = built.manifest["targets"]["wasm"]["code_bytes"]
            if not row.file.exists():
                pack(built.path, "npm", row.file)
        except Refused as e:
            row.why = str(e)
        rows.append(row)
    sparse = [("litert", level) for level in levels if level.unstructured]
    for peer, level in [*((peer, DENSE) for peer in PEERS), *sparse]:
        say(f"{shop.name}: {peer} for wasm, {level}")
        row = Row(engine, peer, str(level), source=shop.unstructured(level) if level.unstructured else shop.onnx)
        try:
            row.version = _version(PEERS[peer])
            row.file = write_steps(shop) if peer == "tfjs" else shop.converted(peer, level)
        except Refused as e:
            row.why = str(e)
        rows.append(row)
    return rows


def run(shop: Workshop, engine: str, levels: Sequence[Level], rounds: int, say: Say) -> list[dict]:
    """Loads all, checks all, warms all up, races all."""
    rows = entries(shop, engine, levels, say)
    with ExitStack() as stack:
        started: list[Contestant] = []
        for row in (r for r in rows if not r.why):
            try:
                if engine == "chromium" and started:
                    worker = started[0].worker
                else:
                    worker = _worker(engine, row.runtime, shop.folder)
                    stack.callback(worker.close)
                _load(shop, row, worker)
                contestant = Contestant(row.label, worker)
                contestant.turn(round(WARM / max(contestant.turn(10), 1e-6)) + 1)
                started.append(contestant)
            except Failed as e:
                row.why = str(e)
        say(f"{shop.name}: racing {len(started)} in {engine}")
        times = race(started, rounds) if started else Race({})
    there = {row.label: row for row in rows if not row.why}
    for label, row in there.items():
        row.ms = times.ms(label)
        row.over_litert = times.ratio(label, "litert dense") if "litert dense" in there else None
        row.over_dense = times.ratio(label, "edgekit dense") if "edgekit dense" in there else None
    return [{k: v for k, v in asdict(row).items() if k not in ("file", "source")} for row in rows]


def versions(rows: Sequence[dict]) -> dict[str, str]:
    """Of the packages and engines of some rows."""
    return {f"{r['runtime']} (wasm)": r["version"] for r in rows if r["version"]} | {r["engine"]: r["engine_version"] for r in rows if r["engine_version"]}


def _worker(engine: str, runtime: str, work: Path) -> Worker:
    node = shutil.which("node")
    if not node:
        raise Failed("node is not installed")
    if engine == "node":
        return Worker([node, "--experimental-wasm-relaxed-simd", "node.mjs", runtime], WEB)
    return Worker([node, "chromium.mjs", str(work)], WEB)


def _load(shop: Workshop, row: Row, worker: Worker) -> None:
    """Loads a row's file and compares with onnxruntime on the same weights; Failed for a wrong answer too."""
    def url(path: Path) -> str:
        return path.resolve().as_uri() if row.engine == "node" else f"/files/{path.relative_to(shop.folder).as_posix()}"
    with np.load(shop.inputs) as inputs:
        described = [{"name": k, "shape": list(inputs[k].shape), "file": url(_raw(shop, k, inputs[k]))} for k in inputs]
    answers = [worker.ask(do="load", name=row.label, runtime=row.runtime, model=url(row.file), inputs=described)
               for _ in range(1 if row.engine == "node" else PAGES)]
    row.engine_version = answers[0]["engine"]
    row.load_ms, row.cold_ms = (1e3 * median(a[k] for a in answers) for k in ("seconds", "first"))
    if row.engine == "chromium":
        row.page_ms, row.code = 1e3 * median(a["page"] for a in answers), answers[0]["code"]
    found = worker.ask(do="run", name=row.label)["outputs"]
    arrays = {name: np.frombuffer(base64.b64decode(text), np.float32) for name, text in zip(shop.outputs, found, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "outputs.npz", **arrays)
        row.error = shop.error(Path(folder) / "outputs.npz", row.source)
    if row.error > TOLERANCE:
        raise Failed(f"its outputs are {row.error:.1e} of the largest off")


def _raw(shop: Workshop, name: str, value: np.ndarray) -> Path:
    path = shop.folder / f"input-{name}.bin"
    path.write_bytes(np.ascontiguousarray(value).tobytes())
    return path


def _version(package: str) -> str:
    described = WEB / "node_modules" / package / "package.json"
    if not described.exists():
        raise Refused(f"{package} is not installed: npm install in benchmarks/web")
    return json.loads(described.read_text("utf-8"))["version"]
