"""What a network is worth in the simulator: closed-loop driving and forecast error, with the sample they come from."""
from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt

import numpy as np

from edgekit.demo.simulator import Policy, drive_episodes
from edgekit.demo.traces import Windows, displacement_errors

Predict = Callable[[np.ndarray], np.ndarray]        # histories (M, PAST, FEATURES) float32 -> paths (M, FUTURE, 2) in m


@dataclass(frozen=True)
class Driving:
    """Closed-loop results of `episodes` episodes: ends by crash and off the road, and means of Score's measures.

    progress: m an episode; jerk: m/s^3; failed: seeds of the episodes that ended early.
    """

    episodes: int
    crashes: int
    off_road: int
    progress: float
    jerk: float
    reward: float
    failed: tuple[int, ...] = field(repr=False)

    @property
    def failure_rate(self) -> float:
        """Share of episodes that ended by a crash or off the road."""
        return (self.crashes + self.off_road) / self.episodes

    @property
    def failure_interval(self) -> tuple[float, float]:
        """The failure rate's 95 % interval."""
        return wilson(self.crashes + self.off_road, self.episodes)


@dataclass(frozen=True)
class Forecasting:
    """Displacement errors in m over `samples` windows: mean over the horizon (ade) and at its end (fde)."""

    samples: int
    ade: float
    fde: float


def forecasting(predict: Predict, truth: Windows) -> Forecasting:
    """The forecaster's errors on recorded traffic."""
    return _errors(predict(truth.history), truth)


def baselines(truth: Windows) -> dict[str, Forecasting]:
    """Errors of forecasts that need no network: constant velocity, and constant speed along the lane (it knows it)."""
    paths = {"constant velocity": truth.constant_velocity, "constant speed along the lane": truth.lane}
    return {name: _errors(path, truth) for name, path in paths.items()}


def _errors(paths: np.ndarray, truth: Windows) -> Forecasting:
    return Forecasting(len(truth.future), *displacement_errors(paths, truth.future))


def driving(policy: Policy | None, episodes: int = 128, steps: int = 300, first_seed: int = 0) -> Driving:
    """Drive episodes of seeds first_seed, first_seed + 1, ...; policy None: the rule-based expert."""
    seeds = first_seed + np.arange(episodes)
    score = drive_episodes(seeds, policy, steps)
    failed = tuple(seeds[score.crashed | score.off_road].tolist())
    return Driving(episodes, int(score.crashed.sum()), int(score.off_road.sum()), float(score.progress.mean()),
                   float(score.jerk.mean()), float(score.reward.mean()), failed)


def wilson(events: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval (1927) of a rate; 95 % by default."""
    rate, shrink = events / trials, 1 + z * z / trials
    middle = (rate + z * z / (2 * trials)) / shrink
    half = z / shrink * sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)
