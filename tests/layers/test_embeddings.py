"""Embeddings of time, class and micro-conditions against closed forms."""

import math

import numpy as np
import pytest
import tensorflow as tf

from keras_mdm.layers import ClassEmbedding, LevelEmbedding, MicroConditioning, TimeEmbedding
from keras_mdm.layers.embeddings import sinusoid
from keras_mdm.layers.initializers import FanInUniform

from .reference import affine, randomize, silu


def closed_form(value, width):
    """Sines, then cosines, of value * 10000^(-i/half); one zero fills up an odd width."""
    half = width // 2
    angles = np.outer(value, [math.exp(-math.log(10000.0) * i / half) for i in range(half)])
    zero = np.zeros((len(value), width % 2))
    return np.concatenate([np.sin(angles), np.cos(angles), zero], axis=1)


@pytest.mark.parametrize("width", [2, 16, 17, 256])
def test_sinusoid_equals_its_closed_form(width):
    value = np.array([0.0, 1.0, 12.5, 999.0], "float32")
    np.testing.assert_allclose(sinusoid(value, width), closed_form(value, width), atol=1e-4)


def perceptron(layer, features):
    return affine(layer.dense2, silu(affine(layer.dense1, features)))


@pytest.mark.parametrize("width", [32, 70])  # 70 // 4 is odd
def test_time_embedding_equals_the_definition(width):
    layer = TimeEmbedding(width)
    time = np.array([0.0, 3.0, 999.0], "float32")
    layer.build(time.shape)
    randomize(layer)
    expected = perceptron(layer, closed_form(time, width // 4))
    np.testing.assert_allclose(layer(time), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_neighbouring_timesteps_differ(dtype):
    """In bfloat16 999 would be 1000; the layer does not follow the global policy."""
    embedding = np.asarray(TimeEmbedding(64)(np.array([999.0, 1000.0], "float32")))
    assert embedding.dtype == np.float32
    assert np.abs(embedding[0] - embedding[1]).max() > 1e-2


def micro(value, **settings):
    layer = MicroConditioning(32, **settings)
    layer.build((None,))
    randomize(layer)
    return layer, np.asarray(layer(np.array(value, "float32")))


def test_scale_is_clamped_to_its_default_and_fed_raw():
    layer, embedding = micro([64.0, 256.0, 512.0], default=256.0, clamp=True)
    expected = perceptron(layer, closed_form(np.array([64.0, 256.0, 256.0]), 8))
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=1e-4)


def test_other_conditions_are_fed_times_1000():
    layer, embedding = micro([0.1, 0.5], default=0.5)
    expected = perceptron(layer, closed_form(np.array([100.0, 500.0]), 8))
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("clamp", [False, True])
def test_nan_stands_for_the_default(clamp):
    _, embedding = micro([math.nan, 0.5, 0.25], default=0.5, clamp=clamp)
    np.testing.assert_array_equal(embedding[0], embedding[1])
    assert np.abs(embedding[0] - embedding[2]).max() > 1e-3


def test_micro_conditions_start_without_effect():
    embedding = MicroConditioning(32, default=1.0)(np.array([0.1, 0.9], "float32"))
    np.testing.assert_array_equal(embedding, np.zeros((2, 32)))


def test_no_class_is_the_last_row():
    layer = ClassEmbedding(5, 16)
    layer.build((None,))
    table = np.asarray(layer.table)
    assert table.shape == (6, 16)
    labels = np.array([-1, 0, 4], "int32")
    np.testing.assert_array_equal(layer(labels), table[[5, 0, 4]])
    for beyond in (5, 6):  # 5 would be the row without a class
        with pytest.raises(tf.errors.InvalidArgumentError, match="not in"):
            layer(np.array([0, beyond], "int32"))


def test_level_embedding_is_the_sum_of_its_parts():
    """Only the condition called `scale` is clamped."""
    layer = LevelEmbedding(32, micro_conditions={"scale": 64.0, "score": 0.5})
    time, condition = np.array([7.0, 8.0], "float32"), np.ones((2, 32), "float32")
    given = {"scale": np.array([99.0, 32.0], "float32"), "score": np.array([9.0, 0.1], "float32")}
    layer.build(time.shape)
    randomize(layer)
    scale, score = layer.micro_layers["scale"], layer.micro_layers["score"]
    expected = (
        perceptron(layer.time_embedding, closed_form(time, 8))
        + condition
        + perceptron(scale, closed_form(np.array([64.0, 32.0]), 8))
        + perceptron(score, closed_form(np.array([9000.0, 100.0]), 8))
    )
    found = layer(time, condition=condition, micro=given)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-3)


def test_initial_values_are_bounded_by_the_fan_in():
    values = np.asarray(FanInUniform(fan_in=16, seed=3)((1000,), "float32"))
    assert np.abs(values).max() <= 0.25
    assert np.abs(values).max() > 0.24
    np.testing.assert_allclose(values.std(), 0.25 / math.sqrt(3.0), rtol=0.05)
    np.testing.assert_array_equal(values, FanInUniform(fan_in=16, seed=3)((1000,), "float32"))
    assert not np.array_equal(values, FanInUniform(fan_in=16, seed=4)((1000,), "float32"))
