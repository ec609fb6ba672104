"""Episodes of one ego car in traffic on a ring road, many stepping together.

An episode ends when the ego car touches another, leaves the road, or after `steps` steps. Everything random is drawn
from the episode's own seed at its start, so an episode is the same alone and in a batch.
"""
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from edgekit.demo.driver import drive
from edgekit.demo.road import CENTRES, LANE_WIDTH, LANES, LENGTH, Road, ring
from edgekit.demo.vehicle import CAR_LENGTH, CAR_WIDTH, MAX_BRAKE, MAX_STEER, STEP, Cars, advance

CARS = 24
EGO_CRUISE = 16.0               # m/s: faster than the traffic, so progress asks for overtaking
VIEW = 80.0                     # m, how far the ego car sees
BENDS = np.arange(12) * 5.0     # m ahead, where the curvature is observed
OBSERVATION = 7 + len(BENDS) + LANES * 3 * 5
ACTION_SCALE = np.array([MAX_BRAKE, MAX_STEER])     # an action (acceleration, steering) of 1 in m/s^2 and rad

Policy = Callable[[np.ndarray], np.ndarray]         # observations (E, OBSERVATION) float32 -> actions (E, 2)


@dataclass(frozen=True)
class World:
    """E episodes at one moment."""

    road: Road
    cars: Cars
    step: int


@dataclass(frozen=True)
class Score:
    """What became of each episode, arrays (E,). progress in m, jerk in m/s^3 (mean of |jerk|); reward sums speed /
    EGO_CRUISE - |jerk| / 100 over the steps, divided by `steps`, less 1 for a crash or leaving the road.
    """

    crashed: np.ndarray
    off_road: np.ndarray
    progress: np.ndarray
    jerk: np.ndarray
    reward: np.ndarray


def start(seeds: np.ndarray, cars: int = CARS) -> World:
    """The first moment of one episode a seed; `cars` is a multiple of LANES."""
    drawn = [_draw(int(seed), cars) for seed in seeds]
    s, d, speed, cruise, headway, rhythm, phase, lane = (np.stack(column) for column in zip(*drawn))
    zero = np.zeros_like(s)
    state = Cars(time=np.zeros(len(seeds)), s=s, d=d, heading=zero, speed=speed, accel=zero, target=lane,
                 signal=np.full_like(lane, -1), cruise=cruise, headway=headway, rhythm=rhythm, phase=phase)
    return World(ring(seeds), state, 0)


@dataclass(frozen=True)
class Plan:
    """What every driver means to do, (E, N): acceleration (m/s^2), steering angle (rad); their lanes are in `world`."""

    world: World
    accel: np.ndarray
    steering: np.ndarray

    @property
    def expert(self) -> np.ndarray:
        """The rule-based driver's action for the ego car, (E, 2)."""
        return np.clip(np.stack([self.accel[:, 0], self.steering[:, 0]], -1) / ACTION_SCALE, -1, 1)


def plan(world: World) -> Plan:
    """The rule-based drivers' plan. One car of the traffic a step may change lanes, so that no two take one gap."""
    cars = world.cars.s.shape[1]
    turn = np.arange(cars) == world.step % cars
    turn[0] = True
    accel, steering, target = drive(world.cars, world.road, turn)
    signal = target.copy()
    signal[:, 0] = -1                   # nobody knows what the ego car intends
    return Plan(replace(world, cars=replace(world.cars, target=target, signal=signal)), accel, steering)


def move(plan: Plan, action: np.ndarray) -> World:
    """The world one step later: traffic does what it planned, the ego car does `action` (E, 2)."""
    accel, steering = plan.accel.copy(), plan.steering.copy()
    accel[:, 0], steering[:, 0] = (action * ACTION_SCALE).T
    return World(plan.world.road, advance(plan.world.cars, plan.world.road, accel, steering), plan.world.step + 1)


def observe(world: World) -> np.ndarray:
    """What the ego car sees, scaled to about 1: (E, OBSERVATION) float32.

    Speed, acceleration, room to the left and right edge, heading, offset from the nearest lane's centre, lateral speed;
    the curvature at BENDS; for each lane the next two cars ahead and the next behind: gap, closing speed, lateral
    offset and lateral speed, acceleration.
    """
    cars = world.cars
    d, speed, heading = cars.d[:, 0], cars.speed[:, 0], cars.heading[:, 0]
    edge = LANES * LANE_WIDTH / 2
    offset = d - CENTRES[np.abs(d[:, None] - CENTRES).argmin(1)]
    own = [speed / 20, cars.accel[:, 0] / MAX_BRAKE, (edge - d) / 5, (edge + d) / 5, heading * 5, offset,
           speed * np.sin(heading)]
    bends = world.road.curvature_at(cars.s[:, :1] + BENDS) * 40

    ahead = np.mod(cars.s[:, 1:] - cars.s[:, :1], LENGTH)
    lane = np.abs(cars.d[:, 1:, None] - CENTRES).argmin(-1)
    seen = []
    for number in range(LANES):
        here = lane == number
        in_front = np.where(here, ahead, np.inf)
        behind = np.where(here, LENGTH - ahead, np.inf)
        first, second = np.argsort(in_front, axis=1, kind="stable")[:, :2].T
        for distance, who, way in ((in_front, first, 1), (in_front, second, 1), (behind, behind.argmin(1), -1)):
            seen.append(_sight(cars, np.take_along_axis(distance, who[:, None], 1)[:, 0], who + 1, way))
    return np.concatenate([np.stack(own, 1), bends, *seen], 1).astype(np.float32)


