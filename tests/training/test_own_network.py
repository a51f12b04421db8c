"""Keras models that were not built here: what is read off them, how they are trained and kept."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from tiny_models import arrays

import keras_mdm as mdm
from keras_mdm import LevelSpec, build_nested_unet
from keras_mdm.costs.estimate import estimate_training
from keras_mdm.layers import ClassEmbedding, InnermostLevel, LevelEmbedding, NestedDown, NestedUp
from keras_mdm.models import OwnNetwork, with_frames
from keras_mdm.models.own_network import as_network
from keras_mdm.models.recompute import set_recompute
from keras_mdm.runs.snapshot import load_snapshot, restore_snapshot, save_snapshot

pytestmark = pytest.mark.usefixtures("eagerly")

THREE_PARTS = r"\. Received: .+\. To fix it: .+\.$"
# What `build_nested_unet` makes of the same numbers.
LEVELS = [
    LevelSpec(8, channels=(16, 32), blocks=(1, 1), attention=(0, 1), groups=8, heads=4),
    LevelSpec(16, channels=(8, 16), blocks=(1, 1), attention=(0, 0), groups=4),
]
OPTIONS = {"num_classes": 4, "time_width": 32}


def make_inputs(**changed):
    inputs = {
        "z_8": keras.Input((8, 8, 3), name="z_8"),
        "z_16": keras.Input((16, 16, 3), name="z_16"),
        "time": keras.Input((), name="time"),
        "label": keras.Input((), dtype="int32", name="label"),
    }
    inputs |= changed
    return {key: value for key, value in inputs.items() if value is not None}


def composed(*, name="nest", dtype="float32"):
    """The nest of LEVELS out of public layers."""
    inputs = make_inputs()
    classes = ClassEmbedding(num_classes=4, width=32, name="class_embedding")(inputs["label"])
    time = {
        size: LevelEmbedding(width=32, name=f"level_{size}_embedding")(
            inputs["time"], condition=classes
        )
        for size in (8, 16)
    }
    given = {"temporal_attention": (0, 0), "strides": (2,), "blocks": (1, 1), "dtype": dtype}
    outer = {"channels": (8, 16), "attention": (0, 0), "groups": 4, "inner_channels": 16, **given}
    down = NestedDown(**outer, name="level_16_down")(inputs["z_16"], time[16])
    inner = InnermostLevel(
        channels=(16, 32),
        attention=(0, 1),
        groups=8,
        heads=4,
        attention_ffn=True,
        **given,
        name="level_8",
    )(inputs["z_8"], time[8], features=down["features"])
    up = NestedUp(**outer, name="level_16_up")(down["skips"], inner["features"], time[16])
    return keras.Model(inputs, {"8": inner["output"], "16": up["output"]}, name=name)


def batch_of(rows=4, size=16, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (rows, size, size, 3)).astype("uint8")
    return {"image": image, "label": np.arange(rows) % 4}


def trained(network, batch=None, steps=2, **options):
    model = mdm.MatryoshkaDiffusion(network, **options)
    model.compile(mdm.optimizers.Adam(1e-2))
    model.fit(tf.data.Dataset.from_tensors(batch or batch_of()), epochs=steps, verbose=0)
    return model


def drawn(model):
    return model.generate(labels=[1, 2], steps=2, seed=0)


def assert_same(found, expected):
    for key, value in found.items():
        np.testing.assert_array_equal(value, expected[key], err_msg=key)


@pytest.fixture(scope="module")
def model():
    return trained(composed(), power_emas=(0.1,))


def test_what_is_read_off(model):
    assert model.unet.levels == ("8", "16")
    spec = model.unet.spec
    assert (spec.num_classes, spec.text_width, spec.in_channels, spec.out_channels) == (
        4,
        None,
        3,
        3,
    )
    assert model.unet.level_of("level_16_down") == "16"
    assert model.unet.level_of("class_embedding") == "8"
    assert model.unet.policy.name == "float32"


def test_text_and_other_conditions():
    inputs = make_inputs(
        label=None,
        text=keras.Input((None, 6), name="text"),
        text_mask=keras.Input((None,), name="text_mask"),
        pooled=keras.Input((5,), name="pooled"),
        score=keras.Input((), name="score"),
        z_8=keras.Input((8, 8, 4), name="z_8"),
        z_16=None,
    )
    mean = keras.layers.GlobalAveragePooling1D()(inputs["text"])
    joined = ops.concatenate([mean, inputs["pooled"], inputs["score"][:, None]], axis=-1)
    shift = keras.layers.Dense(3, name="shift")(joined)
    output = keras.layers.Conv2D(3, 1, name="level_8")(inputs["z_8"]) + shift[:, None, None]
    spec = as_network(keras.Model(inputs, {"8": output})).spec
    assert (spec.text_width, spec.pooled_width, spec.num_classes) == (6, 5, None)
    assert (spec.in_channels, spec.out_channels, spec.micro_conditions) == (4, 3, ("score",))


def test_it_computes_what_the_built_network_computes():
    built, own = build_nested_unet(LEVELS, **OPTIONS), as_network(composed())
    by_path = {v.path: v for v in own.weights}
    assert by_path.keys() == {v.path for v in built.weights}
    rng = np.random.default_rng(0)
    for variable in built.weights:
        variable.assign(rng.normal(size=variable.shape, scale=0.1))
        by_path[variable.path].assign(variable.value)
    inputs = {
        **{f"z_{s}": rng.normal(size=(2, s, s, 3)).astype("float32") for s in (8, 16)},
        "time": np.array([3.0, 900.0], "float32"),
        "label": np.array([-1, 2]),
    }
    assert_same(own(inputs), built(inputs))


def test_file(model, tmp_path):
    model.save(tmp_path / "own.keras")
    loaded = mdm.load(tmp_path / "own.keras")
    assert isinstance(loaded.unet, OwnNetwork)
    assert_same(drawn(loaded), drawn(model))
    assert loaded.power_emas.keys() == model.power_emas.keys()


def test_frozen_parts_stay_frozen_in_a_file(tmp_path):
    network = composed()
    network.get_layer("level_8").trainable = False
    before = np.asarray(network.get_layer("level_8").weights[0])
    model = trained(network)
    np.testing.assert_array_equal(network.get_layer("level_8").weights[0], before)
    model.save(tmp_path / "own.keras")
    loaded = mdm.load(tmp_path / "own.keras")
    assert not loaded.unet.parts["level_8"].trainable
    assert loaded.unet.parts["level_16_down"].trainable


def test_checkpoint(model, tmp_path):
    path = save_snapshot(model, tmp_path, 2, {})
    assert_same(drawn(load_snapshot(path)), drawn(model))
    again = mdm.MatryoshkaDiffusion(composed(), power_emas=(0.1,))
    again.compile(mdm.optimizers.Adam(1e-2))
    restore_snapshot(again, path)
    assert_same(drawn(again), drawn(model))


@pytest.mark.usefixtures("traced")
@pytest.mark.slow
def test_mixed_batches_micro_batches_and_recompute():
    batch = {"8": batch_of(4, 8), "16": batch_of(4)}
    model = mdm.MatryoshkaDiffusion(composed())
    model.compile(mdm.optimizers.Adam(1e-3), micro_batches=2, recompute=True)
    history = model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    assert np.isfinite(history.history["loss"][0])
    assert model.unet.trained_alone == ("8", "16")


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_two_replicas_equal_one_device(two_replicas):
    ends = []
    for strategy in (None, two_replicas):
        with strategy.scope() if strategy is not None else contextlib.nullcontext():
            own = mdm.MatryoshkaDiffusion(composed(), seed=3)
            own.compile(mdm.optimizers.SGD(0.05, clip_norm=None))
        before = arrays(own.unet.trainable_variables)
        losses = own.fit(tf.data.Dataset.from_tensors(batch_of()).repeat(3), verbose=0).history
        ends.append((losses["loss"], before, arrays(own.unet.trainable_variables)))
    (one, start, end), (two, _, other) = ends
    np.testing.assert_allclose(two, one, rtol=1e-5)
    moved = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(start, end, strict=True)))
    apart = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(other, end, strict=True)))
    assert apart < 1e-4 * moved


@pytest.mark.slow
def test_an_export_draws_the_same(model, tmp_path):
    mdm.export_saved_model(model, tmp_path / "export")
    served = tf.saved_model.load(tmp_path / "export" / "1").signatures["scalars"]
    found = served(
        label=tf.constant([1, 2]),
        steps=tf.constant(2),
        guidance_scale=tf.constant(3.0),
        seed=tf.constant(0, tf.int64),
    )
    expected = model.generate(labels=[1, 2], steps=2, seed=0, guidance_scale=3.0)
    assert_same({name: value.numpy() for name, value in found.items()}, expected)


@pytest.mark.slow
def test_lora_of_one_level(model):
    loaded = trained(composed())
    before = drawn(loaded)
    paths = loaded.enable_lora(2, levels=["16"])
    assert paths and all(path.startswith("level_16") for path in paths)
    assert_same(drawn(loaded), before)
    loaded.merge_lora()
    assert_same(drawn(loaded), before)


def test_a_built_network_starts_from_it_and_the_other_way_round(model):
    other = mdm.MatryoshkaDiffusion(composed())
    assert other.start_from(model) == []
    assert_same(drawn(other), drawn(model))
    built = mdm.MatryoshkaDiffusion(build_nested_unet(LEVELS, **OPTIONS))
    assert built.start_from(model) == []
    np.testing.assert_allclose(drawn(built)["16"], drawn(model)["16"], atol=2)


def test_costs():
    network = composed()
    rows = mdm.describe(network)["levels"]
    built = mdm.describe(build_nested_unet(LEVELS, **OPTIONS))["levels"]
    for row, other in zip(rows, built, strict=True):
        assert (row["parameters"], row["gflop"]) == (other["parameters"], other["gflop"])
    phase = mdm.Phase(LEVELS, steps=1, batch_size=2)
    (row,) = estimate_training([phase], lambda _: network, flop_per_second=1e12)
    assert row["gflop"] > 0


def test_mixed_precision():
    assert trained(composed(dtype="mixed_bfloat16")).unet.policy.name == "mixed_bfloat16"


@pytest.mark.slow
def test_a_progressive_run_of_hand_made_networks(tmp_path):
    def make_model(phase):
        if len(phase.levels) == 2:
            network = composed()
        else:
            inputs = make_inputs(z_16=None)
            classes = ClassEmbedding(num_classes=4, width=32, name="class_embedding")
            time = LevelEmbedding(width=32, name="level_8_embedding")
            inner = InnermostLevel(
                channels=(16, 32),
                blocks=(1, 1),
                attention=(0, 1),
                temporal_attention=(0, 0),
                strides=(2,),
                groups=8,
                heads=4,
                attention_ffn=True,
                name="level_8",
            )
            embedding = time(inputs["time"], condition=classes(inputs["label"]))
            output = inner(inputs["z_8"], embedding)["output"]
            network = keras.Model(inputs, {"8": output}, name="nest")
        model = mdm.MatryoshkaDiffusion(network)
        model.compile(mdm.optimizers.Adam(1e-3))
        return model

    def make_dataset(phase, first_step):
        batch = batch_of(2, 8)
        if len(phase.levels) == 2:
            batch = {"8": batch_of(1, 8), "16": batch_of(1)}
        return tf.data.Dataset.from_tensors(batch).repeat()

    phases = [mdm.Phase(LEVELS[: n + 1], steps=1, batch_size=2) for n in range(2)]
    model = mdm.fit_progressively(phases, make_model, make_dataset, run_dir=tmp_path / "run")
    assert model.unet.levels == ("8", "16")
    assert_same(drawn(mdm.load(tmp_path / "run")), drawn(model))


# What is refused


def test_what_cannot_be_taken_apart(model):
    for call in (
        lambda: mdm.cut(model.unet, "8"),
        lambda: model.cut("8"),
        lambda: model.generate(labels=[1], steps=2, stop_at="8"),
        lambda: mdm.grow(model.unet, 32),
        lambda: with_frames(model.unet, 2),
        lambda: mdm.interop.to_ml_mdm(model.unet),
    ):
        with pytest.raises(ValueError, match="a network of build_nested_unet.*" + THREE_PARTS):
            call()


def test_recompute_needs_layers_that_can():
    inputs = make_inputs(z_16=None, label=None)
    output = keras.layers.Conv2D(3, 3, padding="same", name="convolution")(inputs["z_8"])
    with pytest.raises(ValueError, match="what can be recomputed" + THREE_PARTS):
        set_recompute(as_network(keras.Model(inputs, {"8": output})), True)


class Unnamed(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inside = keras.layers.Conv2D(3, 3, padding="same")

    def call(self, x):
        return self.inside(x)


def simple(inputs, *outputs, layer=None):
    """A network of one convolution per output."""
    found = {}
    for name in outputs or ("8",):
        z = inputs
        if isinstance(inputs, dict):
            z = inputs.get(f"z_{name}", next(iter(inputs.values())))
        make = layer or (lambda: keras.layers.Conv2D(3, 3, padding="same"))
        found[name] = make()(z)
    return keras.Model(inputs, found)


def only(**inputs):
    return make_inputs(**{"z_16": None, "label": None, **inputs})


def z(*shape, name="z_8"):
    return keras.Input(shape, name=name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "unet", "must be a functional Keras model"),
        (lambda: keras.Sequential([keras.layers.Dense(3)]), "must be a functional Keras model"),
        (lambda: simple(z(8, 8, 3)), "must be a functional Keras model"),
        (lambda: simple(only(time=None)), r"must take `time` \(B,\)"),
        (lambda: simple(only(score=keras.Input((2,), name="score"))), "extra numbers"),
        (lambda: simple(only(text=keras.Input((None, 4), name="text"))), "with `text_mask`"),
        (lambda: simple(only(label=keras.Input((), name="label"))), "number of classes"),
        (lambda: simple(only(), "16"), "must be those that it returns"),
        (lambda: simple(only(z_8=None, z_a=z(8, 8, 3, name="z_a")), "a"), "named by size"),
        (lambda: simple(only(z_8=z(16, 16, 3))), "the shape of its level's name"),
        (
            lambda: simple(only(z_24=z(24, 24, 3, name="z_24")), "8", "24"),
            "must ascend by a power of two",
        ),
        (
            lambda: simple(only(), layer=lambda: keras.layers.Conv2D(3, 3)),
            "have the shape of its input",
        ),
        (
            lambda: simple(only(), layer=lambda: keras.layers.Conv2D(3, 1, dtype="mixed_bfloat16")),
            "must be float32",
        ),
        (lambda: simple(only(), layer=Unnamed), "rebuild a network from its configuration"),
        (
            lambda: simple(only(), layer=keras.saving.register_keras_serializable("x")(Unnamed)),
            "must have the same paths",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*was called on layer")  # one of the wrong ones has no build
def test_a_bad_contract_is_one_clear_error(make, message):
    with pytest.raises(ValueError, match=message + ".*" + THREE_PARTS):
        mdm.MatryoshkaDiffusion(make())


# Own layers inside of a network that is built here


@keras.saving.register_keras_serializable("own_network_tests")
class Dropping(keras.layers.Layer):
    """An own block with a random generator, whose state a checkpoint holds as well."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.inside = keras.layers.Dense(channels, dtype=self.dtype_policy)
        self.drop = keras.layers.Dropout(0.5)

    def call(self, x, time_embedding, skip=None):
        x = x if skip is None else ops.concatenate([x, skip], axis=-1)
        return self.drop(self.inside(x))


def test_checkpoint_of_own_layers(tmp_path):
    levels = [LevelSpec(8, channels=(32,), blocks=(1,), resblock=Dropping, use_mid_block=False)]
    model = trained(build_nested_unet(levels, num_classes=4), batch_of(4, 8))
    path = save_snapshot(model, tmp_path, 2, {})
    loaded = load_snapshot(path)
    assert_same(drawn(loaded), drawn(model))
    states = [v for v in model.unet.variables if "seed_generator" in v.path]
    others = [v for v in loaded.unet.variables if "seed_generator" in v.path]
    assert len(states) == 3  # one block on the way down, two on the way up
    for mine, other in zip(states, others, strict=True):
        np.testing.assert_array_equal(mine, other)
