"""Kernels that are cast once per run: the same pictures, and no cast in any step."""

import numpy as np
import pytest
import tensorflow as tf

from keras_mdm import LevelSpec, MatryoshkaDiffusion, build_nested_unet
from keras_mdm.models.flags import layers_of
from keras_mdm.sampling import generate, narrow
from keras_mdm.sampling.plan import SamplingPlan

INNER = LevelSpec(
    8, channels=(32,), blocks=(1,), attention=(1,), heads=2, groups=8, use_mid_block=False
)
OUTER = LevelSpec(16, channels=(16, 16), blocks=(1, 1), attention=(0, 0), groups=4)
pytestmark = pytest.mark.usefixtures("biases_are_fused")
GIVEN = {"labels": [0, 1], "steps": 3, "progress": False, "output": "float32"}


def make(dtype):
    model = MatryoshkaDiffusion(
        build_nested_unet([INNER, OUTER], num_classes=3, time_width=32, dtype=dtype)
    )
    rng = np.random.default_rng(0)
    for place in (model.unet.weights, model.averages.held("ema")):  # averages of their own
        for variable in place:
            value = np.asarray(variable, "float32")
            variable.assign(value + 0.05 * rng.normal(size=value.shape).astype("float32"))
    model.averages.mark()
    return model


@pytest.fixture(scope="module")
def mixed():
    return make("mixed_bfloat16")


def cast_in_steps(monkeypatch):
    """As before: nothing is cast beforehand."""
    monkeypatch.setattr(narrow, "kernels_of", lambda unet: [])
    monkeypatch.setattr(generate, "narrow_weights", lambda model, plan: {"network": {}})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weights": "raw"},
        {"stop_at": "8"},
        {"autoguidance": "raw"},
        {"outer_steps": 2},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*mixed resolutions")
def test_the_pictures_stay_the_same_bit_for_bit(mixed, options, monkeypatch):
    once = mixed.generate(**GIVEN, **options)
    again = mixed.generate(**GIVEN, **options)
    for level, value in again.items():  # tells a graph that varies from one that computes otherwise
        np.testing.assert_array_equal(once[level], value)
    del mixed._graphs
    cast_in_steps(monkeypatch)
    every_time = mixed.generate(**GIVEN, **options)
    del mixed._graphs
    for level, value in every_time.items():
        np.testing.assert_array_equal(once[level], value)


def test_the_steps_cast_no_kernel(mixed):
    mixed.generate(**GIVEN)
    kernels = {tuple(kernel.shape) for kernel in narrow.kernels_of(mixed.unet)}
    (run,) = [f for key, f in mixed._graphs._known.items() if key[0].startswith("run")]
    (concrete,) = run._list_all_concrete_functions()
    graphs = [concrete.graph, *(each.graph for each in concrete.graph._functions.values())]
    casts = [
        node
        for graph in graphs
        for node in graph.get_operations()
        if node.type == "Cast" and tuple(node.inputs[0].shape or ()) in kernels
    ]
    assert kernels and not casts


def test_changed_weights_are_cast_anew(mixed):
    before = mixed.generate(**GIVEN, weights="raw")
    kernel = narrow.kernels_of(mixed.unet)[0]
    kernel.assign(kernel + 0.5)
    after = mixed.generate(**GIVEN, weights="raw")
    assert np.abs(after["16"] - before["16"]).max() > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "bfloat16"])
def test_what_is_cast(dtype):
    unet = build_nested_unet([INNER], num_classes=3, time_width=32, dtype=dtype)
    kernels = narrow.kernels_of(unet)
    if dtype == "float32":
        assert not kernels
        return
    cast = set(map(id, kernels))
    names = {e.name for e in layers_of(unet) if id(getattr(e, "_kernel", None)) in cast}
    assert {"conv1", "qkv"} <= names
    assert not names & {"conv_out", "dense1", "dense2"}  # float32 under any policy
    model = MatryoshkaDiffusion(unet)
    found = narrow.narrow_weights(model, SamplingPlan())["network"]
    assert len(found) == len(kernels)
    assert {tensor.dtype for tensor in found.values()} == {tf.bfloat16}
