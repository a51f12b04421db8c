"""Statistics are those of all features at once, however they were computed; and the distance."""

import json

import numpy as np
import pytest
import tensorflow as tf

from keras_mdm.evaluation import frechet_distance, moments

WIDTH = 6


class Projection:
    """A small feature network: random projections of the pixels."""

    name, width = "projection", WIDTH

    def __init__(self, width=WIDTH):
        self.width = width
        self.matrix = np.random.default_rng(5).normal(size=(4 * 4 * 3, width)) / 100

    def __call__(self, images):
        return (images.reshape(len(images), -1) @ self.matrix).astype("float32")


FEATURES = Projection()


def pictures(count, seed=0, high=256):
    return np.random.default_rng(seed).integers(0, high, (count, 4, 4, 3)).astype("uint8")


def test_parts_in_any_order_are_the_whole():
    images = pictures(40)
    whole = moments.of_pictures(FEATURES, images, keep=10)
    shuffled = images[np.random.default_rng(1).permutation(40)]
    parts = moments.nothing(FEATURES, keep=10)
    for first, last in ((0, 1), (1, 1), (1, 17), (17, 40)):
        parts = parts.merge(moments.of_pictures(FEATURES, shuffled[first:last], keep=10))
    values = FEATURES(images).astype("float64")
    np.testing.assert_allclose(whole.covariance, np.cov(values, rowvar=False), rtol=1e-12)
    np.testing.assert_allclose(parts.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(parts.covariance, whole.covariance, rtol=1e-10, atol=1e-12)
    assert (parts.count, parts.fingerprint) == (40, whole.fingerprint)
    np.testing.assert_array_equal(parts.kept, whole.kept)
    assert parts.kept.shape == (10, WIDTH)
    other = moments.of_pictures(FEATURES, pictures(40, seed=2))
    assert other.fingerprint != whole.fingerprint


def test_means_far_from_zero_do_not_cost_the_covariance():
    class Far(Projection):
        def __call__(self, images):
            return super().__call__(images) + np.float32(1e4)

    images = pictures(64)
    parts = moments.nothing(Far())
    for first in range(0, 64, 8):
        parts = parts.merge(moments.of_pictures(Far(), images[first : first + 8]))
    expected = np.cov(Far()(images).astype("float64"), rowvar=False)
    np.testing.assert_allclose(parts.covariance, expected, rtol=1e-9, atol=1e-9)


def test_files(tmp_path):
    whole = moments.of_pictures(FEATURES, pictures(12))
    moments.save(whole, tmp_path / "own.npz")
    loaded = moments.load(tmp_path / "own.npz", FEATURES)
    np.testing.assert_allclose(loaded.scatter, whole.scatter, rtol=1e-12)
    np.testing.assert_array_equal(loaded.kept, whole.kept)
    assert (loaded.count, loaded.fingerprint, loaded.features) == (
        12,
        whole.fingerprint,
        "projection",
    )
    # As ADM's suite and clean-fid write them.
    np.savez(tmp_path / "foreign.npz", mu=whole.mean, sigma=whole.covariance, mu_s=np.zeros(3))
    foreign = moments.load(tmp_path / "foreign.npz", FEATURES)
    assert foreign.count == 0
    assert frechet_distance(foreign, whole) < 1e-9 * np.trace(whole.covariance)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3), "sigma": np.zeros((3, 3))}, "which has 6 features"),
        ({"mu": np.zeros(6)}, "must hold mu and sigma"),
        (None, "that can be read"),
        (
            {
                "mu": np.zeros(6),
                "sigma": np.eye(6),
                "about": np.array(json.dumps({"features": "another", "count": 3})),
            },
            "one network and one resize",
        ),
    ],
)
def test_wrong_files(tmp_path, arrays, message):
    path = tmp_path / "file.npz"
    path.write_bytes(b"PK\x03\x04 damaged") if arrays is None else np.savez(path, **arrays)
    with pytest.raises(ValueError, match=rf"{message}.*Received: .*To fix it: "):
        moments.load(path, FEATURES)


def test_wrong_pictures():
    for images in (pictures(2)[..., :1], pictures(2).astype("float32"), pictures(2)[0]):
        with pytest.raises(ValueError, match="must be uint8"):
            moments.of_pictures(FEATURES, images)

    class Broken(Projection):
        def __call__(self, images):
            return np.full((len(images), WIDTH), np.nan, "float32")

    with pytest.raises(ValueError, match="finite"):
        moments.of_pictures(Broken(), pictures(2))


# The distance


def gaussian(mean, covariance, count=100):
    width = len(mean)
    return moments.Statistics(
        features="given",
        count=count,
        mean=np.asarray(mean, "float64"),
        scatter=np.asarray(covariance, "float64") * (count - 1),
        kept=np.zeros((0, width), "float32"),
        hashes=np.zeros(0, "uint64"),
        fingerprint=None,
    )


def test_closed_form_of_covariances_that_commute():
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    a, b = rng.uniform(0.1, 2.0, (2, 8))
    m1, m2 = rng.normal(size=(2, 8))
    found = frechet_distance(
        gaussian(m1, basis @ np.diag(a) @ basis.T), gaussian(m2, basis @ np.diag(b) @ basis.T)
    )
    expected = np.sum((m1 - m2) ** 2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert found == pytest.approx(expected, rel=1e-10)


def test_it_equals_the_root_of_the_product():
    rng = np.random.default_rng(1)
    one, two = (
        np.cov(rng.normal(size=(50, 12)) @ rng.normal(size=(12, 12)), rowvar=False)
        for _ in range(2)
    )
    m1, m2 = rng.normal(size=(2, 12))
    root = tf.linalg.sqrtm((one @ two).astype("complex128")).numpy().real
    expected = np.sum((m1 - m2) ** 2) + np.trace(one + two - 2 * root)
    found = frechet_distance(gaussian(m1, one), gaussian(m2, two))
    assert found == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(gaussian(m2, two), gaussian(m1, one)) == pytest.approx(found, rel=1e-9)


def test_fewer_pictures_than_features_and_itself():
    wide = Projection(40)
    few, others = (moments.of_pictures(wide, pictures(9, seed)) for seed in (0, 1))
    assert np.isfinite(frechet_distance(few, others)) and frechet_distance(few, others) > 0
    assert frechet_distance(few, few) < 1e-6 * np.trace(few.covariance)
    with pytest.raises(ValueError, match="at least two"):
        frechet_distance(few, moments.of_pictures(wide, pictures(1)))
