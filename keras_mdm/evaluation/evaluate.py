"""Evaluate a model or pictures against real ones: all levels from one sampling pass."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.evaluation import moments, report, samples
from keras_mdm.evaluation.efficientnet import EfficientNetLite0

GRAIN = "grain, grey levels"


@dataclasses.dataclass(frozen=True)
class Report:
    """Result of `evaluate`.

    Attributes:
        about: the feature network, seeds, options and what was compared.
        rows: the numbers.
        verdicts: what the comparison of levels with the enlarged level below says in words.
    """

    about: Mapping[str, Any]
    rows: Sequence[report.Row]
    verdicts: Sequence[str] = ()

    def __str__(self) -> str:
        lines = [f"features: {self.about['features']}", "", report.table(self.rows)]
        return "\n".join([*lines, *([""] if self.verdicts else []), *self.verdicts])

    def to_json(self) -> str:
        """The report as JSON."""
        return report.as_json({**self.about, "verdicts": list(self.verdicts)}, self.rows)

    def value(self, subject: str, measure: str) -> float:
        """A number by subject and name of the measure."""
        (row,) = (r for r in self.rows if (r.subject, r.measure) == (subject, measure))
        return row.value


class Measured:
    """Statistics and grain of a set that comes in batches.

    Args:
        features: the feature network.
        statistics: of what is already known.
        text: measures how well the pictures, in order, fit their prompts.

    Attributes:
        statistics: of all batches so far.
    """

    def __init__(
        self,
        features: Any,
        statistics: moments.Statistics | None = None,
        text: Any = None,
    ):
        self.features, self.text = features, text
        self.statistics = statistics or moments.nothing(features)
        self._grain, self._count = 0.0, 0
        self._ordered: list[np.ndarray] = []

    def add(self, images: np.ndarray) -> "Measured":
        """Add pictures, uint8 (B, H, W, 3)."""
        values = moments.features_of(self.features, images)
        found = moments.of_pictures(self.features, images, values=values)
        self.statistics = self.statistics.merge(found)
        if self.text is not None and self._count < moments.KEPT:
            self._ordered.append(values)
        self._grain += float(np.sum(grain_of(images)))
        self._count += len(images)
        return self

    @property
    def grain(self) -> float:
        """Mean grain of the pictures, NaN if none was seen."""
        return self._grain / self._count if self._count else math.nan

    def rows(self, subject: str, real: "Measured") -> list[report.Row]:
        """The numbers that need the pictures themselves: grain, and how well prompts are met."""
        counts = (self.statistics.count, real.statistics.count)
        found = [report.Row(subject, GRAIN, self.grain, math.nan, real.grain, *counts)]
        if self.text is not None:
            score = self.text.score(np.concatenate(self._ordered))
            value = (score.value, score.standard_error, self.text.real)
            found.append(report.Row(subject, self.text.name, *value, score.pictures, counts[1]))
        return found


def grain_of(images: np.ndarray) -> np.ndarray:
    """Mean absolute difference of neighbouring pixels of every picture, in grey levels.

    Example:

    >>> flat = np.full((1, 4, 4, 3), 200, np.uint8)
    >>> float(grain_of(flat)[0])
    0.0
    """
    wide = np.asarray(images).astype("int16")
    axes = (1, 2, 3)
    across = [np.abs(np.diff(wide, axis=axis)).mean(axis=axes) for axis in (1, 2)]
    return (across[0] + across[1]) / 2


def enlarged(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pictures of a lower level at a higher one's size, bicubic: what the higher one has to beat.

    Args:
        images: uint8 (B, h, w, 3).
        height: rows of the result.
        width: columns of the result.

    Returns:
        uint8 (B, height, width, 3).
    """
    found = tf.image.resize(tf.constant(images), (height, width), "bicubic")
    return tf.cast(tf.clip_by_value(tf.round(found), 0.0, 255.0), tf.uint8).numpy()


