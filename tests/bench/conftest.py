"""A bundle and sessions with programmable delays, on a clock that only moves when told to."""
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from edgekit.bench.openloop import Clock


class FakeTime:
    """Moves by what is waited and served, and by nothing else."""

    def __init__(self):
        self.t, self.waits = 0.0, 0

    def wait_until(self, moment):
        self.waits += moment > self.t
        self.t = max(self.t, moment)

    @property
    def clock(self):
        return Clock(lambda: self.t, self.wait_until)


@dataclass
class FakeSession:
    """Takes delays(i) seconds for inference i, and `overhead` around it."""

    time_: FakeTime
    delays: object = lambda i: 0.001
    overhead: float = 0.0
    measured: bool = True
    seen: list = field(default_factory=list)
    closed: bool = False

    def reset(self):
        self.seen.append("reset")

    def time(self, inputs, entry):
        delay = self.delays(sum(s != "reset" for s in self.seen))
        self.seen.append((entry, {k: v.copy() for k, v in inputs.items()}))
        self.time_.t += delay + self.overhead
        return delay

    def steps(self, inputs, entry):
        self.time_.t += 0.004
        return [0.001, 0.003]

    def instructions(self, inputs, entry):
        return 123456

    def step_instructions(self, inputs, entry):
        return [100, 300]

    def memory(self):
        return {"arena_bytes": 4096, "weights_bytes": 2048, "code_bytes": 1000}

    def close(self):
        self.closed = True


@dataclass(frozen=True)
class FakeFiles:
    folder: Path
    manifest: dict

    def file(self, name):
        return self.folder / name


def port(name, *shape):
    return {"name": name, "dtype": "float32", "shape": list(shape)}


def layer(name, op="Gemm", **more):
    return {"name": name, "op": op, "macs": 100, "dense_macs": 200, "sparsity": 0.5, "group": 8, "kernel": "Linear", "bytes": 1000, "weight_bytes": 400,
            "rounds": 1} | more


@pytest.fixture
def fake_time():
    return FakeTime()


@pytest.fixture
def files(tmp_path):
    """A bundle on disk as far as the face reads it: two entries, three targets, three cases each."""
    entries = [{"name": n, "inputs": [port("x", 2)], "outputs": [port("y", 2)], "states": [],
                "layers": [layer("fc1"), layer("act", "Relu", group=None, sparsity=0.0)]} for n in ("run", "decode")]
    targets = {t: {"files": [], "code_bytes": 1000, "verified": None, "cpu_features": []} for t in ("host", "arm64", "wasm")}
    manifest = {"format": 1, "name": "m", "entries": entries, "targets": targets, "arena_bytes": 4096, "state_bytes": 0,
                "weights_bytes": 2048, "layers": [], "pruning": {}, "files": {}, "made_by": "", "license": ""}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    for suffix in ("", ".decode"):
        x = np.arange(6, dtype=np.float32).reshape(3, 2)
        np.savez(tmp_path / f"vectors{suffix}.npz", in_x=x, expected_y=2 * x, original_y=2 * x)
    return FakeFiles(tmp_path, manifest)
