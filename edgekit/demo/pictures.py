"""What the report shows of the simulator: a moment of traffic with forecasts, an episode as each policy drives it."""
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgekit.demo.evaluate import Predict
from edgekit.demo.scenes import COLOURS, INK, Path, from_above, unrolled
from edgekit.demo.simulator import Plan, Policy, drive_episodes, start
from edgekit.demo.traces import Windows, displacement_errors, record
from edgekit.report.charts import Svg


@dataclass(frozen=True)
class Picture:
    """Drawings that belong together, and what they show."""

    title: str
    svgs: tuple[Svg, ...]
    caption: str


def forecasts(forms: Mapping[str, Predict], truth: Windows, seeds: np.ndarray) -> Picture:
    """All cars of the moment of `truth` (windows of `seeds`) at which keeping speed and lane is most wrong, with where
    they went and where each form of the network says they go.
    """
    moments = np.unique(truth.origin[:, [0, 2]], axis=0)
    rows = [np.flatnonzero((truth.origin[:, [0, 2]] == moment).all(1)) for moment in moments]
    hardest = max(range(len(rows)), key=lambda k: displacement_errors(truth.lane[rows[k]], truth.future[rows[k]])[0])
    episode, sample = moments[hardest]
    here = rows[hardest]
    road, frames = record(seeds[episode:episode + 1], sample + 1)
    pose = np.stack(road.pose(frames[-1].s, frames[-1].d, frames[-1].heading), -1)[0][truth.origin[here, 1]]
    paths = [Path(line, INK) for line in _world(truth.future[here], pose)]
    for colour, predict in zip(COLOURS, forms.values()):
        paths += [Path(line, colour, dashed=True) for line in _world(predict(truth.history[here]), pose)]
    legend = {"what happened": INK} | dict(zip(forms, COLOURS))
    caption = (f"The next 5 s of all {len(here)} cars, at the moment of the held-out traffic at which keeping speed "
               f"and lane is most wrong (seed {seeds[episode]}, {sample / 5:.0f} s).")
    return Picture("Forecasts", (from_above(road, frames[-1], paths, legend),), caption)


def drives(forms: Mapping[str, Policy | None], seed: int) -> Picture:
    """One episode as the expert (policy None) and each form drive it: from above and unrolled."""
    names, colours = list(forms), (INK, *COLOURS)
    above, flat = [], []
    for colour, policy in zip(colours, forms.values()):
        line, bad = _driven(policy, seed)
        dashed = policy is not None
        flat.append(Path(line - (line[0, 0], 0.0), colour, dashed, bad))
        world = start(np.array([seed]))
        x, y, _ = world.road.pose(line[None, :, 0], line[None, :, 1], np.zeros((1, len(line))))
        above.append(Path(np.stack([x[0], y[0]], -1), colour, dashed, bad))
    begin = start(np.array([seed]))
    legend = dict(zip(names, colours))
    length = max(path.points[-1, 0] for path in flat)
    caption = (f"Episode {seed}: 30 s of the ego car (dark); cars stand where they began. A cross is a crash or the "
               "end of the road. Below, the same unrolled: metres along the road, lanes drawn four times too wide.")
    above_svg = from_above(begin.road, begin.cars, above, legend)
    return Picture("Driving", (above_svg, unrolled(flat, float(length))), caption)


def _driven(policy: Policy | None, seed: int) -> tuple[np.ndarray, bool]:
    """s, d of the ego car (T, 2) until the end, and whether that was a bad one."""
    line: list[np.ndarray] = []

    def watch(plan: Plan, _: np.ndarray, __: np.ndarray) -> None:
        line.append(np.array([plan.world.cars.s[0, 0], plan.world.cars.d[0, 0]]))
    score = drive_episodes(np.array([seed]), policy, watch=watch)
    return np.stack(line), bool(score.crashed[0] | score.off_road[0])


def _world(paths: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Paths (M, T, 2) in the frames of poses (M, 3), in world coordinates and with their beginnings."""
    full = np.concatenate([np.zeros_like(paths[:, :1]), paths], 1)
    cos, sin = np.cos(pose[:, None, 2]), np.sin(pose[:, None, 2])
    return np.stack([pose[:, None, 0] + full[..., 0] * cos - full[..., 1] * sin,
                     pose[:, None, 1] + full[..., 0] * sin + full[..., 1] * cos], -1)
