"""Reports at several guidance scales: a table, and the curve of figure 8c as SVG."""

import csv
import dataclasses
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_mdm import checks
from keras_mdm.evaluation.report import Row

_WIDTH, _HEIGHT = 720, 460
# Left, top, right, bottom of the frame that the curves lie in.
_FRAME = (84, 56, 700, 400)
_INK, _GRID, _COLOURS = "#333", "#ddd", ("#2a6fb0", "#d1622b", "#3a8f4c", "#8a4fa0", "#8c6d1f")
_TICKS = 6
_SPARE = 0.08  # of the range, on both sides


@dataclasses.dataclass(frozen=True)
class Point:
    """One report as a point of the curve of a level.

    Attributes:
        scale: the guidance scale.
        x: position to the right; the text score, or the scale.
        y: position upwards; the distance, or the text score.
        x_error: standard error of `x`, NaN if unknown.
        y_error: standard error of `y`, NaN if unknown.
    """

    scale: float
    x: float
    y: float
    x_error: float = math.nan
    y_error: float = math.nan


def table(reports: Mapping[float, Any]) -> str:
    """Return the numbers of all scales as CSV, with a row for each scale and subject.

    Args:
        reports: what `evaluate` returned, by guidance scale.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    names = list(dict.fromkeys(row.measure for one in reports.values() for row in one.rows))
    writer.writerow(["guidance", "pictures", *names])
    for scale, one in reports.items():
        for subject in dict.fromkeys(row.subject for row in one.rows):
            values = {row.measure: row.value for row in one.rows if row.subject == subject}
            writer.writerow([f"{scale:g}", subject, *(values.get(name, "") for name in names)])
    return text.getvalue()


def curve(
    reports: Mapping[float, Any], *, distance: str | None = None, text: str | None = None
) -> str:
    """Draw how far the pictures are from real ones against how well they fit their prompts.

    One line for each level joins the scales in ascending order; every point is labelled by its
    scale, and standard errors are drawn where they are known. Without a text score the distance is
    drawn against the scale, and without a distance the text score.

    Args:
        reports: what `evaluate` returned, by guidance scale.
        distance: name of the measure that goes upwards, as in the rows.
        text: name of the text score, as in the rows.

    Returns:
        The picture, an SVG file.

    Raises:
        ValueError: if neither is given, or no report has the measure.

    Example:

    >>> from keras_mdm.evaluation.report import Row
    >>> class Found:
    ...     def __init__(self, distance):
    ...         self.rows = [Row("64", "FID", distance, float("nan"), 0.0, 2048, 2048)]
    >>> curve({1.0: Found(9.0), 1.2: Found(7.0)}, distance="FID").startswith("<svg")
    True

    Reference: Gu et al. 2023 (arXiv 2310.15111), figure 8c.
    """
    lines = {level: points_of(reports, level, distance, text) for level in _levels(reports)}
    lines = {level: points for level, points in lines.items() if points}
    if not lines:
        raise checks.error(
            "at least one report must have the measures of the curve",
            fix="pass the name of a measure as it stands in the rows",
            distance=distance,
            text=text,
            measures=sorted({row.measure for one in reports.values() for row in one.rows}),
        )
    x_label = text if distance and text else "guidance scale"
    return _svg(lines, x_label, str(distance or text))


def points_of(
    reports: Mapping[float, Any], level: str, distance: str | None, text: str | None
) -> list[Point]:
    """The points of a level, by ascending scale; scales without both numbers are left out."""
    found = []
    for scale in sorted(reports):
        rows = {row.measure: row for row in reports[scale].rows if row.subject == level}
        up = _number(rows.get(distance or text or ""))
        right = _number(rows.get(text or "")) if distance and text else (scale, math.nan)
        if math.isfinite(up[0]) and math.isfinite(right[0]):
            found.append(Point(scale, right[0], up[0], right[1], up[1]))
    return found


def _number(row: Row | None) -> tuple[float, float]:
    return (row.value, row.error) if row else (math.nan, math.nan)


def _levels(reports: Mapping[float, Any]) -> list[str]:
    subjects = (row.subject for one in reports.values() for row in one.rows)
    return [name for name in dict.fromkeys(subjects) if " enlarged to " not in name]


@dataclasses.dataclass(frozen=True)
class _Axis:
    """From numbers to pixels."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float) -> "_Axis":
        known = list(values)
        low, high = min(known), max(known)
        spare = _SPARE * (high - low) or 0.05 * abs(high) or 1.0
        return cls(low - spare, high + spare, start, end)

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round numbers, at most about `_TICKS`."""
        rough = (self.high - self.low) / _TICKS
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [number * step for number in range(first, last + 1)]


def _ends(value: float, error: float) -> tuple[float, float]:
    error = error if math.isfinite(error) else 0.0
    return value - error, value + error


def _svg(lines: Mapping[str, Sequence[Point]], x_label: str, y_label: str) -> str:
    left, top, right, bottom = _FRAME
    every = [point for points in lines.values() for point in points]
    across = _Axis.over((v for p in every for v in _ends(p.x, p.x_error)), left, right)
    up = _Axis.over((v for p in every for v in _ends(p.y, p.y_error)), bottom, top)
    middle = (top + bottom) / 2
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            'font-family="DejaVu Sans, sans-serif" font-size="13">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
            *_ticks(across, up),
            f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" '
            f'fill="none" stroke="{_INK}"/>',
            _text((left + right) / 2, bottom + 44, x_label),
            f'<g transform="rotate(-90 22 {middle})">{_text(22, middle, y_label)}</g>',
            *_legend(list(lines)),
            *(
                part
                for number, points in enumerate(lines.values())
                for part in _line(points, across, up, _COLOURS[number % len(_COLOURS)])
            ),
            "</svg>\n",
        ]
    )


def _ticks(across: _Axis, up: _Axis) -> list[str]:
    left, top, right, bottom = _FRAME
    drawn = []
    for value in across.ticks:
        x = across.at(value)
        drawn.append(_stroke((x, top), (x, bottom), _GRID))
        drawn.append(_text(x, bottom + 20, f"{value:.6g}"))
    for value in up.ticks:
        y = up.at(value)
        drawn.append(_stroke((left, y), (right, y), _GRID))
        drawn.append(_text(left - 8, y + 4, f"{value:.6g}", anchor="end"))
    return drawn


def _legend(levels: Sequence[str]) -> list[str]:
    drawn, x = [], float(_FRAME[0])
    for number, level in enumerate(levels):
        colour = _COLOURS[number % len(_COLOURS)]
        drawn.append(_stroke((x, 30), (x + 24, 30), colour, 2))
        drawn.append(_text(x + 30, 34, f"level {level}", anchor="start"))
        x += 80 + 8 * len(level)
    end = _FRAME[2]
    return [*drawn, _text(end, 34, "numbers at the points: guidance scale", anchor="end")]


def _line(points: Sequence[Point], across: _Axis, up: _Axis, colour: str) -> list[str]:
    places = [(across.at(p.x), up.at(p.y)) for p in points]
    way = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    drawn = [f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for point, (x, y) in zip(points, places, strict=True):
        low, high = (up.at(value) for value in _ends(point.y, point.y_error))
        drawn.append(_stroke((x, low), (x, high), colour))
        begin, end = (across.at(value) for value in _ends(point.x, point.x_error))
        drawn.append(_stroke((begin, y), (end, y), colour))
        drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
        drawn.append(_text(x + 7, y - 7, f"{point.scale:g}", anchor="start", colour=colour))
    return drawn


def _stroke(
    start: tuple[float, float], end: tuple[float, float], colour: str, width: int = 1
) -> str:
    (x0, y0), (x1, y1) = start, end
    return (
        f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{colour}" '
        f'stroke-width="{width}"/>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "middle", colour: str = _INK) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{html.escape(text)}</text>"
    )
