"""Workers in processes of their own, and contestants that take turns: A B C A B C, so that whatever else the machine does
falls on all alike."""
import json
import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

TURN = 0.02      # seconds that a turn lasts at least
MOST = 200       # calls in a turn at most
PATIENCE = 300   # seconds until a worker is given up


class Failed(Exception):
    """What a worker said, or how it ended."""


class Worker:
    """A process that answers JSON requests, a line each (see worker.py)."""

    def __init__(self, command: Sequence[str], where: Path | None = None, environment: Mapping[str, str] | None = None):
        self._process = subprocess.Popen(list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                         text=True, cwd=where, env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})})
        os.set_blocking(self._process.stderr.fileno(), False)

    def ask(self, **request: Any) -> dict:
        """The answer; Failed where it is an error, too late, or none."""
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise Failed(self._end()) from None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(PATIENCE):
                self.close()
                raise Failed(f"no answer in {PATIENCE} s")
        line = self._process.stdout.readline()
        if not line:
            raise Failed(self._end())
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        self._drain()
        return answer

    def _drain(self) -> str:
        """What stands on standard error; it must not fill up."""
        try:
            return self._process.stderr.read() or ""
        except (OSError, TypeError):
            return ""

    def _end(self) -> str:
        self._process.wait()
        lines = self._drain().strip().splitlines()
        return f"it ended with {self._process.returncode}" + (f": {lines[-1][:300]}" if lines else "")

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            stream.close()


@dataclass(frozen=True)
class Contestant:
    """A model in a worker, which may serve several by their labels."""

    label: str
    worker: Worker

    def turn(self, calls: int) -> float:
        """Median seconds of an inference, after some that are not counted."""
        return median(self.worker.ask(do="time", name=self.label, calls=calls)["seconds"])


@dataclass(frozen=True)
class Race:
    """seconds: label -> (rounds,) of the quiet rounds, the half of least total time."""

    seconds: Mapping[str, np.ndarray]

    def ms(self, label: str) -> float:
        """Median."""
        return 1e3 * float(np.median(self.seconds[label]))

    def ratio(self, label: str, over: str) -> float:
        """Median of the ratios within rounds."""
        return float(np.median(self.seconds[label] / self.seconds[over]))


def race(contestants: Sequence[Contestant], rounds: int, limit: float = 60.0) -> Race:
    """Each takes its turn in every round; the first round sets the length of the turns and is not counted.

    rounds: fewer are run where `limit` seconds are over, but three at least.
    """
    begin = time.monotonic()
    calls = {c.label: min(max(round(TURN / max(c.turn(3), 1e-9)), 1), MOST) for c in contestants}
    rows: list[list[float]] = []
    while len(rows) < rounds and (len(rows) < 3 or time.monotonic() - begin < limit):
        rows.append([c.turn(calls[c.label]) for c in contestants])
    seconds = np.array(rows)
    total = seconds.sum(axis=1)
    quiet = seconds[total <= np.median(total)]
    return Race({c.label: quiet[:, i] for i, c in enumerate(contestants)})

