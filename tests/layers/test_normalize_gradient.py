"""The closed-form gradient of the fused normalisation, against float64 differentiation."""

import numpy as np
import pytest
import tensorflow as tf

from keras_mdm.layers.normalization import normalize

ROWS, SIDE, CHANNELS, GROUPS = 3, 5, 12, 4


def reference(x, gain, bias, silu):
    grouped = tf.reshape(x, (ROWS, SIDE * SIDE, GROUPS, CHANNELS // GROUPS))
    mean, variance = tf.nn.moments(grouped, (1, 3), keepdims=True)
    h = tf.reshape((grouped - mean) / tf.sqrt(variance + 1e-5), x.shape)
    h = h * gain[:, None, None] + bias[:, None, None]
    return h * tf.sigmoid(h) if silu else h


@pytest.mark.parametrize("silu", [True, False])
def test_value_and_gradients_agree_with_float64(silu):
    rng = np.random.default_rng(0)
    x = tf.constant(2.0 * rng.normal(size=(ROWS, SIDE, SIDE, CHANNELS)) + 3.0)
    gain, bias = (tf.constant(rng.normal(size=(ROWS, CHANNELS))) for _ in range(2))
    upstream = tf.constant(rng.normal(size=x.shape))
    with tf.GradientTape() as tape:
        tape.watch([x, gain, bias])
        expected = reference(x, gain, bias, silu)
    gradients = tape.gradient(expected, [x, gain, bias], output_gradients=upstream)
    single = [tf.cast(value, tf.float32) for value in (x, gain, bias)]
    with tf.GradientTape() as tape:
        tape.watch(single)
        found = normalize(*single, groups=GROUPS, epsilon=1e-5, silu=silu)
    ours = tape.gradient(found, single, output_gradients=tf.cast(upstream, tf.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for a, b in zip(ours, gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * float(tf.reduce_max(tf.abs(b))))
