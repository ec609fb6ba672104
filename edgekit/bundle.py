"""A bundle in hand: run it on any of its targets, keep its state, verify it, measure it."""
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from edgekit import targets as devices
from edgekit import vectors
from edgekit.errors import BundleError, InputError, RuntimeStatusError, ShapeError
from edgekit.runtimes import Session, open_session
from edgekit.runtimes.session import Entry, as_array, entries, find, levels

TOLERANCES = {"float32": 1e-4, "float16": 5e-2}  # by the dtype that products are computed in


@dataclass(frozen=True)
class Match:
    """How one output of one entry compares with `expected`, over all cases. max_rel_error: max|a-b| / max|b|."""

    entry: str
    output: str
    max_abs_error: float
    max_rel_error: float
    ok: bool


class Bundle:
    """A compiled model. Sessions open when a target is first used and stay open until `close`; each has its own state.

    Calls from several threads take turns on a target. `threads`: how many a call may use on the host. `summary`: what
    `edgekit export --json -` prints, where this bundle has just been made.
    """

    def __init__(self, files: Any, threads: int = 1):
        self.files, self.threads = files, threads
        self.summary: dict[str, Any] = {}
        self._entries = entries(files.manifest)
        self._first = next(iter(self._entries.values()))
        self._variants = {tuple(p.shape for p in e.inputs): e for e in reversed(self._entries.values())
                          if _signature(e) == _signature(self._first)}
        self._sessions: dict[str, Session] = {}
        self._lock = threading.RLock()

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest["name"]

    @property
    def manifest(self) -> dict[str, Any]:
        """manifest.json as it was read."""
        return self.files.manifest

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets that the bundle has code for, the host first."""
        return tuple(sorted(self.manifest["targets"], key=lambda t: (t != "host", t)))

    @property
    def tolerance(self) -> float:
        """How far an output may be from `expected`, as a share of its largest value."""
        return self.manifest.get("tolerance", TOLERANCES["float32"])

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What can be called, the default first: names, inputs, outputs."""
        return tuple(self._entries.values())

    def run(self, *inputs: Any, entry: str | None = None, target: str = "host") -> list[np.ndarray]:
        """One inference: arrays in the order of the entry's inputs, or one dict by name. New arrays, in output order.

        Without `entry`, the first one, or the one of its shape variants that the inputs' shapes fit. Arrays must have
        the declared dtype; Python numbers and lists are converted. target "onnx" is the bundle's ONNX form in
        onnxruntime. Raises InputError and ShapeError for inputs that do not fit, MissingToolError, RuntimeStatusError.
        """
        session = self._sessions.get(target) or self.session(target)
        chosen = self._first if entry is None else find(self._entries, entry)
        named = _named(inputs, chosen)
        if entry is None and len(self._variants) > 1:
            chosen = self._variant(named)
        try:
            return list(session.run(named, chosen.name).values())
        except RuntimeStatusError as e:
            if not e.status.startswith("EK_"):  # a crash, not an answer: the next call starts afresh
                self._drop(target)
            raise

    def session(self, target: str = "host") -> Session:
        """The open session of a target; opened now if it was not. Its state is the one that `run` uses."""
        with self._lock:
            if target not in self._sessions:
                self._sessions[target] = open_session(self.files, target, self._threads(target))
            return self._sessions[target]

    def reset(self) -> None:
        """State to zero, on every target in use."""
        with self._lock:
            for session in self._sessions.values():
                session.reset()

    def save(self, target: str = "host") -> bytes:
        """The state of a target; it can be restored on any target of this bundle."""
        return self.session(target).save()

    def restore(self, state: bytes, target: str = "host") -> None:
        """Back to a state that `save` gave; RuntimeStatusError for any other bytes, and nothing changes."""
        self.session(target).restore(state)

    def verify(self, targets: str | Iterable[str] | None = None,
               tolerance: float | None = None) -> dict[str, tuple[Match, ...]]:
        """The bundle's own vectors on its targets, against `expected`: max|a-b| <= tolerance * max|b| for each output
        (integers exactly); by default the bundle's own `tolerance`. Every entry's cases run in order from a reset, in sessions apart from those of `run`. Of a
        target with several code levels, every one that this machine has is run; a match is that of the worst.

        Without `targets`, all that can run here. Raises MissingToolError where a runner is not installed.
        """
        chosen = (targets,) if isinstance(targets, str) else tuple(targets or self._runnable())
        return {t: self._verified(t, self.tolerance if tolerance is None else tolerance) for t in chosen}

    def bench(self, target: str = "host", **options: Any) -> dict[str, Any]:
        """Latency, misses, memory and budget on a target: the arguments and the result of `edgekit.bench.bench`."""
        from edgekit.bench import bench
        return bench(self.files, target, **{"threads": self._threads(target)} | options)

    def close(self) -> None:
        """Closes all sessions; the next `run` opens them again."""
        with self._lock:
            for target in list(self._sessions):
                self._drop(target)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        calls = "; ".join(f"{_call(e)} -> {', '.join(map(str, e.outputs))}" for e in self.entries)
        return f"<edgekit bundle {self.name!r} for {', '.join(self.targets)}: {calls}>"

    def _threads(self, target: str) -> int:
        """How many a session uses: an emulator or a wasm engine has one."""
        return self.threads if target == "onnx" or target in devices.names() and devices.load(target).runner == "host" else 1

    def _drop(self, target: str) -> None:
        with self._lock:
            session = self._sessions.pop(target, None)
        if session:
            session.close()

    def _runnable(self) -> list[str]:
        return [t for t in self.targets if devices.load(t).runner]

    def _variant(self, named: Mapping[str, np.ndarray]) -> Entry:
        """The entry with inputs of these shapes, among those that differ from the first in shapes only."""
        if named.keys() != {p.name for p in self._first.inputs}:
            return self._first  # the session says what is wrong
        found = self._variants.get(tuple(np.shape(named[p.name]) for p in self._first.inputs))
        if found is None:
            raise ShapeError("no entry takes inputs of shape " + ", ".join(str(np.shape(a)) for a in named.values()),
                             where=self.name,
                             fix="there are: " + "; ".join(map(_call, reversed(self._variants.values()))))
        return found

    def _verified(self, target: str, tolerance: float) -> tuple[Match, ...]:
        known = levels(self.manifest, target) if target in self.manifest["targets"] else []
        rows = [tuple(self._compare(session, tolerance)) for session in self._each_level(target, known or [""])]
        return tuple(max(same, key=lambda m: (not m.ok, m.max_rel_error)) for same in zip(*rows, strict=True))

    def _each_level(self, target: str, known: list[str]) -> Iterator[Session]:
        """A session a level; the last level is what every machine has."""
        for level in known:
            try:
                session = open_session(self.files, target, level=level)
            except RuntimeStatusError as e:
                if e.status != "EK_CPU" or level == known[-1]:
                    raise
                continue
            yield session

    def _compare(self, session: Session, tolerance: float) -> Iterator[Match]:
        try:
            for e in self.entries:
                known = vectors.load(self.files, e.name)
                session.reset()
                rows = [session.run(case, e.name) for case in known.cases]
                for name in (p.name for p in e.outputs):
                    if name not in known.expected:
                        raise BundleError(f"its vectors lack the output {name!r}", where=e.name)
                    yield compare(e.name, name, np.stack([r[name] for r in rows]), known.expected[name], tolerance)
        finally:
            session.close()


