"""What a network does many times over is traced once, and computes the same."""

import numpy as np
import tensorflow as tf

from keras_mdm.layers import GroupNorm
from keras_mdm.tracing import share_repeats, traced_once

TRACES = []


def scaled(x, times):
    TRACES.append(x.shape)
    return x * times


def gradients_of(layers, share=True):
    """A traced function: value and gradients of layers in a row."""
    variables = [v.value for layer in layers for v in layer.trainable_weights]

    @tf.function(autograph=False)
    def step(x):
        if share:
            share_repeats()
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = x
            for layer in layers:
                y = layer(y) + x
            loss = tf.reduce_sum(tf.square(y))
        return [y, *tape.gradient(loss, [x, *variables])]

    return step


def make_layers(count, shape):
    layers = [GroupNorm(4, activation="silu") for _ in range(count)]
    for number, layer in enumerate(layers):
        layer.build(shape)
        layer.gamma.assign(np.linspace(0.5, 1.5 + number, shape[-1]))
    return layers


def operations(step, x):
    return len(step.get_concrete_function(x).graph.get_operations())


def test_one_trace_for_each_shape_and_constant():
    TRACES.clear()

    @tf.function(autograph=False)
    def step(x, y):
        share_repeats()
        twice = traced_once(scaled, times=2.0)
        return twice(x) + twice(x), traced_once(scaled, times=3.0)(x), twice(y)

    found = step(tf.ones((2,)), tf.ones((3,)))
    assert [float(value[0]) for value in found] == [4.0, 3.0, 2.0]
    assert TRACES == [(2,), (2,), (3,)]


def test_another_graph_has_its_own():
    """Or the custom gradients of the first one would be gone when the second needs them."""
    TRACES.clear()
    for _ in range(2):

        @tf.function(autograph=False)
        def step(x):
            share_repeats()
            return traced_once(scaled, times=2.0)(x)

        assert float(step(tf.constant(1.0))) == 2.0
    assert len(TRACES) == 2


def test_loops_share_with_the_graph_around_them():
    TRACES.clear()

    @tf.function(autograph=False)
    def step(x):
        share_repeats()
        x = traced_once(scaled, times=2.0)(x)
        body = lambda i, x: (i + 1, traced_once(scaled, times=2.0)(x))  # noqa: E731
        return tf.while_loop(lambda i, x: i < 3, body, (0, x))[1]

    assert float(step(tf.constant(1.0))) == 16.0
    assert len(TRACES) == 1


def test_without_a_graph_that_shares_it_is_the_plain_function():
    TRACES.clear()
    share_repeats()  # does nothing: nothing is being traced
    twice = tf.function(lambda x: traced_once(scaled, times=2.0)(x), autograph=False)
    for function in (traced_once(scaled, times=2.0), twice):
        assert float(function(tf.constant(1.0))) == 2.0
    assert len(TRACES) == 2
    graph = twice.get_concrete_function(tf.constant(1.0)).graph
    assert "PartitionedCall" not in {operation.type for operation in graph.get_operations()}


def test_values_and_gradients_are_those_of_the_graph_in_full():
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 6, 6, 16)), tf.float32)
    layers = make_layers(6, x.shape)
    shared, full = gradients_of(layers), gradients_of(layers, share=False)
    assert operations(shared, x) < 300 and operations(full, x) > 800
    for ours, theirs in zip(shared(x), full(x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * float(tf.norm(theirs)))


def test_every_further_layer_costs_few_operations():
    x = tf.ones((1, 4, 4, 8))
    few, many = (operations(gradients_of(make_layers(n, x.shape)), x) for n in (2, 12))
    assert (many - few) / 10 < 30
