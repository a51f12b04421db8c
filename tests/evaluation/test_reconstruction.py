"""What an autoencoder loses, against closed forms."""

import math

import numpy as np
import pytest
from tiny_models import THREE_PARTS, MeanColour

from keras_mdm import evaluation


def flat(value, count=4, size=12):
    return np.full((count, size, size, 3), value, "uint8")


def test_flat_pictures_in_closed_form():
    found = evaluation.reconstruction(flat(100), flat(110))
    assert found.psnr == pytest.approx(20.0 * math.log10(255.0 / 10.0), rel=1e-6)
    # Without variance only the means are compared; the rest is rounding in float32.
    c = (0.01 * 255.0) ** 2
    assert found.ssim == pytest.approx((2 * 100 * 110 + c) / (100**2 + 110**2 + c), rel=2e-4)
    assert found.psnr_error == pytest.approx(0.0, abs=1e-6)
    assert found.pictures == 4 and found.distance is None
    same = evaluation.reconstruction(flat(7), flat(7))
    assert same.psnr == math.inf and same.ssim == pytest.approx(1.0)
    # The error is that of the mean over pictures.
    pair = (
        np.concatenate([flat(100, 1), flat(100, 1)]),
        np.concatenate([flat(110, 1), flat(120, 1)]),
    )
    two = evaluation.reconstruction(*pair)
    values = [20.0 * math.log10(255.0 / d) for d in (10.0, 20.0)]
    assert two.psnr == pytest.approx(np.mean(values), rel=1e-6)
    assert two.psnr_error == pytest.approx(np.std(values, ddof=1) / math.sqrt(2), rel=1e-5)


def brute_force(x, y):
    """The mean of h over all pairs of different rows, and leaving out each row once."""
    n, width = x.shape
    kernel = lambda a, b: (a @ b / width + 1.0) ** 3  # noqa: E731

    def mean(rows):
        found = [
            kernel(x[i], x[j]) + kernel(y[i], y[j]) - kernel(x[i], y[j]) - kernel(x[j], y[i])
            for i in rows
            for j in rows
            if i != j
        ]
        return np.mean(found)

    without = np.array([mean([j for j in range(n) if j != i]) for i in range(n)])
    error = math.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2))
    return mean(range(n)), error


def test_the_distance_of_pairs_leaves_out_a_row_with_its_own():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 5))
    y = x + 0.3 * rng.normal(size=(9, 5)) + 0.2
    found = evaluation.paired_kernel_distance(x, y)
    value, error = brute_force(x, y)
    assert found.value == pytest.approx(value, rel=1e-9)
    assert found.standard_error == pytest.approx(error, rel=1e-9)
    assert (found.first, found.second) == (9, 9)
    assert evaluation.paired_kernel_distance(x, x).value == pytest.approx(0.0, abs=1e-12)
    # The estimate for independent sets is far below zero here.
    assert evaluation.kernel_distance(x, x).value < -1.0
    # The order of the pairs does not matter, their partners do.
    order = rng.permutation(9)
    again = evaluation.paired_kernel_distance(x[order], y[order])
    assert again.value == pytest.approx(found.value, rel=1e-9)


def test_with_features_the_table_has_a_distance():
    real = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3)).astype("uint8")
    found = evaluation.reconstruction(real, real // 2, features=MeanColour())
    expected = evaluation.paired_kernel_distance(MeanColour()(real), MeanColour()(real // 2))
    assert found.distance == expected and expected.value > 0.1
    assert f"| kernel distance x 1000 | {expected} | 6 |" in str(found)


@pytest.mark.parametrize(
    ("real", "found", "said"),
    [
        (flat(1), flat(1, count=3), "in the same order"),
        (flat(1), flat(1).astype("float32"), "must be uint8"),
        (flat(1, count=0), flat(1, count=0), "must be uint8"),
        (flat(1, size=8), flat(1, size=8), "at least 11 pixels"),
    ],
)
def test_pictures_that_do_not_fit(real, found, said):
    with pytest.raises(ValueError, match=said + ".*" + THREE_PARTS):
        evaluation.reconstruction(real, found)
