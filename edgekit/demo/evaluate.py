"""What a network is worth in the simulator: closed-loop driving and forecast error, with the sample they come from."""
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np

from edgekit.demo.simulator import Policy, drive_episodes
from edgekit.demo.traces import Windows, displacement_errors

Predict = Callable[[np.ndarray], np.ndarray]        # histories (M, PAST, FEATURES) float32 -> paths (M, FUTURE, 2) in m


@dataclass(frozen=True)
class Driving:
    """Closed-loop results of `episodes` episodes: ends by crash and off the road, and means of Score's measures."""

    episodes: int
    crashes: int
    off_road: int
    progress: float         # m an episode
    jerk: float             # m/s^3
    reward: float

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
    return Forecasting(len(truth.future), *displacement_errors(predict(truth.history), truth.future))


def baselines(truth: Windows) -> dict[str, Forecasting]:
    """Errors of forecasts that need no network: constant velocity, and constant speed along the lane (it knows the map)."""
    return {name: Forecasting(len(truth.future), *displacement_errors(path, truth.future))
            for name, path in (("constant velocity", truth.constant_velocity), ("constant speed along the lane", truth.lane))}


def driving(policy: Policy | None, episodes: int = 128, steps: int = 300, first_seed: int = 0) -> Driving:
    """Drive episodes of seeds first_seed, first_seed + 1, ...; policy None: the rule-based expert."""
    score = drive_episodes(first_seed + np.arange(episodes), policy, steps)
    return Driving(episodes, int(score.crashed.sum()), int(score.off_road.sum()), float(score.progress.mean()),
                   float(score.jerk.mean()), float(score.reward.mean()))


def wilson(events: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval (1927) of a rate; 95 % by default."""
    rate, shrink = events / trials, 1 + z * z / trials
    middle = (rate + z * z / (2 * trials)) / shrink
    half = z / shrink * sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)
