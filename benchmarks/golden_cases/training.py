"""Optimizer steps: losses, gradients, clipping, warm-up, Adam and averages."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from golden_cases.case import Case, Check, difference
from golden_cases.losses import stored_batch
from keras_mdm import optimizers
from keras_mdm.averages.ema import ExponentialMovingAverage
from keras_mdm.interop.key_map import TO_OFFICIAL, entries
from keras_mdm.optimizers.learning_rates import Warmup

LOSS_LIMIT, WEIGHT_LIMIT = 2e-5, 1e-5
GRADIENT_LIMIT = 2e-5  # of the largest gradient


class Steps:
    """The stored run, repeated with our parts.

    Args:
        case: a case of the kind "train".
    """

    def __init__(self, case: Case):
        self.case, train = case, case.settings["train"]
        self.model = model = case.diffusion(case.settings["diffusion_config"])
        case.unet = model.unet  # the network that is trained
        self.table = [entry for entry in entries(model.unet) if entry.constant is None]
        frozen = frozen_prefixes(case.config)
        moving = [entry for entry in self.table if not entry.key.startswith(frozen)]
        variables = [entry.variable for entry in moving]
        optimizer = optimizer_of(train)
        optimizer.build(variables)
        ema = ExponentialMovingAverage(
            [entry.variable for entry in self.table],
            decay=train["ema_decay"],
            warmup=False,
            copy_steps=train.get("ema_warmup_steps", 0),
        )
        self.losses, self.norms, self.rates, self.gradients = [], [], [], {}
        for step in range(case.settings["steps"]):
            per_sample, mean, gradients = self._backward(step, variables)
            if not step:
                self.gradients = _official(moving, gradients)
            self.losses.append((per_sample, mean))
            self.rates.append(float(optimizer.learning_rate))
            optimizer.apply(gradients, variables)
            self.norms.append(float(optimizer.gradient_norm))
            ema.update(step)
        self.after = _official(self.table, [entry.variable for entry in self.table])
        self.ema = _official(self.table, ema.averages)

    def _backward(self, step: int, variables: list) -> tuple[np.ndarray, float, list]:
        case, model = self.case, self.model
        own_text = f"step_{step}/cond" in case
        batch = stored_batch(case, f"step_{step}/images", f"step_{step}" if own_text else "in")
        x0, conditions = model.prepare(batch)
        eps = {k: tf.constant(v) for k, v in case.pictures(f"step_{step}/eps").items()}
        index = tf.constant(case[f"step_{step}/time"] + 1, tf.int32)
        with tf.GradientTape() as tape:
            by_level = model.level_losses(
                lambda inputs: model.bounded(model.unet(inputs)), x0, eps, index, conditions
            )
            loss = model.batch_loss(by_level, index)
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        total = sum(
            model.level_weights.get(level, 1.0) * value for level, value in by_level.items()
        )
        return total.numpy(), float(loss), gradients


def optimizer_of(train: dict) -> Any:
    """Our optimizer for the stored settings."""
    settings = {
        "beta_2": train.get("beta_2", 0.999),
        "epsilon": train["adam_eps"],
        "clip_norm": train["gradient_clip_norm"],
    }
    rate = Warmup(train["lr"], train["warmup_steps"])
    if train["use_adamw"]:
        return optimizers.AdamW(rate, weight_decay=train.get("weight_decay", 0.0), **settings)
    if train.get("weight_decay"):
        raise ValueError("The official Adam has no weight decay; the case asks for one.")
    return optimizers.Adam(rate, **settings)


def frozen_prefixes(config: dict) -> tuple[str, ...]:
    """Beginnings of the keys of weights that the official code does not train."""
    prefix = "inner_unet."
    while config.get("inner_config"):
        if config.get("freeze_inner_unet"):
            return (prefix,)
        config, prefix = config["inner_config"], prefix + "inner_unet."
    return ("\0",)  # no key begins with this


def _official(table: list, values: list) -> dict[str, np.ndarray]:
    """Arrays in the layout of the state dict, by its keys."""
    return {
        entry.key: TO_OFFICIAL[entry.layout](np.asarray(value))
        for entry, value in zip(table, values, strict=True)
    }


def check(case: Case) -> Iterator[Check]:
    """Compare every stored quantity of the steps."""
    steps, settings = Steps(case), case.settings
    for step, (per_sample, mean) in enumerate(steps.losses):
        error = difference(per_sample, case[f"step_{step}/loss"], relative=True)
        yield Check("optimizer steps", f"losses of step {step}", error, LOSS_LIMIT)
        error = difference(mean, settings["mean_losses"][step], relative=True)
        yield Check("optimizer steps", f"mean loss of step {step}", error, LOSS_LIMIT)
    for name, found, stored, limit in (
        ("norms before clipping", steps.norms, settings["grad_norms_before_clip"], 1e-5),
        ("learning rates", steps.rates, settings["learning_rates_used"], 1e-6),
    ):
        error = float(np.max(np.abs(np.array(found) / np.array(stored) - 1.0)))
        yield Check("optimizer steps", f"{name}, relative", error, limit)
    yield from compare_gradients(case, steps)
    for name in ("after", "ema"):
        yield from compare_weights(case, name, getattr(steps, name))


def compare_gradients(case: Case, steps: Steps) -> Iterator[Check]:
    """One check per tensor, of gradients before clipping."""
    stored = case.group("grad_0")
    surplus = sorted(steps.gradients.keys() ^ stored.keys())
    name = ", ".join(["same tensors", *surplus])
    yield Check("gradients", name, np.inf if surplus else 0.0, 0.0)
    largest = max(float(np.max(np.abs(value))) for value in stored.values())
    for key, value in stored.items():
        if key in steps.gradients:
            error = difference(steps.gradients[key], value) / largest
            yield Check("gradients", f"{key}, of the largest", error, GRADIENT_LIMIT)


def compare_weights(case: Case, name: str, found: dict) -> Iterator[Check]:
    """One check per tensor. Adam amplifies rounding noise to full steps, so elements whose gradient
    is below the stored threshold are left out."""
    threshold = case.settings["gradient_noise_threshold"]
    for key, value in case.group(name).items():
        if key not in found:
            if not key.endswith("pos_emb.freqs"):
                yield Check("optimizer steps", f"{name} {key}: missing", np.inf, WEIGHT_LIMIT)
            continue
        kept = np.ones(value.shape, bool)
        if f"grad_0/{key}" in case:
            kept = np.abs(case[f"grad_0/{key}"]) >= threshold
        error = difference(found[key][kept], value[kept])
        yield Check("optimizer steps", f"{name} {key}", error, WEIGHT_LIMIT)
