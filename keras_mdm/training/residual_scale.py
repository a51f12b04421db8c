"""The standard deviation of the detail x - u, which the residual output divides by."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.training.first_look import look_at


def add_weights(model: Any, residual: bool | Mapping[str, float]) -> dict[str, keras.Variable]:
    """Weights of the outer levels' deviations, NaN until they are measured; none without
    `residual`.

    Args:
        model: a `MatryoshkaDiffusion` that has its network and process.
        residual: as in the class.
    """
    if not residual:
        _check_no_learned_deviation(model)
        return {}
    if model.process.prediction != "v":
        raise checks.error(
            "the residual output is defined for v-prediction",
            fix='pass prediction="v", or residual=False',
            prediction=model.process.prediction,
        )
    outer = model.unet.levels[1:]
    given = residual if isinstance(residual, Mapping) else {}
    checks.known_keys("residual", given, outer)
    found = {}
    for level in outer:
        value = given.get(level, math.nan)
        if not math.isnan(value):
            checks.real(f"residual[{level!r}]", value, minimum=1e-6)
        found[level] = model._add_fixed(f"residual_std_{level}", value)
    return found


def _check_no_learned_deviation(model: Any) -> None:
    levels = [
        level.name for level in model.unet.spec.levels if getattr(level, "learned_deviation", False)
    ]
    if levels:
        raise checks.error(
            "a learned deviation needs the residual output, which uses it",
            fix="pass residual=True, or leave learned_deviation out of the levels",
            residual=False,
            levels=levels,
        )


def measure_residual(
    model: Any, dataset: Any, batches: int = 8, *, only_missing: bool = False
) -> dict[str, float]:
    """Measure the standard deviation of the detail x - u over data, and keep it.

    Args:
        dataset: iterable of batches.
        batches: how many of them to use.
        only_missing: skip levels that have a value; a trained level predicts relative to the
            value that it was trained with.

    Returns:
        The measured standard deviation by level name; empty if there is nothing to measure.

    Raises:
        ValueError: if the dataset is empty.
    """
    checks.integer("batches", batches, minimum=1)
    names = _unmeasured(model) if only_missing else list(model.residual_std)
    if not names:
        return {}
    squares, rows = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    for batch in itertools.islice(dataset, batches):
        look_at(model, batch)
        x0, _ = model.prepare(batch)
        for below, shape in zip(model.process.shapes, model.process.shapes[1:], strict=False):
            if shape.name in squares:
                count = int(x0[shape.name].shape[0])  # in a mixed batch the first rows
                u = model.process.enlarged(x0[below.name][:count], below, shape)
                mean = float(tf.reduce_mean(tf.square(x0[shape.name] - u)))
                squares[shape.name] += count * mean
                rows[shape.name] += count
    if not all(rows.values()):
        raise checks.error("the dataset must not be empty", fix="pass data", batches=0)
    measured = {name: max(math.sqrt(total / rows[name]), 1e-6) for name, total in squares.items()}
    for name, value in measured.items():
        model.residual_std[name].assign(value)
    return measured


def _unmeasured(model: Any) -> list[str]:
    return [name for name, weight in model.residual_std.items() if np.isnan(np.asarray(weight))]


def check_ready(model: Any) -> None:
    """Raise if the model still needs `measure_residual`."""
    missing = _unmeasured(model)
    if missing:
        raise checks.error(
            "the residual output needs the standard deviation of the detail",
            fix="call model.measure_residual(dataset) first, or pass residual={level: s}",
            missing=missing,
        )