def open(path: str | Path, threads: int = 1) -> Bundle:
    """The bundle in a folder or zip file. Every byte is checked against the manifest; nothing of it is executed.

    Raises BundleError for anything that is damaged, missing, or of another format.
    """
    from edgekit.runtimes.abi import bundle as format
    return Bundle(format.read(Path(path)), threads)


def compare(entry: str, output: str, got: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCES["float32"]) -> Match:
    """max|a-b| and max|a-b| / max|b| over whole arrays of equal shape. NaN and infinities match themselves only;
    integers and bools have to be equal."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return Match(entry, output, float("inf"), float("inf"), False)
    a, b = got.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    finite = np.isfinite(a) & np.isfinite(b)
    if not (same | finite).all():
        return Match(entry, output, float("inf"), float("inf"), False)
    worst = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    scale = float(np.abs(b[finite]).max(initial=0.0))
    relative = worst / scale if scale else (float("inf") if worst else 0.0)
    exact = got.dtype.kind not in "fc"
    return Match(entry, output, worst, relative, worst == 0 if exact else worst <= tolerance * scale)


def _named(inputs: tuple[Any, ...], entry: Entry) -> Mapping[str, np.ndarray]:
    """Inputs by name, as arrays."""
    if len(inputs) == 1 and type(inputs[0]) is not np.ndarray and isinstance(inputs[0], Mapping):
        given, ports = inputs[0], {p.name: p for p in entry.inputs}
        return {n: as_array(v, ports[n], entry.name) if n in ports else v for n, v in given.items()}
    if len(inputs) != len(entry.inputs):
        raise InputError(f"{len(inputs)} inputs given, {len(entry.inputs)} wanted", where=entry.name,
                         fix="in this order: " + ", ".join(map(str, entry.inputs)))
    named = {}
    for port, value in zip(entry.inputs, inputs):
        named[port.name] = value if type(value) is np.ndarray else as_array(value, port, entry.name)
    return named


def _call(entry: Entry) -> str:
    return f"{entry.name}({', '.join(map(str, entry.inputs))})"


def _signature(entry: Entry) -> tuple:
    """What shape variants have in common."""
    return tuple(tuple((p.name, p.code, len(p.shape)) for p in ports) for ports in (entry.inputs, entry.outputs))
