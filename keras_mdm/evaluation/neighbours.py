"""Quality and variety apart: precision, recall, density and coverage, by nearest neighbours.

All four lay balls around the pictures of a set, each reaching to the k-th nearest picture of the
same set, and count what falls into them. They are computed exactly, in float64 and in blocks: the
time grows with the square of the number of pictures, the memory does not. Their values depend on
the numbers of pictures, so compare them only at equal numbers.
"""

import dataclasses

import numpy as np

from keras_mdm import checks
from keras_mdm.evaluation.feature_sets import blocks, checked

# Squared distances that differ by less than this share of the largest squared norm are equal. The
# rounding of a product of 2048-d features is below 1e-12; without the slack it would decide whether
# a copy of the k-th neighbour lies in the ball that this neighbour defines.
_SLACK = 1e-11


@dataclasses.dataclass(frozen=True)
class PrecisionRecall:
    """Result of `precision_recall`.

    Attributes:
        precision: share of the drawn pictures that look like real ones.
        recall: share of the real pictures that could have been drawn.
        k: the neighbour that the balls reach to.
        real: number of real pictures.
        drawn: number of drawn pictures.
    """

    precision: float
    recall: float
    k: int
    real: int
    drawn: int

    def __str__(self) -> str:
        return (
            f"precision {self.precision:.3f}, recall {self.recall:.3f}"
            f" (k = {self.k}, {self.drawn} drawn, {self.real} real)"
        )


@dataclasses.dataclass(frozen=True)
class DensityCoverage:
    """Result of `density_coverage`.

    Attributes:
        density: in how many balls of real pictures a drawn one lies, over k; about 1 for sets of
            one distribution, and above it where drawings crowd around typical pictures.
        coverage: share of the balls of real pictures that hold a drawn one.
        k: the neighbour that the balls reach to.
        real: number of real pictures.
        drawn: number of drawn pictures.
    """

    density: float
    coverage: float
    k: int
    real: int
    drawn: int

    def __str__(self) -> str:
        return (
            f"density {self.density:.3f}, coverage {self.coverage:.3f}"
            f" (k = {self.k}, {self.drawn} drawn, {self.real} real)"
        )


def precision_recall(real: np.ndarray, drawn: np.ndarray, *, k: int = 3) -> PrecisionRecall:
    """Measure which share of the drawn pictures looks real, and of the real ones can be drawn.

    Args:
        real: (N, D) features of real pictures, N > k.
        drawn: (M, D) features of drawn pictures, M > k.
        k: the neighbour that the balls reach to, the picture itself not counted.

    Returns:
        A `PrecisionRecall`. Balls are closed: what lies on their surface is inside.

    Raises:
        ValueError: if the widths differ, a set has no more than k pictures, or a feature is not
            finite.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> real, drawn = rng.normal(size=(500, 8)), 0.1 * rng.normal(size=(500, 8))
    >>> found = precision_recall(real, drawn)  # all drawings are near the middle
    >>> found.precision > 0.9, found.recall < 0.1
    (True, True)

    Reference: Kynkaanniemi et al., arXiv 1904.06991, section 2.
    """
    real, drawn = _prepared(real, drawn, k)
    slack = _slack(real, drawn)
    real_reach, drawn_reach = _reach(real, k) + slack, _reach(drawn, k) + slack
    precise = 0
    recalled = np.zeros(len(real), bool)
    for rows in blocks(len(drawn), len(real)):
        distances = _distances(drawn[rows], real)
        precise += int(np.sum(np.any(distances <= real_reach, axis=1)))
        recalled |= np.any(distances <= drawn_reach[rows, None], axis=0)
    return PrecisionRecall(
        precise / len(drawn), float(np.mean(recalled)), int(k), len(real), len(drawn)
    )


def density_coverage(real: np.ndarray, drawn: np.ndarray, *, k: int = 5) -> DensityCoverage:
    """Measure how densely drawn pictures lie among the real ones, and how many of these they reach.

    Unlike precision and recall, only balls around real pictures count, so an outlier among the
    drawn pictures changes nothing, and one among the real pictures changes little.

    Args:
        real: (N, D) features of real pictures, N > k.
        drawn: (M, D) features of drawn pictures, M > k.
        k: the neighbour that the balls reach to, the picture itself not counted. For sets of one
            distribution and of equal size, coverage is about 1 - 2^-k.

    Returns:
        A `DensityCoverage`. Balls are closed, so a set against itself has density (k + 1) / k.

    Raises:
        ValueError: if the widths differ, a set has no more than k pictures, or a feature is not
            finite.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> real, drawn = rng.normal(size=(500, 8)), rng.normal(size=(500, 8))
    >>> found = density_coverage(real, drawn)
    >>> abs(found.density - 1) < 0.1, abs(found.coverage - (1 - 2**-5)) < 0.03
    (True, True)

    Reference: Naeem et al., arXiv 2002.09797, section 3.
    """
    real, drawn = _prepared(real, drawn, k)
    reach = _reach(real, k) + _slack(real, drawn)
    inside, covered = 0, np.zeros(len(real), bool)
    for rows in blocks(len(drawn), len(real)):
        hits = _distances(drawn[rows], real) <= reach
        inside += int(np.sum(hits))
        covered |= np.any(hits, axis=0)
    return DensityCoverage(
        inside / (int(k) * len(drawn)), float(np.mean(covered)), int(k), len(real), len(drawn)
    )


def _prepared(real: np.ndarray, drawn: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    k = checks.integer("k", k, minimum=1)
    real, drawn = checked(2, real=real, drawn=drawn)
    if k >= min(len(real), len(drawn)):
        raise checks.error(
            "`k` must be smaller than the number of pictures of each set",
            fix="pass a smaller k, or the features of more pictures",
            k=k,
            real=real.shape,
            drawn=drawn.shape,
        )
    # Distances do not change with the origin, but their rounding does.
    middle = real.mean(axis=0)
    return real - middle, drawn - middle


def _slack(real: np.ndarray, drawn: np.ndarray) -> float:
    largest = max(float(np.max(np.einsum("nd,nd->n", x, x))) for x in (real, drawn))
    return _SLACK * largest


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances (N, M), which rounding may leave a little below zero."""
    found = x @ y.T
    found *= -2.0
    found += np.einsum("nd,nd->n", x, x)[:, None]
    found += np.einsum("nd,nd->n", y, y)
    return found


def _reach(x: np.ndarray, k: int) -> np.ndarray:
    """(N,) squared distances of all pictures of a set to their k-th nearest other one."""
    found = np.empty(len(x))
    for rows in blocks(len(x), len(x)):
        distances = _distances(x[rows], x)
        own = np.arange(rows.start, rows.stop)
        distances[own - rows.start, own] = np.inf
        distances.partition(k - 1, axis=1)
        found[rows] = distances[:, k - 1]
    return found
