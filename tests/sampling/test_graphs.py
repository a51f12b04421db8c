"""What makes a graph, how many are kept, and that the others are gone."""

import dataclasses
import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import PLAIN_INNER, as_dataset, make_batch, outer, tiny_unet

from keras_mdm import MatryoshkaDiffusion
from keras_mdm.diffusion import samplers
from keras_mdm.layers import GroupNorm
from keras_mdm.optimizers import SGD
from keras_mdm.sampling.graphs import Graphs
from sampling.drawing import assert_equal, scramble_averages

AMOUNTS = {
    "guidance": [{"guidance_scale": scale} for scale in (1.5, 1.6, 1.7)],
    "levels": [{"guidance_scale": {"8": 3.0, "16": scale}} for scale in (1.5, 1.6, 1.7)],
    "eta": [{"eta": eta} for eta in (0.1, 0.2, 1)],
    "rescale": [{"guidance_rescale": amount} for amount in (0.2, 0.3, 1)],
    "interval": [{"guidance_interval": (0.0, most)} for most in (0.6, 0.7, 0.8)],
    "micro": [{"micro": {"aspect": value}} for value in (1.0, 1.5, 2)],
    "strength": [{"strength": value} for value in (0.3, 0.5, 1.0)],
    "reconstruction": [{"reconstruction": weight} for weight in (0.5, 0.75, 2)],
}


@pytest.fixture(scope="module")
def small():
    inner = dataclasses.replace(PLAIN_INNER, micro_conditions={"aspect": 1.0})
    model = MatryoshkaDiffusion(tiny_unet([inner, outer(16)], num_classes=4))
    scramble_averages(model)
    return model


@pytest.mark.parametrize("name", AMOUNTS)
def test_what_is_continuous_makes_no_graph(small, name):
    given = {"labels": [0, 1, 2], "steps": 3, "progress": False, "output": "float32"}
    if name in ("strength", "reconstruction"):
        given["init_image"] = np.zeros((16, 16, 3), "uint8")
    if name == "reconstruction":
        given["mask"] = np.arange(256).reshape(16, 16) < 100
    seen, counts = [], []
    del small._graphs
    for options in AMOUNTS[name]:
        seen.append(small.generate(**{"guidance_scale": 2.0, **given, **options})["16"])
        counts.append(small._graphs.tracings())
    assert counts == [[1] * len(small._graphs)] * 3
    differ = name != "interval"  # three steps of an interval may well be the same
    assert not differ or all(np.abs(seen[0] - other).max() > 1e-4 for other in seen[1:])


def test_shares_of_the_model_may_change_between_pictures(small):
    given = {"labels": [0, 1], "steps": 2, "guidance_scale": 3.0, "progress": False}
    del small._graphs
    small.generate(**given)
    try:
        small.guidance_shares = {"8": 1.0, "16": 0.5}
        shared = small.generate(**given)
    finally:
        small.guidance_shares = {}
    given["guidance_scale"] = {"8": 3.0, "16": 2.0}
    assert_equal(shared, small.generate(**given))
    assert small._graphs.tracings() == [1, 1]


def test_a_share_of_noise_as_a_tensor_has_the_bits_of_the_number():
    x_t, x0, noise = (
        tf.random.stateless_normal((2, 4, 4, 3), (seed, 0), dtype="float32") for seed in range(3)
    )
    amplitudes = [tf.constant(value) for value in (0.6, 0.8, 0.7, 0.714)]
    for eta in (0.1, 0.2, 1 / 3, 0.7, 1.0):
        one, two = (
            samplers.ddim_step(x_t, x0, *amplitudes, noise, eta=value)
            for value in (eta, tf.constant(eta, tf.float64))
        )
        np.testing.assert_array_equal(one, two)


def test_graphs_that_were_not_used_for_long_are_freed():
    graphs, alive = Graphs(limit=2), []
    norm = GroupNorm(4)  # with a gradient of its own, which TensorFlow keeps for good
    norm.build((None, 1, 4))

    def function(plan, x):
        alive.append(weakref.ref(tf.compat.v1.get_default_graph()))
        normal = norm(tf.ones((1, 1, 4)))[0, 0, :1]  # zero
        loop = tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y + plan + normal), (0, x))
        return {"x": loop[1]}

    for plan in (0.0, 1.0, 0.0, 2.0, 0.0):  # of three, the one in the middle is the oldest
        assert float(graphs.call("add", plan, function, tf.zeros(1))["x"][0]) == 3.0 * plan
    gc.collect()
    assert [graph() is not None for graph in alive] == [True, False, True]
    assert len(graphs) == 2


def test_the_graph_of_a_step_goes_with_its_compile():
    model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]))
    batches = as_dataset([make_batch(np.random.default_rng(0), 2, size=8, text=False)])
    alive, step = [], model.train_step

    def train_step(batch):
        alive.append(weakref.ref(tf.compat.v1.get_default_graph()))
        return step(batch)

    model.__dict__["train_step"] = train_step
    for _ in range(2):
        model.compile(SGD(0.1))
        model.fit(batches, verbose=0)
    gc.collect()
    assert [graph() is not None for graph in alive] == [False, True]
