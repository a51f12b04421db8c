"""Frechet distance between two normal distributions fitted to features."""

import numpy as np

from keras_mdm import checks
from keras_mdm.evaluation.moments import Statistics, check_same_features


def frechet_distance(first: Statistics, second: Statistics) -> float:
    """Compute the squared Frechet distance |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    The trace of the root is that of (C1^(1/2) C2 C1^(1/2))^(1/2), whose matrix is symmetric: its
    eigenvalues are real, and rounding below zero is cut off. Other tools take the root of the
    product itself, which is complex for fewer pictures than features.

    With Inception features of the 2015 network this is the FID. It is biased: with fewer pictures
    it is larger, so only distances of equally many pictures compare.

    Args:
        first: statistics of one set, in which at least two pictures are counted.
        second: of the other one.

    Raises:
        ValueError: if they are of different networks, or a set has fewer than two pictures.

    Example:

    >>> from keras_mdm.evaluation import moments
    >>> class Mean:
    ...     name, width = "mean colour", 3
    ...     def __call__(self, images):
    ...         return images.mean((1, 2)).astype("float32")
    >>> images = np.random.default_rng(0).integers(0, 200, (8, 4, 4, 3)).astype("uint8")
    >>> one, brighter = (moments.of_pictures(Mean(), x) for x in (images, images + 10))
    >>> round(frechet_distance(one, brighter), 3)
    300.0

    Reference: Heusel et al. 2017 (arXiv 1706.08500), equation 6; Dowson and Landau, The Frechet
    Distance between Multivariate Normal Distributions (1982).
    """
    check_same_features(first, second)
    for statistics in (first, second):
        if statistics.count == 1:
            raise checks.error(
                "a covariance needs at least two pictures",
                fix="pass more pictures",
                count=statistics.count,
            )
    means = float(np.sum((first.mean - second.mean) ** 2))
    one, two = _covariance(first), _covariance(second)
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    middle = root @ two @ root
    inner = np.linalg.eigvalsh((middle + middle.T) / 2)
    trace = float(np.sum(np.sqrt(np.maximum(inner, 0.0))))
    return max(0.0, means + float(np.trace(one) + np.trace(two)) - 2.0 * trace)


def _covariance(statistics: Statistics) -> np.ndarray:
    # Files of other tools hold the covariance and do not say of how many pictures.
    return statistics.covariance if statistics.count else statistics.scatter
