"""The rest of an epoch: every sample counts once, whatever it is divided by."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import PLAIN_INNER, arrays, outer, tiny_unet

from keras_mdm import MatryoshkaDiffusion
from keras_mdm.optimizers import SGD
from keras_mdm.training import remainder

ROWS, BATCH, CLASSES = 5, 4, 3
RNG = np.random.default_rng(0)
DATA = {
    "image": RNG.integers(0, 256, (ROWS, 8, 8, 3)).astype("uint8"),
    "label": RNG.integers(0, CLASSES, ROWS).astype("int32"),
    "sample": 70 + np.arange(ROWS),
}
LARGE = {**DATA, "image": RNG.integers(0, 256, (ROWS, 16, 16, 3)).astype("uint8")}


def make_model(strategy=None, parts=1, *, levels=(PLAIN_INNER,), **options):
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        unet = tiny_unet(levels, num_classes=CLASSES)
        model = MatryoshkaDiffusion(unet, cond_dropout=0.3, seed=3, **options)
        model.compile(SGD(0.1, clip_norm=None), micro_batches=parts)
    return model


def norm(values):
    return np.sqrt(sum(float(np.sum(np.square(value, dtype="float64"))) for value in values))


def apart(one, two, start):
    """Distance between two ends over the distance moved."""
    moved = norm([a - b for a, b in zip(one, start, strict=True)])
    return norm([a - b for a, b in zip(one, two, strict=True)]) / moved


def fixed(rows):
    """A dataset of one batch of a fixed size, which nothing is added to."""
    return tf.data.Dataset.from_tensors(rows)


def cut(data, *bounds):
    return tf.nest.map_structure(lambda value: value[slice(*bounds)], data)


@pytest.fixture(scope="module")
def reference():
    """One device and one part, batches of their own sizes: what the step always computed."""
    model = make_model(loss_weighting="vdm", times="stratified")
    start = arrays(model.unet.trainable_variables)
    losses = []
    for bounds in ((0, BATCH), (BATCH, ROWS)):
        data = fixed(cut(DATA, *bounds))
        assert remainder.filled(data, model.unet.levels, 1) is data
        losses += model.fit(data, verbose=0).history["loss"]
    return start, arrays(model.unet.trainable_variables), np.average(losses, weights=(4, 1))


@pytest.mark.parametrize(
    ("replicas", "parts"),
    [(1, 1), pytest.param(1, 2, marks=pytest.mark.slow), (2, 2)],
    ids=lambda value: str(value),
)
def test_five_pictures_in_batches_of_four(reference, replicas, parts, two_replicas):
    start, end, loss = reference
    model = make_model(
        two_replicas if replicas == 2 else None, parts, loss_weighting="vdm", times="stratified"
    )
    traces = []
    step = model.train_step
    model.train_step = lambda batch: traces.append(1) or step(batch)
    history = model.fit(DATA, batch_size=BATCH, shuffle=False, verbose=0)
    assert apart(end, arrays(model.unet.trainable_variables), start) < 2e-5
    assert history.history["loss"][0] == pytest.approx(loss, rel=1e-6)
    assert len(traces) == replicas  # the smaller batch is no trace of its own


def test_evaluation_is_the_mean_over_all_pictures(two_replicas):
    """Noise follows the position, so that the size of the batches must not matter."""
    one = make_model()
    whole = one.evaluate(fixed(DATA), verbose=0)
    plain = {key: value for key, value in DATA.items() if key != "sample"}
    unnamed = one.evaluate(fixed(plain), verbose=0)
    two = make_model(two_replicas, 2)
    for size in (2, 4, 5, 7):
        np.testing.assert_allclose(one.evaluate(DATA, batch_size=size, verbose=0), whole, rtol=1e-5)
    np.testing.assert_allclose(two.evaluate(DATA, batch_size=4, verbose=0), whole, rtol=1e-5)
    np.testing.assert_allclose(two.evaluate(plain, batch_size=4, verbose=0), unnamed, rtol=1e-5)
    assert abs(whole[0] - one.evaluate(cut(DATA, 0, 4), verbose=0)[0]) > 1e-3


@pytest.mark.slow
def test_groups_of_different_sizes_are_filled_by_themselves(two_replicas):
    """Three large pictures and four small ones, then one and one: equal to one part of them."""
    small = {**DATA, "sample": 200 + np.arange(ROWS)}
    steps = [
        {"16": cut(LARGE, 0, 3), "8": cut(small, 0, 4)},
        {"16": cut(LARGE, 3, 4), "8": cut(small, 4, 5)},
    ]
    levels, options = (PLAIN_INNER, outer(16)), {"loss_weighting": "vdm", "times": "stratified"}
    one = make_model(levels=levels, **options)
    start, losses = arrays(one.unet.trainable_variables), []
    for batch in steps:
        losses.append(one.fit(fixed(batch), verbose=0).history)
    two = make_model(two_replicas, 1, levels=levels, **options)
    groups = {
        "16": tf.data.Dataset.from_tensor_slices(cut(LARGE, 0, 4)).batch(3),
        "8": tf.data.Dataset.from_tensor_slices(small).batch(4),
    }
    found = two.fit(tf.data.Dataset.zip(groups), verbose=0).history
    end = [arrays(model.unet.trainable_variables) for model in (one, two)]
    assert apart(*end, start) < 2e-5
    for name, rows in {"loss": (7, 2), "loss_16": (3, 1), "loss_8": (7, 2)}.items():
        values = [history[name][0] for history in losses]
        assert found[name][0] == pytest.approx(np.average(values, weights=rows), rel=1e-5)


def test_sample_weights_multiply_losses():
    """As in Keras the sum is divided by the number of samples, not by that of the weights."""
    model = make_model()
    data = {key: DATA[key] for key in ("image", "label", "sample")}
    each = [model.evaluate(cut(data, row, row + 1), verbose=0)[0] for row in range(ROWS)]
    weights = np.array([0.0, 1.0, 2.0, 0.5, 3.0])
    found = model.evaluate(data, sample_weight=weights, batch_size=2, verbose=0)[0]
    assert found == pytest.approx(np.mean(weights * each), rel=1e-5)


def test_filled_batches_keep_data_and_weights():
    batches = tf.data.Dataset.from_tensor_slices({"image": tf.range(5)}).batch(4)
    first, last = remainder.filled(batches, ["8"], 3)
    assert first["image"].numpy().tolist() == [0, 1, 2, 3, 0, 1]
    np.testing.assert_allclose(first["row_weight"][:, 0], [1.5] * 4 + [0.0] * 2)
    assert last["image"].numpy().tolist() == [4] * 6
    np.testing.assert_allclose(last["row_weight"][:, 0], [6.0] + [0.0] * 5)
    endless = tf.data.Dataset.from_tensors({"image": tf.zeros((6, 8, 8, 3))}).repeat()
    assert remainder.filled(endless, ["8"], 3) is endless
