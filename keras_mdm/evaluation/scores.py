"""Scores of one set: the Inception Score, and whether pictures show what their texts say."""

import dataclasses
import math

import numpy as np

from keras_mdm import checks
from keras_mdm.evaluation.feature_sets import checked, checked_pairs, unit

# Cosines that differ by less are equal; features come in float32.
_TIE = 1e-6
_CHUNK = 64


@dataclasses.dataclass(frozen=True)
class InceptionScore:
    """Result of `inception_score`.

    Attributes:
        value: mean over the parts of the set.
        standard_deviation: over the parts; `None` if there is one part only.
        splits: number of parts.
        pictures: number of pictures.
    """

    value: float
    standard_deviation: float | None
    splits: int
    pictures: int

    def __str__(self) -> str:
        if self.standard_deviation is None:
            return f"{self.value:.2f} ({self.pictures} pictures in one part)"
        return (
            f"{self.value:.2f} +- {self.standard_deviation:.2f}"
            f" ({self.pictures} pictures in {self.splits} parts)"
        )


@dataclasses.dataclass(frozen=True)
class RPrecision:
    """Result of `r_precision`.

    Attributes:
        value: share of the pictures that lie nearest to their own text.
        standard_error: of that share.
        chance: the share that random pictures would reach, 1 / (others + 1).
        others: number of other texts that each picture is held against.
        pictures: number of pictures.
    """

    value: float
    standard_error: float
    chance: float
    others: int
    pictures: int

    def __str__(self) -> str:
        return (
            f"{100 * self.value:.1f} +- {100 * self.standard_error:.1f} %"
            f" (chance {100 * self.chance:.2g} %, {self.pictures} pictures)"
        )


@dataclasses.dataclass(frozen=True)
class CosineScore:
    """Result of `clip_score`.

    Attributes:
        value: 100 times the mean of max(cosine, 0).
        standard_error: of that mean.
        pictures: number of pictures.
    """

    value: float
    standard_error: float
    pictures: int

    def __str__(self) -> str:
        return f"{self.value:.2f} +- {self.standard_error:.2f} ({self.pictures} pictures)"


