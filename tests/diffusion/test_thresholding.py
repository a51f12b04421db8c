import numpy as np
import pytest
import tensorflow as tf

from keras_mdm.diffusion import thresholding


@pytest.mark.parametrize("name", ["none", "static", "dynamic", "dynamic_if"])
def test_identity_inside_the_range(rng, name):
    x0 = rng.uniform(-1, 1, (3, 8, 8, 3))
    np.testing.assert_array_equal(thresholding.get(name)(x0), x0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 5), (2, 8, 8, 3), (2, 2, 6, 6, 3), (3, 1)])
@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.95, 0.995, 1.0])
def test_dynamic_against_numpys_quantile(rng, quantile, shape, dtype):
    x0 = (3.0 * rng.standard_normal(shape)).astype(dtype)
    s = np.quantile(np.abs(x0).astype("float64").reshape(shape[0], -1), quantile, axis=1)
    s = np.clip(s, 1.0, 4.0).reshape((-1,) + (1,) * (len(shape) - 1))
    actual = thresholding.dynamic(x0, quantile, maximum=4.0)
    assert actual.dtype == dtype
    limit = 1e-6 if dtype == "float32" else 1e-15
    np.testing.assert_allclose(actual, np.clip(x0, -s, s) / s, rtol=0, atol=limit)


def test_dynamic_treats_samples_alone(rng):
    x0 = rng.standard_normal((4, 8, 8, 3)) * np.array([0.1, 1, 10, 1e4])[:, None, None, None]
    together = np.array(thresholding.dynamic(x0))
    for row in range(4):
        np.testing.assert_array_equal(together[row], thresholding.dynamic(x0[row : row + 1])[0])
    assert np.all(np.abs(together) <= 1.0)


def test_the_releases_second_dynamic_threshold(rng):
    x0 = 10.0 * rng.standard_normal((1, 8, 8, 3))
    np.testing.assert_allclose(
        thresholding.get("dynamic_if")(x0), np.clip(x0, -1.5, 1.5) / 1.5, atol=1e-15
    )


def test_in_a_graph_with_an_unknown_batch(rng):
    traced = tf.function(
        thresholding.dynamic, input_signature=[tf.TensorSpec([None, 8, 8, 3], "float32")]
    )
    for batch in (1, 3):
        x0 = 2.0 * rng.standard_normal((batch, 8, 8, 3)).astype("float32")
        np.testing.assert_allclose(traced(x0), thresholding.dynamic(x0), rtol=0, atol=1e-6)


def test_names_functions_and_errors():
    assert thresholding.get(np.tanh) is np.tanh
    for call in (
        lambda: thresholding.get("clip"),
        lambda: thresholding.dynamic(np.zeros((1, 2)), quantile=1.5),
        lambda: thresholding.dynamic(np.zeros((1, 2)), maximum=0.5),
    ):
        with pytest.raises(ValueError, match="Received: .*To fix it: "):
            call()
