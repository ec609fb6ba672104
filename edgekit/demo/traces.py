"""Recorded traffic as windows for a motion forecaster: what a car did for 4 s, and where it went in the next 5 s."""
from dataclasses import dataclass

import numpy as np

from edgekit.demo.driver import nearest
from edgekit.demo.road import CENTRES, LANES, Road
from edgekit.demo.simulator import World, move, plan, start
from edgekit.demo.vehicle import STEP, Cars

EVERY = 2                       # simulator steps between samples: 5 a second
PERIOD = EVERY * STEP           # s
PAST, FUTURE = 20, 25           # samples
AHEAD = np.arange(7) * 10.0     # m, where the road's curvature is told
REACH = 60.0                    # m, how far a car's surroundings are told
FEATURES = 3 + 4 + len(AHEAD) + 2 * LANES * 3
SPEED = 3                       # the feature that is speed / SPEED_SCALE
SPEED_SCALE = 10.0              # m/s
TIMES = np.arange(1, FUTURE + 1) * PERIOD


@dataclass(frozen=True)
class Windows:
    """M windows: history (M, PAST, FEATURES) float32; future (M, FUTURE, 2): x forward, y left (m) in the frame of the
    car's last known pose; lane (M, FUTURE, 2): the future, had the car kept its speed and its place across the road.
    origin (M, 3): the episode's place in `seeds`, the car and the sample that each comes from.

    A sample's features: x / 20, y / 20, angle in the frame of the last pose; speed / 10, acceleration / 3, offset from
    the road's centre / 5, heading * 5; curvature * 40 at AHEAD; for the nearest car ahead in each lane, then behind:
    gap / 30 - 1, closing speed / 5, lateral offset / 4.
    """

    history: np.ndarray
    future: np.ndarray
    lane: np.ndarray
    origin: np.ndarray

    @property
    def constant_velocity(self) -> np.ndarray:
        """The simplest forecast (M, FUTURE, 2): straight on at the last speed."""
        x = self.history[:, -1, SPEED, None] * SPEED_SCALE * TIMES
        return np.stack([x, np.zeros_like(x)], -1)


def record(seeds: np.ndarray, samples: int) -> tuple[Road, list[Cars]]:
    """Every EVERY-th moment of episodes driven by the rule-based drivers alone."""
    world: World = start(seeds)
    road, frames = world.road, []
    for step in range(samples * EVERY):
        if step % EVERY == 0:
            frames.append(world.cars)
        now = plan(world)
        world = move(now, now.expert)
    return road, frames


def windows(seeds: np.ndarray, samples: int = 120, stride: int = 15) -> Windows:
    """Windows of every car of one recorded episode a seed: the first at sample PAST - 1, then every `stride`."""
    road, frames = record(seeds, samples)
    surroundings = np.stack([_surroundings(road, cars) for cars in frames])                 # (T, E, N, F - 3)
    pose = np.stack([np.stack(road.pose(cars.s, cars.d, cars.heading), -1) for cars in frames])       # (T, E, N, 3)
    history, future, lane, where = [], [], [], []
    for now in range(PAST - 1, samples - FUTURE, stride):
        past = _relative(pose[now - PAST + 1:now + 1], pose[now]) / (20.0, 20.0, 1.0)
        history.append(np.concatenate([past, surroundings[now - PAST + 1:now + 1]], -1))
        future.append(_relative(pose[now + 1:now + 1 + FUTURE], pose[now])[..., :2])
        cars = frames[now]
        kept = [np.stack(road.pose(cars.s + cars.speed * t, cars.d, cars.heading), -1) for t in TIMES]
        lane.append(_relative(np.stack(kept), pose[now])[..., :2])
        where.append(np.stack([*np.indices(cars.s.shape), np.full(cars.s.shape, now)], -1))
    return Windows(_flat(history), _flat(future), _flat(lane), np.stack(where).reshape(-1, 3))


def displacement_errors(forecast: np.ndarray, future: np.ndarray) -> tuple[float, float]:
    """Average and final displacement error (ADE, FDE) in m of forecasts (M, FUTURE, 2)."""
    distance = np.linalg.norm(forecast - future, axis=-1)
    return float(distance.mean()), float(distance[:, -1].mean())


def _surroundings(road: Road, cars: Cars) -> np.ndarray:
    """The features that do not depend on the frame: (E, N, FEATURES - 3)."""
    own = np.stack([cars.speed / SPEED_SCALE, cars.accel / 3, cars.d / 5, cars.heading * 5], -1)
    bends = road.curvature_at(cars.s[..., None] + AHEAD) * 40
    member = np.abs(cars.d[..., None] - CENTRES).argmin(-1)[..., None] == np.arange(LANES)
    gap, who = nearest(cars, member)
    gap, seen = np.minimum(gap, REACH), gap < REACH

    def other(values: np.ndarray) -> np.ndarray:
        found = np.take_along_axis(values, who.reshape(len(who), -1), 1).reshape(who.shape)
        return np.where(seen, found - values[..., None], 0.0)
    around = np.stack([gap / 30 - 1, other(cars.speed) / 5, other(cars.d) / 4], -1)
    return np.concatenate([own, bends, around.reshape(*around.shape[:2], -1)], -1)


def _relative(pose: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Poses (T, ..., 3) of x, y, angle in the frame of pose `origin` (..., 3)."""
    x, y = pose[..., 0] - origin[..., 0], pose[..., 1] - origin[..., 1]
    cos, sin = np.cos(origin[..., 2]), np.sin(origin[..., 2])
    angle = np.mod(pose[..., 2] - origin[..., 2] + np.pi, 2 * np.pi) - np.pi
    return np.stack([x * cos + y * sin, y * cos - x * sin, angle], -1)


def _flat(column: list[np.ndarray]) -> np.ndarray:
    """Arrays (time, E, N, numbers), one a moment, as (moments * E * N, time, numbers) float32."""
    every = np.moveaxis(np.stack(column), 1, 3)
    return every.reshape(-1, *every.shape[3:]).astype(np.float32)
