"""Batches in buckets: one network, one process and one state of training for several sizes."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import PLAIN_INNER, THREE_PARTS, arrays, outer, tiny_unet

import keras_mdm as mdm
from keras_mdm import MatryoshkaDiffusion
from keras_mdm.models import with_size

pytestmark = pytest.mark.usefixtures("eagerly")

BUCKETS = [(16, 16), (12, 20), (20, 12)]
ORDER = [1, 0, 2, 1, 1, 2]


def model_of(*, buckets=BUCKETS, network=None, **options):
    unet = tiny_unet((PLAIN_INNER, outer(16)), **(network or {"num_classes": 3}))
    return MatryoshkaDiffusion(unet, buckets=buckets, **options)


def batch_of(size, seed=0, rows=4):
    rng = np.random.default_rng([*size, seed])
    image = rng.integers(0, 256, (rows, *size, 3)).astype("uint8")
    return {"image": image, "label": rng.integers(0, 3, rows)}


def data_of(order=ORDER):
    found = [batch_of(BUCKETS[bucket], number) for number, bucket in enumerate(order)]
    signature = {
        "image": tf.TensorSpec((4, None, None, 3), tf.uint8),
        "label": tf.TensorSpec((4,), tf.int64),
    }
    dataset = tf.data.Dataset.from_generator(lambda: iter(found), output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(len(order)))


@functools.cache
def fitted(*devices, **compiled):
    if devices:
        with tf.distribute.MirroredStrategy(devices).scope():
            return trained(**compiled)
    return trained(**compiled)


def trained(**compiled):
    model = model_of()
    model.compile(optimizer=mdm.optimizers.Adam(1e-3), **compiled)
    traced, step = [], type(model).train_step
    model.train_step = lambda batch: traced.append(batch["image"].shape[1:3]) or step(model, batch)
    model.fit(data_of(), verbose=0)
    return model, [tuple(sides) for sides in traced]


@pytest.mark.parametrize("options", [{}, {"residual": {"16": 0.3}}, {"in_channels": 6}], ids=str)
def test_the_loss_of_a_bucket_is_that_of_a_model_of_its_size(options):
    network = {"in_channels": options.pop("in_channels", 3)}
    model = model_of(network=network, **options)
    alone = model.with_size((12, 20))
    assert alone.buckets == ()
    batch = {"image": batch_of((12, 20))["image"]}
    if network["in_channels"] == 6:
        batch["low_res"] = np.random.default_rng(1).integers(0, 256, (4, 6, 10, 3)).astype("uint8")
    names = dict(zip(model.unet.levels, alone.unet.levels, strict=True))
    index = tf.constant([1, 300, 600, 1000])
    losses = {}
    for own in (model, alone):
        x0, conditions = own.prepare(batch)
        eps = {
            names.get(name, name): tf.random.stateless_normal(value.shape, (0, number))
            for number, (name, value) in enumerate(x0.items())
        }
        eps = {name: eps[names.get(name, name)] for name in x0}
        found = own.level_losses(own.unet, x0, eps, index, conditions)
        losses[own is model] = {names.get(name, name): value for name, value in found.items()}
    for name, value in losses[True].items():
        np.testing.assert_array_equal(value, losses[False][name])


@pytest.mark.usefixtures("traced")
@pytest.mark.slow
def test_each_size_is_traced_once_and_steps_share_their_state():
    model, traced = fitted()
    assert sorted(traced) == sorted(BUCKETS)
    assert int(model.optimizer.iterations) == len(ORDER) == model.averages.age
    losses = model.evaluate(data_of(), return_dict=True, verbose=0)
    assert np.isfinite(losses["loss"]) and {"loss_8", "loss_16"} < set(losses)
    # Several steps per execution, whose batches are of different sizes, are the same steps.
    other, _ = fitted(steps_per_execution=4)
    for mine, theirs in zip(arrays(model.unet.weights), arrays(other.unet.weights), strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_on_two_devices_the_steps_are_the_same():
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    if len(devices) < 2:
        pytest.skip("one device")
    alone, _ = fitted()
    both, _ = fitted(*devices[:2])
    for mine, theirs in zip(arrays(alone.unet.weights), arrays(both.unet.weights), strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-5)


def test_buckets_are_saved_and_follow_the_levels(tmp_path):
    model = model_of()
    model.unet.trained_alone = ("8", "16")
    assert model.buckets == model.unet.sizes == (16, (12, 20), (20, 12))
    assert model.cut("8").buckets == (8, (6, 10), (10, 6))
    model.save(tmp_path / "model.keras")
    assert mdm.load(tmp_path / "model.keras").buckets == model.buckets
    assert model_of(buckets=[]).get_config()["buckets"] == []
    drawn = model.with_size((20, 12)).generate(labels=[1], steps=2)
    assert drawn["h20w12"].shape == (1, 20, 12, 3)
    assert model.generate(labels=[1], steps=2)["16"].shape == (1, 16, 16, 3)


def test_datasets_need_not_say_shapes():
    model = model_of()
    model.compile(optimizer=mdm.optimizers.Adam(1e-3))
    found = data_of().map(
        lambda batch: {**batch, "image": tf.py_function(tf.identity, [batch["image"]], tf.uint8)}
    )
    model.fit(found.take(2), verbose=0)
    model.train_on_batch({k: tf.constant(v) for k, v in batch_of((20, 12)).items()})
    assert int(model.optimizer.iterations) == 3


@pytest.mark.parametrize("size", [(16, 20), (24, 40), (20, 16)])
def test_a_batch_of_another_size_is_refused(size):
    model = model_of()
    model.compile(optimizer=mdm.optimizers.Adam(1e-3))
    with pytest.raises(ValueError, match=r"one of the buckets \[16, \(12, 20\), \(20, 12\)\]"):
        model.fit(tf.data.Dataset.from_tensors(batch_of(size)), verbose=0)


def test_mixed_batches_are_of_one_bucket():
    model = model_of()
    model.compile(optimizer=mdm.optimizers.Adam(1e-3))
    groups = {"16": batch_of((12, 20)), "8": batch_of((6, 10))}
    assert model.prepare(groups)[0]["8"].shape == (8, 6, 10, 3)
    with pytest.raises(ValueError, match="one bucket.+" + THREE_PARTS[2:]):
        model.prepare({**groups, "8": batch_of((8, 8))})


def test_buckets_that_do_not_fit_the_network_are_refused():
    for bad in ([(12, 21)], ["16"], [(4, 4, 4)]):
        with pytest.raises(ValueError, match=THREE_PARTS):
            model_of(buckets=bad)
    unet = tiny_unet((PLAIN_INNER, outer(16)))
    z = {"z_16": np.zeros((1, 12, 20, 3)), "z_8": np.zeros((1, 6, 10, 3)), "time": np.zeros(1)}
    with pytest.raises(ValueError, match=THREE_PARTS):
        unet(z)
    unet.sizes = [(12, 20)]
    inputs = {"z_h12w20": z["z_16"], "z_h6w10": z["z_8"], "time": z["time"]}
    expected = with_size(unet, (12, 20))(inputs)
    np.testing.assert_array_equal(unet(z)["16"], expected["h12w20"])
    with pytest.raises(ValueError, match=THREE_PARTS):
        unet({**z, "z_8": np.zeros((1, 8, 8, 3))})


def test_a_network_of_the_users_takes_the_size_of_its_inputs_only():
    z, time = keras.Input((8, 8, 3), name="z_8"), keras.Input((), name="time")
    output = keras.layers.Conv2D(3, 3, padding="same", name="level_8")(z)
    network = keras.Model({"z_8": z, "time": time}, {"8": output})
    assert MatryoshkaDiffusion(network).buckets == ()
    with pytest.raises(ValueError, match="pictures of several sizes.*" + THREE_PARTS):
        MatryoshkaDiffusion(network, buckets=[(8, 12)])
