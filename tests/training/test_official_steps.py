"""Three optimizer steps of the authors' code: gradients, clipping, warm-up, AdamW and averages."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_mdm import MatryoshkaDiffusion
from keras_mdm.interop import load_ml_mdm
from keras_mdm.interop.key_map import TO_OFFICIAL, entries
from keras_mdm.optimizers import AdamW
from keras_mdm.training.ema import ExponentialMovingAverage
from keras_mdm.training.learning_rates import Warmup

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def official(table, values):
    """Arrays in the layout of the state dict, by its keys."""
    return {
        entry.key: TO_OFFICIAL[entry.layout](np.asarray(value))
        for entry, value in zip(table, values, strict=True)
    }


class Steps:
    """The stored run, repeated with our parts."""

    def __init__(self):
        self.settings = settings = json.loads((GOLDEN / "train_steps.json").read_text())
        with np.load(GOLDEN / "train_steps.npz") as stored:
            self.stored = stored = dict(stored)
        config, train = settings["model"]["config"], settings["train"]
        sampler = settings["diffusion_config"]["sampler_config"]
        assert (sampler["schedule_type"], sampler["loss_target_type"]) == ("DEEPFLOYD", "DDPM")
        unet = load_ml_mdm(self.group("state"), config=config, size=8)
        model = MatryoshkaDiffusion(unet, schedule="cosine", prediction="v", loss_target="eps")
        variables = unet.trainable_variables
        optimizer = AdamW(
            Warmup(train["lr"], train["warmup_steps"]),
            weight_decay=train["weight_decay"],
            beta_2=0.999,
            epsilon=train["adam_eps"],
            clip_norm=train["gradient_clip_norm"],
        )
        optimizer.build(variables)
        ema = ExponentialMovingAverage(
            variables,
            decay=train["ema_decay"],
            warmup=False,
            copy_steps=train["ema_warmup_steps"],
        )
        conditions = {
            "text": tf.constant(stored["in/cond"]),
            "text_mask": tf.constant(stored["in/cond_mask"]),
        }
        self.losses, self.norms, self.rates, self.gradients = [], [], [], []
        for step in range(settings["steps"]):
            images, eps = (
                {"8": tf.constant(stored[f"step_{step}/{name}"].transpose(0, 2, 3, 1))}
                for name in ("images", "eps_0")
            )
            index = tf.constant(stored[f"step_{step}/time"] + 1, tf.int32)
            with tf.GradientTape() as tape:
                by_level = model.level_losses(unet, images, eps, index, conditions)
                loss = model.batch_loss(by_level, index)
            self.gradients.append(tape.gradient(loss, [v.value for v in variables]))
            self.losses.append((by_level["8"].numpy(), float(loss)))
            self.rates.append(float(optimizer.learning_rate))
            optimizer.apply(self.gradients[-1], variables)
            self.norms.append(float(optimizer.gradient_norm))
            ema.update(step)
        self.table = entries(unet)
        row = {variable.path: number for number, variable in enumerate(variables)}
        order = [row[entry.variable.path] for entry in self.table]
        self.gradient = official(self.table, [self.gradients[0][i] for i in order])
        self.after = official(self.table, [variables[i] for i in order])
        self.ema = official(self.table, [ema.averages[i] for i in order])

    def group(self, name):
        prefix = f"{name}/"
        return {k[len(prefix) :]: v for k, v in self.stored.items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def steps():
    return Steps()


def test_losses(steps):
    for step, (per_sample, mean) in enumerate(steps.losses):
        np.testing.assert_allclose(per_sample, steps.stored[f"step_{step}/loss"], atol=2e-5)
        assert mean == pytest.approx(steps.settings["mean_losses"][step], abs=2e-5)


def test_gradients_of_the_first_step_and_norms_before_clipping(steps):
    stored = steps.group("grad_0")
    assert steps.gradient.keys() == stored.keys()
    largest = max(np.max(np.abs(value)) for value in stored.values())
    for key, value in stored.items():
        np.testing.assert_allclose(steps.gradient[key], value, atol=1e-4 * largest, err_msg=key)
        # Tensor by tensor too, where there is a gradient at all.
        size = np.linalg.norm(value)
        if size > 1e-3 * largest:
            assert np.linalg.norm(steps.gradient[key] - value) < 1e-4 * size, key
    np.testing.assert_allclose(steps.norms, steps.settings["grad_norms_before_clip"], rtol=1e-5)
    assert min(steps.norms) > steps.settings["train"]["gradient_clip_norm"]


def test_learning_rates_of_the_warm_up(steps):
    np.testing.assert_allclose(steps.rates, steps.settings["learning_rates_used"], rtol=1e-6)


@pytest.mark.parametrize("name", ["after", "ema"])
def test_weights_and_averages_at_the_end(steps, name):
    stored, found = steps.group(name), getattr(steps, name)
    assert found.keys() == stored.keys()
    noisy = 0
    for key, value in stored.items():
        # Adam blows rounding noise up to full steps: those elements say nothing.
        kept = np.abs(steps.stored[f"grad_0/{key}"]) >= steps.settings["gradient_noise_threshold"]
        noisy += np.size(kept) - np.count_nonzero(kept)
        np.testing.assert_allclose(found[key][kept], value[kept], rtol=0, atol=1e-5, err_msg=key)
    assert noisy == sum(steps.settings["elements_below_noise_threshold"].values())
    # They moved far more than they may differ.
    start = steps.group("state")
    assert max(np.max(np.abs(stored[key] - start[key])) for key in stored) > 5e-4
