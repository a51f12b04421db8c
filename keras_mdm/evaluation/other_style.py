"""Concepts that were seen in one style and are asked in another: understood, or repeated?"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from keras_mdm import checks
from keras_mdm.evaluation.feature_sets import checked, unit
from keras_mdm.evaluation.memorised import nearest_rows

OUTCOMES = ("right", "repeated", "style", "neither")


@dataclasses.dataclass(frozen=True)
class OtherStyle:
    """Result of `other_style`; the dictionaries are keyed by `OUTCOMES`.

    Attributes:
        share: share of the pictures whose nearest drawing shows the asked concept in the asked
            style ("right"), the asked concept in another style ("repeated": what training showed),
            another concept in the asked style ("style"), or neither.
        standard_error: sqrt(p (1 - p) / pictures) of that share.
        chance: the share that random pictures would reach.
        pictures: number of pictures.
        drawings: number of drawings in the gallery.
        nearest: (pictures,) the row of the nearest drawing of each.
    """

    share: Mapping[str, float]
    standard_error: Mapping[str, float]
    chance: Mapping[str, float]
    pictures: int
    drawings: int
    nearest: np.ndarray = dataclasses.field(repr=False, compare=False)

    def __str__(self) -> str:
        parts = [
            f"{name} {100 * self.share[name]:.1f} +- {100 * self.standard_error[name]:.1f} % "
            f"(chance {100 * self.chance[name]:.2g} %)"
            for name in OUTCOMES
        ]
        return f"{', '.join(parts)} of {self.pictures} pictures, {self.drawings} drawings"


def other_style(
    drawn_features: np.ndarray,
    asked: Sequence[tuple[str, str]],
    drawing_features: np.ndarray,
    drawings: Sequence[tuple[str, str]],
) -> OtherStyle:
    """Tell generalisation from memory by concepts that were trained in one style only.

    Train on all concepts in one style, and in the other on all but some; then ask for these some in
    the other style. A model that has understood the style draws them in it. One that repeats its
    training draws them in the style in which it saw them, or draws something else.

    Args:
        drawn_features: (N, D) features of drawn pictures, at least two.
        asked: (concept, style) of what was asked for each.
        drawing_features: (G, D) features of the real drawings in all styles, those that were held
            out included.
        drawings: (concept, style) of each.

    Returns:
        An `OtherStyle`.

    Raises:
        ValueError: if the lengths or widths differ, a row is zero or not finite, or a concept that
            was asked for has no drawing in the asked style.

    Example:

    >>> features = np.eye(4)
    >>> drawings = [("cat", "flat"), ("cat", "line"), ("dog", "flat"), ("dog", "line")]
    >>> found = other_style(features[[1, 2]], drawings[1::2], features, drawings)
    >>> found.share["right"], found.share["repeated"]
    (0.5, 0.5)
    """
    drawn, gallery = checked(2, drawn_features=drawn_features, drawing_features=drawing_features)
    if len(asked) != len(drawn) or len(drawings) != len(gallery):
        raise checks.error(
            "there must be a concept and a style for each picture and each drawing",
            fix="check the lengths",
            drawn_features=drawn.shape,
            asked=len(asked),
            drawing_features=gallery.shape,
            drawings=len(drawings),
        )
    strangers = sorted(set(map(tuple, asked)) - set(map(tuple, drawings)))
    if strangers:
        raise checks.error(
            "what was asked must have a drawing in the asked style",
            fix="add these drawings, or leave the pictures out",
            missing=strangers[:4],
        )
    _, nearest = nearest_rows(unit("drawn_features", drawn), unit("drawing_features", gallery))
    concept, style = (
        np.array([pair[part] for pair in asked])[:, None]
        == np.array([pair[part] for pair in drawings])
        for part in (0, 1)
    )
    kinds = {
        "right": concept & style,
        "repeated": concept & ~style,
        "style": ~concept & style,
        "neither": ~concept & ~style,
    }
    rows = np.arange(len(drawn))
    share = {name: float(np.mean(kind[rows, nearest])) for name, kind in kinds.items()}
    return OtherStyle(
        share=share,
        standard_error={n: math.sqrt(p * (1.0 - p) / len(drawn)) for n, p in share.items()},
        chance={name: float(np.mean(kind)) for name, kind in kinds.items()},
        pictures=len(drawn),
        drawings=len(gallery),
        nearest=nearest,
    )
