"""Compiled kernels called directly, in turn: seconds where the target runs in real time, executed instructions in the emulator."""
import ctypes
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bench.machine import one_core
from edgekit.errors import CompilerError
from edgekit.targets import Table, Target
from edgekit.tune.shapes import Case

SLACK = 256          # bytes after an operand, which may be read
AT_LEAST = 200e-6    # seconds of one measurement; short kernels are called several times
_FIRST, _LAST = 20, 200  # measurements of each schedule, and of those that are near the best after them
_NEAR = 1.15

Call = Callable[[int], float]  # seconds or instructions of so many calls


def costs(case: Case, target: Target, schedules: Sequence[Any], progress: Callable[[str], None]) -> list[float]:
    """Seconds (the least of many, measured in turn) or instructions of a call under each schedule; inf where it does not compile."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as work:
        calls = _prepared(case, target, schedules, Path(work), progress)
        progress(f"{target.name}: {case.kind}, {case.label}: measuring {len(calls)} schedules")
        if target.runner == "arm":
            return [float("inf") if call is None else call(1) for call in calls]
        with one_core(True):
            return _least(calls)


def _least(calls: Sequence[Call | None]) -> list[float]:
    """Measured in turn, so that a busy moment of the machine does not fall on one schedule alone."""
    best = [float("inf")] * len(calls)
    alive = {k: call for k, call in enumerate(calls) if call is not None}
    repeats = {k: max(1, int(AT_LEAST / max(min(call(1) for _ in range(3)), 1e-7))) for k, call in alive.items()}
    for rounds in (_FIRST, _LAST):
        for _ in range(rounds):
            for k, call in alive.items():
                best[k] = min(best[k], call(repeats[k]) / repeats[k])
        alive = {k: call for k, call in alive.items() if best[k] <= _NEAR * min(best)}
    return best


def _prepared(case: Case, target: Target, schedules: Sequence[Any], work: Path, progress: Callable[[str], None]) -> list[Call | None]:
    """A call of the kernel under each schedule, all in one library over the same operands."""
    from edgekit.exporters.emit.compile import Symbol, compile_kernels, kernel_assembly
    from edgekit.exporters.emit.link import compile_c, link_shared
    under = [replace(target, schedule=_with(target, case.kind, s)) for s in schedules]
    progress(f"{target.name}: {case.kind}, {case.label}: compiling {len(set(under))} schedules")
    with suppress(CompilerError):  # what failed is found one by one
        kernel_assembly([(case.kernel, t) for t in under], progress=progress)
    symbols: list[Symbol | None] = []
    objects: list[Path] = []
    for k, t in enumerate(under):
        folder = work / f"{k}"
        folder.mkdir()
        try:
            compiled = compile_kernels([case.kernel], t, f"tune{k}", folder)
        except CompilerError:
            symbols.append(None)
            continue
        symbols.append(compiled.symbols[case.kernel])
        objects += compiled.objects
    memory = work / "ek_memory.c"  # what a loop that copies or fills may call
    memory.write_bytes(resources.files("edgekit.runtimes.abi").joinpath("ek_memory.c").read_bytes())
    library = work / target.shared.format(name="tune")
    link_shared([*objects, compile_c(memory, target)], target, [*(s.name for s in symbols if s), *(["__heap_base"] if target.runner == "wasm" else [])], library)
    machine: Any = {"host": _Host, "wasm": _Sandbox, "arm": _Emulator}[target.runner](library)
    places = [machine.place(np.frombuffer(content, np.uint8) if content is not None else _activations(nbytes)) + offset
              for nbytes, content, offset in case.operands]
    return [machine.ready(s.name, [*places, 0, s.units, 0]) if s else None for s in symbols]


def _with(target: Target, kind: str, schedule: Any) -> Table:
    return tuple(sorted([*((k, v) for k, v in target.schedule if k != kind), (kind, tuple(sorted(asdict(schedule).items())))]))


def _activations(nbytes: int) -> np.ndarray:
    """Small floats, as bytes: no denormal numbers, and no large index where they are taken for integers."""
    return np.resize(np.array([0.0, 0.5, -0.25, 0.125], np.float32).view(np.uint8), nbytes) if nbytes % 4 == 0 else np.zeros(nbytes, np.uint8)


class _Host:
    def __init__(self, library: Path):
        self._code = ctypes.CDLL(str(library))
        self._kept: list[np.ndarray] = []

    def place(self, data: np.ndarray) -> int:
        from edgekit.runtimes.host import aligned
        room = aligned(data.nbytes + SLACK)
        room[:data.nbytes] = data
        self._kept.append(room)
        return room.ctypes.data

    def ready(self, symbol: str, args: list[int]) -> Call:
        function = self._code[symbol]
        given = [*(ctypes.c_void_p(a) for a in args[:-3]), *(ctypes.c_int32(a) for a in args[-3:])]

        def call(times: int, operands: list[np.ndarray] = self._kept) -> float:  # so that they live as long as the call
            start = time.perf_counter()
            for _ in range(times):
                function(*given)
            return time.perf_counter() - start
        return call


class _Sandbox:
    def __init__(self, library: Path):
        from edgekit.runtimes.wasm import Sandbox
        self._machine = Sandbox(library.read_bytes())

    def place(self, data: np.ndarray) -> int:
        return self._machine.alloc(data.nbytes + SLACK, data.tobytes())

    def ready(self, symbol: str, args: list[int]) -> Call:
        return lambda times: sum(self._machine.clock(symbol, *args)[1] for _ in range(times))


class _Emulator:
    def __init__(self, library: Path):
        from edgekit.runtimes.arm import Emulator
        self._machine = Emulator(library.read_bytes())

    def place(self, data: np.ndarray) -> int:
        return self._machine.alloc(data.nbytes + SLACK, data.tobytes())

    def ready(self, symbol: str, args: list[int]) -> Call:
        return lambda times: float(self._machine.count(symbol, *args)[1])
