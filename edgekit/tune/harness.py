"""Compiled kernels called directly, in turn: seconds where the target runs in real time, executed instructions in the emulator.

WebAssembly is timed in V8 where there is Node: that is where it ships, and V8 likes other tiles than wasmtime.
"""
import base64
import ctypes
import functools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bench.machine import one_core
from edgekit.errors import CompilerError, RuntimeStatusError
from edgekit.targets import Table, Target
from edgekit.tune.shapes import Case

SLACK = 256          # bytes after an operand, which may be read
AT_LEAST = 200e-6    # seconds of one measurement; short kernels are called several times
_FIRST, _LAST = 20, 200  # measurements of each schedule, and of those that are near the best after them
_NEAR = 1.15
_WARM = 0.03         # seconds of calls in V8 before any is measured: it optimises meanwhile

Call = Callable[[int], float]  # seconds or instructions of so many calls


def costs(case: Case, target: Target, schedules: Sequence[Any], progress: Callable[[str], None]) -> list[float]:
    """Seconds (the least of many, measured in turn) or instructions of a call under each schedule; inf where it does not compile."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as work:
        library, symbols = _compiled(case, target, schedules, Path(work), progress)
        progress(f"{target.name}: {case.kind}, {case.label}: measuring {len(symbols)} schedules")
        with one_core(target.runner != "arm"), closing(_machine(target, library)) as machine:
            places = [machine.place(np.frombuffer(content, np.uint8) if content is not None else _activations(nbytes)) + offset
                      for nbytes, content, offset in case.operands]
            calls = [machine.ready(s.name, [*places, 0, s.units, 0]) if s else None for s in symbols]
            return [float("inf") if call is None else call(1) for call in calls] if target.runner == "arm" else _least(calls)


@functools.cache
def v8() -> str:
    """The version of V8 in the Node at hand; "" without one."""
    node = shutil.which("node")
    if not node:
        return ""
    return subprocess.run([node, "-p", "process.versions.v8"], capture_output=True, text=True, check=False).stdout.strip()


def clock(target: Target) -> str:
    """What the costs of a target come from, in words."""
    return {"host": "the clock", "wasm": f"the clock in V8 {v8()}" if v8() else "the clock in wasmtime", "arm": "counted instructions"}[target.runner]


def _machine(target: Target, library: Path) -> Any:
    return _V8(library) if target.runner == "wasm" and v8() else machine_at(target, library)


def machine_at(target: Target, library: Path) -> Any:
    """What holds operands and calls kernels, where `bench` runs the target: `place(bytes)` is an address, `ready(symbol,
    arguments)` a Call, and it is to be closed."""
    return {"host": _Host, "wasm": _Sandbox, "arm": _Emulator}[target.runner](library)


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


def _compiled(case: Case, target: Target, schedules: Sequence[Any], work: Path, progress: Callable[[str], None]) -> tuple[Path, list[Any]]:
    """A library with the kernel under each schedule, and its symbols; None for a schedule that does not compile."""
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
    return library, symbols


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

    def close(self) -> None: ...


class _Sandbox:
    def __init__(self, library: Path):
        from edgekit.runtimes.wasm import Sandbox
        self._machine = Sandbox(library.read_bytes())

    def place(self, data: np.ndarray) -> int:
        return self._machine.alloc(data.nbytes + SLACK, data.tobytes())

    def ready(self, symbol: str, args: list[int]) -> Call:
        return lambda times: sum(self._machine.clock(symbol, *args)[1] for _ in range(times))

    def close(self) -> None: ...


class _V8:
    def __init__(self, library: Path):
        with resources.as_file(resources.files("edgekit.tune").joinpath("v8.mjs")) as script:
            self._node = subprocess.Popen([shutil.which("node") or "node", str(script), str(library)], stdin=subprocess.PIPE,
                                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self.place(np.zeros(1, np.uint8))  # the script was read

    def _ask(self, **request: Any) -> Any:
        assert self._node.stdin and self._node.stdout and self._node.stderr
        try:
            self._node.stdin.write(json.dumps(request) + "\n")
            self._node.stdin.flush()
            return json.loads(self._node.stdout.readline())
        except (OSError, ValueError):
            self._node.kill()
            raise RuntimeStatusError("Node stopped: " + (self._node.stderr.read().strip() or "no message").splitlines()[-1],
                                     where="wasm", status="FAULT") from None

    def place(self, data: np.ndarray) -> int:
        return self._ask(place=base64.b64encode(data.tobytes()).decode(), bytes=data.nbytes + SLACK)

    def ready(self, symbol: str, args: list[int]) -> Call:
        def call(times: int) -> float:
            return self._ask(call=symbol, args=args, times=times)
        spent = call(1)
        while spent < _WARM:
            spent += call(max(1, int(AT_LEAST / max(call(1), 1e-7))))
        return call

    def close(self) -> None:
        assert self._node.stdin
        self._node.stdin.close()
        self._node.wait()


class _Emulator:
    def __init__(self, library: Path):
        from edgekit.runtimes.arm import Emulator
        self._machine = Emulator(library.read_bytes())

    def place(self, data: np.ndarray) -> int:
        return self._machine.alloc(data.nbytes + SLACK, data.tobytes())

    def ready(self, symbol: str, args: list[int]) -> Call:
        return lambda times: float(self._machine.count(symbol, *args)[1])

    def close(self) -> None: ...
