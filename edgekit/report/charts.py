"""Charts as SVG text. Colours and type come from the page's style sheet, so they follow light and dark; all text is escaped.

Every function returns `Svg`, the only kind of text that the page embeds as it is.
"""
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

Point = tuple[float, float]
_LEFT, _RIGHT, _BOTTOM = 56, 16, 40  # margins of a plot, in px


class Svg(str):
    """SVG drawn by a program that is trusted, never text that came with a model."""


def _plain(value: float) -> str:
    return f"{value:.4g}"


def histogram(edges: Sequence[float], counts: Sequence[int], marks: Mapping[str, float], limit: tuple[str, float] | None = None,
              unit: str = "ms") -> Svg:
    """Counts between edges (one more than counts), with labelled lines at `marks` and a red one at `limit`.

    The axis is logarithmic where it spans a decade.
    """
    lines = [*marks.items(), *([limit] if limit else [])]
    low, high = min(edges[0], *(x for _, x in lines)), max(edges[-1], *(x for _, x in lines))
    pad = (high - low) * 0.02 or 0.05 * abs(high) or 1.0
    logarithmic = low > 0 and high > 10 * low
    axis = _Axis(low / 1.05 if logarithmic else low - pad, high * 1.05 if logarithmic else high + pad, _LEFT, 860 - _RIGHT, logarithmic)
    top = 22 + 15 * len(lines)
    height, tallest = top + 210, max(counts) or 1
    up = _Axis(0, tallest, height - _BOTTOM, top)
    body = [_x_axis(axis, height, f"response time, {unit}"), _y_axis(up, axis, "runs")]
    for a, b, n in zip(edges, edges[1:], counts):
        if n:
            x, y = axis(a), up(n)
            body.append(f'<rect class="c0" x="{x:.1f}" y="{y:.1f}" width="{max(axis(b) - x - 0.5, 0.8):.1f}" '
                        f'height="{height - _BOTTOM - y:.1f}"><title>{n} runs, {_plain(a)} to {_plain(b)} {escape(unit)}</title></rect>')
    for row, (label, x) in enumerate(lines):
        kind = "limit" if limit and row == len(lines) - 1 else "mark"
        y, at = 14 + 15 * row, axis(x)
        right = at > 640
        body.append(f'<line class="{kind}" x1="{at:.1f}" x2="{at:.1f}" y1="{y - 8}" y2="{height - _BOTTOM}"/>'
                    f'<text class="{kind}" x="{at + (-5 if right else 5):.1f}" y="{y}" text-anchor="{"end" if right else "start"}">'
                    f'{escape(label)} {_plain(x)} {escape(unit)}</text>')
    return _svg(860, height, body, "Histogram of response times")


def bars(labels: Sequence[str], columns: Mapping[str, Sequence[float | None]],
         texts: Mapping[str, Callable[[float], str]] | None = None, *, shared: bool = False) -> Svg:
    """A row of horizontal bars a label, one column a quantity; None draws nothing. texts: how a column's values are written.

    shared: all columns have one scale (they are of the same kind). Values are 0 or more.
    """
    texts = texts or {}
    widest = min(max((len(label) for label in labels), default=0), 38)
    left, top, pitch = 16 + 8 * widest, 24, 20  # 8: names may be all m and W
    room = (860 - left) / max(len(columns), 1)
    scales = {c: max((v for v in vs if v), default=1.0) for c, vs in columns.items()}
    if shared:
        scales = dict.fromkeys(scales, max(scales.values(), default=1.0))
    body = []
    for i, (title, values) in enumerate(columns.items()):
        x = left + i * room
        write = texts.get(title, _plain)
        body.append(f'<text class="head" x="{x:.1f}" y="12">{escape(title)}</text>')
        for row, value in enumerate(values):
            if value is not None:
                width = (room - 84) * value / scales[title]
                y = top + row * pitch
                body.append(f'<rect class="c{i % 6}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{pitch - 6}" rx="2"/>'
                            f'<text x="{x + width + 5:.1f}" y="{y + 11}">{escape(write(value))}</text>')
    for row, label in enumerate(labels):
        body.append(f'<text x="{left - 10:.1f}" y="{top + row * pitch + 11}" text-anchor="end">{escape(_short(label, 38))}'
                    f'<title>{escape(label)}</title></text>')
    return _svg(860, top + pitch * len(labels) + 4, body, "Bars: " + ", ".join(columns))


