"""Measures of drawn against real pictures, as rows of a table that says what each number is."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.evaluation import moments, neighbours
from keras_mdm.evaluation.frechet import frechet_distance
from keras_mdm.evaluation.kid import kernel_distance

# A score of the drawn pictures alone; all other measures compare two sets.
CLASSES = "inception-score"
# Pictures on each side below which a measure says little. The Frechet distance of few pictures is
# mostly bias: its covariance has more entries than there are numbers.
LEAST = {
    "kernel": 100,
    "frechet": 2048,
    "precision": 100,
    "recall": 100,
    "density": 100,
    "coverage": 100,
    CLASSES: 5000,  # ten parts, of which each estimates the shares of a thousand classes
}
MEASURES = tuple(LEAST)
# Written as 1000 times the value, as is usual.
_THOUSANDS = "kernel"
_PLAIN = {"kernel": "kernel distance", "frechet": "Frechet distance", CLASSES: "class score"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One number of a report.

    Attributes:
        subject: what was measured: a level, or a level enlarged to another.
        measure: its name. "FID" and "KID" only with the network of the papers.
        value: the number; a kernel distance times 1000.
        error: its standard error where one is known, else NaN.
        floor: the same measure of one half of the real pictures against the other; for a property
            of single pictures, that of the real ones.
        drawn: number of drawn pictures.
        real: number of real pictures; 0 if a file of statistics does not say.
    """

    subject: str
    measure: str
    value: float
    error: float
    floor: float
    drawn: int
    real: int


def name_of(measure: str, features: Any) -> str:
    """What a measure is called with a network: the published name only with the published one."""
    plain = _PLAIN.get(measure, measure)
    if getattr(features, "clips", False) and measure in _PLAIN:
        plain = f"{plain} of clips"
    name = getattr(features, "measures", {}).get(measure, plain)
    return f"{name} x 1000" if measure == _THOUSANDS else name


def unverified(measures: Iterable[str], layout: str, *, clips: bool = False) -> dict[str, str]:
    """Names for a network that is built like a published one, with weights that nobody vouches for.

    Example:

    >>> unverified(["frechet"], "Inception layout")
    {'frechet': 'Frechet distance (Inception layout, unverified weights)'}
    """
    kind = " of clips" if clips else ""
    return {name: f"{_PLAIN[name]}{kind} ({layout}, unverified weights)" for name in measures}


def check_enough(
    measures: Sequence[str], counts: Mapping[str, int], *, few: bool, fix: str | None = None
) -> None:
    """Raise if a measure would be of too few pictures, unless `few`.

    Args:
        measures: names out of `MEASURES`.
        counts: number of pictures by what they are; 0 for unknown.
        few: whether any number is accepted.
        fix: what to do.
    """
    for measure in measures:
        checks.one_of("measures", measure, MEASURES)
        for what, count in counts.items():
            if measure == CLASSES and what.startswith("real"):
                continue
            if 0 < count < LEAST[measure] and not few:
                raise checks.error(
                    f"the measure {measure!r} needs at least {LEAST[measure]} pictures",
                    fix=fix or "pass more pictures, or few=True to have a number all the same",
                    **{what: count},
                )


def measure(
    subject: str,
    drawn: moments.Statistics,
    real: moments.Statistics,
    features: Any,
    *,
    measures: Sequence[str] = ("kernel", "precision", "recall"),
    floors: Mapping[str, float] | None = None,
    few: bool = False,
) -> list[Row]:
    """Compare two sets by their statistics.

    Args:
        subject: what was drawn.
        drawn: statistics of the drawn pictures.
        real: of the real ones.
        features: the feature network of both.
        measures: names out of `MEASURES`; the Inception Score is not among them, since statistics
            hold no classes: it is left out.
        floors: of the real pictures, see `floors_of`; computed unless given.
        few: accept fewer pictures than a measure needs.

    Returns:
        A row per measure.

    Raises:
        ValueError: if the networks differ, or there are too few pictures.
    """
    moments.check_same_features(drawn, real)
    check_enough(measures, {"drawn": drawn.count, "real": real.count}, few=few)
    measures = pairwise(measures)
    values = _values(drawn, real, measures)
    floors = floors_of(real, measures) if floors is None else floors
    return [
        Row(
            subject,
            name_of(name, features),
            *values[name],
            floors.get(name, math.nan),
            drawn.count,
            real.count,
        )
        for name in measures
    ]


def pairwise(measures: Sequence[str]) -> list[str]:
    """The measures that compare two sets."""
    return [name for name in measures if name != CLASSES]


def floors_of(real: moments.Statistics, measures: Sequence[str], *, seed: int = 0) -> dict:
    """Measure one half of the kept real pictures against the other: what the best model reaches.

    The Frechet distance of halves is larger than that of wholes, as it is of fewer pictures.
    """
    if len(real.kept) < 6:
        return {}
    order = np.random.default_rng(seed).permutation(len(real.kept))
    half, measures = len(order) // 2, pairwise(measures)
    first, second = (
        moments.of_features(real.features, real.kept[rows])
        for rows in (order[:half], order[half : 2 * half])
    )
    return {name: value for name, (value, _) in _values(first, second, measures).items()}


def _values(
    drawn: moments.Statistics, real: moments.Statistics, measures: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """(value, standard error) by measure."""
    found: dict[str, tuple[float, float]] = {}
    needed = set(measures)
    if "frechet" in needed:
        found["frechet"] = (frechet_distance(real, drawn), math.nan)
    if needed - {"frechet"} and not len(real.kept):
        raise checks.error(
            "only the Frechet distance can be had from mean and covariance",
            fix="pass the real pictures, or statistics that keras_mdm.evaluation.moments saved",
            measures=sorted(needed),
        )
    if "kernel" in needed:
        kid = kernel_distance(real.kept, drawn.kept)
        found["kernel"] = (1000 * kid.value, 1000 * kid.standard_error)
    if needed & {"precision", "recall"}:
        pair = neighbours.precision_recall(real.kept, drawn.kept)
        found |= {"precision": (pair.precision, math.nan), "recall": (pair.recall, math.nan)}
    if needed & {"density", "coverage"}:
        two = neighbours.density_coverage(real.kept, drawn.kept)
        found |= {"density": (two.density, math.nan), "coverage": (two.coverage, math.nan)}
    return {name: found[name] for name in measures}


def table(rows: Sequence[Row]) -> str:
    """Lay out rows as a Markdown table."""
    lines = [
        "| pictures | measure | value | real pictures | n drawn, real |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        error = "" if math.isnan(row.error) else f" +- {row.error:.2g}"
        floor = "" if math.isnan(row.floor) else f"{row.floor:.3g}"
        real = row.real or "not said"
        lines.append(
            f"| {row.subject} | {row.measure} | {row.value:.4g}{error} | {floor} "
            f"| {row.drawn}, {real} |"
        )
    return "\n".join(lines)


def as_json(about: Mapping[str, Any], rows: Sequence[Row], worth: Sequence[Any] = ()) -> str:
    """A report as JSON: what was compared, and a record per row and per level; unknown numbers are
    null."""

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and math.isnan(value) else value

    def records(found: Sequence[Any]) -> list[dict[str, Any]]:
        return [{k: plain(value) for k, value in dataclasses.asdict(one).items()} for one in found]

    whole = {"about": dict(about), "rows": records(rows), "worth": records(worth)}
    return json.dumps(whole, indent=1, ensure_ascii=False)
