"""Sets of pictures or clips that come in batches: their statistics, grain, classes and texts."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.evaluation import moments, report
from keras_mdm.evaluation.scores import inception_score

GRAIN = "grain, grey levels"
_SPLITS = 10  # as in published Inception Scores


class Measured:
    """Statistics and grain of a set that comes in batches.

    Args:
        features: the feature network.
        statistics: of what is already known.
        text: measures how well the pictures, in order, fit their prompts.
        classes: whether the Inception Score is wanted. It needs the class probabilities of all
            pictures: 200 MB for 50,000.

    Attributes:
        statistics: of all batches so far.
    """

    def __init__(
        self,
        features: Any,
        statistics: moments.Statistics | None = None,
        text: Any = None,
        *,
        classes: bool = False,
    ):
        self.features, self.text = features, text
        self.statistics = statistics or moments.nothing(features)
        self._grain, self._count = 0.0, 0
        self._ordered: list[np.ndarray] = []
        self._classes: list[np.ndarray] | None = [] if classes else None

    def add(self, images: np.ndarray) -> "Measured":
        """Add pictures, uint8 (B, H, W, 3), or clips (B, F, H, W, 3)."""
        values = moments.features_of(self.features, images)
        found = moments.of_pictures(self.features, images, values=values)
        self.statistics = self.statistics.merge(found)
        if self.text is not None and self._count < moments.KEPT:
            self._ordered.append(values)
        if self._classes is not None:
            self._classes.append(self.features.classify_features(values))
        self._grain += float(np.sum(grain_of(images)))
        self._count += len(images)
        return self

    @property
    def grain(self) -> float:
        """Mean grain of the pictures, NaN if none was seen."""
        return self._grain / self._count if self._count else math.nan

    def class_score(self) -> tuple[float, float]:
        """Inception Score and its deviation over ten parts; NaN if no picture was seen."""
        rows = np.concatenate(self._classes) if self._classes else np.zeros((0, 1))
        splits = min(_SPLITS, len(rows) // 2)
        if not splits:
            return math.nan, math.nan
        score = inception_score(rows, splits=splits)
        deviation = score.standard_deviation
        return score.value, math.nan if deviation is None else deviation

    def rows(self, subject: str, real: "Measured") -> list[report.Row]:
        """The numbers that need the pictures themselves: classes, grain, and fit of prompts."""
        counts = (self.statistics.count, real.statistics.count)
        found = [report.Row(subject, GRAIN, self.grain, math.nan, real.grain, *counts)]
        if self._classes is not None:
            name = report.name_of(report.CLASSES, self.features)
            value, deviation = self.class_score()
            row = report.Row(subject, name, value, deviation, real.class_score()[0], *counts)
            found.insert(0, row)
        if self.text is not None:
            score = self.text.score(np.concatenate(self._ordered))
            values = (score.value, score.standard_error, self.text.real)
            found.append(report.Row(subject, self.text.name, *values, score.pictures, counts[1]))
        return found


def measured(features: Any, given: Any, *, classes: bool = False) -> Measured:
    """Statistics and grain of pictures or clips in any form that `evaluate` takes.

    Args:
        features: the feature network, of clips if these are clips.
        given: batches, an array, `moments.Statistics`, or a `Measured`.
        classes: see `Measured`.

    Raises:
        ValueError: if statistics are of another network.
    """
    if isinstance(given, Measured):
        moments.check_same_features(given.statistics, moments.nothing(features))
        return given
    if isinstance(given, moments.Statistics):
        moments.check_same_features(given, moments.nothing(features))
        return Measured(features, given, classes=classes)
    found = Measured(features, classes=classes)
    for images in moments.parts(given):
        found.add(images)
    return found


def check_classes(features: Any) -> None:
    """Raise unless a feature network tells classes apart."""
    classify = getattr(features, "classify_features", None)
    if classify is None:
        raise checks.error(
            f"the measure {report.CLASSES!r} needs a feature network with classes",
            fix="leave it out, or pass FIDInception or EfficientNetLite0",
            network=features.name,
        )
    classify(np.zeros((0, features.width), "float32"))  # raises if its file has no classifier


def grain_of(images: np.ndarray) -> np.ndarray:
    """Mean absolute difference of neighbouring pixels of every picture, in grey levels; of a clip,
    over all its frames.

    Example:

    >>> flat = np.full((1, 4, 4, 3), 200, np.uint8)
    >>> float(grain_of(flat)[0])
    0.0
    """
    wide = np.asarray(images).astype("int16")
    axes = tuple(range(1, wide.ndim))
    across = [np.abs(np.diff(wide, axis=axis)).mean(axis=axes) for axis in (-3, -2)]
    return (across[0] + across[1]) / 2


def enlarged(images: np.ndarray, height: int, width: int, frames: int | None = None) -> np.ndarray:
    """Pictures of a lower level at a higher one's size, bicubic: what the higher one has to beat.

    Args:
        images: uint8 (B, h, w, 3), or clips (B, f, h, w, 3).
        height: rows of the result.
        width: columns of the result.
        frames: frames of the result, a multiple of f: each frame is held. A picture becomes a clip
            that stands still. `None` if the result is pictures.

    Returns:
        uint8 (B, height, width, 3) or (B, frames, height, width, 3).
    """
    if images.ndim == 4:
        found = tf.image.resize(tf.constant(images), (height, width), "bicubic")
        large = tf.cast(tf.clip_by_value(tf.round(found), 0.0, 255.0), tf.uint8).numpy()
        return large if frames is None else np.repeat(large[:, None], frames, axis=1)
    # Clip by clip: the floats of all at once would need gigabytes.
    clips = [enlarged(clip, height, width) for clip in images]
    times = (frames or images.shape[1]) // images.shape[1]
    return np.repeat(np.stack(clips), times, axis=1)