def _sight(cars: Cars, distance: np.ndarray, who: np.ndarray, way: int) -> np.ndarray:
    """Five numbers (E, 5) about car `who` (E,); one out of view looks like one at the edge of view that keeps pace."""
    row = np.arange(len(who))
    gap = np.minimum(distance - CAR_LENGTH, VIEW)
    speed, heading = cars.speed[row, who], cars.heading[row, who]
    facts = [way * (speed - cars.speed[:, 0]) / 5, (cars.d[row, who] - cars.d[:, 0]) / 4, speed * np.sin(heading),
             cars.accel[row, who] / MAX_BRAKE]
    return np.stack([gap / 20 - 1, *(np.where(gap < VIEW, fact, 0.0) for fact in facts)], 1)


def collided(cars: Cars, who: int) -> np.ndarray:
    """(E,): does car `who` overlap another? Cars are rectangles along the road: headings are small."""
    apart = np.abs(np.mod(cars.s - cars.s[:, who, None] + LENGTH / 2, LENGTH) - LENGTH / 2)
    touching = (apart < CAR_LENGTH) & (np.abs(cars.d - cars.d[:, who, None]) < CAR_WIDTH)
    return touching.sum(1) > 1                                     # a car touches itself


def left_road(cars: Cars) -> np.ndarray:
    """(E, N): is a car over the edge of the road by more than a quarter of its width, or across it?"""
    return (np.abs(cars.d) > LANES * LANE_WIDTH / 2 - CAR_WIDTH / 4) | (np.abs(cars.heading) > np.pi / 3)


def drive_episodes(seeds: np.ndarray, policy: Policy | None, steps: int = 300,
                   watch: Callable[[Plan, np.ndarray, np.ndarray], None] | None = None) -> Score:
    """Drive one episode a seed; policy None: the expert drives. watch(plan, actions, alive) sees every step."""
    world = start(seeds)
    count = len(seeds)
    crashed, off_road, alive = (np.full(count, value) for value in (False, False, True))
    travelled, jerk, reward, lived = (np.zeros(count) for _ in range(4))
    for _ in range(steps):
        now = plan(world)
        action = now.expert if policy is None else np.clip(policy(observe(world)), -1, 1)
        if watch:
            watch(now, action, alive)
        before, world = world, move(now, action)
        gained = world.cars.s[:, 0] - before.cars.s[:, 0]
        jolt = np.abs(world.cars.accel[:, 0] - before.cars.accel[:, 0]) / STEP
        hit, off = collided(world.cars, 0), left_road(world.cars)[:, 0]
        travelled += alive * gained
        jerk += alive * jolt
        reward += alive * ((gained / STEP / EGO_CRUISE - jolt / 100) / steps - (hit | off))
        lived += alive
        crashed |= alive & hit
        off_road |= alive & off & ~hit
        alive = alive & ~(hit | off)
        if not alive.any():
            break
    return Score(crashed, off_road, travelled, jerk / np.maximum(lived, 1), reward)


def _draw(seed: int, cars: int) -> tuple[np.ndarray, ...]:
    """Places and characters of one episode's cars: each lane's cars evenly spaced, then jittered."""
    rng = np.random.default_rng((seed, 2))
    lane = np.arange(cars) % LANES
    space = LENGTH / (cars // LANES)
    s = (np.arange(cars) // LANES + lane * 0.4) * space + rng.uniform(-0.2, 0.2, cars) * space
    cruise = rng.uniform(6.0, 14.0, cars)
    cruise[0] = EGO_CRUISE
    order = rng.permutation(LANES)
    headway, rhythm = rng.uniform(0.9, 1.6, cars), rng.uniform(0.15, 0.5, cars)
    return (s, CENTRES[order[lane]], np.minimum(cruise, 10.0), cruise, headway, rhythm,
            rng.uniform(0, 2 * np.pi, cars), order[lane])
