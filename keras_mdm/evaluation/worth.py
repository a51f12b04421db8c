"""What each outer level is worth: its distance beside that of the level below, enlarged."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence

from keras_mdm.evaluation.picture_sets import GRAIN
from keras_mdm.evaluation.report import Row

_ENLARGED = " enlarged to "


def enlarged_name(below: str, level: str) -> str:
    """Subject of the rows about a level that was enlarged to the next one."""
    return f"{below}{_ENLARGED}{level}"


@dataclasses.dataclass(frozen=True)
class Worth:
    """A level beside the enlarged one below it.

    Attributes:
        level: its name.
        measure: what the kernel distance is called: "KID x 1000" only with the network of KID.
        distance: kernel distance of its pictures from the real ones, times 1000.
        error: standard error of the distance.
        below: name of the level below, if there is one.
        below_distance: distance of the enlarged level below; NaN for the innermost level.
        below_error: standard error of that distance.
        floor: distance of one half of the real pictures from the other.
        grain: mean difference of neighbouring pixels, in grey levels.
        real_grain: that of the real pictures.
        drawn: number of drawn pictures.
        real: number of real pictures.
    """

    level: str
    measure: str
    distance: float
    error: float
    below: str | None
    below_distance: float
    below_error: float
    floor: float
    grain: float
    real_grain: float
    drawn: int
    real: int

    @property
    def verdict(self) -> str | None:
        """The comparison in words; nothing for the innermost level."""
        if self.below is None:
            return None
        apart = self.below_distance - self.distance
        error = math.hypot(self.error, self.below_error)
        if apart > 2 * error:
            share = max(self.distance, 0.0) / self.below_distance  # unbiased, so it may be below 0
            word = f"is worth its pixels: {share:.2f} of the distance of"
        elif apart < -2 * error:
            word = "makes the picture worse: it is further from the real pictures than"
        else:
            word = "is about as far from the real pictures as"
        return f"level {self.level} {word} level {self.below} enlarged"


def worth_of(rows: Sequence[Row], distances: Collection[str]) -> list[Worth]:
    """Read the worth of every level from the rows of a report.

    Args:
        rows: the rows.
        distances: what the kernel distance is called in them.

    Returns:
        A record for every level whose kernel distance is known, in the order of the rows.
    """
    kernel = {row.subject: row for row in rows if row.measure in distances}
    grain = {row.subject: row for row in rows if row.measure == GRAIN}
    below = _levels_below(kernel)
    unknown = Row("", GRAIN, math.nan, math.nan, math.nan, 0, 0)
    found = []
    for level, row in kernel.items():
        if _ENLARGED in level:
            continue
        lower = below.get(level)
        enlarged = kernel[enlarged_name(lower, level)] if lower else unknown
        texture = grain.get(level, unknown)
        found.append(
            Worth(
                level,
                row.measure,
                row.value,
                row.error,
                lower,
                enlarged.value,
                enlarged.error,
                row.floor,
                texture.value,
                texture.floor,
                row.drawn,
                row.real,
            )
        )
    return found


def _levels_below(subjects: Mapping[str, Row]) -> dict[str, str]:
    pairs = (subject.split(_ENLARGED) for subject in subjects if _ENLARGED in subject)
    return {level: lower for lower, level in pairs}


def table_of_worth(levels: Sequence[Worth]) -> str:
    """Lay out the worth of levels as a Markdown table.

    Example:

    >>> below = (None, math.nan, math.nan)
    >>> level = Worth("8", "KID x 1000", 9.0, 1.0, *below, 0.1, 5.0, 5.0, 200, 250)
    >>> print(table_of_worth([level]))
    | level | KID x 1000 | level below, enlarged | halves of the real pictures | grain \
| of real pictures | n drawn, real |
    |---|---|---|---|---|---|---|
    | 8 | 9 +- 1 |  | 0.1 | 5 | 5 | 200, 250 |
    """
    # Levels of pictures and of clips may be seen by different networks.
    names = {one.measure for one in levels}
    title = names.pop() if len(names) == 1 else "distance x 1000"
    lines = [
        f"| level | {title} | level below, enlarged | halves of the real pictures "
        "| grain | of real pictures | n drawn, real |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in levels:
        cells = [
            one.level,
            _number(one.distance, one.error),
            _number(one.below_distance, one.below_error),
            _number(one.floor),
            _number(one.grain),
            _number(one.real_grain),
            f"{one.drawn}, {one.real or 'not said'}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float, error: float = math.nan) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.3g}" + ("" if math.isnan(error) else f" +- {error:.2g}")
