"""Mixed-resolution batches and micro-batches: equal to what they replace, and never padded."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import (
    CLIP,
    PLAIN_INNER,
    TEXT_WIDTH,
    Record,
    arrays,
    make_batch,
    outer,
    tiny_unet,
)

from keras_mdm import MatryoshkaDiffusion, cut
from keras_mdm.data import image_text_dataset, mixed_dataset
from keras_mdm.optimizers import SGD, Adam
from keras_mdm.training import batches, steps

ROWS = {"8": 4, "16": 8}
LEVEL_NAMES = ("8", "16")
STEPS = 3
LEVELS = [PLAIN_INNER, outer(16)]


def mixed_batch(rng, rows=None, **options):
    rows = rows or ROWS
    return {
        level: make_batch(rng, count, size=int(level), **options) for level, count in rows.items()
    }


def make_model(*, classes=None, **options):
    kind = {"num_classes": classes} if classes else {"text_width": TEXT_WIDTH}
    null = {} if classes else {"null_text": np.ones((2, TEXT_WIDTH), "float32")}
    return MatryoshkaDiffusion(
        tiny_unet(LEVELS, **kind), **{"cond_dropout": 0.4, "seed": 3, **null, **options}
    )


def as_dataset(steps):
    signature = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), steps[0])
    dataset = tf.data.Dataset.from_generator(lambda: iter(steps), output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(len(steps)))


class Run:
    """A short training and what came of it."""

    def __init__(self, *, strategy=None, optimizer=None, micro_batches=1, classes=None, **options):
        rng, optimizer = np.random.default_rng(1), optimizer or sgd
        steps = [mixed_batch(rng, classes=classes) for _ in range(STEPS)]
        with strategy.scope() if strategy else contextlib.nullcontext():
            model = make_model(classes=classes, **options)
            model.compile(optimizer=optimizer(), micro_batches=micro_batches)
        before = arrays(model.unet.trainable_variables)
        record = Record()
        model.fit(as_dataset(steps), epochs=1, verbose=0, callbacks=[record])
        self.model = model
        self.logs = {key: np.array([logs[key] for logs in record.logs]) for key in record.logs[0]}
        self.moved = [
            after - start
            for after, start in zip(arrays(model.unet.trainable_variables), before, strict=True)
        ]
        self.averages = arrays(model.ema.averages)


def norm(values):
    return np.sqrt(sum(np.sum(np.square(value, dtype="float64")) for value in values))


def differences(one, two):
    """Of losses, norms, weights and averages, relative to values and to the distance moved."""
    keys = ("loss", "loss_8", "loss_16", "gradient_norm")
    logs = max(np.max(np.abs(two.logs[key] / one.logs[key] - 1.0)) for key in keys)
    distance = norm(one.moved)
    weights = norm([a - b for a, b in zip(one.moved, two.moved, strict=True)]) / distance
    averages = norm([a - b for a, b in zip(one.averages, two.averages, strict=True)]) / distance
    return np.array([logs, weights, averages])


LIMITS = np.array([1e-5, 1e-4, 1e-4])


def sgd():
    return SGD(0.05, clip_norm=None)


def adam():
    return Adam(1e-3, epsilon=1e-5, clip_norm=0.3)


OPTIONS = {
    "text": {},
    "class": {"classes": 3},
    "weighted": {"loss_weighting": "vdm", "times": "stratified", "residual": {"16": 0.3}},
}


@pytest.fixture(
    scope="module",
    params=["weighted", *(pytest.param(o, marks=pytest.mark.slow) for o in ("text", "class"))],
)
def alone(request):
    return request.param, Run(optimizer=adam, **OPTIONS[request.param])


def test_training_remembers_which_levels_ran_alone(alone):
    unet = alone[1].model.unet
    assert unet.trained_alone == tuple(LEVEL_NAMES)
    assert all(unet.runs_alone(level) for level in LEVEL_NAMES)
    plain = make_model()
    assert plain.unet.trained_alone is None and plain.unet.runs_alone("8")  # nothing is known
    plain.compile(optimizer=sgd())
    batch = make_batch(np.random.default_rng(0), 2, size=int(LEVEL_NAMES[-1]))
    plain.fit(as_dataset([batch]), epochs=1, verbose=0)
    assert plain.unet.trained_alone == (LEVEL_NAMES[-1],) and not plain.unet.runs_alone("8")


def test_four_micro_batches_equal_one(alone):
    name, run = alone
    assert np.all(run.logs["gradient_norm"] > 0.3)  # the clip bites
    parts = Run(optimizer=adam, micro_batches=4, **OPTIONS[name])
    assert np.all(differences(run, parts) < LIMITS), differences(run, parts)


def test_two_replicas_with_two_micro_batches_equal_one_device(alone, two_replicas, request):
    name, run = alone
    if name == "weighted" and not request.config.getoption("--slow"):
        pytest.skip("slow: run with --slow; its micro-batches are tested without")
    double = Run(strategy=two_replicas, optimizer=adam, micro_batches=2, **OPTIONS[name])
    assert np.all(differences(run, double) < LIMITS), differences(run, double)


@pytest.mark.slow
def test_the_comparison_notices_micro_batches_that_are_summed(monkeypatch):
    whole = Run()
    original = steps._backward

    def summed(model, step, drawn, variables, normalizer, share):
        return original(model, step, drawn, variables, normalizer, share * model.micro_batches)

    monkeypatch.setattr(steps, "_backward", summed)
    assert np.all(differences(whole, Run(micro_batches=4)) > 100 * LIMITS)


@pytest.mark.slow
def test_the_comparison_notices_groups_that_share_their_noise(two_replicas, monkeypatch):
    whole = Run()
    monkeypatch.setattr(
        steps,
        "_samples",
        lambda model, group, step, rows, *_: step + tf.range(tf.cast(rows, tf.int64)),
    )
    assert np.all(differences(whole, Run(strategy=two_replicas)) > 100 * LIMITS)


# What a mixed batch is.


def test_levels_are_trained_on_the_samples_that_have_them():
    """Every level's loss is the mean over its own samples, whatever group they came in."""
    rng = np.random.default_rng(0)
    model = make_model(cond_dropout=0.0)
    model.compile(optimizer=SGD(0.0, clip_norm=None))
    batch = tf.nest.map_structure(tf.constant, mixed_batch(rng))
    for number, level in enumerate(("16", "8")):  # highest first
        batch[level]["sample"] = tf.range(ROWS[level], dtype=tf.int64) * 2 + number
    x0, conditions = model.prepare(batch)
    assert x0["16"].shape[0] == 8 and x0["8"].shape[0] == 12
    np.testing.assert_array_equal(
        x0["8"][8:], tf.cast(batch["8"]["image"], tf.float32) / 127.5 - 1.0
    )
    np.testing.assert_array_equal(conditions["text"][:8], batch["16"]["text"])
    logs = model.train_step(batch)
    # The same samples as two batches of their own, the low ones in the inner network alone.
    inner = MatryoshkaDiffusion(
        cut(model.unet, "8"), null_text=np.ones((2, TEXT_WIDTH)), cond_dropout=0.0, seed=3
    )
    alone = {}
    for level, own in (("16", model), ("8", inner)):
        samples = batch[level]["sample"]
        data, given = own.prepare(batch[level])
        index, _ = steps.draw_times(own, "train", 0, samples)
        eps = own.draw_noise("train", 0, samples, data)
        alone[level] = own.level_losses(own.network("raw"), data, eps, index, given)
    expected = np.mean(alone["16"]["16"])
    np.testing.assert_allclose(logs["loss_16"], expected, rtol=1e-5)
    low = np.concatenate([alone["16"]["8"], alone["8"]["8"]])
    np.testing.assert_allclose(logs["loss_8"], np.mean(low), rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], expected + np.mean(low), rtol=1e-5)


