"""Lines with error bars, drawn as SVG: no package is needed for it."""

import dataclasses
import html
import math
from collections.abc import Iterable, Mapping, Sequence

from keras_mdm import checks

_WIDTH, _HEIGHT = 720, 460
# Left, top, right, bottom of the frame that the lines lie in, below one row of the legend.
_FRAME = (84, 56, 700, 400)
_ROW = 20  # height of a further row of the legend
_INK, _GRID = "#333", "#ddd"
_COLOURS = ("#2a6fb0", "#d1622b", "#3a8f4c", "#8a4fa0", "#8c6d1f", "#c0396b", "#4a9aa8", "#777")
_TICKS = 6
_SPARE = 0.08  # of the range, on both sides


@dataclasses.dataclass(frozen=True)
class Dot:
    """A point of a line.

    Attributes:
        x: position to the right.
        y: position upwards.
        x_error: standard error of `x`, NaN if unknown.
        y_error: standard error of `y`, NaN if unknown.
        label: text beside the point.
    """

    x: float
    y: float
    x_error: float = math.nan
    y_error: float = math.nan
    label: str = ""


def chart(lines: Mapping[str, Sequence[Dot]], x_label: str, y_label: str, *, note: str = "") -> str:
    """Draw lines through points, with error bars.

    Args:
        lines: the points of each line by its name in the legend, in the order in which they are
            joined.
        x_label: what goes to the right.
        y_label: what goes upwards.
        note: a text above the frame, on the right.

    Returns:
        The picture, an SVG file.

    Raises:
        ValueError: if there is no point, or one is not finite.

    Example:

    >>> chart({"FID": [Dot(1.0, 9.0, label="1"), Dot(2.0, 7.0)]}, "GFLOP", "FID")[:4]
    '<svg'

    Reference: Gu et al. 2023 (arXiv 2310.15111), figures 4 and 8.
    """
    every = [dot for dots in lines.values() for dot in dots]
    if not every or not all(math.isfinite(dot.x) and math.isfinite(dot.y) for dot in every):
        raise checks.error(
            "a chart needs points, and finite ones",
            fix="leave out what was not measured",
            points={name: [(dot.x, dot.y) for dot in dots] for name, dots in lines.items()},
        )
    legend, rows = _legend(list(lines), note)
    left, top, right, bottom = _FRAME
    top, bottom = top + _ROW * (rows - 1), bottom + _ROW * (rows - 1)
    height = _HEIGHT + _ROW * (rows - 1)
    across = _Axis.over((v for d in every for v in _ends(d.x, d.x_error)), left, right)
    up = _Axis.over((v for d in every for v in _ends(d.y, d.y_error)), bottom, top)
    middle = (top + bottom) / 2
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            'font-family="DejaVu Sans, sans-serif" font-size="13">',
            f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
            *_ticks(across, up),
            f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" '
            f'fill="none" stroke="{_INK}"/>',
            _text((left + right) / 2, bottom + 44, x_label),
            f'<g transform="rotate(-90 22 {middle})">{_text(22, middle, y_label)}</g>',
            *legend,
            *(
                part
                for number, dots in enumerate(lines.values())
                for part in _line(dots, across, up, _COLOURS[number % len(_COLOURS)])
            ),
            "</svg>\n",
        ]
    )


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


def _ticks(across: _Axis, up: _Axis) -> list[str]:
    left, right, top, bottom = across.start, across.end, up.end, up.start
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


def _legend(names: Sequence[str], note: str) -> tuple[list[str], int]:
    """The names in the lines' colours, and the number of rows that they and the note take."""
    drawn, x, row = [], float(_FRAME[0]), 0
    for number, name in enumerate(names):
        width = 48.0 + 7.5 * len(name)
        if x + width > _FRAME[2] and x > _FRAME[0]:
            x, row = float(_FRAME[0]), row + 1
        y, colour = 30 + _ROW * row, _COLOURS[number % len(_COLOURS)]
        drawn.append(_stroke((x, y), (x + 24, y), colour, 2))
        drawn.append(_text(x + 30, y + 4, name, anchor="start"))
        x += width
    if note:
        row += x + 7.0 * len(note) > _FRAME[2]
        drawn.append(_text(_FRAME[2], 34 + _ROW * row, note, anchor="end"))
    return drawn, row + 1


def _line(dots: Sequence[Dot], across: _Axis, up: _Axis, colour: str) -> list[str]:
    places = [(across.at(d.x), up.at(d.y)) for d in dots]
    way = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    drawn = [f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for dot, (x, y) in zip(dots, places, strict=True):
        low, high = (up.at(value) for value in _ends(dot.y, dot.y_error))
        drawn.append(_stroke((x, low), (x, high), colour))
        begin, end = (across.at(value) for value in _ends(dot.x, dot.x_error))
        drawn.append(_stroke((begin, y), (end, y), colour))
        drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
        if dot.label:
            drawn.append(_text(x + 7, y - 7, dot.label, anchor="start", colour=colour))
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
