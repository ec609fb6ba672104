"""A closed road: a smooth ring of fixed length, tabulated by arc length."""
from dataclasses import dataclass

import numpy as np

LENGTH = 600.0              # m, along the centre line
LANES = 3                   # lane 0 is the outermost; traffic runs anticlockwise, so d > 0 (left) points inwards
LANE_WIDTH = 3.6            # m
CENTRES = (np.arange(LANES) - (LANES - 1) / 2) * LANE_WIDTH     # m, lateral offset of each lane's centre
POINTS = 1200               # table rows, one every half metre


@dataclass(frozen=True)
class Road:
    """Centre lines of E roads, (E, POINTS): x, y (m), heading (rad, continuous, 2 pi a lap), curvature (1/m)."""

    x: np.ndarray
    y: np.ndarray
    heading: np.ndarray
    curvature: np.ndarray

    def curvature_at(self, s: np.ndarray) -> np.ndarray:
        """Curvature at arc lengths s (E, ...) in m."""
        low, high, t = self._rows(s)
        return _pick(self.curvature, low) * (1 - t) + _pick(self.curvature, high) * t

    def pose(self, s: np.ndarray, d: np.ndarray, heading: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """World x, y (m) and heading (rad) of arc length s, offset d to the left and heading relative to the road."""
        low, high, t = self._rows(s)
        row = low.astype(int)
        ahead = _pick(self.heading, high) + np.where(high < row, 2 * np.pi, 0.0)
        angle = _pick(self.heading, low) * (1 - t) + ahead * t
        x = _pick(self.x, low) * (1 - t) + _pick(self.x, high) * t - d * np.sin(angle)
        y = _pick(self.y, low) * (1 - t) + _pick(self.y, high) * t + d * np.cos(angle)
        return x, y, angle + heading

    @staticmethod
    def _rows(s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        position = np.mod(s, LENGTH) * (POINTS / LENGTH)
        low = np.floor(position).astype(np.intp)
        t = position - low
        low %= POINTS                          # mod of a tiny negative number rounds up to LENGTH itself
        return low, (low + 1) % POINTS, t


def ring(seeds: np.ndarray) -> Road:
    """One random ring a seed: radius 1 + sum of a_k cos(k phi + p_k), k = 2, 3, 4, scaled to LENGTH."""
    return Road(*(np.stack(column) for column in zip(*(_ring(int(seed)) for seed in seeds))))


def straight(episodes: int) -> Road:
    """Roads without curvature, for closed-form checks (they do not close; x runs to LENGTH and jumps back)."""
    zero = np.zeros((episodes, POINTS))
    return Road(zero + np.arange(POINTS) * (LENGTH / POINTS), zero, zero, zero)


def _ring(seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng((seed, 1))
    k = np.array([2, 3, 4])[:, None]
    size = rng.uniform(0.2, 1.0, (3, 1)) * np.array([0.2, 0.075, 0.035])[:, None]
    shift = rng.uniform(0, 2 * np.pi, (3, 1))
    phi = np.linspace(0, 2 * np.pi, 8 * POINTS + 1)
    r = 1 + (size * np.cos(k * phi + shift)).sum(0)
    r1 = (-k * size * np.sin(k * phi + shift)).sum(0)
    r2 = (-k * k * size * np.cos(k * phi + shift)).sum(0)
    rate = np.hypot(r, r1)                                              # d arc / d phi
    arc = np.concatenate(([0.0], np.cumsum((rate[1:] + rate[:-1]) / 2 * np.diff(phi))))
    scale = LENGTH / arc[-1]
    even = np.interp(np.arange(POINTS) * (arc[-1] / POINTS), arc, phi)
    curvature = (r * r + 2 * r1 * r1 - r * r2) / rate**3 / scale
    heading = phi + np.arctan2(r, r1)                                   # polar angle + angle between radius and tangent
    return (scale * np.interp(even, phi, r) * np.cos(even), scale * np.interp(even, phi, r) * np.sin(even),
            np.interp(even, phi, heading), np.interp(even, phi, curvature))


def _pick(table: np.ndarray, row: np.ndarray) -> np.ndarray:
    """table (E, POINTS) at row (E, ...)."""
    return np.take_along_axis(table, row.reshape(len(row), -1), axis=1).reshape(row.shape)