def test_images_and_clips_train_together():
    """A group of images trains the image level only, which clips train too."""
    rng = np.random.default_rng(0)
    model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER, CLIP]))
    model.compile(optimizer=SGD(0.0, clip_norm=None))
    clips = rng.integers(0, 256, (2, 4, 8, 8, 3)).astype("uint8")
    images = rng.integers(0, 256, (3, 8, 8, 3)).astype("uint8")

    def logs(clips, images):
        batch = {
            "8": {"image": images, "sample": np.array([1, 3, 5])},
            "4x8": {"video": clips, "sample": np.array([0, 2])},
        }
        model.optimizer.iterations.assign(0)  # the same times and noise
        found = model.train_step(tf.nest.map_structure(tf.constant, batch))
        return float(found["loss_8"]), float(found["loss_4x8"])

    x0, _ = model.prepare({"8": {"image": images}, "4x8": {"video": clips}})
    assert x0["4x8"].shape == (2, 4, 8, 8, 3) and x0["8"].shape == (5, 8, 8, 3)
    np.testing.assert_allclose(x0["8"][:2], clips[:, 0] / 127.5 - 1.0, atol=1e-6)
    low, high = logs(clips, images)
    other_low, same_high = logs(clips, images[::-1])
    # Clips have the first rows: what the images are does not reach their level's loss.
    assert same_high == pytest.approx(high, rel=1e-6) and other_low != pytest.approx(low, rel=1e-4)
    assert model.unet.trained_alone == ("8", "4x8")


def test_a_batch_of_one_group_is_a_plain_batch():
    rng = np.random.default_rng(0)
    plain = tf.nest.map_structure(tf.constant, make_batch(rng, 4))
    results = []
    for batch in (plain, {"16": plain}):
        model = make_model()
        model.compile(optimizer=SGD(0.1, clip_norm=None))
        results.append({k: float(v) for k, v in model.train_step(batch).items()})
    assert results[0] == results[1]


