"""Steps that are not finite, float16, and the options of the loss."""

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import PLAIN_INNER, TEXT_WIDTH, Record, arrays, outer, tiny_unet

from keras_mdm import MatryoshkaDiffusion, WeightRamp, export_saved_model, load
from keras_mdm.optimizers import SGD, Adam

pytestmark = pytest.mark.usefixtures("eagerly")

LEVELS = [PLAIN_INNER, outer(16)]


def make_model(**options):
    dtype = options.pop("dtype", None)
    unet = tiny_unet(LEVELS, text_width=TEXT_WIDTH, dtype=dtype)
    return MatryoshkaDiffusion(unet, null_text=np.ones((2, TEXT_WIDTH)), **options)


def make_batch(rng, rows=4):
    return {
        "image": rng.uniform(-1.0, 1.0, (rows, 16, 16, 3)).astype("float32"),
        "text": rng.normal(size=(rows, 3, TEXT_WIDTH)).astype("float32"),
    }


def as_dataset(steps):
    signature = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), steps[0])
    dataset = tf.data.Dataset.from_generator(lambda: iter(steps), output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(len(steps)))


@pytest.mark.usefixtures("traced")
def test_a_broken_batch_leaves_weights_averages_and_metrics_alone():
    rng = np.random.default_rng(0)
    steps = [make_batch(rng) for _ in range(4)]
    steps[1]["image"][2, 3, 4, 0] = np.nan
    steps[2]["image"][0, 0, 0, 0] = np.inf
    model = make_model()
    model.compile(optimizer=Adam(1e-3))
    states = []

    class Watch(Record):
        def on_step_end(self, previous_step, logs):
            super().on_step_end(previous_step, logs)
            states.append(arrays([*self.model.unet.trainable_variables, *self.model.ema.averages]))

    record = Watch()
    history = model.fit(as_dataset(steps), epochs=1, verbose=0, callbacks=[record])
    for before, after in zip(states[0], states[2], strict=True):
        np.testing.assert_array_equal(before, after)
    assert any(np.any(a != b) for a, b in zip(states[2], states[3], strict=True))
    assert [logs["skipped_in_a_row"] for logs in record.logs] == [0.0, 1.0, 2.0, 0.0]
    assert int(model.optimizer.skipped) == 2 and int(model.optimizer.iterations) == 4
    good = [record.logs[0]["loss"], record.logs[3]["loss"]]
    assert not np.isfinite(record.logs[1]["loss"])
    assert history.history["loss"][-1] == pytest.approx(np.mean(good), rel=1e-6)


@pytest.mark.usefixtures("traced")
def test_training_in_float16_scales_its_loss():
    """Without a scale most gradients of a mean over pixels are below the smallest float16."""
    rng = np.random.default_rng(0)
    steps = [make_batch(rng)] * 6
    ends = {}
    for dtype in ("float32", "mixed_float16"):
        model = make_model(dtype=dtype, cond_dropout=0.0)
        model.compile(optimizer=SGD(0.05, clip_norm=None))
        start = arrays(model.unet.trainable_variables)
        model.fit(as_dataset(steps), epochs=1, verbose=0)
        end = arrays(model.unet.trainable_variables)
        ends[dtype] = [b - a for a, b in zip(start, end, strict=True)]
    assert model.optimizer.loss_scale == "dynamic" and int(model.optimizer.skipped) == 0
    apart = sum(np.sum((a - b) ** 2) for a, b in zip(*ends.values(), strict=True)) ** 0.5
    moved = sum(np.sum(a**2) for a in ends["float32"]) ** 0.5
    assert apart < 0.02 * moved


def test_float16_needs_an_optimizer_that_scales():
    import keras

    with pytest.raises(ValueError, match="optimizer='SGD'"):
        make_model(dtype="mixed_float16").compile(optimizer=keras.optimizers.SGD(0.1))


# Options of the loss.