def lines(series: Mapping[str, Sequence[Point]], x_label: str, y_label: str, *, points: bool = False, from_zero: bool = True) -> Svg:
    """Lines through (x, y) points, one a name; `points` marks them too. from_zero: the y axis begins at 0."""
    return _plot(series, x_label, y_label, True, points, from_zero)


def scatter(series: Mapping[str, Sequence[Point]], x_label: str, y_label: str, *, from_zero: bool = True) -> Svg:
    """Points (x, y), one colour a name."""
    return _plot(series, x_label, y_label, False, True, from_zero)


def _plot(series: Mapping[str, Sequence[Point]], x_label: str, y_label: str, line: bool, dots: bool, from_zero: bool) -> Svg:
    xs, ys = ([p[k] for points in series.values() for p in points] or [0.0] for k in (0, 1))
    height, top = 300, 14 + 17 * ((len(series) + 3) // 4)
    x = _Axis(*_widened(min(xs), max(xs)), _LEFT, 860 - _RIGHT)
    y = _Axis(*_widened(min(0, min(ys)) if from_zero else min(ys), max(ys)), height - _BOTTOM, top)
    body = [_x_axis(x, height, x_label), _y_axis(y, x, y_label)]
    for i, (name, points) in enumerate(series.items()):
        if line:
            path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
            body.append(f'<polyline class="l{i % 6}" points="{path}"/>')
        if dots:
            body += [f'<circle class="c{i % 6}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5"><title>{escape(name)}: {_plain(a)}, '
                     f'{_plain(b)}</title></circle>' for a, b in points]
        at, row = _LEFT + 200 * (i % 4), i // 4
        body.append(f'<rect class="c{i % 6}" x="{at}" y="{4 + 17 * row}" width="11" height="11" rx="2"/>'
                    f'<text x="{at + 16}" y="{13 + 17 * row}">{escape(_short(name, 28))}</text>')
    return _svg(860, height, body, f"{y_label} over {x_label}")


class _Axis:
    """Maps values from low..high to pixels, and knows round values to label."""

    def __init__(self, low: float, high: float, start: float, end: float, logarithmic: bool = False):
        self.low, self.high, self.start, self.end, self.logarithmic = low, high, start, end, logarithmic

    def __call__(self, value: float) -> float:
        place = self._where(value) - self._where(self.low)
        return self.start + (self.end - self.start) * place / ((self._where(self.high) - self._where(self.low)) or 1)

    def _where(self, value: float) -> float:
        return math.log(value) if self.logarithmic else value

    def ticks(self) -> list[float]:
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if len(decades) < 5 else (1,)
            return [t for d in decades for s in steps if self.low <= (t := s * 10.0**d) <= self.high]
        step = 10 ** math.floor(math.log10((self.high - self.low) / 5))
        step *= next(s for s in (1, 2, 5, 10) if (self.high - self.low) / (s * step) <= 6)
        return [k * step for k in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - abs(low) * 0.05 - 1e-9, high + abs(high) * 0.05 + 1e-9)


def _x_axis(axis: _Axis, height: int, label: str) -> str:
    y = height - _BOTTOM
    ticks = "".join(f'<line class="axis" x1="{axis(t):.1f}" x2="{axis(t):.1f}" y1="{y}" y2="{y + 4}"/>'
                    f'<text x="{axis(t):.1f}" y="{y + 16}" text-anchor="middle">{_plain(t)}</text>' for t in axis.ticks())
    return (f'<line class="axis" x1="{axis.start}" x2="{axis.end}" y1="{y}" y2="{y}"/>{ticks}'
            f'<text class="head" x="{(axis.start + axis.end) / 2:.0f}" y="{height - 6}" text-anchor="middle">{escape(label)}</text>')


def _y_axis(axis: _Axis, across: _Axis, label: str) -> str:
    ticks = "".join(f'<line class="grid" x1="{across.start}" x2="{across.end}" y1="{axis(t):.1f}" y2="{axis(t):.1f}"/>'
                    f'<text x="{across.start - 6}" y="{axis(t) + 4:.1f}" text-anchor="end">{_plain(t)}</text>' for t in axis.ticks())
    middle = (axis.start + axis.end) / 2
    return ticks + (f'<text class="head" transform="translate(12 {middle:.0f}) rotate(-90)" text-anchor="middle">'
                    f'{escape(label)}</text>')


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else "\u2026" + text[1 - most:]


def _svg(width: int, height: float, body: Sequence[str], title: str) -> Svg:
    return Svg(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" role="img" '
               f'aria-label="{escape(title)}">{"".join(body)}</svg>')
