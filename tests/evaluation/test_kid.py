import numpy as np
import pytest

from keras_mdm.evaluation import kernel_distance, real_floor


def brute_force(x, y):
    """Term by term, without matrices."""

    def kernel(a, b):
        return (float(a @ b) / len(a) + 1.0) ** 3

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    across = sum(kernel(a, b) for a in x for b in y)
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2.0 * across / (n * m)


def test_value_and_error_term_by_term(rng):
    x, y = rng.normal(size=(6, 4)), rng.normal(size=(9, 4)) + 0.5
    found = kernel_distance(x, y)
    assert found.value == pytest.approx(brute_force(x, y), rel=1e-10)
    variance = 0.0
    for left_out in (
        [brute_force(np.delete(x, i, 0), y) for i in range(6)],
        [brute_force(x, np.delete(y, i, 0)) for i in range(9)],
    ):
        count = len(left_out)
        variance += (count - 1) / count * np.sum((left_out - np.mean(left_out)) ** 2)
    assert found.standard_error == pytest.approx(np.sqrt(variance), rel=1e-10)
    assert (found.first, found.second) == (6, 9)
    assert str(found) == f"{1000 * found.value:.1f} +- {1000 * found.standard_error:.1f}"


def test_unbiased_with_an_honest_error(rng):
    """Over many draws the values average to the truth, and spread as the error says."""
    draws = [
        kernel_distance(rng.normal(size=(60, 8)), rng.normal(size=(80, 8)) + 0.3)
        for _ in range(300)
    ]
    values = np.array([draw.value for draw in draws])
    # E of the kernel between N(a, 1) and N(b, 1) by quadrature would need D dimensions; a large
    # draw stands in for it.
    truth = kernel_distance(rng.normal(size=(4000, 8)), rng.normal(size=(4000, 8)) + 0.3)
    spread = values.std()
    assert abs(values.mean() - truth.value) < 4 * (spread / np.sqrt(300) + truth.standard_error)
    assert np.mean([draw.standard_error for draw in draws]) == pytest.approx(spread, rel=0.15)
    same = [kernel_distance(*rng.normal(size=(2, 60, 8))).value for _ in range(200)]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(200)
    assert min(same) < 0.0  # unbiased: it goes below zero


def test_the_floor_splits_one_set(rng):
    features = rng.normal(size=(101, 5))
    floor = real_floor(features, seed=3)
    assert (floor.first, floor.second) == (50, 51)
    assert floor == real_floor(features, seed=3) != real_floor(features, seed=4)
    assert abs(floor.value) < 4 * floor.standard_error


@pytest.mark.parametrize(
    "sets",
    [
        (np.zeros((2, 4)), np.zeros((5, 4))),
        (np.zeros((5, 4)), np.zeros((5, 3))),
        (np.zeros(5), np.zeros(5)),
        (np.full((5, 4), np.nan), np.zeros((5, 4))),
    ],
    ids=["few", "widths", "rank", "finite"],
)
def test_bad_input(sets):
    with pytest.raises(ValueError, match="Received: .*To fix it: "):
        kernel_distance(*sets)
