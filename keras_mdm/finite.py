"""NaN and infinities: reported where they enter, before they become black pictures."""

import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks


def check_finite(values: Mapping[str, Any], *, may_be_nan: Collection[str] = ()) -> None:
    """Raise unless arrays hold finite numbers.

    Args:
        values: arrays by the name that the caller used.
        may_be_nan: names of arrays in which NaN means "not given".
    """
    for name, value in values.items():
        value = np.asarray(value)
        if value.dtype.kind != "f":
            continue
        wrong = ~np.isfinite(value)
        if name in may_be_nan:
            wrong &= ~np.isnan(value)
        if wrong.any():
            raise checks.error(
                f"`{name}` must hold finite numbers",
                fix="find out where the NaN or infinities come from",
                **{name: f"{int(wrong.sum())} of {wrong.size} values are not"},
            )


def not_finite(variables: Iterable[Any]) -> list[str]:
    """Return the paths of the variables that hold NaN or infinities.

    Args:
        variables: Keras variables.
    """
    found = []
    for variable in variables:
        value = tf.convert_to_tensor(variable)
        if not value.dtype.is_floating:
            continue
        # One pass and no copy; the sum of squares of finite numbers may overflow as well.
        suspect = not np.isfinite(float(tf.nn.l2_loss(value)))
        if suspect and not bool(tf.reduce_all(tf.math.is_finite(value))):
            found.append(variable.path)
    return found


def check_weights(model: Any, weights: str) -> None:
    """Raise unless the weights that pictures are drawn with are finite.

    Args:
        model: a `MatryoshkaDiffusion`.
        weights: `"ema"`, `"raw"` or a power-function average.
    """
    wrong = not_finite(model.averages.held(weights))
    if wrong:
        raise checks.error(
            f"the weights {weights!r} must be finite numbers to draw with",
            fix="load an earlier checkpoint of the training, or other weights",
            not_finite=_listed(wrong),
        )


def warn_of_weights(model: Any, variables: Iterable[Any]) -> None:
    """Warn that loaded weights are not finite: they can be inspected, but not drawn with.

    Args:
        model: a `MatryoshkaDiffusion`.
        variables: the variables to check.
    """
    measured = {id(value) for value in model.residual_std.values()}  # NaN until measured
    wrong = not_finite(value for value in variables if id(value) not in measured)
    if wrong:
        warnings.warn(
            f"loaded weights are not finite: {_listed(wrong)}. `generate` and the export "
            "refuse them; load an earlier checkpoint of the training",
            stacklevel=3,
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
