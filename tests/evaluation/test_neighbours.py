import tracemalloc

import numpy as np
import pytest

from keras_mdm.evaluation import density_coverage, feature_sets, precision_recall


def naive(real, drawn, k_balls, k_density):
    """All four, pair by pair."""

    def reach(points, k):
        return [
            sorted(np.sum((a - b) ** 2) for j, b in enumerate(points) if j != i)[k - 1]
            for i, a in enumerate(points)
        ]

    def inside(point, centre, squared):
        return np.sum((point - centre) ** 2) <= squared

    real_reach, drawn_reach = reach(real, k_balls), reach(drawn, k_balls)
    precision = np.mean(
        [any(inside(y, x, r) for x, r in zip(real, real_reach, strict=True)) for y in drawn]
    )
    recall = np.mean(
        [any(inside(x, y, r) for y, r in zip(drawn, drawn_reach, strict=True)) for x in real]
    )
    balls = list(zip(real, reach(real, k_density), strict=True))
    density = sum(inside(y, x, r) for y in drawn for x, r in balls) / (k_density * len(drawn))
    coverage = np.mean([any(inside(y, x, r) for y in drawn) for x, r in balls])
    return precision, recall, density, coverage


def ours(real, drawn, k_balls, k_density):
    first = precision_recall(real, drawn, k=k_balls)
    second = density_coverage(real, drawn, k=k_density)
    return first.precision, first.recall, second.density, second.coverage


@pytest.mark.parametrize("ks", [(3, 5), (1, 2)])
def test_equal_to_pairs_one_by_one(rng, monkeypatch, ks):
    real, drawn = rng.normal(size=(40, 3)), 0.7 * rng.normal(size=(33, 3)) + 0.5
    want = naive(real, drawn, *ks)
    assert all(0.0 < value for value in want) and max(want[0], want[1], want[3]) < 1.0
    assert ours(real, drawn, *ks) == pytest.approx(want, abs=1e-12)
    monkeypatch.setattr(feature_sets, "_ENTRIES", 200)  # blocks of five rows
    assert ours(real, drawn, *ks) == pytest.approx(want, abs=1e-12)


def test_ties_and_repeated_pictures_are_counted_as_in_whole_numbers(rng):
    """Whole numbers make exact distances, many of them equal, some radii zero; far from the origin
    rounding would decide."""
    real = rng.integers(0, 4, size=(60, 3)).astype("float64")
    drawn = rng.integers(0, 5, size=(50, 3)).astype("float64")
    assert len(np.unique(real, axis=0)) < 45
    want = naive(real, drawn, 3, 5)
    for scale, shift in ((1.0, 0.0), (0.1, 0.0), (1.0 / 3.0, 1000.0)):
        found = ours(real * scale + shift, drawn * scale + shift, 3, 5)
        assert found == pytest.approx(want, abs=1e-12)


def test_float32_features_of_a_network_far_from_the_origin(rng):
    real = (rng.normal(size=(50, 20)) + 300.0).astype("float32")
    drawn = (rng.normal(size=(50, 20)) + 300.0).astype("float32")
    exact = [x.astype("float64") for x in (real, drawn)]
    assert ours(real, drawn, 3, 5) == pytest.approx(naive(*exact, 3, 5), abs=1e-12)


def test_the_set_itself_and_sets_apart(rng):
    real = rng.normal(size=(100, 6))
    assert ours(real, real[::-1], 3, 5) == (1.0, 1.0, pytest.approx(6 / 5), 1.0)
    assert ours(real, real + 100.0, 3, 5) == (0.0, 0.0, 0.0, 0.0)


def test_what_the_four_tell_apart(rng):
    """Two clusters; the drawings know one of them: precise, half recalled, half covered."""
    real = np.concatenate([rng.normal(size=(200, 4)), rng.normal(size=(200, 4)) + 50.0])
    drawn = rng.normal(size=(400, 4))
    found, other = precision_recall(real, drawn), density_coverage(real, drawn)
    assert found.precision > 0.9 and 0.4 < found.recall <= 0.5
    assert other.density == pytest.approx(1.0, abs=0.1) and 0.4 < other.coverage <= 0.5
    # One drawing far out has a ball around everything: recall is fooled, coverage is not.
    outliers = np.concatenate([drawn[:-1], np.full((1, 4), 1e4)])
    assert precision_recall(real, outliers).recall > 0.9
    assert density_coverage(real, outliers).coverage <= 0.5


def test_expected_coverage_of_equal_distributions(rng):
    """1 - (n - 1) ... (n - k) / ((2n - 1) ... (2n - k)): the k nearest of 2n - 1 are all real."""
    n, k = 60, 3
    expected = 1.0 - np.prod([(n - i) / (2 * n - i) for i in range(1, k + 1)])
    draws = [density_coverage(*rng.normal(size=(2, n, 2)), k=k).coverage for _ in range(200)]
    assert abs(np.mean(draws) - expected) < 4 * np.std(draws) / np.sqrt(200)


def test_what_the_records_say(rng):
    real, drawn = rng.normal(size=(30, 4)), rng.normal(size=(20, 4))
    found = precision_recall(real, drawn)
    assert (found.k, found.real, found.drawn) == (3, 30, 20)
    text = f"precision {found.precision:.3f}, recall {found.recall:.3f}"
    assert str(found) == f"{text} (k = 3, 20 drawn, 30 real)"
    other = density_coverage(real, drawn)
    text = f"density {other.density:.3f}, coverage {other.coverage:.3f}"
    assert str(other) == f"{text} (k = 5, 20 drawn, 30 real)"


@pytest.mark.parametrize("measure", [precision_recall, density_coverage])
@pytest.mark.parametrize(
    ("real", "drawn", "k", "says"),
    [
        (np.zeros((9, 4)), np.zeros((9, 3)), 3, "of one width"),
        (np.zeros(9), np.zeros(9), 3, "of shape"),
        (np.zeros((9, 4)), np.zeros((1, 4)), 1, "at least 2 rows"),
        (np.zeros((9, 4)), np.zeros((3, 4)), 3, r"`k` must be smaller.*drawn=\(3, 4\)"),
        (np.zeros((3, 4)), np.zeros((9, 4)), 3, r"`k` must be smaller.*real=\(3, 4\)"),
        (np.zeros((9, 4)), np.zeros((9, 4)), 0, "`k` must be an integer"),
        (np.zeros((9, 4)), np.full((9, 4), np.nan), 3, "not_finite_in_drawn=36"),
        (np.zeros((9, 4), bool), np.zeros((9, 4)), 3, "real numbers"),
    ],
)
def test_bad_input(measure, real, drawn, k, says):
    with pytest.raises(ValueError, match=f"{says}.*To fix it: "):
        measure(real, drawn, k=k)


@pytest.mark.slow
def test_memory_for_ten_thousand_features_of_2048(rng):
    features = rng.normal(size=(10_000, 2048)).astype("float32")
    tracemalloc.start()
    found = precision_recall(features[:5000], features, k=3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.precision >= 0.5 and found.recall == 1.0  # half of the drawings are copies
    assert peak < 1e9
