"""Whether a model repeats its training pictures: distances to the nearest of them."""

import dataclasses
import math

import numpy as np

from keras_mdm import checks
from keras_mdm.evaluation.feature_sets import blocks, checked, unit
from keras_mdm.evaluation.report import Row

# The share of the held-out pictures that sets the threshold, as one of so many.
_ONE_OF = 100
# Names of the two numbers in reports.
MEDIAN, NEAR = "nearest training picture, median ratio", "nearest training picture, share near"
# A cosine distance below this is that of a copy.
_COPY = 1e-9


@dataclasses.dataclass(frozen=True)
class Memorisation:
    """Result of `nearest_training`.

    Attributes:
        median_ratio: median distance of the drawn pictures over that of the held-out ones. About 1
            for a model that draws new pictures, towards 0 for one that repeats.
        near_share: share of the drawn pictures that are nearer to a training picture than the
            nearest 1 % of the held-out ones.
        standard_error: of that share.
        expected: the share that new real pictures would reach, at most 1 %.
        threshold: the cosine distance below which a drawn picture counts as near.
        drawn: number of drawn pictures.
        training: number of training pictures.
        held_out: number of held-out pictures that were compared with.
        copies: number of those left out because the same picture is in the training set, as the
            same flag of two countries.
        distances: (drawn,) cosine distance of each drawn picture to the nearest training picture.
        nearest: (drawn,) the row of that training picture, to look at the two side by side.
    """

    median_ratio: float
    near_share: float
    standard_error: float
    expected: float
    threshold: float
    drawn: int
    training: int
    held_out: int
    copies: int
    distances: np.ndarray = dataclasses.field(repr=False, compare=False)
    nearest: np.ndarray = dataclasses.field(repr=False, compare=False)

    def __str__(self) -> str:
        left_out = f", {self.copies} copies left out" if self.copies else ""
        return (
            f"median ratio {self.median_ratio:.2f}, near {100 * self.near_share:.1f} +- "
            f"{100 * self.standard_error:.1f} % (expected {100 * self.expected:.2g} %;"
            f" {self.drawn} drawn, {self.training} training, {self.held_out} held out{left_out})"
        )


def nearest_training(
    drawn_features: np.ndarray, training_features: np.ndarray, held_out_features: np.ndarray
) -> Memorisation:
    """Compare how near drawn and held-out real pictures come to the training pictures.

    A small distance alone says little, as real pictures resemble each other too. Pictures of the
    same source that were not trained on tell how near a new picture comes.

    Args:
        drawn_features: (N, D), at least two.
        training_features: (M, D), at least two.
        held_out_features: (H, D), at least 99, real pictures without relatives among the training
            pictures, for example of other concepts. If these differ more from the training pictures
            than what was asked of the model, as concepts of their own do, prompts for the same
            held-out concepts make the comparison fair.

    Returns:
        A `Memorisation`, with the nearest training picture of each drawn one.

    Raises:
        ValueError: if the widths differ, there are too few pictures, a row is zero or not finite,
            or fewer than 99 held-out pictures differ from all training pictures.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> training, held_out, new = rng.normal(size=(3, 200, 16))
    >>> found = nearest_training(training[:50], training, held_out)
    >>> found.near_share, bool(np.all(found.nearest == np.arange(50)))
    (1.0, True)
    >>> nearest_training(new, training, held_out).near_share < 0.04
    True
    """
    drawn, training, held_out = checked(
        2,
        drawn_features=drawn_features,
        training_features=training_features,
        held_out_features=held_out_features,
    )
    if len(held_out) < _ONE_OF - 1:
        raise checks.error(
            f"`held_out_features` must have at least {_ONE_OF - 1} rows",
            fix="hold out more pictures: the nearest 1 % of fewer is less than one picture",
            held_out_features=held_out.shape,
        )
    drawn = unit("drawn_features", drawn)
    training = unit("training_features", training)
    held_out = unit("held_out_features", held_out)
    usual, _ = nearest_rows(held_out, training)
    usual = usual[usual >= _COPY]
    copies = len(held_out) - len(usual)
    if len(usual) < _ONE_OF - 1:
        raise checks.error(
            f"at least {_ONE_OF - 1} held-out pictures must not be copies of training pictures",
            fix="hold out whole concepts, and more of them",
            held_out=len(held_out),
            copies=copies,
        )
    # Of n + 1 new pictures, each is as likely as the others to be among the nearest.
    place = (len(usual) + 1) // _ONE_OF
    threshold = float(np.partition(usual, place - 1)[place - 1])
    distances, nearest = nearest_rows(drawn, training)
    share = float(np.mean(distances < threshold))
    return Memorisation(
        median_ratio=float(np.median(distances) / np.median(usual)),
        near_share=share,
        standard_error=math.sqrt(share * (1.0 - share) / len(drawn)),
        expected=place / (len(usual) + 1),
        threshold=threshold,
        drawn=len(drawn),
        training=len(training),
        held_out=len(usual),
        copies=copies,
        distances=distances,
        nearest=nearest,
    )


def rows_of(subject: str, found: Memorisation) -> list[Row]:
    """The two numbers as rows of a report, beside what new real pictures would reach."""
    counts = (found.drawn, found.training)
    share = (found.near_share, found.standard_error, found.expected)
    return [
        Row(
            subject,
            MEDIAN,
            found.median_ratio,
            math.nan,
            1.0,
            *counts,
        ),
        Row(subject, NEAR, *share, *counts),
    ]


def nearest_rows(x: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine distance to the nearest row of `training`, and its number; rows have length 1."""
    distances, nearest = np.empty(len(x)), np.empty(len(x), "int64")
    for rows in blocks(len(x), len(training)):
        cosines = x[rows] @ training.T
        nearest[rows] = np.argmax(cosines, axis=1)
        # From the difference: 1 - cosine of nearly equal vectors is all rounding.
        distances[rows] = 0.5 * np.sum((x[rows] - training[nearest[rows]]) ** 2, axis=1)
    return distances, nearest
