"""The open loop: inputs arrive on a clock and wait for the model where it is busy, as they do in a vehicle.

A back-to-back loop starts the next inference when the last one is done, so it hides what a slow one does to those behind
it (coordinated omission).
"""
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

_SPIN = 1e-3          # seconds before an arrival from which the clock is polled: sleeping wakes late
_TELL = 3.0           # seconds between lines of progress
_PATIENCE = 1.0       # seconds after which a back-to-back loop stops at its fewest runs


def _wait_until(moment: float) -> None:
    while (early := moment - time.perf_counter()) > 0:
        if early > 2 * _SPIN:
            time.sleep(early - _SPIN)


@dataclass(frozen=True)
class Clock:
    """Seconds now, and waiting until then (not at all where that is past). Tests pass their own."""

    now: Callable[[], float] = time.perf_counter
    wait_until: Callable[[float], None] = _wait_until


REAL = Clock()


@dataclass(frozen=True)
class Responses:
    """Seconds, one a run. response: from the arrival until the result is there; service: the inference alone; late: how
    long an input waited though the model was free, because the machine was busy with something else."""

    response: np.ndarray
    service: np.ndarray
    late: np.ndarray


def open_loop(serve: Callable[[int], float], runs: int, period: float, *, clock: Clock = REAL,
              progress: Callable[[str], None] = lambda _: None) -> Responses:
    """Input i arrives `period` seconds after input i-1 and is served in order. serve(i) returns its inference seconds.

    What the harness itself does around an inference delays the next one, but is not part of the response.
    """
    response, service, late = np.zeros((3, runs))
    first = told = free = clock.now() + min(period, _SPIN)
    for i in range(runs):
        arrival = first + i * period
        clock.wait_until(arrival)
        start = clock.now()
        service[i] = serve(i)
        response[i] = start - arrival + service[i]
        late[i] = start - max(arrival, free)
        free = now = clock.now()
        if now - told > _TELL and arrival + period - now > _SPIN:  # only where it delays nothing
            told = now
            progress(f"{i + 1} of {runs} runs")
    return Responses(response, service, late)


def back_to_back(serve: Callable[[int], float], clock: Clock, fewest: int, most: int) -> Responses:
    """One after the other, `most` runs or as many (`fewest` at least) as a second allows; response: the whole call."""
    response: list[float] = []
    service: list[float] = []
    begin = clock.now()
    while len(service) < fewest or (len(service) < most and clock.now() - begin < _PATIENCE):
        start = clock.now()
        service.append(serve(len(service)))
        response.append(clock.now() - start)
    return Responses(np.array(response), np.array(service), np.zeros(len(service)))


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection inside."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