def evaluate(
    drawn: Any,
    reference: Mapping[str, Any],
    *,
    request: samples.Request | None = None,
    directory: str | Path | None = None,
    features: Any = None,
    measures: Sequence[str] = ("kernel", "precision", "recall"),
    texts: Mapping[str, Any] | None = None,
    few: bool = False,
    progress: bool = True,
) -> Report:
    """Compare what a model draws, or pictures, with real pictures.

    A model draws all levels in one pass. Every level is compared with the real pictures of its
    size, and so is every level enlarged to the one above it: an outer level is worth its pixels if
    it is nearer to the real pictures than the enlargement.

    Args:
        drawn: a `MatryoshkaDiffusion`, or {level: uint8 (n, H, W, 3), or an iterable of these}.
        reference: {level: real pictures of its size, in the same forms, or `moments.Statistics`, or
            what `measured` made of them}.
        request: what a model draws.
        directory: where its pictures are kept; a later call continues there.
        features: a feature network; `EfficientNetLite0` by default.
        measures: "kernel" (the unbiased squared MMD with the cubic kernel, KID), "frechet" (FID),
            "precision", "recall", "density", "coverage".
        texts: by level, how well what a model draws fits its prompts is measured
            (`fit_text_measure`, or `ClipFeatures.score_of`).
        few: accept fewer pictures than a measure needs (`report.LEAST`).
        progress: show a progress bar.

    Returns:
        A `Report`; its `str` is a table.

    Raises:
        ValueError: before anything is drawn, if the levels or the numbers of pictures do not fit.

    Example:

    >>> class Mean:
    ...     name, width = "mean colour", 3
    ...     def __call__(self, images):
    ...         return images.mean((1, 2)).astype("float32") / 100
    >>> images = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3)).astype("uint8")
    >>> found = evaluate({"8": images[:150]}, {"8": images[150:]}, features=Mean())
    >>> abs(found.value("8", "kernel distance x 1000")) < 1
    True

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 4.1.
    """
    if not measures and not texts:
        raise checks.error("`measures` must name at least one", fix="pass one", measures=measures)
    report.check_enough(measures, {}, few=few)
    if not isinstance(drawn, Mapping):
        if request is None or directory is None:
            raise checks.error(
                "a model needs a request and a directory for its pictures",
                fix="pass request=samples.Request(count=...) and directory=...",
                request=request,
                directory=directory,
            )
        check(drawn, measures, [request], few=few)
    known = list(drawn) if isinstance(drawn, Mapping) else list(drawn.unet.levels)
    levels = [level for level in known if level in reference]
    if not levels:
        raise checks.error(
            "there must be real pictures of at least one level",
            fix="pass reference={level: pictures}",
            reference=sorted(reference),
            drawn=known,
        )
    features = features or EfficientNetLite0()
    real = {level: measured(features, reference[level]) for level in levels}
    for level in levels:
        report.check_enough(measures, {f"real[{level!r}]": real[level].statistics.count}, few=few)
    about: dict[str, Any] = {}
    if request is None or directory is None or isinstance(drawn, Mapping):
        found = {level: measured(features, drawn[level]) for level in levels}
    else:
        batches = samples.draw(drawn, request, directory, progress=progress)
        found = _of_batches(features, batches, known, levels, texts or {})
        about = {"seed": request.seed, "options": {k: str(v) for k, v in request.options.items()}}
    return _report(found, real, features, measures, few, about)


def check(
    model: Any,
    measures: Sequence[str],
    requests: Iterable[samples.Request],
    *,
    few: bool = False,
) -> None:
    """Raise if a model cannot be measured in this way, before anything is read or drawn."""
    samples.check_model(model)
    for request in requests:
        report.check_enough(measures, {"count": request.count}, few=few)


def _of_batches(
    features: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    levels: Sequence[str],
    measured: Sequence[str],
    texts: Mapping[str, Any],
) -> dict[str, Measured]:
    """Statistics by subject: the levels, and the levels enlarged to the next."""
    found: dict[str, Measured] = {}

    def add(subject: str, images: np.ndarray) -> None:
        text = texts.get(subject.rsplit(" ", 1)[-1])
        found.setdefault(subject, Measured(features, text=text)).add(images)

    for batch in batches:
        for number, level in enumerate(levels):
            if level not in measured:
                continue
            add(level, batch[level])
            if number:
                below = levels[number - 1]
                large = enlarged(batch[below], *batch[level].shape[1:3])
                add(_enlarged_name(below, level), large)
    return found


def _enlarged_name(below: str, level: str) -> str:
    return f"{below} enlarged to {level}"


def measured(features: Any, given: Any) -> Measured:
    """Statistics and grain of pictures in any form that `evaluate` takes."""
    if isinstance(given, Measured):
        moments.check_same_features(given.statistics, moments.nothing(features))
        return given
    if isinstance(given, moments.Statistics):
        moments.check_same_features(given, moments.nothing(features))
        return Measured(features, given)
    found = Measured(features)
    for images in moments.parts(given):
        found.add(images)
    return found


def _report(
    found: Mapping[str, Measured],
    real: Mapping[str, Measured],
    features: Any,
    measures: Sequence[str],
    few: bool,
    about: Mapping[str, Any],
) -> Report:
    floors = {level: report.floors_of(r.statistics, measures) for level, r in real.items()}
    rows: list[report.Row] = []
    for subject, one in found.items():
        level = subject.rsplit(" ", 1)[-1]
        other = real[level]
        rows += report.measure(
            subject,
            one.statistics,
            other.statistics,
            features,
            measures=measures,
            floors=floors[level],
            few=few,
        )
        rows += one.rows(subject, other)
    about = {
        "features": features.name,
        "fingerprints": {
            "drawn": {subject: one.statistics.fingerprint for subject, one in found.items()},
            "real": {level: one.statistics.fingerprint for level, one in real.items()},
        },
        **about,
    }
    return Report(about, rows, _verdicts(rows, features))


def _verdicts(rows: Sequence[report.Row], features: Any) -> list[str]:
    """One sentence for every level that can be compared with the enlarged level below."""
    kernel = report.name_of("kernel", features)
    values = {row.subject: row for row in rows if row.measure == kernel}
    said = []
    for subject, row in values.items():
        if " enlarged to " not in subject:
            continue
        below, level = subject.split(" enlarged to ")
        own = values[level]
        apart, error = row.value - own.value, math.hypot(row.error, own.error)
        if apart > 2 * error:
            word = f"is worth its pixels: {own.value / row.value:.2f} of the distance of"
        elif apart < -2 * error:
            word = "makes the picture worse: it is further from the real pictures than"
        else:
            word = "is about as far from the real pictures as"
        said.append(f"level {level} {word} level {below} enlarged")
    return said
