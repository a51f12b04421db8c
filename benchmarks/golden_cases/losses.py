"""Losses: the pyramid of the data, the noisy samples, and the loss of every level and sample."""

import warnings
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from golden_cases.case import Case, Check, difference
from keras_mdm.diffusion import losses, process

LIMIT = 2e-5


def check(case: Case) -> Iterator[Check]:
    """Compare every stored variant of the loss."""
    for entry in case.entries("losses"):
        yield from check_variant(case, entry)


def check_variant(case: Case, entry: dict) -> Iterator[Check]:
    """Compare one variant: every level up to its loss, then the weighted sum."""
    name, config = entry["name"], entry["diffusion_config"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="mixed_ratio")  # mixed below, by hand
        model = case.diffusion(config)
    rows = len(case["loss/time"])
    x0, conditions = model.prepare(stored_batch(case))
    for number in range(1, len(case.levels)):
        if f"loss/images_{number}" in case:
            expected = case.picture(f"loss/images_{number}", number)
            error = difference(x0[case.levels[number]], expected)
            yield Check("losses", f"{name}: images of level {case.levels[number]}", error, 1e-6)
    share = shares(config, case.levels)
    kept = {level: int(part * rows) for level, part in share.items()}
    eps = {level: e[: kept[level]] for level, e in case.pictures("loss/eps").items()}
    x0 = {level: x[: kept[level]] for level, x in x0.items()}
    index = tf.constant(case["loss/time"] + 1, tf.int32)
    yield from _noisy(case, name, model, x0, eps, index)
    by_level = model.level_losses(model.network("raw"), x0, eps, index, conditions)
    total = np.zeros(rows)
    for number, level in enumerate(case.levels):
        key, value = f"loss/{name}/mse_{number}", by_level[level].numpy()
        if key in case:  # of the highest level only, if the others do not count
            error = difference(value, case[key][: kept[level]], relative=True)
            yield Check("losses", f"{name}: level {level}", error, LIMIT)
        total[: kept[level]] += model.level_weights.get(level, 1.0) * value / share[level]
    error = difference(total, case[f"loss/{name}/loss"], relative=True)
    yield Check("losses", f"{name}: per sample", error, LIMIT)
    if all(count == rows for count in kept.values()):
        mean = model.batch_loss(by_level, index)
    else:  # `batch_loss` does not know shares of a batch
        mean = total.mean()
    stored = np.reshape(case[f"loss/{name}/mean_loss"], ())
    error = difference(mean, stored, relative=True)
    yield Check("losses", f"{name}: mean", error, LIMIT)
    if model.loss_weighting != "none" and f"loss/{name}/weights" in case:
        schedule = model.process.schedules[case.levels[-1]]
        t = tf.cast(index, tf.float32) / schedule.num_steps
        weights = losses.weighting(model.loss_weighting, schedule, t).numpy()
        # The release's float32 keeps five digits of a ratio of neighbours minus one.
        error = np.max(np.abs(weights / case[f"loss/{name}/weights"] - 1.0))
        yield Check("VDM weights", f"{name}, relative", error, 5e-5)


def _noisy(case, name, model, x0, eps, index) -> Iterator[Check]:
    t = tf.cast(index, tf.float32) / model.process.schedules[case.levels[-1]].num_steps
    z = process.forward(model.process.divided(x0), eps, t, model.process.schedules)
    for number, level in enumerate(case.levels):
        if f"loss/{name}/x_t_{number}" in case:
            expected = case.picture(f"loss/{name}/x_t_{number}", number)[: len(z[level])]
            yield Check("losses", f"{name}: z_{level}", difference(z[level], expected), LIMIT)


def shares(config: dict, levels: tuple[str, ...]) -> dict[str, float]:
    """Share of the batch on which every level runs; `levels` highest first."""
    ratio = config.get("mixed_ratio")
    if ratio in (None, "None") or len(levels) == 1:
        return dict.fromkeys(levels, 1.0)
    parts = np.cumsum([float(part) for part in str(ratio).split(":")])
    return dict(zip(levels, (parts / parts[-1]).tolist(), strict=True))


def stored_batch(case: Case, images: str = "loss/images", text: str = "loss") -> dict:
    """A batch as the model takes it. The official code passes on micro-conditions only if the
    outermost level takes them."""
    top = case.levels[0]
    batch = {"video" if "x" in top else "image": tf.constant(case.picture(images, 0))}
    return {**batch, **case.text(text), **case.micros(levels=slice(-1, None))}
