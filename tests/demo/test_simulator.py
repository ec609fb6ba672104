"""The simulator keeps its promises: seeds decide everything, cars move as bicycles do, traffic does not run into
itself.
"""
from dataclasses import replace

import numpy as np
import pytest

from edgekit.demo.driver import FAR, idm, look, steer
from edgekit.demo.evaluate import driving, wilson
from edgekit.demo.road import CENTRES, LANES, LENGTH, POINTS, Road, ring, straight
from edgekit.demo.simulator import OBSERVATION, World, collided, drive_episodes, left_road, move, observe, plan, start
from edgekit.demo.vehicle import CAR_LENGTH, MAX_ACCEL, MAX_BRAKE, STEP, WHEELBASE, Cars, advance


def cars_at(s, d=0.0, speed=10.0, cruise=10.0) -> Cars:
    """One episode of cars at arc lengths `s`, all in the middle lane and content with it."""
    s = np.atleast_2d(np.asarray(s, float))
    full = np.full_like
    return Cars(time=np.zeros(len(s)), s=s, d=full(s, d), heading=full(s, 0.0), speed=full(s, speed) + np.zeros_like(s),
                accel=full(s, 0.0), target=full(s, 1, dtype=int), signal=full(s, -1, dtype=int), cruise=full(s, cruise),
                headway=full(s, 1.2), rhythm=full(s, 0.0), phase=full(s, 0.0))


def roll(world: World, steps: int):
    for _ in range(steps):
        now = plan(world)
        world = move(now, now.expert)
        yield world


def test_ring_closes_and_its_tables_agree():
    road = ring(np.arange(8))
    for episode in range(8):
        step = np.hypot(*(np.diff(line[episode], append=line[episode, 0]) for line in (road.x, road.y)))
        assert np.allclose(step, LENGTH / POINTS, rtol=1e-3)                       # by arc length, last to first too
    assert np.allclose(road.curvature.mean(1) * LENGTH, 2 * np.pi, rtol=1e-3)      # one turn a lap
    bend = np.gradient(road.heading, LENGTH / POINTS, axis=1)[:, 2:-2]
    assert np.allclose(bend, road.curvature[:, 2:-2], atol=1e-4)
    assert np.abs(road.curvature).max() < 1 / (2 * abs(CENTRES[0]) + 10)           # lanes do not fold over


def test_pose_is_continuous_over_the_seam():
    road = ring(np.array([3]))
    s = np.array([[LENGTH - 1e-6, LENGTH + 1e-6, -1e-18, 0.0]])
    x, y, angle = road.pose(s, np.full_like(s, 2.0), np.zeros_like(s))
    assert np.allclose(x, x[0, 0], atol=1e-4) and np.allclose(y, y[0, 0], atol=1e-4)
    assert np.allclose(np.exp(1j * angle), np.exp(1j * angle[0, 0]), atol=1e-4)


def test_steady_steering_is_a_circle():
    angle, speed = 0.1, 8.0
    cars, radius = cars_at([10.0], speed=speed), WHEELBASE / np.tan(angle)
    for k in range(1, 101):
        cars = advance(cars, straight(1), np.zeros((1, 1)), np.full((1, 1), angle))
        turned = speed * k * STEP / radius
        assert cars.s[0, 0] - 10.0 == pytest.approx(radius * np.sin(turned), abs=0.02)
        assert cars.d[0, 0] == pytest.approx(radius * (1 - np.cos(turned)), abs=0.02)
        assert cars.heading[0, 0] == pytest.approx(turned, abs=1e-9)


def test_the_bend_s_own_steering_keeps_the_lane():
    bend, d = 1 / 60, 3.6
    circle = replace(straight(1), curvature=np.full((1, POINTS), bend))
    cars = cars_at([0.0], d=d)
    steering = np.full((1, 1), np.arctan(WHEELBASE * bend / (1 - d * bend)))
    for _ in range(100):
        cars = advance(cars, circle, np.zeros((1, 1)), steering)
    assert cars.d[0, 0] == pytest.approx(d, abs=1e-6)
    assert cars.s[0, 0] == pytest.approx(100 * STEP * 10.0 / (1 - d * bend), rel=1e-9)


def test_steering_does_not_divide_by_a_standing_car():
    world = start(np.arange(2))
    still = replace(world.cars, speed=np.zeros_like(world.cars.speed))
    assert np.isfinite(steer(still, world.road, still.target)).all()


def test_braking_stops_and_never_reverses():
    cars = cars_at([0.0], speed=MAX_BRAKE)
    for _ in range(30):
        cars = advance(cars, straight(1), np.full((1, 1), -99.0), np.zeros((1, 1)))
    assert cars.speed[0, 0] == 0.0
    assert cars.s[0, 0] == pytest.approx(MAX_BRAKE / 2, abs=1e-6)                  # v^2 / 2a


def test_idm_settles_at_its_equilibrium_gap():
    road = straight(1)
    cars = cars_at([0.0, 60.0], cruise=20.0)
    cars = replace(cars, cruise=np.array([[20.0, 10.0]]), d=np.zeros((1, 2)), target=np.ones((1, 2), int))
    for _ in range(1200):
        gap = (cars.s[:, 1] - cars.s[:, 0] - CAR_LENGTH)[:, None]
        free = np.full((1, 1), FAR * 100)
        lead = idm(cars.speed[:, 1:], cars.cruise[:, 1:], free, cars.speed[:, 1:], cars.headway[:, 1:])
        follow = idm(cars.speed[:, :1], cars.cruise[:, :1], gap, cars.speed[:, 1:], cars.headway[:, :1])
        cars = advance(cars, road, np.concatenate([follow, lead], 1), np.zeros((1, 2)))
    speed = cars.speed[0, 0]
    assert speed == pytest.approx(10.0, abs=0.05)
    wanted = (2.5 + speed * 1.2) / np.sqrt(1 - (speed / 20.0) ** 4)
    assert cars.s[0, 1] - cars.s[0, 0] - CAR_LENGTH == pytest.approx(wanted, rel=0.01)


