"""GroupNorm equals its definition, value and gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mdm.layers import GroupNorm

from .reference import f64, group_norm, randomize, silu


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def definition(layer, x, scale_shift):
    scale, shift = np.split(f64(scale_shift), 2, axis=-1)
    middle = (x.shape[0], *(1 for _ in x.shape[1:-1]), x.shape[-1])
    y = group_norm(x, layer.gamma, layer.beta, layer.groups, layer.epsilon)
    y = y * (1.0 + scale.reshape(middle)) + shift.reshape(middle)
    return silu(y) if layer.activation else y


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("shape", [(2, 6, 5, 32), (3, 4, 4, 4, 32), (2, 7, 32)])
@pytest.mark.parametrize("groups", [1, 8, 32])
def test_equals_the_definition(rng, shape, groups, activation):
    layer = GroupNorm(groups, activation=activation)
    x = rng.normal(size=shape).astype("float32")
    scale_shift = rng.normal(size=(shape[0], 64)).astype("float32")
    layer.build(shape)
    randomize(layer)
    expected = definition(layer, x, scale_shift)
    np.testing.assert_allclose(layer(x, scale_shift=scale_shift), expected, rtol=0, atol=2e-5)
    expected = definition(layer, x, np.zeros_like(scale_shift))
    np.testing.assert_allclose(layer(x), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("activation", [None, "silu"])
def test_value_and_gradients_equal_keras_layers(rng, activation):
    """The gradient is written by hand; Keras' is derived."""
    layer = GroupNorm(8, activation=activation)
    stock = keras.layers.GroupNormalization(8, epsilon=1e-5)
    x = tf.constant(rng.normal(loc=0.5, scale=2.0, size=(2, 6, 6, 32)), tf.float32)
    scale_shift = tf.constant(rng.normal(size=(2, 64)), tf.float32)
    upstream = tf.constant(rng.normal(size=x.shape), tf.float32)
    layer.build(x.shape)
    stock.build(x.shape)
    randomize(layer)
    stock.set_weights(layer.get_weights())

    def composed(x, scale_shift):
        scale, shift = tf.split(scale_shift[:, None, None, :], 2, axis=-1)
        y = stock(x) * (1.0 + scale) + shift
        return tf.nn.silu(y) if activation else y

    found = {}
    for name, function, owner in (("ours", layer, layer), ("stock", composed, stock)):
        with tf.GradientTape() as tape:
            tape.watch((x, scale_shift))
            y = function(x, scale_shift)
            total = tf.reduce_sum(y * upstream)
        sources = [x, scale_shift, owner.gamma.value, owner.beta.value]
        found[name] = [y, *tape.gradient(total, sources)]
    names = ("value", "x", "scale_shift", "gamma", "beta")
    for name, ours, theirs in zip(names, found["ours"], found["stock"], strict=True):
        bound = 1e-5 * float(tf.reduce_max(tf.abs(theirs)))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound, err_msg=name)


def test_gradients_are_equal_inside_a_function(rng):
    layer = GroupNorm(8, activation="silu")
    x = tf.constant(rng.normal(size=(2, 4, 4, 32)), tf.float32)
    layer.build(x.shape)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(layer(x) ** 2)
        return tape.gradient(total, x)

    np.testing.assert_allclose(tf.function(gradient)(x), gradient(x), rtol=0, atol=1e-5)


def test_a_large_common_offset_does_not_matter(rng):
    """Statistics of one pass, E[x^2] - E[x]^2, would be off by 6e-2 here."""
    layer = GroupNorm(8)
    noise = rng.normal(size=(2, 8, 8, 32)).astype("float32")
    x = (noise + 300.0).astype("float32")
    layer.build(x.shape)
    expected = group_norm(x, layer.gamma, layer.beta, 8)
    np.testing.assert_allclose(layer(x), expected, rtol=0, atol=2e-4)


def test_statistics_are_float32_under_bfloat16(rng):
    """10 000 pixels: a sum in bfloat16 stops growing after a few hundred of them."""
    x = rng.normal(loc=3.0, size=(1, 100, 100, 32)).astype("float32")
    layer = GroupNorm(4, dtype="mixed_bfloat16")
    y = np.asarray(keras.ops.cast(layer(keras.ops.cast(x, "bfloat16")), "float32"))
    expected = group_norm(x, np.ones(32), np.zeros(32), 4)
    assert np.abs(y.mean()) < 5e-3
    assert np.abs(y - expected).max() < 0.05


def test_samples_are_independent(rng):
    layer = GroupNorm(8, activation="silu")
    x = rng.normal(size=(3, 4, 4, 32)).astype("float32")
    alone = layer(x[1:2])
    np.testing.assert_array_equal(layer(x)[1:2], alone)


def test_epsilon_is_used(rng):
    x = 1e-3 * rng.normal(size=(1, 4, 4, 32)).astype("float32")
    small, large = GroupNorm(8)(x), GroupNorm(8, epsilon=1e-3)(x)
    assert np.abs(small).max() > 5 * np.abs(large).max()


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match="groups=5, channels=32"):
        GroupNorm(5).build((None, 4, 4, 32))
