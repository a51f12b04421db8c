"""Curves by noise quarter and of the averages' gap: in closed form, and the same every time."""

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import PLAIN_INNER, TEXT_WIDTH, as_dataset, make_batch, outer, tiny_unet

from keras_mdm import MatryoshkaDiffusion
from keras_mdm.callbacks import Diagnostics
from keras_mdm.optimizers import SGD


class Written:
    """Keeps what an EventWriter would write."""

    def __init__(self):
        self.points = []

    def scalars(self, step, values):
        self.points.append((step, values))


@pytest.fixture
def model():
    unet = tiny_unet([PLAIN_INNER, outer(16)], text_width=TEXT_WIDTH)
    model = MatryoshkaDiffusion(unet, null_text=np.ones((2, TEXT_WIDTH)))
    model.compile(optimizer=SGD(0.05))
    return model


def test_quarters_are_those_of_the_noise_and_average_to_the_loss(model):
    batch = make_batch(np.random.default_rng(0), 8)
    callback = Diagnostics(batch, Written(), every=1)
    callback.set_model(model)
    found = callback.measure()
    assert found == callback.measure() and found["ema_gap"] == 0.0
    x0, conditions = model.prepare({k: tf.constant(v) for k, v in batch.items()})
    samples = tf.range(8, dtype=tf.int64)
    eps = model.draw_noise("diagnostics", 0, samples, x0)
    index = tf.constant([63, 188, 313, 438, 563, 688, 813, 938])
    by_level = model.level_losses(model.network("ema"), x0, eps, index, conditions)
    for level, losses in by_level.items():
        for number in range(4):
            expected = np.mean(losses[2 * number : 2 * number + 2])
            assert found[f"loss_{level}/noise_{number + 1}"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_points_come_at_their_steps_and_the_gap_grows(model):
    rng = np.random.default_rng(0)
    batches = [make_batch(rng, 4) for _ in range(4)]
    written = Written()
    callback = Diagnostics(batches[0], written, every=2, initial_step=10)
    model.fit(as_dataset(batches), epochs=1, verbose=0, callbacks=[callback])
    assert [step for step, _ in written.points] == [12, 14]
    averages = [np.asarray(average) for average in model.ema.averages]
    weights = [np.asarray(variable) for variable in model.ema.variables]
    apart = sum(np.sum((a - w) ** 2) for a, w in zip(averages, weights, strict=True)) ** 0.5
    size = sum(np.sum(w**2) for w in weights) ** 0.5
    assert (
        written.points[-1][1]["optimizer/ema_gap"] == pytest.approx(apart / size, rel=1e-4)
        and apart > 0
    )


def test_the_batch_must_divide_into_quarters():
    with pytest.raises(ValueError, match="rows=6"):
        Diagnostics(make_batch(np.random.default_rng(0), 6), Written())
