"""The rule-based driver of every car: IDM speed, MOBIL-like lane choice, a steering law that tracks the lane.

Sources: Treiber, Hennecke, Helbing 2000 (intelligent driver model); Kesting, Treiber, Helbing 2007 (MOBIL). All arrays
are (E, N): E episodes of N cars; lane arrays add an axis of LANES.
"""
from dataclasses import dataclass

import numpy as np

from edgekit.demo.road import CENTRES, LANE_WIDTH, LANES, LENGTH, Road
from edgekit.demo.vehicle import CAR_LENGTH, MAX_ACCEL, MAX_BRAKE, WHEELBASE, Cars

FAR = 100.0                 # m, the gap reported where a lane is free
ACCEL, BRAKE = 1.8, 2.5     # m/s^2, IDM's comfortable values
STANDSTILL = 2.5            # m, IDM's gap at rest
CORNERING = 2.8             # m/s^2, lateral acceleration that a driver accepts
SIDEWAYS = 1.3              # m/s, lateral speed of a lane change


@dataclass(frozen=True)
class Lanes:
    """What each car finds in each lane, (E, N, LANES): is it in it; bumper gaps (m, at most FAR) and speeds (m/s)."""

    occupied: np.ndarray
    ahead: np.ndarray
    ahead_speed: np.ndarray
    behind: np.ndarray
    behind_speed: np.ndarray


def look(cars: Cars) -> Lanes:
    """The nearest car ahead and behind in each lane. A car is in each lane that it touches or soon will."""
    sideways = cars.speed * np.sin(cars.heading)
    lateral = np.abs(cars.d[..., None] - CENTRES)
    soon = np.abs((cars.d + sideways)[..., None] - CENTRES)
    occupied = np.minimum(lateral, soon) < LANE_WIDTH / 2 + 0.6
    claimed = occupied | (cars.signal[..., None] == np.arange(LANES))
    gap, who = nearest(cars, claimed)
    speed = np.take_along_axis(cars.speed[..., None], who.reshape(len(who), -1, 1), 1).reshape(who.shape)
    return Lanes(occupied, gap[..., :LANES], speed[..., :LANES], gap[..., LANES:], speed[..., LANES:])


def nearest(cars: Cars, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bumper gap (m, at most FAR) to, and number of, the nearest car in each lane, (E, N, 2 * LANES): ahead first.

    member: (E, N, LANES), which cars count for which lane.
    """
    itself = np.eye(cars.s.shape[1], dtype=bool)
    ahead = np.where(itself, np.inf, np.mod(cars.s[:, None, :] - cars.s[:, :, None], LENGTH))
    behind = np.where(itself, np.inf, LENGTH - ahead)
    gaps, numbers = [], []
    for distance in (ahead, behind):
        for lane in range(LANES):
            there = np.where(member[:, None, :, lane], distance, np.inf)
            who = there.argmin(2)
            numbers.append(who)
            gaps.append(np.take_along_axis(there, who[..., None], 2)[..., 0] - CAR_LENGTH)
    return np.minimum(np.stack(gaps, -1), FAR), np.stack(numbers, -1)


def idm(speed: np.ndarray, wanted: np.ndarray, gap: np.ndarray, other: np.ndarray, headway: np.ndarray) -> np.ndarray:
    """Acceleration (m/s^2) of a car at `speed` that wants `wanted`, `gap` m behind a car at speed `other`."""
    safe = STANDSTILL + np.maximum(0.0, speed * headway + speed * (speed - other) / (2 * np.sqrt(ACCEL * BRAKE)))
    free = ACCEL * (1 - (speed / wanted) ** 4)
    return np.clip(free - ACCEL * (safe / np.maximum(gap, 0.1)) ** 2, -MAX_BRAKE, MAX_ACCEL)


def wanted_speed(cars: Cars, road: Road) -> np.ndarray:
    """Desired speed (m/s): the driver's own, which drifts with time, and what the bends of the next 30 m allow."""
    bend = np.max([np.abs(road.curvature_at(cars.s + ahead)) for ahead in (0.0, 10.0, 20.0, 30.0)], axis=0)
    own = cars.cruise * (1 + 0.3 * np.sin(cars.time[:, None] * cars.rhythm + cars.phase))
    return np.minimum(own, np.sqrt(CORNERING / np.maximum(bend, 1e-4)))


def drive(cars: Cars, road: Road, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Acceleration (m/s^2), steering angle (rad) and target lane of every car. turn (N,): may it think again?"""
    lanes, wanted = look(cars), wanted_speed(cars, road)
    follow = idm(cars.speed[..., None], wanted[..., None], lanes.ahead, lanes.ahead_speed, cars.headway[..., None])
    target = _choose(cars, lanes, follow, turn)
    mine = lanes.occupied | (target[..., None] == np.arange(LANES))
    return np.where(mine, follow, np.inf).min(-1), steer(cars, road, target), target


def steer(cars: Cars, road: Road, target: np.ndarray) -> np.ndarray:
    """Steering angle (rad) that brings a car to the centre of lane `target` at a bounded lateral speed."""
    sideways = np.clip(0.8 * (CENTRES[target] - cars.d), -SIDEWAYS, SIDEWAYS)
    heading = np.arcsin(np.clip(sideways / np.maximum(cars.speed, 3.0), -0.4, 0.4))
    bend = road.curvature_at(cars.s)
    along = bend * np.cos(cars.heading) / (1 - cars.d * bend)
    return np.arctan(WHEELBASE * (along + 2.0 * (heading - cars.heading) / np.maximum(cars.speed, 3.0)))


def _choose(cars: Cars, lanes: Lanes, follow: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Target lane: a change needs room, and gains acceleration; once under way it goes on while there is room."""
    off = np.abs(cars.d[..., None] - CENTRES)
    here = off.argmin(-1)
    numbers = np.arange(LANES)
    speed = cars.speed[..., None]
    room_behind = STANDSTILL + 0.6 * lanes.behind_speed + 2.0 * np.maximum(0, lanes.behind_speed - speed)
    room_ahead = STANDSTILL + 0.3 * speed + 2.0 * np.maximum(0, speed - lanes.ahead_speed)
    room = (lanes.behind > room_behind) & (lanes.ahead > room_ahead)
    stay = np.take_along_axis(follow, here[..., None], -1)
    bonus = np.where(numbers == cars.target[..., None], 0.2, 0.0)                  # hysteresis
    gain = np.where(room & (np.abs(numbers - here[..., None]) == 1), follow - stay - 0.3 + bonus, 0.0)
    best = gain.argmax(-1)
    wish = np.where(np.take_along_axis(gain, best[..., None], -1)[..., 0] > 0, best, here)
    settled = np.take_along_axis(off, here[..., None], -1)[..., 0] < 0.5
    blocked = ~np.take_along_axis(room, cars.target[..., None], -1)[..., 0]
    lost = np.abs(cars.target - here) > 1
    kept = np.where((cars.target != here) & blocked | lost, here, cars.target)
    return np.where(settled & turn, wish, np.where(settled & (cars.target == here), here, kept))
