"""The bundle's pruned model in onnxruntime on this machine: the reference, and what to compare speed with.

State is fed back here as the library does it in its arena; saved states have the library's format, so they can be
carried between this and the compiled targets.
"""
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import BundleError, MissingToolError, RuntimeStatusError
from edgekit.runtimes.abi.crc32c import crc32c
from edgekit.runtimes.abi.layout import FORMAT, STATE_HEADER
from edgekit.runtimes.session import STATE, Arrays, Entry, Turns, check, checked, entries, find, unavailable

MAGIC = b"EKSTATES"
_HEAD = struct.Struct("<8sQQII")  # magic, plan id, bytes of all states, format, CRC-32C of the states


class OnnxSession:
    """A `Session` over the ONNX files of a bundle, one an entry; each is loaded when it is first used."""

    target, measured = "onnx", True

    def __init__(self, files: Any, threads: int = 1):
        try:
            import onnxruntime
        except ImportError:
            raise MissingToolError("the model's ONNX form runs in 'onnxruntime', which is not installed",
                                   fix="pip install 'edgekit-deploy[export]'") from None
        self._ort, self._files = onnxruntime, files
        self._entries = entries(files.manifest)
        self._models = {n: files.file(f"model.{n}.onnx" if e.index else "model.onnx") for n, e in self._entries.items()}
        self._plan_id = _plan_id(files.file("weights.bin"))
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads, self._options.inter_op_num_threads = threads, 1
        self._options.log_severity_level = 3
        self._sessions: dict[str, Any] = {}
        self._turns = Turns()
        self._states = {s.name: np.zeros(s.shape, s.dtype) for e in self._entries.values() for s in e.states}

    def run(self, inputs: Arrays, entry: str) -> dict[str, np.ndarray]:
        """See `Session`."""
        return self._infer(inputs, entry)[0]

    def time(self, inputs: Arrays, entry: str) -> float:
        """See `Session`."""
        return self._infer(inputs, entry)[1]

    def reset(self) -> None:
        """See `Session`."""
        with self._turns:
            self._states = {name: np.zeros_like(a) for name, a in self._states.items()}

    def save(self) -> bytes:
        """See `Session`."""
        with self._turns:
            data = b"".join(a.tobytes() for a in self._states.values())
        return _HEAD.pack(MAGIC, self._plan_id, len(data), FORMAT, crc32c(data)) + data

    def restore(self, state: bytes) -> None:
        """See `Session`."""
        size = sum(a.nbytes for a in self._states.values())
        data = state[STATE_HEADER:STATE_HEADER + size]
        if state[:STATE_HEADER] != _HEAD.pack(MAGIC, self._plan_id, size, FORMAT, crc32c(data)) or len(data) < size:
            check(STATE, "onnx")
        with self._turns:
            at = 0
            for name, a in self._states.items():
                self._states[name] = np.frombuffer(data, a.dtype, a.size, at).reshape(a.shape)
                at += a.nbytes

    def steps(self, inputs: Arrays, entry: str) -> list[float]:
        """See `Session`."""
        raise unavailable("time by step", self.target, "use host or wasm")

    def instructions(self, inputs: Arrays, entry: str) -> int:
        """See `Session`."""
        raise unavailable("an instruction count", self.target, "count on arm64, or measure the time here")

    def step_instructions(self, inputs: Arrays, entry: str) -> list[int]:
        """See `Session`."""
        raise unavailable("an instruction count", self.target, "count on arm64, or measure the time here")

    def memory(self) -> dict[str, int | None]:
        """Bytes of the model file; onnxruntime tells nothing of its own memory."""
        size = sum(p.stat().st_size for p in self._models.values())
        return {"arena_bytes": None, "weights_bytes": size, "code_bytes": None}

    def close(self) -> None:
        """See `Session`."""
        with self._turns.last():
            self._sessions = {}

    def _infer(self, inputs: Arrays, entry: str) -> tuple[dict[str, np.ndarray], float]:
        """Outputs by name and seconds."""
        e = find(self._entries, entry)
        feeds = {p.name: a for p, a in zip(e.inputs, checked(inputs, e))}
        written = [s for s in e.states if s.source]
        wanted = [p.name for p in e.outputs] + [s.source for s in written]
        with self._turns:
            session = self._session(e)
            feeds |= {s.name: self._states[s.name] for s in e.states if s.fed}
            start = time.perf_counter()
            try:
                results = session.run(wanted, feeds)
            except Exception as error:  # noqa: BLE001 (its errors have no other common base)
                raise RuntimeStatusError(f"onnxruntime: {_line(error)}", where=e.name, status="FAULT") from None
            seconds = time.perf_counter() - start
            split = len(e.outputs)
            self._states |= {s.name: a for s, a in zip(written, results[split:])}
        return {p.name: a for p, a in zip(e.outputs, results[:split])}, seconds

    def _session(self, entry: Entry) -> Any:
        if entry.name not in self._sessions:
            try:
                self._sessions[entry.name] = self._ort.InferenceSession(
                    self._models[entry.name], self._options, providers=["CPUExecutionProvider"])
            except Exception as error:  # noqa: BLE001
                raise BundleError(f"onnxruntime refuses the model: {_line(error)}",
                                  where=self._models[entry.name].name) from None
        return self._sessions[entry.name]


def _plan_id(weights: Path) -> int:
    """What ties saved states to the model: it stands in the header of weights.bin (docs/bundle.md)."""
    with weights.open("rb") as f:
        return int.from_bytes(f.read(32)[24:], "little")


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
