"""The race on this machine: edgekit at every level against every peer, each in a process of its own."""
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benchmarks.bounds import DENSE, FASTEST, IGNORED
from benchmarks.models import DENSE as PLAIN
from benchmarks.models import TOLERANCE, Level, Refused, Workshop
from benchmarks.timing import Contestant, Failed, Race, Worker, race

PEERS = ("onnxruntime", "openvino", "litert", "mnn", "ncnn")
TWO = "edgekit, 2 threads"
WORKER = Path(__file__).with_name("worker.py")
Say = Callable[[str], None]


@dataclass
class Row:
    """A contestant and what was measured of it. why: the reason where it did not run. source: its weights, as ONNX.

    rss, weights, arena: bytes; rss is the peak over the process that has imported the runtime. zeros: counted share over
    the eligible weights.
    """

    runtime: str
    level: str
    file: Path | None = None
    source: Path | None = None
    version: str = ""
    ms: float | None = None
    over_fastest: float | None = None
    over_dense: float | None = None
    over_onnxruntime: float | None = None
    error: float | None = None
    zeros: float | None = None
    load_ms: float | None = None
    rss: int | None = None
    weights: int | None = None
    arena: int | None = None
    export_seconds: float | None = None
    why: str = ""

    @property
    def label(self) -> str:
        return f"{self.runtime} {self.level}"


def entries(shop: Workshop, levels: Sequence[Level], say: Say) -> Iterator[Row]:
    """Every contestant with its file made, or the reason why there is none."""
    for level in levels:
        row = Row("edgekit", str(level))
        try:
            say(f"{shop.name}: edgekit, {level}")
            built = shop.bundle(level)
            row.file, row.source, row.export_seconds, row.zeros = built.path, built.source, built.seconds, built.sparsity()
            row.weights, row.arena = (built.manifest[f"{n}_bytes"] for n in ("weights", "arena"))
        except Refused as e:
            row.why = str(e)
        yield row
        if level == PLAIN and row.zeros:
            yield _converted(shop, IGNORED, level, shop.ignoring, say)
    for peer in (*PEERS, "products") if shop.linear else PEERS:
        yield _converted(shop, peer, PLAIN, partial(shop.converted, peer), say)
    for level in levels if shop.convolutional else ():
        if level.sparsity and not level.unstructured:
            yield _converted(shop, "mnn", level, partial(shop.converted, "mnn", level), say)


def _converted(shop: Workshop, runtime: str, level: Level, file: Callable[[], Path], say: Say) -> Row:
    say(f"{shop.name}: {runtime}, {level}")
    try:
        return Row(runtime, str(level), file(), shop.neighbours(level) if level.sparsity else shop.onnx)
    except Refused as e:
        return Row(runtime, str(level), why=str(e))


def run(shop: Workshop, levels: Sequence[Level], rounds: int, say: Say) -> list[dict]:
    """Loads all, checks all, races all; rows in the order of the table."""
    rows = list(entries(shop, levels, say))
    with ExitStack() as stack:
        started = []
        for row in rows:
            if row.why:
                continue
            worker = start("edgekit" if row.runtime == IGNORED else row.runtime)
            stack.callback(worker.close)
            try:
                _load(shop, row, worker)
                started.append(Contestant(row.label, worker))
            except Failed as e:
                row.why = str(e)
        say(f"{shop.name}: racing {len(started)}")
        times = race(started, rounds) if started else Race({})
    there = {row.label: row for row in rows if not row.why}
    dense = [row.label for row in there.values() if row.runtime in PEERS and row.level == "dense"]
    fastest = min(dense, key=times.ms, default=None)
    for label, row in there.items():
        row.ms = times.ms(label)
        row.over_fastest = times.ratio(label, fastest) if fastest else None
        row.over_dense = times.ratio(label, DENSE) if DENSE in there else None
        row.over_onnxruntime = times.ratio(label, "onnxruntime dense") if "onnxruntime dense" in there else None
    return [{k: v for k, v in asdict(row).items() if k not in ("file", "source")} | {"fastest": row.label == fastest}
            for row in rows]


def start(runtime: str) -> Worker:
    """A process with one of worker.py's runtimes, nothing loaded."""
    return Worker([sys.executable, str(WORKER), runtime])


def threads(shop: Workshop, rounds: int) -> dict:
    """Milliseconds of the dense network on one and on two threads, and the ratio; or {"why"}. On all cores allowed."""
    with ExitStack() as stack:
        started = []
        try:
            for runtime in ("edgekit", TWO):
                worker = start(runtime)
                stack.callback(worker.close)
                _load(shop, Row(runtime, str(PLAIN), shop.bundle().path, shop.onnx), worker)
                started.append(Contestant(runtime, worker))
        except (Failed, Refused) as e:
            return {"why": str(e)}
        times = race(started, rounds)
    return {"one_ms": times.ms("edgekit"), "two_ms": times.ms(TWO), "ratio": times.ratio(TWO, "edgekit")}


def _load(shop: Workshop, row: Row, worker: Worker) -> None:
    """Loads a row's file and compares with onnxruntime on the same weights; Failed for a wrong answer too."""
    answer = worker.ask(do="load", model=str(row.file), inputs=str(shop.inputs), outputs=shop.outputs)
    row.version, row.load_ms, row.rss = answer["version"], 1e3 * answer["seconds"], answer["rss"]
    if row.runtime == "products":
        return
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder) / "outputs.npz"
        worker.ask(do="run", to=str(outputs))
        row.error = shop.error(outputs, row.source)
    if row.error > TOLERANCE:
        raise Failed(f"its outputs are {row.error:.1e} of the largest off")


def reference(row: dict, over: str, rows: Sequence[dict]) -> float | None:
    """The ratio of a row over what a bound names."""
    if over == FASTEST:
        return row["over_fastest"]
    if over == DENSE:
        return row["over_dense"]
    if over == "onnxruntime":
        return row["over_onnxruntime"]
    other = next((r for r in rows if r["runtime"] == over and r["ms"]), None)
    return row["ms"] / other["ms"] if other and row["ms"] else None
