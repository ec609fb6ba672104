"""The shipped library of this machine, loaded with ctypes: the very code that an app links, in real time.

Running it is running a program: open only bundles whose makers you trust, or use the wasm target. Everything that can
be made beforehand is made when the session opens, so a call costs one foreign call and a copy of each small array; large
arrays are read and written where they are.
"""
import ctypes
import functools
import mmap
import os
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import BundleError, RuntimeStatusError
from edgekit.runtimes.abi.layout import STATE_HEADER
from edgekit.runtimes.session import (
    MODEL_BYTES,
    Arrays,
    Entry,
    Port,
    check,
    checked,
    entries,
    every_step,
    find,
    memory,
    prefix,
    saved,
    unavailable,
)

ALIGN = 64
SMALL = 1 << 16  # bytes up to which copying an array into a buffer is quicker than asking for its address


class View(ctypes.Structure):
    """ek_view"""

    _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("dtype", ctypes.c_int)]


class Call:
    """One entry, ready to be called: `function(*args)` between `give` and `take`. Buffers of small ports stay."""

    def __init__(self, library: ctypes.CDLL, model: ctypes.c_void_p, entry: Entry):
        self.entry = entry
        self.inputs = [(p.name, p.shape, p.dtype, _buffer(p)) for p in entry.inputs]
        self.outputs: list[tuple[str, Any]] = [(p.name, _buffer(p)) for p in entry.outputs]
        ins = _views(entry.inputs, [buffer for *_, buffer in self.inputs])
        outs = _views(entry.outputs, [buffer for _, buffer in self.outputs])
        self.read = [(view, p.name) for view, p in zip(ins, entry.inputs) if p.nbytes > SMALL]
        self.written = [(view, p) for view, p in zip(outs, entry.outputs) if p.nbytes > SMALL]
        self.function = _function(library, entry.symbol)
        self.args = model, ins, ctypes.c_size_t(len(ins)), outs, ctypes.c_size_t(len(outs))

    def give(self, inputs: Arrays, outputs: list[np.ndarray] | None = None) -> list[np.ndarray]:
        """Checks the inputs, copies small ones in and points to large ones. The large arrays, inputs and then outputs (new
        ones, where none are given), to be kept until the call is over."""
        if len(inputs) != len(self.inputs):
            checked(inputs, self.entry)
        for name, shape, dtype, buffer in self.inputs:
            array = inputs.get(name)
            if type(array) is not np.ndarray or array.shape != shape or array.dtype != dtype:
                checked(inputs, self.entry)
            if buffer is not None:
                buffer[...] = array
        if not self.read and not self.written:
            return []
        large = [np.ascontiguousarray(inputs[name]) for _, name in self.read]
        large += [np.empty(p.shape, p.dtype) for _, p in self.written] if outputs is None else outputs
        for (view, _), array in zip([*self.read, *self.written], large):
            view.data = array.ctypes.data
        return large

    @functools.cached_property
    def kept(self) -> list[np.ndarray]:
        """Large outputs that stay: the pages of new ones are made when they are first written, which is not the model's time."""
        return [np.empty(p.shape, p.dtype) for _, p in self.written]

    def take(self, large: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs; large: what `give` returned."""
        new = iter(large[len(self.read):])
        return {name: next(new) if buffer is None else buffer.copy() for name, buffer in self.outputs}


class HostSession:
    """A `Session` on this machine. threads: in a pool of the bundle's thread library, whose path is `pool`. level: number of
    a code level, instead of the one that the library chooses."""

    measured = True

    def __init__(self, library: Path, manifest: dict[str, Any], weights: Path, target: str = "host", threads: int = 1,
                 pool: Path | None = None, level: int | None = None):
        self.target, self._manifest, self._name = target, manifest, prefix(manifest)
        self._entries = entries(manifest)
        self._lock = threading.Lock()
        self._weights = _mapped(weights)
        self._arena = aligned(manifest["arena_bytes"])
        self._instance = aligned(MODEL_BYTES)
        self._model = ctypes.c_void_p(self._instance.ctypes.data)
        self._library = _load(library)
        self._end = weakref.finalize(self, _unload, self._library)
        self._end.atexit = False  # a daemon thread may still be in the library when the process ends
        parallel = None
        if pool:
            parallel = self._start(pool, threads)
        self._calls = {name: Call(self._library, self._model, e) for name, e in self._entries.items()}
        self._do("init", ctypes.c_void_p(self._weights.ctypes.data), ctypes.c_size_t(self._weights.nbytes),
                 ctypes.c_void_p(self._arena.ctypes.data), ctypes.c_size_t(self._arena.nbytes), parallel)
        if level is not None:
            self._do("level", ctypes.c_uint32(level))

    def run(self, inputs: Arrays, entry: str) -> dict[str, np.ndarray]:
        """See `Session`."""
        with self._lock:
            call = self._calls.get(entry) or self._call(entry)
            large = call.give(inputs)
            status = call.function(*call.args)
            if status:
                check(status, self._name)
            return call.take(large) if large else {name: buffer.copy() for name, buffer in call.outputs}

    def reset(self) -> None:
        """See `Session`."""
        with self._lock:
            self._do("reset")

    def save(self) -> bytes:
        """See `Session`."""
        state = ctypes.create_string_buffer(self._manifest["state_bytes"] + STATE_HEADER)
        with self._lock:
            self._do("save", state, ctypes.c_size_t(len(state)))
        return saved(state.raw)

    def restore(self, state: bytes) -> None:
        """See `Session`."""
        with self._lock:
            self._do("restore", ctypes.c_char_p(state), ctypes.c_size_t(len(state)))

    def time(self, inputs: Arrays, entry: str) -> float:
        """See `Session`."""
        clock = time.perf_counter
        with self._lock:
            call = self._call(entry)
            large = call.give(inputs, call.kept)
            function, args = call.function, call.args
            start = clock()
            status = function(*args)
            seconds = clock() - start
            del large
            check(status, self._name)
            return seconds

    def steps(self, inputs: Arrays, entry: str) -> list[float]:
        """See `Session`."""
        function, clock = _function(self._library, f"{self._name}_steps"), time.perf_counter

        def step(k: int) -> tuple[int, float]:
            args = self._model, index, ctypes.c_uint32(k), ctypes.c_uint32(k + 1)
            start = clock()
            status = function(*args)
            return status, clock() - start

        with self._lock:
            call = self._call(entry)
            index = ctypes.c_uint32(call.entry.index)
            large = call.give(inputs)
            self._do("load", index, *call.args[1:3])
            del large
            return every_step(step, self._name)

    def instructions(self, inputs: Arrays, entry: str) -> int:
        """See `Session`."""
        raise unavailable("an instruction count", self.target, "count on arm64, or measure the time here")

    def step_instructions(self, inputs: Arrays, entry: str) -> list[int]:
        """See `Session`."""
        raise unavailable("an instruction count", self.target, "count on arm64, or measure the time here")

    def memory(self) -> dict[str, int | None]:
        """See `Session`."""
        return memory(self._manifest, self.target)

    def close(self) -> None:
        """See `Session`."""
        with self._lock:
            self._calls = {}
            self._end()

    def _start(self, path: Path, threads: int) -> ctypes.c_void_p:
        """The ek_parallel of a new pool, which ends with the session."""
        library = _load(path)
        create, parallel = (_function(library, f"ek_threads_{f}") for f in ("create", "parallel"))
        create.restype = parallel.restype = ctypes.c_void_p
        pool = ctypes.c_void_p(create(threads))
        self._end.detach()
        self._end = weakref.finalize(self, _unload, self._library, library, pool)
        self._end.atexit = False
        if not pool:
            raise RuntimeStatusError(f"no pool of {threads} threads", fix="use at most 256", status="THREADS")
        return ctypes.c_void_p(parallel(pool))

    def _call(self, entry: str) -> Call:
        name = find(self._entries, entry).name
        if name not in self._calls:
            raise BundleError("the session is closed", fix="open the bundle again")
        return self._calls[name]

    def _do(self, what: str, *args: Any) -> None:
        if not self._end.alive:
            raise BundleError("the session is closed", fix="open the bundle again")
        check(_function(self._library, f"{self._name}_{what}")(self._model, *args), self._name)


def aligned(size: int) -> np.ndarray:
    """Zeroed bytes (size,) at an address that is a multiple of 64."""
    raw = np.zeros(size + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start:start + size]


def _mapped(path: Path) -> np.ndarray:
    """The bytes of a file, mapped read-only: pages come in when they are used and are shared between processes."""
    with path.open("rb") as f:
        if not os.fstat(f.fileno()).st_size:
            raise BundleError("the weights are empty", where=path.name, fix="export the bundle again")
        return np.frombuffer(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def _buffer(port: Port) -> np.ndarray | None:
    return aligned(port.nbytes).view(port.dtype).reshape(port.shape) if port.nbytes <= SMALL else None


def _views(ports: tuple[Port, ...], buffers: list[np.ndarray | None]) -> ctypes.Array:
    return (View * len(ports))(*(View(None if b is None else b.ctypes.data, p.nbytes, p.code)
                                 for p, b in zip(ports, buffers)))


def _function(library: ctypes.CDLL, symbol: str) -> Any:
    try:
        return library[symbol]
    except AttributeError:
        raise BundleError(f"the library has no function {symbol!r}", fix="export the bundle again") from None


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as e:
        raise BundleError(f"the library cannot be loaded ({e})", where=path.name,
                          fix="export the bundle on a machine of this kind") from None


def _unload(library: ctypes.CDLL, threads: ctypes.CDLL | None = None, pool: ctypes.c_void_p | None = None) -> None:
    import _ctypes
    unload = getattr(_ctypes, "FreeLibrary" if os.name == "nt" else "dlclose")
    if threads:
        threads.ek_threads_destroy(pool)
        unload(threads._handle)
    unload(library._handle)