def test_idm_alone_never_rear_ends_a_car_that_stops():
    cars = cars_at(np.arange(8) * 30.0, cruise=14.0)
    blocked = np.arange(8) == 7
    least = np.inf
    for _ in range(300):
        lanes = look(cars)
        accel = idm(cars.speed, cars.cruise, lanes.ahead[..., 1], lanes.ahead_speed[..., 1], cars.headway)
        accel = np.where(blocked, -MAX_BRAKE, accel)
        cars = advance(cars, straight(1), accel, np.zeros_like(accel))
        least = min(least, (np.diff(cars.s[0]) - CAR_LENGTH).min())
    assert cars.speed.max() < 0.5 and least > 0.5


def test_traffic_stays_on_the_road_and_apart_and_changes_lanes():
    world = start(np.arange(100, 124))
    changes = 0
    for following in roll(world, 400):
        changes += (following.cars.target != world.cars.target).sum()
        world = following
        assert not any(collided(world.cars, i).any() for i in range(world.cars.s.shape[1]))
        assert not left_road(world.cars).any()
        assert world.cars.accel.max() <= MAX_ACCEL + 1e-9 and world.cars.accel.min() >= -MAX_BRAKE - 1e-9
    assert changes > 24 * 5


def test_seeds_decide_everything():
    first, again, other = (list(roll(start(np.array([seed, 9])), 50))[-1].cars for seed in (5, 5, 6))
    for name, values in vars(first).items():
        assert np.array_equal(values, getattr(again, name))
    assert not np.array_equal(first.s[0], other.s[0])
    assert np.array_equal(first.s[1], other.s[1])


def test_an_episode_is_the_same_alone_and_in_a_batch():
    seeds = np.arange(6)

    def wild(observation):
        return np.stack([observation[:, 3] - 1, 2 * observation[:, 5]], 1)

    together = drive_episodes(seeds, wild, 120)
    for seed in seeds:
        alone = drive_episodes(seeds[seed:seed + 1], wild, 120)
        for name, values in vars(together).items():
            assert values[seed] == getattr(alone, name)[0], name


def test_the_ego_car_crashes_and_leaves_the_road_when_driven_so():
    ahead = drive_episodes(np.arange(32), lambda o: np.tile([0.5, 0.0], (len(o), 1)), 300)
    assert (ahead.crashed | ahead.off_road).all() and not (ahead.crashed & ahead.off_road).any()
    assert (ahead.reward < 0).all()
    blind = drive_episodes(np.arange(32), lambda o: np.stack([0.1 * (1 - o[:, 0]), expert_steering(o)], 1), 300)
    assert blind.crashed.mean() > 0.7 and blind.off_road.mean() < 0.1               # keeps its lane, brakes for nobody


def expert_steering(o: np.ndarray) -> np.ndarray:
    """A lane keeper written from the observation alone: curvature ahead, heading, offset."""
    speed = np.maximum(20 * o[:, 0], 3.0)
    curvature = o[:, 7] / 40 - 2.0 * (o[:, 4] / 5 + 0.8 * o[:, 5] / speed) / speed
    return np.arctan(WHEELBASE * curvature) / 0.15


def test_nothing_is_scored_after_the_end():
    score = drive_episodes(np.arange(8), lambda o: np.tile([0.0, 1.0], (len(o), 1)), 300)       # hard left
    assert (score.off_road | score.crashed).all()
    assert (score.progress < 40.0).all()


def test_observation_is_bounded_and_sees_the_car_ahead():
    for world in roll(start(np.arange(16)), 60):
        seen = observe(world)
        assert seen.shape == (16, OBSERVATION) and seen.dtype == np.float32
        assert np.isfinite(seen).all() and np.abs(seen).max() < 8
    near = cars_at([0.0, 20.0, 300.0])
    road: Road = straight(1)
    block = observe(World(road, replace(near, speed=np.array([[10.0, 5.0, 5.0]])), 0))[0, 19 + 15:19 + 30]
    assert block[0] == pytest.approx((20 - CAR_LENGTH) / 20 - 1)
    assert block[1] == pytest.approx(-1.0)                                          # it closes in at 5 m/s
    assert np.allclose(block[6:10], 0.0)                                            # the next is out of view


def test_the_expert_drives_well():
    result = driving(None, episodes=64)
    assert result.crashes == 0 and result.off_road == 0
    assert result.progress > 300.0


@pytest.mark.parametrize(("events", "trials", "low", "high"), [(0, 100, 0.0, 0.0370), (5, 100, 0.0215, 0.1118),
                                                               (50, 100, 0.4038, 0.5962), (100, 100, 0.9630, 1.0)])
def test_wilson_matches_published_values(events, trials, low, high):
    assert wilson(events, trials) == pytest.approx((low, high), abs=2e-4)


def test_lanes_are_counted_from_the_outside():
    assert LANES == len(CENTRES) and (np.diff(CENTRES) > 0).all()