def inception_score(probabilities: np.ndarray, *, splits: int = 10) -> InceptionScore:
    """Measure how sure a classifier is of each picture, and how evenly it sees all its classes.

    It is exp of the mean over the pictures of KL(p(class | picture) || p(class)), from 1 to the
    number of classes. It knows nothing of real pictures.

    Args:
        probabilities: (N, classes), rows that sum to 1, for example of the `classify` of a feature
            network. Zeros are allowed.
        splits: parts of consecutive pictures, as in the published scores. The pictures should be in
            random order, not sorted by class.

    Returns:
        An `InceptionScore`: mean and standard deviation over the parts.

    Raises:
        ValueError: if a row is not a distribution, or a part would have fewer than two pictures.

    Example:

    >>> print(inception_score(np.tile(np.eye(4), (10, 1))))  # sure, and all classes alike
    4.00 +- 0.00 (40 pictures in 10 parts)

    Reference: Salimans et al., arXiv 1606.03498, section 4.
    """
    splits = checks.integer("splits", splits, minimum=1)
    (p,) = checked(2, probabilities=probabilities)
    totals = p.sum(axis=1)
    if np.min(p) < 0.0 or np.max(np.abs(totals - 1.0)) > 1e-3:
        raise checks.error(
            "the rows of `probabilities` must be at least 0 and sum to 1",
            fix="pass probabilities, not logits",
            smallest=float(np.min(p)),
            sums=(float(totals.min()), float(totals.max())),
        )
    if len(p) < 2 * splits:
        raise checks.error(
            "each part must have at least two pictures",
            fix="pass fewer splits, or the probabilities of more pictures",
            pictures=len(p),
            splits=splits,
        )
    p = p / totals[:, None]
    edges = [len(p) * i // splits for i in range(splits + 1)]
    scores = [_one_score(p[a:b]) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    deviation = float(np.std(scores)) if splits > 1 else None
    return InceptionScore(float(np.mean(scores)), deviation, splits, len(p))


def r_precision(
    picture_features: np.ndarray, text_features: np.ndarray, *, others: int = 99, seed: int = 0
) -> RPrecision:
    """Hold each picture against its own text and others, and count how often its own is nearest.

    Nearest is largest cosine. The others are drawn for each picture from the texts that differ from
    its own, without repetition; a text that several pictures have counts once. If texts are equally
    near, they share the hit, so that features without information reach the chance level.

    Args:
        picture_features: (N, D).
        text_features: (N, D), row i belongs to picture i.
        others: number of other texts; there must be more different texts than that.
        seed: of the draw of the others.

    Returns:
        An `RPrecision`.

    Raises:
        ValueError: if the shapes differ, a row is zero or not finite, or there are too few texts.

    Example:

    >>> features = np.eye(10)
    >>> print(r_precision(features, features, others=4))
    100.0 +- 0.0 % (chance 20 %, 10 pictures)

    Reference: Xu et al., AttnGAN, arXiv 1711.10485, section 4.
    """
    others, seed = checks.integer("others", others, minimum=1), checks.seed(seed)
    pictures, texts = checked_pairs(
        2, picture_features=picture_features, text_features=text_features
    )
    different, own = np.unique(texts, axis=0, return_inverse=True)
    own = own.reshape(-1)
    if others >= len(different):
        raise checks.error(
            "there must be more different texts than `others`",
            fix="pass fewer others, or more pictures with texts of their own",
            others=others,
            different_texts=len(different),
        )
    pictures = unit("picture_features", pictures)
    different = unit("text_features", different)
    rng = np.random.default_rng(seed)
    hits = np.empty(len(pictures))
    for begin in range(0, len(pictures), _CHUNK):
        rows = slice(begin, min(begin + _CHUNK, len(pictures)))
        choice = np.stack(
            [rng.choice(len(different) - 1, others, replace=False) for _ in own[rows]]
        )
        choice += choice >= own[rows, None]  # all but its own
        choice = np.concatenate([own[rows, None], choice], axis=1)
        cosines = np.einsum("nd,nkd->nk", pictures[rows], different[choice])
        lead = cosines - cosines[:, :1]
        hits[rows] = np.all(lead <= _TIE, axis=1) / np.sum(np.abs(lead) <= _TIE, axis=1)
    error = float(np.std(hits)) / math.sqrt(len(hits))
    return RPrecision(float(np.mean(hits)), error, 1.0 / (others + 1), others, len(hits))


def clip_score(picture_features: np.ndarray, text_features: np.ndarray) -> CosineScore:
    """Return 100 times the mean cosine between pictures and their texts, negative ones as 0.

    Only with the features of CLIP's two towers is this a CLIP score.

    Args:
        picture_features: (N, D).
        text_features: (N, D), row i belongs to picture i.

    Returns:
        A `CosineScore`.

    Raises:
        ValueError: if the shapes differ, or a row is zero or not finite.

    Example:

    >>> print(clip_score([[2.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [3.0, 4.0]]))
    90.00 +- 7.07 (2 pictures)

    Reference: Hessel et al., arXiv 2104.08718, section 3, with 100 for their factor 2.5.
    """
    pictures, texts = checked_pairs(
        2, picture_features=picture_features, text_features=text_features
    )
    pictures, texts = unit("picture_features", pictures), unit("text_features", texts)
    scores = 100.0 * np.clip(np.einsum("nd,nd->n", pictures, texts), 0.0, 1.0)
    error = float(np.std(scores)) / math.sqrt(len(scores))
    return CosineScore(float(np.mean(scores)), error, len(scores))


def _one_score(p: np.ndarray) -> float:
    mean = p.mean(axis=0)
    # Where p is 0, p log p is 0; where the mean is 0, so is p.
    logs = np.log(np.where(p > 0.0, p, 1.0)) - np.log(np.where(mean > 0.0, mean, 1.0))
    return math.exp(float(np.mean(np.sum(p * logs, axis=1))))