def losses_of(model, index):
    rng = np.random.default_rng(1)
    by_level = {name: tf.constant(rng.uniform(1, 2, 4), tf.float32) for name in ("8", "16")}
    return by_level, float(model.batch_loss(by_level, tf.constant(index)))


def test_weightings_use_every_levels_own_noise():
    index = [10, 200, 600, 990]
    model = make_model(loss_weighting={"kind": "min_snr", "gamma": 2.0}, loss_target="v")
    by_level, found = losses_of(model, index)
    expected = 0.0
    for name, values in by_level.items():
        snr = np.exp(model.process.schedules[name].logsnr(np.array(index) / 1000.0))
        expected += np.mean(np.minimum(snr, 2.0) / (snr + 1.0) * values)
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_only_the_highest_level():
    model = make_model(level_weights="highest")
    by_level, found = losses_of(model, [1, 2, 3, 4])
    assert found == pytest.approx(float(np.mean(by_level["16"])), rel=1e-6)
    assert model.get_config()["level_weights"] == {"8": 0.0}


@pytest.mark.usefixtures("traced")
def test_weights_that_follow_the_progress():
    model = make_model(level_weights=WeightRamp({"16": 0.0}, {"16": 1.0, "8": 3.0}, until=0.5))
    assert {k: float(v) for k, v in model.weights_at(0.25).items()} == {"16": 0.5, "8": 2.0}
    assert {k: float(v) for k, v in model.weights_at(1.0).items()} == {"16": 1.0, "8": 3.0}
    assert float(model.progress(7)) == 1.0  # outside of a phase
    model.phase_span = (10, 20)
    assert [float(model.progress(step)) for step in (0, 10, 15, 30, 99)] == [0, 0, 0.25, 1, 1]
    with pytest.raises(ValueError, match="unknown_keys=\\['64'\\]"):
        make_model(level_weights=lambda progress: {"64": 1.0}).weights_at()


@pytest.mark.parametrize(
    "options",
    [
        {"loss_weighting": "snr"},
        {"loss_weighting": {"kind": "p2", "gama": 1.0}},
        {"loss_weighting": {"kind": "p2", "gamma": "1"}},
        {"level_weights": "lowest"},
        {"times": "sobol"},
        {"censored": 2, "threshold": "static"},
        {"censored": True},
        {"censored": True, "threshold": "none"},
    ],
    ids=str,
)
def test_unknown_options_are_refused(options):
    with pytest.raises(ValueError, match="Received"):
        make_model(**options)


def test_a_censored_model_is_drawn_with_clipping_only(tmp_path):
    model = make_model(censored=True, threshold="static")
    text = {"text": np.ones((1, 2, TEXT_WIDTH), "float32")}
    model.generate(text, steps=2, dry_run=True)
    with pytest.raises(ValueError, match="threshold='dynamic'"):
        model.generate(text, steps=2, threshold="dynamic", dry_run=True)
    with pytest.raises(ValueError, match="threshold='none'"):
        export_saved_model(model, tmp_path / "export", threshold="none")
    model.save(tmp_path / "model.keras")
    assert load(tmp_path / "model.keras").censored


def test_white_may_be_overshot_in_training():
    """At white pixels a network that overshoots has no loss; without the option it has."""
    batch = {"image": np.full((2, 16, 16, 3), 255, "uint8")}
    batch["text"] = np.ones((2, 2, TEXT_WIDTH), "float32")
    found = []

    def beyond(inputs):
        return {"8": tf.fill((2, 8, 8, 3), 1.5), "16": tf.fill((2, 16, 16, 3), 1.5)}

    for censored in (False, True):
        model = make_model(censored=censored, threshold="static", prediction="x0")
        x0, given = model.prepare(batch)
        eps = {name: tf.zeros_like(value) for name, value in x0.items()}
        _, by_level = model.joint_loss(beyond, x0, eps, tf.constant([300, 600]), given)
        found.append([float(tf.reduce_max(value)) for value in by_level.values()])
    np.testing.assert_allclose(found, [[0.25, 0.25], [0.0, 0.0]], rtol=1e-6)
