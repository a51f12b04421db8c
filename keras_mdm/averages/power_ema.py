"""Averages of the weights with a power-function profile, and any such average afterwards."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.averages.ema import ExponentialMovingAverage, float32_copy

# The widest profile: gamma = 0, the plain mean of all weights.
WIDEST = 1 / math.sqrt(12)


def exponent_of(width: float) -> float:
    """Return the gamma for which the profile t^gamma has a standard deviation of `width`.

    Args:
        width: standard deviation as a share of the training, inside (0, 0.28].

    Raises:
        ValueError: if the width is out of range.

    Example:

    >>> round(exponent_of(0.1), 2)
    6.94

    Reference: Karras et al. 2024 (arXiv 2312.02696), equations 3 and 123.
    """
    if not checks.is_real(width) or not 0.0 < width < WIDEST:
        raise checks.error(
            f"the relative width of an average must be inside (0, {WIDEST:.3f})",
            fix="pass for example 0.05 or 0.1",
            width=width,
        )
    # (gamma + 1) = width^2 (gamma + 2)^2 (gamma + 3), the positive root.
    inverse = width**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(np.max(roots[np.abs(roots.imag) < 1e-9].real))


class PowerEMA(ExponentialMovingAverage):
    """Average e <- d e + (1 - d) w with d = (1 - 1 / n)^(gamma + 1) at the n-th update.

    The width of its profile is a fixed share of the training so far; the first update copies the
    weights. Snapshots of two such averages are enough to make any other one, see `reconstruct`.

    Args:
        variables: the weights to follow.
        create: as in `ExponentialMovingAverage`.
        width: standard deviation of the profile, as a share of the training so far.

    Example:

    ```python
    ema = PowerEMA(network.trainable_variables, width=0.1)
    ```

    Reference: Karras et al. 2024 (arXiv 2312.02696), section 3.1.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        create: Callable[[keras.Variable], keras.Variable] = float32_copy,
        *,
        width: float,
    ):
        super().__init__(variables, create, decay=0.0, warmup=False)
        self.width = float(width)
        self.exponent = exponent_of(width)

    def decay_at(self, n: Any) -> tf.Tensor:
        """Decay of the update after `n` earlier ones, float32."""
        n = tf.cast(n, tf.float64)
        return tf.cast(tf.pow(n / (n + 1.0), self.exponent + 1.0), tf.float32)


def inner_product(t_a: Any, gamma_a: Any, t_b: Any, gamma_b: Any) -> np.ndarray:
    """Return the integral of the product of two profiles (gamma + 1) tau^gamma / t^(gamma + 1).

    Args:
        t_a: number of updates of the first average.
        gamma_a: its exponent.
        t_b: number of updates of the second.
        gamma_b: its exponent.

    Returns:
        float64, arguments broadcast.
    """
    t_a, gamma_a, t_b, gamma_b = np.broadcast_arrays(
        *(np.asarray(value, "float64") for value in (t_a, gamma_a, t_b, gamma_b))
    )
    # Powers of t alone would overflow.
    log = gamma_a * np.log(np.minimum(t_a, t_b) / t_a) + gamma_b * np.log(
        np.minimum(t_a, t_b) / t_b
    )
    factor = (gamma_a + 1.0) * (gamma_b + 1.0) / (gamma_a + gamma_b + 1.0)
    return factor * np.exp(log) * np.minimum(t_a, t_b) / (t_a * t_b)


def combine(
    snapshots: Sequence[tuple[int, float]], *, step: int, width: float
) -> tuple[np.ndarray, float]:
    """Return the weights with which snapshots come closest to another average.

    Args:
        snapshots: (updates, width) of every stored average.
        step: updates of the average wanted.
        width: its width.

    Returns:
        (weights that sum to one, distance of the profiles relative to the wanted one).

    Reference: Karras et al. 2024 (arXiv 2312.02696), section 3.2.
    """
    times = np.array([t for t, _ in snapshots], "float64")
    gammas = np.array([exponent_of(value) for _, value in snapshots])
    gamma = exponent_of(width)
    among = inner_product(times[:, None], gammas[:, None], times[None], gammas[None])
    wanted = inner_product(times, gammas, step, gamma)
    # Least squares under the condition that constant weights stay constant.
    size = len(times)
    system = np.ones((size + 1, size + 1))
    system[:size, :size], system[size, size] = among, 0.0
    solution = np.linalg.lstsq(system, np.append(wanted, 1.0), rcond=1e-14)[0][:size]
    itself = float(inner_product(step, gamma, step, gamma))
    missed = float(solution @ among @ solution - 2.0 * solution @ wanted + itself)
    return solution, math.sqrt(max(missed, 0.0) / itself)


def group_name(width: float) -> str:
    """Name of an average in checkpoints and in `weights`, such as "ema_0.05"."""
    return f"ema_{width:g}"
