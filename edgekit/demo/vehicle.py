"""A kinematic bicycle in road coordinates (Rajamani, Vehicle Dynamics and Control, 2.2 and 2.5), many at once."""
from dataclasses import dataclass, replace

import numpy as np

from edgekit.demo.road import Road

STEP = 0.1                              # s
CAR_LENGTH, CAR_WIDTH = 4.6, 1.9        # m
WHEELBASE = 2.7                         # m
MAX_STEER = 0.15                        # rad
MAX_ACCEL, MAX_BRAKE = 3.0, 6.0         # m/s^2


@dataclass(frozen=True)
class Cars:
    """State of N cars in each of E episodes: arrays (E, N), time (E,). Car 0 is the ego car.

    s, d: arc length and offset to the left of the centre line (m), s grows without wrapping; heading: relative to the
    road (rad); speed (m/s); accel: last acceleration (m/s^2); target: lane steered for; signal: lane announced to
    others, -1 none. cruise (m/s), headway (s), rhythm (rad/s), phase (rad): the driver's character.
    """

    time: np.ndarray
    s: np.ndarray
    d: np.ndarray
    heading: np.ndarray
    speed: np.ndarray
    accel: np.ndarray
    target: np.ndarray
    signal: np.ndarray
    cruise: np.ndarray
    headway: np.ndarray
    rhythm: np.ndarray
    phase: np.ndarray


def advance(cars: Cars, road: Road, accel: np.ndarray, steering: np.ndarray) -> Cars:
    """Cars one STEP later under accelerations (m/s^2) and steering angles (rad), both clipped to what a car can do."""
    accel = np.clip(accel, -MAX_BRAKE, MAX_ACCEL)
    curvature = np.tan(np.clip(steering, -MAX_STEER, MAX_STEER)) / WHEELBASE
    speed = np.maximum(0.0, cars.speed + accel * STEP)
    mean = (cars.speed + speed) / 2

    def rates(s, d, heading):
        bend = road.curvature_at(s)
        along = mean * np.cos(heading) / np.maximum(1 - d * bend, 0.1)
        return along, mean * np.sin(heading), mean * curvature - bend * along

    ds, dd, turn = rates(cars.s, cars.d, cars.heading)             # midpoint rule
    half = STEP / 2
    ds, dd, turn = rates(cars.s + half * ds, cars.d + half * dd, cars.heading + half * turn)
    return replace(cars, time=cars.time + STEP, s=cars.s + STEP * ds, d=cars.d + STEP * dd,
                   heading=cars.heading + STEP * turn, speed=speed, accel=(speed - cars.speed) / STEP)
