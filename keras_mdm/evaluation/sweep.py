"""Reports at several guidance scales: a table, and the curve of figure 8c as SVG."""

import csv
import dataclasses
import io
import math
from collections.abc import Mapping
from typing import Any

from keras_mdm import checks
from keras_mdm.evaluation.chart import Dot, chart
from keras_mdm.evaluation.report import Row


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
    dots = {
        f"level {level}": [Dot(p.x, p.y, p.x_error, p.y_error, f"{p.scale:g}") for p in points]
        for level, points in lines.items()
    }
    note = "numbers at the points: guidance scale"
    return chart(dots, x_label, str(distance or text), note=note)


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
