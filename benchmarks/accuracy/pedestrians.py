"""Pedestrians of ETH and UCY as scenes: 8 observed steps and the 12 after them, 0.4 s each (data/ethucy/README.md).

As in the published loaders: a window is 20 frame numbers that follow each other in a file, with the pedestrians that are
in all of them, two at least.
"""
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np

from benchmarks.accuracy.rows import shared

OBSERVED, PREDICTED = 8, 12
STEPS = OBSERVED + PREDICTED
FILES = ("biwi_eth", "biwi_hotel", "crowds_zara01", "crowds_zara02", "crowds_zara03", "students001", "students003",
         "uni_examples")


@dataclass(frozen=True)
class Scene:
    """positions, steps (STEPS, N, 2) in m: steps[0] = 0, steps[t] = positions[t] - positions[t - 1]. at: its first frame."""

    positions: np.ndarray
    steps: np.ndarray
    at: int


@cache
def scenes(name: str) -> tuple[Scene, ...]:
    """Scenes of one file: "full/biwi_hotel", "train/biwi_eth_train", "val/biwi_eth_val"."""
    table = np.loadtxt(shared(f"data/ethucy/{name}.txt"))
    frames, number = np.unique(table[:, 0], return_inverse=True)
    by_frame = [table[number == k] for k in range(len(frames))]
    found = []
    for first in range(len(frames) - STEPS + 1):
        window = np.concatenate(by_frame[first:first + STEPS])
        who, count = np.unique(window[:, 1], return_counts=True)
        there = who[count == STEPS]
        if len(there) > 1:
            tracks = [np.round(window[window[:, 1] == one, 2:], 4) for one in there]
            positions = np.stack(tracks, 1)
            steps = np.diff(positions, axis=0, prepend=positions[:1])
            found.append(Scene(positions.astype(np.float32), steps.astype(np.float32), first))
    return tuple(found)


def others(without: str) -> dict[str, list[Scene]]:
    """Scenes of all files but those of one test scene: "train" and, later in each file, "tuning" and "test".

    The published validation files are cut in two at a gap of STEPS frames, so no frame is in both parts.
    """
    found: dict[str, list[Scene]] = {"train": [], "tuning": [], "test": []}
    for name in FILES:
        if name in without.split():
            continue
        found["train"] += scenes(f"train/{name}_train")
        held = scenes(f"val/{name}_val")
        if held:
            middle = (held[0].at + held[-1].at) // 2
            found["tuning"] += [s for s in held if s.at <= middle - STEPS]
            found["test"] += [s for s in held if s.at > middle]
    return found


def of_size(given: Iterable[Scene], pedestrians: int) -> list[Scene]:
    """Those with exactly so many pedestrians."""
    return [s for s in given if s.positions.shape[1] == pedestrians]


def displacement(steps: np.ndarray, scene: Scene) -> np.ndarray:
    """Distances (PREDICTED, N) in m between forecast steps (PREDICTED, N, 2) and what came."""
    path = scene.positions[OBSERVED - 1] + steps.astype(float).cumsum(0)
    return np.linalg.norm(path - scene.positions[OBSERVED:], axis=-1)


def errors(distances: list[np.ndarray]) -> dict[str, float]:
    """ADE and FDE in m over all pedestrians of (PREDICTED, N) distances."""
    every = np.concatenate(distances, 1)
    return {"ade": float(every.mean()), "fde": float(every[-1].mean())}
