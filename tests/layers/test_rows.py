"""Dense layers on rows, GELU and softmax with their own gradients, against float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mdm.layers.attention import attend, softmax
from keras_mdm.layers.rows import by_rows, feed_forward, gelu

ATOL = {"float32": 2e-6, "bfloat16": 2e-2}


def gelu64(x):
    return 0.5 * x * tf.math.erfc(-x / np.sqrt(2.0))


@pytest.mark.parametrize("dtype", list(ATOL))
@pytest.mark.parametrize(
    ("ours", "reference"), [(gelu, gelu64), (softmax, tf.nn.softmax)], ids=["gelu", "softmax"]
)
def test_values_and_gradients_agree_with_float64(ours, reference, dtype):
    rng = np.random.default_rng(0)
    x = tf.cast(tf.constant(2.0 * rng.normal(size=(6, 40))), dtype)
    upstream = tf.cast(tf.constant(rng.normal(size=(6, 40))), dtype)
    wide = tf.cast(x, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(wide)
        expected = reference(wide)
    slope = tape.gradient(expected, wide, output_gradients=tf.cast(upstream, tf.float64))
    with tf.GradientTape() as tape:
        tape.watch(x)
        found = ours(x)
    own = tape.gradient(found, x, output_gradients=upstream)
    assert found.dtype == own.dtype == dtype
    np.testing.assert_allclose(tf.cast(found, tf.float64), expected, atol=ATOL[dtype], rtol=0)
    np.testing.assert_allclose(tf.cast(own, tf.float64), slope, atol=ATOL[dtype], rtol=0)


def test_gelu_far_from_zero():
    np.testing.assert_allclose(gelu(tf.constant([-40.0, 40.0])), [0.0, 40.0], atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 5, 8), (2, 7, 8), (2, 8)])
def test_rows_are_what_the_layer_computes(shape):
    layer, last = keras.layers.Dense(6, bias_initializer="normal"), keras.layers.Dense(4)
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    np.testing.assert_allclose(by_rows(layer, x), layer(x), atol=1e-6)
    whole = last(keras.ops.gelu(layer(x), approximate=False))
    np.testing.assert_allclose(feed_forward(layer, last, x), whole, atol=1e-6)


def test_rows_of_unknown_number_and_tokens():
    layer = keras.layers.Dense(6)
    layer.build((None, 8))

    @tf.function(input_signature=[tf.TensorSpec((None, None, 8))])
    def traced(x):
        return by_rows(layer, x)

    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    np.testing.assert_allclose(traced(x), layer(x), atol=1e-6)


def test_the_softmax_of_bfloat16_loses_no_more_than_its_rounding():
    """As with float32 in between: weights of 300 tokens still sum to one."""
    rng = np.random.default_rng(0)
    query, key = (tf.constant(rng.normal(size=(1, 2, 300, 16)), tf.bfloat16) for _ in range(2))
    value = tf.ones((1, 2, 300, 16), tf.bfloat16)
    mask = np.ones((1, 300), "float32")
    mask[:, 200:] = 0.0
    for given in (None, mask, np.zeros((1, 300))):
        np.testing.assert_allclose(
            tf.cast(attend(query, key, value, given), "float32"), 1.0, atol=0.02
        )
