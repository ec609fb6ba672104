"""Pictures of the simulator as SVG: the road from above with cars and paths, and the road unrolled.

Units are metres. Colours are those of the report's style sheet, with the values of its light form for SVG that stands
alone; everything is set by `style`, which wins over the sheet's rules for charts.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from edgekit.demo.road import LANE_WIDTH, LANES, LENGTH, Road
from edgekit.demo.vehicle import CAR_LENGTH, CAR_WIDTH, Cars
from edgekit.report.charts import Svg

EDGE = LANES * LANE_WIDTH / 2
INK, SOFT, ROAD, MARK = "var(--ink,#17202c)", "var(--soft,#5b6675)", "var(--rule,#dde2ea)", "var(--ground,#ffffff)"
COLOURS = ("var(--c0,#2f6fde)", "var(--c1,#d9622b)", "var(--c2,#16896b)")
TRAFFIC = "var(--c5,#5a6b80)"


@dataclass(frozen=True)
class Path:
    """A line through points (T, 2) in m: world x, y from above; s, d on the unrolled road. cross: marks a bad end."""

    points: np.ndarray
    colour: str
    dashed: bool = False
    cross: bool = False


def from_above(road: Road, cars: Cars, paths: Sequence[Path], legend: Mapping[str, str], episode: int = 0) -> Svg:
    """One episode's ring with its cars (car 0, the ego car, in ink) and paths. legend: name to colour."""
    body = [_ring(road, 0.0, episode, ROAD, 2 * EDGE)]
    body += [_ring(road, (lane - LANES / 2) * LANE_WIDTH, episode, MARK, 0.4, "3 4") for lane in range(1, LANES)]
    x, y, angle = road.pose(cars.s, cars.d, cars.heading)
    for i, (east, north, turned) in enumerate(zip(x[episode], y[episode], np.degrees(angle[episode]))):
        place = f"translate({east:.2f} {-north:.2f}) rotate({-turned:.1f})"
        body.append(f'<rect x="{-CAR_LENGTH / 2}" y="{-CAR_WIDTH / 2}" width="{CAR_LENGTH}" height="{CAR_WIDTH}" '
                    f'rx="0.6" style="fill:{TRAFFIC if i else INK}" transform="{place}"/>')
    body += [_line(path, np.array([1.0, -1.0]), 0.7) for path in paths]
    left, right = road.x[episode].min() - 12, road.x[episode].max() + 12
    top, bottom = -road.y[episode].max() - 12, -road.y[episode].min() + 12
    body += _legend(legend, (left + right) / 2 - 34, (top + bottom) / 2 - 3.5 * len(legend), 7.0)
    return _svg((left, top, right - left, bottom - top), body, "The road from above")


def unrolled(paths: Sequence[Path], length: float = LENGTH) -> Svg:
    """Paths over arc length s (m, to the right) and offset d (m, left is up, drawn four times too large)."""
    tall = 4.0
    body = [f'<rect x="0" y="{-EDGE * tall}" width="{length}" height="{2 * EDGE * tall}" style="fill:{ROAD}"/>']
    for lane in range(1, LANES):
        y = (lane - LANES / 2) * LANE_WIDTH * tall
        body.append(f'<line x1="0" x2="{length}" y1="{y}" y2="{y}" style="stroke:{MARK};stroke-dasharray:4 6"/>')
    body += [_text(s, EDGE * tall + 8, f"{s} m", 5.0, "middle") for s in range(0, int(length) + 1, 50)]
    body += [_line(path, np.array([1.0, -tall]), 1.0) for path in paths]
    return _svg((-10, -EDGE * tall - 6, length + 20, 2 * EDGE * tall + 18), body, "The road unrolled")


def _line(path: Path, scale: np.ndarray, width: float) -> str:
    points = path.points * scale
    text = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
    look = f"fill:none;stroke:{path.colour};stroke-linecap:round"
    dash = f";stroke-dasharray:{2 * width} {2 * width}" if path.dashed else ""
    line = f'<polyline points="{text}" style="{look};stroke-width:{width}{dash}"/>'
    if not path.cross:
        return line
    (x, y), r = points[-1], 4 * width
    cross = f"M{x - r:.2f} {y - r:.2f}l{2 * r:.2f} {2 * r:.2f}m{-2 * r:.2f} 0l{2 * r:.2f} {-2 * r:.2f}"
    return line + f'<path d="{cross}" style="{look};stroke-width:{1.5 * width}"/>'


def _ring(road: Road, offset: float, episode: int, colour: str, width: float, dash: str = "none") -> str:
    x = road.x[episode] - offset * np.sin(road.heading[episode])
    y = road.y[episode] + offset * np.cos(road.heading[episode])
    points = " ".join(f"{a:.1f},{-b:.1f}" for a, b in zip(x[::6], y[::6]))
    look = f"fill:none;stroke:{colour};stroke-width:{width};stroke-dasharray:{dash}"
    return f'<polygon points="{points}" style="{look}"/>'


def _legend(names: Mapping[str, str], x: float, y: float, step: float) -> list[str]:
    rows = []
    for i, (name, colour) in enumerate(names.items()):
        at = y + i * step
        rows.append(f'<line x1="{x:.1f}" x2="{x + 1.5 * step:.1f}" y1="{at:.1f}" y2="{at:.1f}" '
                    f'style="stroke:{colour};stroke-width:{step / 5:.1f}"/>')
        rows.append(_text(x + 2 * step, at + step / 4, name, 0.75 * step))
    return rows


def _text(x: float, y: float, text: str, height: float, anchor: str = "start") -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" style="font-size:{height:.1f}px;fill:{SOFT};text-anchor:{anchor}">'
            f'{escape(text)}</text>')


def _svg(box: tuple[float, float, float, float], body: list[str], title: str) -> Svg:
    view = " ".join(f"{value:.1f}" for value in box)
    return Svg(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}" role="img" aria-label="{escape(title)}" '
               f'style="font-family:system-ui,sans-serif">' + "".join(body) + "</svg>")
