"""Inception-v3 of Keras on random weights, from every kind of file."""

import keras
import numpy as np
import pytest
from PIL import Image

from keras_mdm.evaluation import KerasInceptionV3, evaluate


@pytest.fixture(scope="module")
def whole():
    keras.utils.set_random_seed(0)
    return keras.applications.InceptionV3(weights=None)


def pictures(count=2, size=64):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype("uint8")


def test_features_and_classes_are_those_of_the_whole_network(whole, tmp_path):
    whole.save_weights(tmp_path / "whole.weights.h5")
    network = KerasInceptionV3(tmp_path / "whole.weights.h5", batch=2)
    large = pictures(size=299)
    scaled = large / np.float32(127.5) - 1
    found = network(large)
    assert found.shape == (2, network.width)
    np.testing.assert_allclose(
        network.classify_features(found), whole(scaled, training=False), rtol=1e-3
    )
    # Smaller and larger pictures are resized as Pillow does, but not rounded.
    for size in (64, 500):
        given = pictures(1, size)
        planes = [Image.fromarray(given[0, ..., i].astype("float32"), "F") for i in range(3)]
        resized = np.stack([np.asarray(plane.resize((299, 299), 2)) for plane in planes], -1)
        wanted = network._network(resized[None] / 127.5 - 1, training=False)
        np.testing.assert_allclose(network(given), wanted, atol=1e-4 * np.abs(wanted).max())
    assert network.measures == {} and "Inception-v3 of Keras" in network.name


@pytest.mark.slow
def test_a_file_without_classifier_has_the_same_features(whole, tmp_path):
    headless = keras.Model(whole.input, whole.get_layer("mixed10").output)
    headless.save_weights(tmp_path / "headless.weights.h5")
    whole.save_weights(tmp_path / "whole.weights.h5")
    one, other = (
        KerasInceptionV3(tmp_path / f"{name}.weights.h5", batch=1) for name in ("headless", "whole")
    )
    given = pictures(1)
    np.testing.assert_allclose(one(given), other(given), rtol=1e-5)
    assert one.name != other.name  # another file
    with pytest.raises(ValueError, match="must hold the classifier"):
        evaluate({"a": given}, {"a": given}, features=one, measures=("inception-score",), few=True)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_whole_models_are_read(whole, tmp_path, suffix):
    whole.save(tmp_path / f"model.{suffix}")
    whole.save_weights(tmp_path / "whole.weights.h5")
    one = KerasInceptionV3(tmp_path / f"model.{suffix}", batch=1)
    other = KerasInceptionV3(tmp_path / "whole.weights.h5", batch=1)
    np.testing.assert_allclose(one(pictures(1)), other(pictures(1)), rtol=1e-5)


def test_other_files_are_refused(tmp_path):
    small = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    small.save_weights(tmp_path / "small.weights.h5")
    with pytest.raises(ValueError, match=r"must be those of keras\.applications.*To fix it"):
        KerasInceptionV3(tmp_path / "small.weights.h5")
    with pytest.raises(ValueError, match="check the path"):
        KerasInceptionV3(tmp_path / "none.h5")
