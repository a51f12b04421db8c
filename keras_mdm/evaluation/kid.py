"""Kernel inception distance: how far two sets of pictures are apart, with an error bar."""

import dataclasses
import math

import numpy as np

from keras_mdm import checks
from keras_mdm.evaluation.feature_sets import checked_pairs

_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class KID:
    """Result of `kernel_distance`.

    Attributes:
        value: the unbiased estimate; around 0, even negative, for sets of one distribution.
        standard_error: its standard deviation over draws of the two sets, by the jackknife.
        first: number of pictures in the first set.
        second: number of pictures in the second set.
    """

    value: float
    standard_error: float
    first: int
    second: int

    def __str__(self) -> str:
        return f"{1000 * self.value:.1f} +- {1000 * self.standard_error:.1f}"


def kernel_distance(first: np.ndarray, second: np.ndarray) -> KID:
    """Estimate the squared maximum mean discrepancy of two sets of features without bias.

    The kernel is (x.y / D + 1)^3. All pairs are used, not random subsets, so the result is the
    same every time. The error comes from leaving out each picture once, in closed form.

    Args:
        first: (N, D) features, for example of the real pictures.
        second: (M, D) features. The two sets are assumed to be independent.

    Returns:
        A `KID`; its `str` is 1000 times the value, as usually reported.

    Raises:
        ValueError: if there are fewer than three pictures, the widths differ, or a feature is not
            finite.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> kid = kernel_distance(rng.normal(size=(200, 16)), rng.normal(size=(300, 16)))
    >>> abs(kid.value) < 3 * kid.standard_error
    True

    Reference: Binkowski et al., arXiv 1801.01401, section 4; Efron and Stein, The Jackknife
    Estimate of Variance, Ann. Statist. 9 (1981).
    """
    x, y = (np.asarray(value, "float64") for value in (first, second))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 3:
        raise checks.error(
            "the two sets must be (N, D) and (M, D), of at least three pictures each",
            fix="pass the features of more pictures, from one network",
            first=x.shape,
            second=y.shape,
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise checks.error(
            "features must be finite",
            fix="look at the pictures and at the network that made the features",
            first=bool(np.isfinite(x).all()),
            second=bool(np.isfinite(y).all()),
        )
    (own_x, sum_x), (own_y, sum_y) = _within(x), _within(y)
    rows, columns = _sums(x, y)
    n, m, total = len(x), len(y), float(rows.sum())

    def distance(s_x: float, s_y: float, s_xy: float, n: int, m: int) -> float:
        return s_x / (n * (n - 1)) + s_y / (m * (m - 1)) - 2.0 * s_xy / (n * m)

    # Without picture i, its row and its column are missing from the sums.
    without_x = distance(sum_x - 2.0 * own_x, sum_y, total - rows, n - 1, m)
    without_y = distance(sum_x, sum_y - 2.0 * own_y, total - columns, n, m - 1)
    variance = sum(
        (len(w) - 1) / len(w) * float(np.sum((w - w.mean()) ** 2)) for w in (without_x, without_y)
    )
    return KID(distance(sum_x, sum_y, total, n, m), math.sqrt(variance), n, m)


def paired_kernel_distance(first: np.ndarray, second: np.ndarray) -> KID:
    """`kernel_distance` of two sets of which row i belongs to row i, such as pictures and their
    reconstructions.

    Pairs of a picture with its own counterpart say nothing about the sets, and are left out: the
    estimate stays unbiased, and is 0 for equal sets.

    Args:
        first: (N, D) features.
        second: (N, D) features, in the same order.

    Returns:
        A `KID`.

    Raises:
        ValueError: if there are fewer than three pairs, or the features do not fit.

    Example:

    >>> features = np.random.default_rng(0).normal(size=(50, 16))
    >>> abs(paired_kernel_distance(features, features).value) < 1e-12
    True

    Reference: Gretton et al., A kernel two-sample test, JMLR 13 (2012), lemma 6.
    """
    x, y = checked_pairs(3, first=first, second=second)
    n = len(x)
    rows, columns = _sums(x, y)
    own = (np.sum(x * y, axis=1) / x.shape[1] + 1.0) ** 3
    # h(i, j) = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i), summed over all j but i.
    sums = _within(x)[0] + _within(y)[0] - rows - columns + 2.0 * own
    total = float(sums.sum())
    without = (total - 2.0 * sums) / ((n - 1) * (n - 2))
    variance = (n - 1) / n * float(np.sum((without - without.mean()) ** 2))
    return KID(total / (n * (n - 1)), math.sqrt(variance), n, n)


def real_floor(features: np.ndarray, *, seed: int = 0) -> KID:
    """Distance of one half of a set from the other: the best that a model could reach.

    Args:
        features: (N, D), at least six.
        seed: of the split.
    """
    order = np.random.default_rng(checks.seed(seed)).permutation(len(features))
    half = len(features) // 2
    return kernel_distance(features[order[:half]], features[order[half:]])


def _sums(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the kernel of all pairs by picture of `x` and of `y`, in blocks of rows."""
    rows, columns = np.empty(len(x)), np.zeros(len(y))
    for first in range(0, len(x), _ROWS):
        part = slice(first, first + _ROWS)
        kernel = (x[part] @ y.T / x.shape[1] + 1.0) ** 3
        rows[part] = kernel.sum(1)
        columns += kernel.sum(0)
    return rows, columns


def _within(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Sums over the other pictures of the set, (N,), and over all pairs."""
    own = _sums(x, x)[0] - (np.sum(x * x, axis=1) / x.shape[1] + 1.0) ** 3
    return own, float(own.sum())