def test_groups_may_differ_in_text_length_and_micro_conditions():
    spec = tiny_unet(LEVELS, text_width=TEXT_WIDTH).spec
    short = {"text": tf.ones((1, 2, TEXT_WIDTH)), "text_mask": tf.ones((1, 2))}
    long = {"text": tf.ones((2, 5, TEXT_WIDTH)), "text_mask": tf.ones((2, 5))}
    joined = batches.join_conditions([short, long], spec)
    assert joined["text"].shape == (3, 5, TEXT_WIDTH)
    assert joined["text_mask"].numpy().sum(axis=1).tolist() == [2, 5, 5]
    assert not joined["text"][0, 2:].numpy().any()


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"8": {"image": np.zeros((2, 8, 8, 3), "uint8")}}, "a group of the highest level '16'"),
        ({"16": {"image": 1}, "64": {"image": 1}}, "unknown_keys=['64']"),
        ({}, "image"),
    ],
)
def test_wrong_groups_are_named(batch, words):
    with pytest.raises(ValueError) as failure:
        make_model().prepare(batch)
    assert words in str(failure.value)


def test_micro_batches_must_divide_every_group():
    model = make_model()
    model.compile(optimizer=SGD(0.1), micro_batches=3)
    batch = mixed_batch(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"\{'16': 9, '8': 3\}"):
        model.train_step(tf.nest.map_structure(tf.constant, batch))


def test_evaluation_takes_mixed_batches():
    model = make_model()
    model.compile(optimizer=SGD(0.1))
    steps = [mixed_batch(np.random.default_rng(seed)) for seed in (0, 1)]
    one, two = (model.evaluate(as_dataset(steps), verbose=0, return_dict=True) for _ in range(2))
    assert one == two and one["loss"] == pytest.approx(one["loss_8"] + one["loss_16"], rel=1e-5)
    # The mean over the batches, not the last one.
    model._test_batches.assign(0)
    alone = [model.test_step(tf.nest.map_structure(tf.constant, batch)) for batch in steps]
    assert one["loss"] == pytest.approx(np.mean([float(x["loss"]) for x in alone]), rel=1e-5)
    assert set(one) == {"loss", "loss_8", "loss_16"}


@pytest.mark.slow
def test_evaluation_reads_the_weights_it_is_asked_for():
    model = make_model(power_emas=(0.1,))
    model.compile(optimizer=SGD(0.1))
    data = as_dataset([mixed_batch(np.random.default_rng(0))])

    def loss(**options):
        return model.evaluate(data, verbose=0, return_dict=True, **options)["loss"]

    same = loss()
    assert loss(weights="raw") == loss(weights="ema_0.1") == same  # nothing was trained
    # Averages of the weights as they are: what is assigned outside of training they would follow.
    averages = {v.path: np.asarray(v) + 0.1 for v in model.ema.variables}
    model.set_average(averages)
    assert loss(weights="raw") == loss(weights="ema_0.1") == same
    assert loss() != same
    with pytest.raises(ValueError, match="weights='ema_0.2'"):
        loss(weights="ema_0.2")


# Data.


def test_groups_are_joined_and_their_positions_never_meet():
    images = {size: np.zeros((7, size, size, 3), "uint8") for size in (8, 16)}
    groups = {
        str(size): image_text_dataset(images[size], batch_size=rows, seed=0, first_step=5)
        for size, rows in ((8, 2), (16, 3))
    }
    dataset = mixed_dataset(groups)
    assert dataset.element_spec["8"]["image"].shape == (2, 8, 8, 3)
    assert dataset.element_spec["16"]["image"].shape == (3, 16, 16, 3)
    seen = [int(p) for b in dataset.take(6) for group in b.values() for p in group["sample"]]
    assert len(set(seen)) == 6 * 5
    assert mixed_dataset({"8": groups["8"]}) is groups["8"]
    with pytest.raises(ValueError, match="`groups` must not be empty"):
        mixed_dataset({})


# Times.


def test_stratified_times_take_one_from_every_interval():
    model = make_model(times="stratified")
    batch = tf.nest.map_structure(tf.constant, mixed_batch(np.random.default_rng(0)))
    seen = []
    for step in range(2):
        drawn = steps.draw_all(
            model, "train", tf.constant(step, tf.int64), batch, tf.constant(step, tf.int64)
        )
        index = np.concatenate([group["index"] for group in drawn.values()])
        intervals = np.floor((index - 0.5) / 1000 * len(index)).astype(int)
        assert sorted(intervals) == list(range(12))
        seen.append(intervals.tolist())
    assert seen[0] != seen[1] and seen[0] != sorted(seen[0])
    uniform = steps.draw_all(
        make_model(), "train", tf.constant(0, tf.int64), batch, tf.constant(0, tf.int64)
    )
    index = np.concatenate([group["index"] for group in uniform.values()])
    assert len(set(np.floor((index - 0.5) / 1000 * 12))) < 12
