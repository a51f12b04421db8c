"""What a Keras user does with a model: each way in does what it does for Keras, or says why not."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import (
    PLAIN_INNER,
    TEXT_WIDTH,
    FakeEncoder,
    Record,
    arrays,
    tiny_unet,
)

from keras_mdm import MatryoshkaDiffusion, data, optimizers
from keras_mdm.training.inputs import Inputs

pytestmark = pytest.mark.usefixtures("eagerly")

ROWS, CLASSES = 6, 3
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (ROWS, 8, 8, 3)).astype("uint8")
LABELS = np.arange(ROWS) % CLASSES
CAPTIONS = [f"drawing {letter}" for letter in "abcdef"]


def make_model(**options):
    unet = tiny_unet((PLAIN_INNER,), **options)
    encoder = FakeEncoder() if options.get("text_width") else None
    model = MatryoshkaDiffusion(unet, text_encoder=encoder, cond_dropout=0.0)
    model.compile("adam")
    return model


@pytest.fixture(scope="module")
def classes():
    return make_model(num_classes=CLASSES)


@pytest.fixture(scope="module")
def plain():
    return make_model()


def by_name(rows=slice(None)):
    return {"image": IMAGES[rows], "label": LABELS[rows].astype("int32")}


def pairs(*columns):
    return tf.data.Dataset.from_tensor_slices((IMAGES, *columns)).batch(4)


class Pairs(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        rows = slice(4 * index, 4 * index + 4)
        return IMAGES[rows], LABELS[rows]


def same_loss(model, *args, **kwargs):
    """Whether data is what it is by name: equal losses, as the noise is equal."""
    expected = model.evaluate(by_name(), batch_size=4, verbose=0)
    np.testing.assert_allclose(
        model.evaluate(*args, batch_size=4, verbose=0, **kwargs), expected, rtol=1e-6
    )


def test_classes_in_every_way(classes):
    same_loss(classes, IMAGES, LABELS)
    same_loss(classes, IMAGES, LABELS[:, None].astype("uint8"))
    same_loss(classes, list(IMAGES), list(LABELS))
    same_loss(classes, {"image": IMAGES}, {"label": LABELS})
    same_loss(classes, pairs(LABELS))
    same_loss(classes, pairs(LABELS, np.ones(ROWS)))
    with pytest.warns(UserWarning, match="ran out of data"):  # Keras, once an endless one ends
        same_loss(classes, ((IMAGES[r : r + 4], LABELS[r : r + 4]) for r in (0, 4)))
        same_loss(classes, (by_name(slice(r, r + 4)) for r in (0, 4)))
    same_loss(classes, Pairs())
    same_loss(classes, IMAGES / 127.5 - 1.0, LABELS)  # float64
    other = classes.evaluate(IMAGES, LABELS[::-1].copy(), verbose=0)
    assert abs(other[0] - classes.evaluate(IMAGES, LABELS, verbose=0)[0]) > 1e-4


def test_captions_are_encoded_batch_by_batch():
    model = make_model(text_width=TEXT_WIDTH)
    states, mask = FakeEncoder().encode(CAPTIONS)
    batch = {"image": IMAGES, "text": states, "text_mask": mask}
    expected = model.evaluate(batch, batch_size=4, verbose=0)
    for given in (
        (IMAGES, CAPTIONS),
        (IMAGES, np.array(CAPTIONS)),
        (pairs(CAPTIONS),),
        ({"image": IMAGES, "caption": CAPTIONS},),
        (tf.data.Dataset.from_tensor_slices({"image": IMAGES, "caption": CAPTIONS}).batch(4),),
    ):
        np.testing.assert_allclose(
            model.evaluate(*given, batch_size=4, verbose=0), expected, rtol=1e-5
        )
    assert max(len(call) for call in model.text_encoder.calls) == 4
    history = model.fit(IMAGES, CAPTIONS, batch_size=4, verbose=0, validation_split=0.34).history
    assert history["val_loss"][0] == pytest.approx(
        model.evaluate(IMAGES[3:], CAPTIONS[3:], verbose=0)[0], rel=1e-5
    )


@pytest.mark.parametrize("wrong", ["B\u00e4r".encode("cp1252"), "\u8d64".encode("shift-jis")])
def test_captions_that_are_not_utf8(wrong):
    model = make_model(text_width=TEXT_WIDTH)
    captions = [b"a cat", wrong, *CAPTIONS[2:]]
    for given in ((IMAGES, np.array(captions, object)), (pairs(captions),)):
        with pytest.raises(ValueError, match="captions must be UTF-8. Received: .+To fix it: "):
            model.fit(*given, verbose=0)
    assert int(model.optimizer.iterations) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_one_batch_is_one_step():
    one, two = make_model(num_classes=CLASSES), make_model(num_classes=CLASSES)
    for rows in (slice(0, 4), slice(4, 6)):
        logs = one.train_on_batch(IMAGES[rows], LABELS[rows], return_dict=True)
        (loss,) = two.fit(by_name(rows), verbose=0, shuffle=False).history["loss"]
        assert logs["loss"] == pytest.approx(loss, rel=1e-6)
    for a, b in zip(*(arrays(m.unet.trainable_variables) for m in (one, two)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert int(one.optimizer.iterations) == 2
    assert one.test_on_batch(IMAGES, LABELS) == one.test_on_batch(by_name())
    assert one.train_on_batch(IMAGES, LABELS)[0] == pytest.approx(float(one.metrics[0].result()))


def test_weights_of_classes_are_weights_of_their_samples(classes):
    weight = {0: 2.0, 2: 0.5}
    each = np.array([weight.get(int(label), 1.0) for label in LABELS])
    start, losses = arrays(classes.unet.trainable_variables), []
    for options in ({"class_weight": weight}, {"sample_weight": each}, {}):
        for variable, value in zip(classes.unet.trainable_variables, start, strict=True):
            variable.assign(value)
        classes.optimizer.iterations.assign(0)
        losses.append(classes.train_on_batch(IMAGES, LABELS, **options)[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert abs(losses[0] - losses[2]) > 0.01


# The order.


def epochs(inputs, **options):
    dataset = inputs.batches(IMAGES, LABELS, batch_size=4, **options)
    return [
        [int(p) for batch in dataset for p in batch["image"].numpy()[:, 0, 0, 0]] for _ in range(3)
    ]


def test_arrays_are_shuffled_and_datasets_are_not(classes):
    inputs = Inputs(classes)
    rows = IMAGES[:, 0, 0, 0].tolist()
    shuffled = epochs(inputs, shuffle=True)
    counted = [epoch[:ROWS] for epoch in shuffled]  # what follows only fills the batch up
    assert all(sorted(epoch) == sorted(rows) for epoch in counted)
    assert len({tuple(epoch) for epoch in [*counted, rows]}) == 4
    assert epochs(inputs, shuffle=True) == shuffled  # follows from the seed
    assert [epoch[:ROWS] for epoch in epochs(inputs)] == [rows] * 3
    labels = [b["label"].numpy() for b in inputs.batches(IMAGES, LABELS, shuffle=True)]
    images = [b["image"].numpy() for b in inputs.batches(IMAGES, LABELS, shuffle=True)]
    place = [rows.index(int(row[0, 0, 0])) for row in images[0]]
    assert labels[0].tolist() == LABELS[place].tolist()


@pytest.mark.parametrize(("options", "kept"), [({}, False), ({"shuffle": False}, True)])
def test_fit_of_arrays_shuffles_unless_told(options, kept):
    """Class-sorted arrays: the first of two batches holds all classes, or one."""
    model = make_model(num_classes=2)
    seen = []
    step = model.train_step
    model.compile("sgd", run_eagerly=True)
    model.train_step = lambda batch: seen.append(batch["label"].numpy().tolist()) or step(batch)
    model.fit(np.repeat(IMAGES[:1], 8, 0), np.arange(8) // 4, batch_size=4, verbose=0, **options)
    assert (seen == [[0] * 4, [1] * 4]) == kept and sorted(sum(seen, [])) == [0] * 4 + [1] * 4


# What is refused.


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (IMAGES, np.eye(CLASSES)[LABELS], "np.argmax"),
        (IMAGES, LABELS + 0.7, "integer classes.*cast whole numbers"),
        (IMAGES, np.eye(CLASSES + 1)[LABELS], "np.argmax"),
        (IMAGES, LABELS + 1, "from -1 \\(none\\) to 2.*largest=3"),
        (IMAGES, CAPTIONS, "integer classes"),
        (IMAGES, LABELS[:5], r"rows=\[5, 6\]"),
        (IMAGES, IMAGES, "integer classes"),
        (IMAGES[0], None, r"`x` must be images"),
        (list(IMAGES[:2]) + [IMAGES[0, :4]], None, "bring the pictures to one size"),
        ((IMAGES, LABELS), None, "x='tuple'"),
        (None, None, "x='NoneType'"),
        (pairs(LABELS), LABELS, "belong to arrays"),
        (pairs(LABELS, LABELS, LABELS), None, "entries=4"),
        (pairs(LABELS + 0.7), None, "integer classes"),
        ({**by_name(), "label": LABELS + 0.7}, None, "dtype='float64'|dtype='float32'"),
        (tf.data.Dataset.from_tensors({**by_name(), "label": LABELS + 0.7}), None, "argmax"),
        (pairs(LABELS + 1), None, "between -1 \\(no class\\) and 2.*largest=3"),
    ],
)
def test_data_that_does_not_fit(classes, x, y, message):
    step = int(classes.optimizer.iterations)
    with pytest.raises(ValueError, match=message) as caught:
        classes.fit(x, y, verbose=0)
    assert "Received: " in str(caught.value) and "To fix it: " in str(caught.value)
    assert int(classes.optimizer.iterations) == step


def test_conditions_of_a_network_without(plain):
    for given in ((IMAGES, LABELS), (pairs(LABELS),)):
        with pytest.raises(ValueError, match="left out: the network has no conditions"):
            plain.fit(*given, verbose=0)
    assert np.isfinite(plain.fit(pairs().map(lambda x: x), verbose=0).history["loss"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weight": {7: 2.0}}, "classes from 0 to 2"),
        ({"class_weight": {0: 2.0}, "sample_weight": np.ones(ROWS)}, "without weights of its own"),
        ({"sample_weight": -np.ones(ROWS)}, "non-negative.*smallest=-1.0"),
        ({"validation_split": 1.0}, "both parts"),
    ],
    ids=str,
)
def test_weights_and_shares_that_do_not_fit(classes, options, message):
    with pytest.raises(ValueError, match=message):
        classes.fit(IMAGES, LABELS, verbose=0, **options)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_optimizers_by_name(plain, name):
    model = MatryoshkaDiffusion(plain.unet)
    model.compile(name)
    assert type(model.optimizer) in (optimizers.Adam, optimizers.AdamW, optimizers.SGD)
    assert type(model.optimizer).__name__.lower() == name
    model.compile(keras.saving.serialize_keras_object(optimizers.SGD(0.3)))
    assert float(model.optimizer.learning_rate) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        (("adam",), {"loss": "mse"}, "`loss`.*loss_target"),
        (("adam",), {"metrics": ["mae"]}, "`metrics`"),
        (("adamn",), {}, "optimizer='adamn'"),
        ((), {}, "optimizer=None"),
        ((5,), {}, "optimizer=5"),
        (("adam",), {"micro_batch": 2}, "`micro_batch`"),
    ],
)
def test_what_compile_refuses(plain, args, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        MatryoshkaDiffusion(plain.unet).compile(*args, **options)
    assert "To fix it: " in str(caught.value)


def test_predict_points_to_generate(plain):
    with pytest.raises(ValueError, match="generate"):
        plain.predict(IMAGES)


# Ranges.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", ["arrays", "dataset", "evaluate", "train_on_batch"])
def test_floats_in_0_to_255_are_refused(plain, dtype, how):
    images, step = IMAGES.astype(dtype), int(plain.optimizer.iterations)
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\].*largest=255.0"):
        if how == "dataset":
            plain.fit(tf.data.Dataset.from_tensors({"image": images}), verbose=0)
        elif how == "arrays":
            plain.fit(images, verbose=0)
        else:
            getattr(plain, how)(images)
    assert int(plain.optimizer.iterations) == step


def test_the_third_batch_is_looked_at_too(plain):
    images = np.concatenate(
        [np.zeros((8, 8, 8, 3), "float32"), 9 * np.ones((4, 8, 8, 3), "float32")]
    )
    with pytest.raises(ValueError, match="largest=9.0"):
        plain.fit(images, batch_size=4, shuffle=False, verbose=0)


@pytest.mark.usefixtures("traced")
def test_floats_in_0_to_1_are_warned_about(plain):
    with pytest.warns(UserWarning, match="darker than mid-grey"):
        plain.fit(IMAGES / 255.0, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain.fit(IMAGES / 127.5 - 1.0, verbose=0)


def test_codes_have_their_own_range():
    model = MatryoshkaDiffusion(tiny_unet((PLAIN_INNER,)), threshold="none")
    model.compile("adam")
    codes = RNG.normal(size=(4, 8, 8, 3)) * 3
    assert np.isfinite(model.evaluate(codes, verbose=0)[0])
    with pytest.raises(ValueError, match="largest=255.0"):
        model.evaluate(IMAGES.astype("float32"), verbose=0)


# The end of a validation.

HUGE = tf.data.Dataset.range(2199023255552)


@pytest.mark.parametrize(
    "endless",
    [
        data.image_text_dataset(IMAGES, batch_size=2, seed=0),
        tf.data.Dataset.from_tensors({"image": IMAGES}).repeat(),
        HUGE.map(lambda _: {"image": tf.constant(IMAGES)}),
    ],
    ids=["ours", "repeat", "range"],
)
def test_validation_without_an_end(plain, endless):
    with pytest.raises(ValueError, match="`x` must be finite.*repeat=False.*steps"):
        plain.evaluate(endless)
    with pytest.raises(ValueError, match="`validation_data` must be finite.*validation_steps"):
        plain.fit(IMAGES, validation_data=endless)
    options = {"validation_data": endless, "validation_steps": 2, "verbose": 0}
    assert np.isfinite(plain.fit(IMAGES, **options).history["val_loss"][0])


def test_validation_of_what_ends(plain):
    once = data.image_text_dataset(IMAGES, batch_size=4, seed=0, repeat=False)
    whole = data.image_text_dataset(IMAGES, batch_size=ROWS, seed=0, repeat=False)
    expected = plain.evaluate(whole, verbose=0)
    np.testing.assert_allclose(plain.evaluate(once, verbose=0), expected, rtol=1e-5)


# What layers add to the loss.


@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_regularizers_are_trained_on_once(parts, two_replicas):
    """With a huge penalty SGD shrinks a weight by the factor 1 - 2 * rate * penalty."""
    for strategy in (None, two_replicas):
        with strategy.scope() if strategy is not None else warnings.catch_warnings():
            model = MatryoshkaDiffusion(tiny_unet((PLAIN_INNER,)))
            model.compile(optimizers.SGD(1e-6, clip_norm=None), micro_batches=parts)
        variable = model.unet.trainable_variables[0]
        variable.regularizer = keras.regularizers.L2(1e5)
        before = np.asarray(variable).copy()
        pure = model.test_on_batch(IMAGES, weights="raw")[0]
        loss = model.train_on_batch(IMAGES)[0]
        np.testing.assert_allclose(np.asarray(variable), 0.8 * before, rtol=1e-3, atol=1e-6)
        assert loss == pytest.approx(1e5 * np.sum(before**2), abs=3 + pure, rel=1e-4)
        assert all(not tf.is_symbolic_tensor(value) for value in model.losses)


def test_losses_of_layers_are_trained_on():
    model = MatryoshkaDiffusion(tiny_unet((PLAIN_INNER,)))
    layer = next(layer for layer in model.unet._flatten_layers() if hasattr(layer, "kernel"))
    layer.activity_regularizer = keras.regularizers.L2(1.0)
    record = Record()
    model.compile(optimizers.SGD(0.0, clip_norm=None))
    model.fit(IMAGES, shuffle=False, verbose=0, callbacks=[record])
    with_activity = record.logs[-1]
    layer.activity_regularizer = None
    model.compile(optimizers.SGD(0.0, clip_norm=None))
    model.fit(IMAGES, shuffle=False, verbose=0, callbacks=[record])
    assert with_activity["loss"] > record.logs[-1]["loss"] + 1.0
    assert with_activity["gradient_norm"] > 2 * record.logs[-1]["gradient_norm"]
    assert with_activity["loss_8"] > 0 and not any(map(tf.is_symbolic_tensor, model.losses))


def test_losses_of_layers_that_are_computed_again_are_refused():
    model = MatryoshkaDiffusion(tiny_unet((PLAIN_INNER,)))
    model.compile(optimizers.SGD(0.1), recompute=True)
    again = [layer for layer in model.unet._flatten_layers() if "call" in layer.__dict__]
    inner = next(x for x in again[0]._flatten_layers() if hasattr(x, "kernel"))
    inner.activity_regularizer = keras.regularizers.L2(1.0)
    with pytest.raises(ValueError, match="recomputed"):
        model.train_on_batch(IMAGES)


# Export.


def test_export_is_ours(plain, tmp_path):
    directory = plain.export(tmp_path / "model", weights="raw")
    signature = tf.saved_model.load(str(directory)).signatures["scalars"]
    found = signature(
        num_images=tf.constant(2),
        steps=tf.constant(2),
        guidance_scale=tf.constant(1.0),
        seed=tf.constant(5, tf.int64),
    )
    expected = plain.generate(num_images=2, steps=2, seed=5, weights="raw", progress=False)
    assert np.max(np.abs(found["8"].numpy().astype(int) - expected["8"])) <= 1
    for options in ({"format": "onnx"}, {"input_signature": []}, {"weight": "raw"}):
        with pytest.raises(ValueError, match="To fix it"):
            plain.export(tmp_path / "other", **options)
