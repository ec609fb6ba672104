"""Pictures of the simulator as SVG text: the road from above with cars and paths, and the road unrolled."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from edgekit.demo.road import LANE_WIDTH, LANES, LENGTH, Road
from edgekit.demo.vehicle import CAR_LENGTH, CAR_WIDTH, Cars

EDGE = LANES * LANE_WIDTH / 2
ROAD, MARK, TRAFFIC, EGO = "#e4e7ec", "#ffffff", "#98a2b3", "#101828"


@dataclass(frozen=True)
class Path:
    """A line through points (T, 2) in m: world x, y from above; s, d on the unrolled road. cross: marks a bad end."""

    points: np.ndarray
    colour: str
    dashed: bool = False
    cross: bool = False


def from_above(road: Road, cars: Cars, paths: Sequence[Path], legend: Mapping[str, str], episode: int = 0) -> str:
    """One episode's ring with its cars (car 0, the ego car, dark) and paths. legend: name to colour."""
    x, y, angle = road.pose(cars.s, cars.d, cars.heading)
    body = [_closed(road, EDGE, episode, ROAD, 1.0), _closed(road, -EDGE, episode, ROAD, 1.0),
            _ribbon(road, episode)]
    body += [_closed(road, (lane - LANES / 2) * LANE_WIDTH, episode, MARK, 0.3, "3 4") for lane in range(1, LANES)]
    for i, (east, north, turned) in enumerate(zip(x[episode], y[episode], np.degrees(angle[episode]))):
        body.append(f'<rect x="{-CAR_LENGTH / 2}" y="{-CAR_WIDTH / 2}" width="{CAR_LENGTH}" height="{CAR_WIDTH}" '
                    f'rx="0.6" fill="{TRAFFIC if i else EGO}" '
                    f'transform="translate({east:.2f} {-north:.2f}) rotate({-turned:.1f})"/>')
    body += [_line(path, np.array([1.0, -1.0]), 0.7) for path in paths]
    left, right = road.x[episode].min() - 12, road.x[episode].max() + 12
    top, bottom = -road.y[episode].max() - 12, -road.y[episode].min() + 12
    body += _legend(legend, (left + right) / 2 - 28, (top + bottom) / 2 - 3.5 * len(legend), 7.0)
    return _svg((left, top, right - left, bottom - top), body, "The road from above")


def unrolled(paths: Sequence[Path], legend: Mapping[str, str], length: float = LENGTH) -> str:
    """Paths over arc length s (m, to the right) and offset d (m, left is up, drawn four times too large)."""
    tall = 4.0
    body = [f'<rect x="0" y="{-EDGE * tall}" width="{length}" height="{2 * EDGE * tall}" fill="{ROAD}"/>']
    for lane in range(1, LANES):
        height = (lane - LANES / 2) * LANE_WIDTH * tall
        body.append(f'<line x1="0" x2="{length}" y1="{height}" y2="{height}" stroke="{MARK}" stroke-dasharray="4 6"/>')
    for s in range(0, int(length) + 1, 100):
        body.append(f'<text x="{s}" y="{EDGE * tall + 12}" font-size="9" text-anchor="middle" '
                    f'fill="#475467">{s} m</text>')
    body += [_line(path, np.array([1.0, -tall]), 1.4) for path in paths]
    rows = _legend(legend, 0.0, EDGE * tall + 24, 12.0)
    box = (-14, -EDGE * tall - 8, length + 28, 2 * EDGE * tall + 30 + 12 * len(legend))
    return _svg(box, body + rows, "The road unrolled")


def _line(path: Path, scale: np.ndarray, width: float) -> str:
    points = path.points * scale
    text = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
    dash = f' stroke-dasharray="{2 * width} {2 * width}"' if path.dashed else ""
    line = (f'<polyline points="{text}" fill="none" stroke="{path.colour}" stroke-width="{width}" '
            f'stroke-linecap="round"{dash}/>')
    if not path.cross:
        return line
    (x, y), r = points[-1], 4 * width
    cross = f"M{x - r:.2f} {y - r:.2f}l{2 * r:.2f} {2 * r:.2f}m{-2 * r:.2f} 0l{2 * r:.2f} {-2 * r:.2f}"
    return line + f'<path d="{cross}" stroke="{path.colour}" stroke-width="{1.5 * width}"/>'


def _outline(road: Road, offset: float, episode: int) -> str:
    x = road.x[episode] - offset * np.sin(road.heading[episode])
    y = road.y[episode] + offset * np.cos(road.heading[episode])
    return " ".join(f"{a:.1f},{-b:.1f}" for a, b in zip(x[::6], y[::6]))


def _closed(road: Road, offset: float, episode: int, colour: str, width: float, dash: str = "") -> str:
    return (f'<polygon points="{_outline(road, offset, episode)}" fill="none" stroke="{colour}" stroke-width="{width}"'
            + (f' stroke-dasharray="{dash}"' if dash else "") + "/>")


def _ribbon(road: Road, episode: int) -> str:
    return (f'<polygon points="{_outline(road, 0.0, episode)}" fill="none" stroke="{ROAD}" stroke-width="{2 * EDGE}" '
            'stroke-linejoin="round"/>')


def _legend(names: Mapping[str, str], x: float, y: float, step: float) -> list[str]:
    rows = []
    for i, (name, colour) in enumerate(names.items()):
        at = y + i * step
        rows.append(f'<line x1="{x:.1f}" x2="{x + 1.5 * step:.1f}" y1="{at:.1f}" y2="{at:.1f}" stroke="{colour}" '
                    f'stroke-width="{step / 5:.1f}"/><text x="{x + 2 * step:.1f}" y="{at + step / 4:.1f}" '
                    f'font-size="{0.75 * step:.1f}" fill="#344054">{escape(name)}</text>')
    return rows


def _svg(box: tuple[float, float, float, float], body: list[str], title: str) -> str:
    view = " ".join(f"{value:.1f}" for value in box)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}" role="img" font-family="system-ui, sans-serif" '
            f'style="width:100%;max-width:720px"><title>{escape(title)}</title>' + "".join(body) + "</svg>")
