"""A model in a memory that is not ours: one session over the emulated device (arm.py) and the sandbox (wasm.py).

The C interface is called with plain integers; its structures are packed here for the guest's pointer size.
"""
import struct
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from edgekit.runtimes.abi.layout import STATE_HEADER
from edgekit.runtimes.session import (
    MODEL_BYTES,
    Arrays,
    Entry,
    Turns,
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


class Memory(Protocol):
    """A machine with memory and functions, addressed by integers."""

    pointer: int    # bytes of a pointer
    measured: bool  # whether it runs in real time

    def alloc(self, size: int, data: bytes = b"", writable: bool = True) -> int: ...
    def write(self, address: int, data: bytes) -> None: ...
    def read(self, address: int, size: int) -> bytes: ...
    def call(self, symbol: str, *args: int) -> int: ...
    def close(self) -> None: ...


class GuestSession:
    """A `Session` over a `Memory`."""

    def __init__(self, machine: Any, target: str, manifest: dict[str, Any], weights: bytes):
        self.target, self.measured = target, machine.measured
        self._machine, self._manifest, self._name = machine, manifest, prefix(manifest)
        self._entries = entries(manifest)
        self._turns = Turns()
        self._buffers: dict[str, tuple[list[int], list[int], tuple[int, ...]]] = {}
        self._weights = machine.alloc(len(weights), weights, writable=False)
        self._arena = machine.alloc(manifest["arena_bytes"])
        self._state = machine.alloc(manifest["state_bytes"] + STATE_HEADER)
        self._model = machine.alloc(MODEL_BYTES)
        self._check(machine.call(f"{self._name}_init", self._model, self._weights, len(weights), self._arena,
                                 manifest["arena_bytes"], 0))

    def run(self, inputs: Arrays, entry: str) -> dict[str, np.ndarray]:
        """See `Session`."""
        e = find(self._entries, entry)
        with self._turns:
            self._check(self._machine.call(e.symbol, *self._give(inputs, e)))
            outs = self._places(e)[1]
            return {p.name: np.frombuffer(bytearray(self._machine.read(at, p.nbytes)), p.dtype).reshape(p.shape)
                    for p, at in zip(e.outputs, outs)}

    def reset(self) -> None:
        """See `Session`."""
        with self._turns:
            self._check(self._machine.call(f"{self._name}_reset", self._model))

    def save(self) -> bytes:
        """See `Session`."""
        with self._turns:
            size = self._manifest["state_bytes"] + STATE_HEADER
            self._check(self._machine.call(f"{self._name}_save", self._model, self._state, size))
            return saved(self._machine.read(self._state, size))

    def restore(self, state: bytes) -> None:
        """See `Session`."""
        with self._turns:
            state = state[:self._manifest["state_bytes"] + STATE_HEADER]
            self._machine.write(self._state, state)
            self._check(self._machine.call(f"{self._name}_restore", self._model, self._state, len(state)))

    def time(self, inputs: Arrays, entry: str) -> float:
        """See `Session`."""
        e = find(self._entries, entry)
        with self._turns:
            status, seconds = self._clock()(e.symbol, *self._give(inputs, e))
            self._check(status)
            return seconds

    def steps(self, inputs: Arrays, entry: str) -> list[float]:
        """See `Session`."""
        return self._each_step(self._clock(), inputs, entry)

    def instructions(self, inputs: Arrays, entry: str) -> int:
        """See `Session`."""
        e, counter = find(self._entries, entry), self._counter()
        with self._turns:
            status, count = counter(e.symbol, *self._give(inputs, e))
            self._check(status)
            return count

    def step_instructions(self, inputs: Arrays, entry: str) -> list[int]:
        """See `Session`."""
        return self._each_step(self._counter(), inputs, entry)

    def memory(self) -> dict[str, int | None]:
        """See `Session`."""
        return memory(self._manifest, self.target)

    def close(self) -> None:
        """See `Session`."""
        with self._turns.last():
            self._machine.close()

    def _each_step(self, measure: Callable[..., tuple[int, Any]], inputs: Arrays, entry: str) -> list:
        e = find(self._entries, entry)
        with self._turns:
            views = self._give(inputs, e)[1:3]
            self._check(self._machine.call(f"{self._name}_load", self._model, e.index, *views))
            return every_step(lambda k: measure(f"{self._name}_steps", self._model, e.index, k, k + 1), self._name)

    def _counter(self) -> Callable[..., tuple[int, int]]:
        if not hasattr(self._machine, "count"):
            raise unavailable("an instruction count", self.target, "count on arm64, or measure the time here")
        return self._machine.count

    def _clock(self) -> Callable[..., tuple[int, float]]:
        if not self.measured:
            raise unavailable("time", self.target, "count instructions: an emulator's time says nothing about a device")
        return self._machine.clock

    def _give(self, inputs: Arrays, entry: Entry) -> tuple[int, ...]:
        """Puts the inputs in their places; the arguments of the entry's function."""
        arrays = checked(inputs, entry)
        ins, _, args = self._places(entry)
        for at, array in zip(ins, arrays):
            self._machine.write(at, array.tobytes())
        return args

    def _places(self, entry: Entry) -> tuple[list[int], list[int], tuple[int, ...]]:
        """Addresses of inputs and outputs, and the arguments of the entry's function; made once."""
        if entry.name not in self._buffers:
            ins = [self._machine.alloc(p.nbytes) for p in entry.inputs]
            outs = [self._machine.alloc(p.nbytes) for p in entry.outputs]
            views = [self._machine.alloc(1, b"".join(self._view(at, p.nbytes, p.code) for at, p in zip(places, ports)))
                     for places, ports in ((ins, entry.inputs), (outs, entry.outputs))]
            args = (self._model, views[0], len(ins), views[1], len(outs))
            self._buffers[entry.name] = ins, outs, args
        return self._buffers[entry.name]

    def _view(self, address: int, size: int, code: int) -> bytes:
        """An ek_view."""
        return struct.pack("<QQi4x" if self._machine.pointer == 8 else "<IIi", address, size, code)

    def _check(self, status: int) -> None:
        check(status, f"{self._name} on {self.target}")
