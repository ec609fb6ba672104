"""What this machine can do at best, measured beside the model: multiply-adds a second, and bytes a second of each level of memory.

The two loops are compiled for the target, once, by the compilers of `export`; for wasm they run in the same engine as the model.
"""
import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit import targets
from edgekit.errors import MissingToolError

_ASSUMED = {"L1": 32 << 10, "L2": 512 << 10, "L3": 8 << 20}  # where the system tells no sizes
_MOST = 256 << 20   # bytes of the buffer that stands for memory
_TRIES = 20
_READ = 8 << 20     # bytes that one try reads at least: a call's overhead is lost in it

Timed = Callable[..., float]  # (symbol, *integers): seconds; the last argument of both loops is the buffer


@dataclass(frozen=True)
class Level:
    """A level of memory: what is in it if not more than `size` bytes are used in turn (None: no bound), and bytes a second."""

    name: str
    size: int | None
    rate: float


@dataclass(frozen=True)
class Peaks:
    """flops: floating-point operations a second, a multiply-add being two; levels: nearest first, the last without bound."""

    flops: float
    levels: tuple[Level, ...]

    def level(self, size: int) -> Level:
        """The level that data of `size` bytes, used in turn, come from."""
        return next(e for e in self.levels if e.size is None or size <= e.size)

    def to_json(self) -> dict:
        """gflops, and name, bytes and gbytes_per_s of each level."""
        return {"gflops": self.flops / 1e9, "levels": [{"name": e.name, "bytes": e.size, "gbytes_per_s": e.rate / 1e9} for e in self.levels]}


def caches() -> dict[str, int]:
    """Bytes of the data caches of the first core, nearest first."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, level, size = ((folder / f).read_text().strip() for f in ("type", "level", "size"))
            if kind != "Instruction":
                found[f"L{int(level)}"] = int(size[:-1]) * {"K": 1 << 10, "M": 1 << 20}[size[-1]]
        except (OSError, ValueError, KeyError):
            continue
    return dict(sorted(found.items())) or _ASSUMED


def measure(name: str, threads: int = 1) -> Peaks:
    """Of a target that is timed here, on `threads` cores at once. MissingToolError without the compilers of `export`."""
    try:
        from edgekit.exporters.emit.peaks import chains, peaks_library
        target = targets.load(name).here[0]
        library = peaks_library(target)
    except MissingToolError as error:
        raise MissingToolError("the machine's peaks are measured by loops that have to be compiled", fix=error.fix) from None
    sizes = caches()
    buffers, inner = {}, 0
    for n, size in sizes.items():  # well inside: what is left of a shared cache is anybody's guess
        share = size // threads if n not in ("L1", "L2") else size
        buffers[n] = min(share // 2, 4 * inner or share)
        inner = size
    buffers["memory"] = min(_MOST, 4 * inner) // threads
    block = 8 * 4 * target.lanes
    most = max(buffers.values())
    cores = [_loader(target.runner)(library, most) for _ in range(threads)]
    rounds = {n: max(1, _READ // size) for n, size in buffers.items()}
    n_fma = (1 << 25) // (chains(target) * target.lanes)
    best = dict.fromkeys(["fma", *buffers], float("inf"))
    with ThreadPoolExecutor(threads) as pool:
        def together(symbol: str, *numbers: int) -> float:
            if threads == 1:
                return cores[0](symbol, *numbers)
            return max(pool.map(lambda core: core(symbol, *numbers), cores))
        for _ in range(_TRIES):  # in turn, so that a busy moment does not fall on one of them alone
            best["fma"] = min(best["fma"], together("ek_peak_fma", n_fma))
            for n, size in buffers.items():
                best[n] = min(best[n], together("ek_peak_read", size // block, rounds[n]))
    levels = [Level(n, sizes.get(n), threads * (size // block * block) * rounds[n] / best[n]) for n, size in buffers.items()]
    return Peaks(threads * 2 * n_fma * chains(target) * target.lanes / best["fma"], tuple(levels))


def _loader(runner: str) -> Callable[[Path, int], Timed]:
    return {"host": _on_host, "wasm": _in_sandbox}[runner]


def _on_host(library: Path, size: int) -> Timed:
    from edgekit.runtimes.host import aligned
    code, buffer = ctypes.CDLL(str(library)), aligned(size).view(np.float32)
    buffer[:] = 0.5  # pages that were never written are all one page
    at = ctypes.c_void_p(buffer.ctypes.data)

    def timed(symbol: str, *numbers: int, data: np.ndarray = buffer) -> float:  # so that it lives as long as the function
        function, args = code[symbol], (*map(ctypes.c_int, numbers), at)
        start = time.perf_counter()
        function(*args)
        return time.perf_counter() - start
    return timed


def _in_sandbox(library: Path, size: int) -> Timed:
    from edgekit.runtimes.wasm import Sandbox
    machine = Sandbox(library.read_bytes())
    at = machine.alloc(size, np.full(size // 4, 0.5, np.float32).tobytes())
    return lambda symbol, *numbers: machine.clock(symbol, *numbers, at)[1]
