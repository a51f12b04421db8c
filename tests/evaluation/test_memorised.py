import dataclasses

import numpy as np
import pytest

from keras_mdm.evaluation import feature_sets, nearest_training


def sets(rng, drawn, width=8):
    return rng.normal(size=(drawn, width)), *rng.normal(size=(2, 300, width))


def test_distances_one_by_one(rng, monkeypatch):
    drawn, training, held_out = sets(rng, 40)
    monkeypatch.setattr(feature_sets, "_ENTRIES", 2000)

    def nearest(x):
        distances = [1 - x @ t / np.linalg.norm(x) / np.linalg.norm(t) for t in training]
        return min(distances), int(np.argmin(distances))

    want, rows = zip(*(nearest(x) for x in drawn), strict=True)
    usual = sorted(nearest(x)[0] for x in held_out)
    found = nearest_training(drawn * 3.0, training, held_out * rng.uniform(1, 9, (300, 1)))
    np.testing.assert_allclose(found.distances, want, rtol=1e-9)
    np.testing.assert_array_equal(found.nearest, rows)
    assert found.median_ratio == pytest.approx(np.median(want) / np.median(usual), rel=1e-9)
    assert found.threshold == pytest.approx(usual[2])  # the third of 300
    assert found.near_share == np.mean(np.array(want) < usual[2])
    assert found.expected == 3 / 301


def test_copied_noised_and_fresh(rng):
    _, training, held_out = sets(rng, 1)
    copies = nearest_training(training[:100] * 2.0, training, held_out)
    assert copies.near_share == 1.0 and copies.median_ratio < 1e-9
    noised = training[:100] + 0.1 * rng.normal(size=(100, 8))
    noised = nearest_training(noised, training, held_out)
    assert noised.near_share > 0.8 and 0.0 < noised.median_ratio < 0.2
    np.testing.assert_array_equal(noised.nearest, np.arange(100))
    half = np.concatenate([training[:100], rng.normal(size=(100, 8))])
    half = nearest_training(half, training, held_out)
    assert half.near_share == pytest.approx(0.5, abs=0.05)
    assert half.standard_error == pytest.approx(np.sqrt(0.25 / 200), rel=0.05)
    assert "near 50" in str(half) and "200 drawn, 300 training, 300 held out" in str(half)


def test_fresh_pictures_are_near_as_often_as_expected(rng):
    draws = [nearest_training(*sets(rng, 100, width=5)) for _ in range(60)]
    shares = [draw.near_share for draw in draws]
    assert abs(np.mean(shares) - draws[0].expected) < 4 * np.std(shares) / np.sqrt(60)
    assert np.mean([draw.median_ratio for draw in draws]) == pytest.approx(1.0, abs=0.1)


def test_held_out_pictures_that_were_trained_on_do_not_count(rng):
    drawn, training, held_out = sets(rng, 100)
    want = nearest_training(drawn, training, held_out)
    both = np.concatenate([held_out, 3.0 * training[:7]])
    found = nearest_training(drawn, training, both)
    assert (found.held_out, found.copies) == (300, 7) and "7 copies left out" in str(found)
    assert dataclasses.replace(found, copies=0) == want
    with pytest.raises(ValueError, match="held_out=105, copies=7. To fix it"):
        nearest_training(drawn, training, both[-105:])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({0: np.ones((5, 7))}, "of one width"),
        ({1: np.ones((1, 8))}, "at least 2 rows"),
        ({2: np.ones((98, 8))}, "at least 99 rows"),
        ({0: np.full((5, 8), np.nan)}, "not_finite_in_drawn_features=40"),
        ({1: np.zeros((5, 8))}, "no row of `training_features`.*zero_rows=5"),
    ],
)
def test_bad_input(rng, change, says):
    arrays = list(sets(rng, 10))
    for index, value in change.items():
        arrays[index] = value
    with pytest.raises(ValueError, match=f"{says}.*To fix it: "):
        nearest_training(*arrays)
