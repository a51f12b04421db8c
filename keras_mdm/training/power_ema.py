"""Averages of the weights with a power-function profile, and any of them after the training."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.training import checkpoints
from keras_mdm.training.ema import ExponentialMovingAverage, float32_copy

# No profile is wider: that of gamma = 0, the plain mean of all weights.
WIDEST = 1 / math.sqrt(12)


def exponent_of(width: float) -> float:
    """Return gamma of the profile t^gamma whose standard deviation is `width` of the training.

    Args:
        width: relative width, inside (0, 0.28].

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

    The width of its profile grows with the training, in a fixed proportion; the first update copies
    the weights. Snapshots of two such averages are enough to make any other one, see `reconstruct`.

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
        """Decay of the update that follows `n` earlier ones, float32."""
        n = tf.cast(n, tf.float64)
        return tf.cast(tf.pow(n / (n + 1.0), self.exponent + 1.0), tf.float32)


def inner_product(t_a: Any, gamma_a: Any, t_b: Any, gamma_b: Any) -> np.ndarray:
    """Return the integral of the product of two profiles (gamma + 1) tau^gamma / t^(gamma + 1).

    Args:
        t_a: updates that the first average has seen.
        gamma_a: its exponent.
        t_b: updates that the second has seen.
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
    """Return the weights of snapshots that come closest to another average.

    Args:
        snapshots: (updates, width) of every stored average.
        step: updates of the average wanted.
        width: its width.

    Returns:
        (weights that sum to one, distance of the two profiles relative to that wanted).

    Reference: Karras et al. 2024 (arXiv 2312.02696), section 3.2.
    """
    times = np.array([t for t, _ in snapshots], "float64")
    gammas = np.array([exponent_of(value) for _, value in snapshots])
    gamma = exponent_of(width)
    among = inner_product(times[:, None], gammas[:, None], times[None], gammas[None])
    wanted = inner_product(times, gammas, step, gamma)
    # Least squares under the condition that constant weights stay what they are.
    size = len(times)
    system = np.ones((size + 1, size + 1))
    system[:size, :size], system[size, size] = among, 0.0
    solution = np.linalg.lstsq(system, np.append(wanted, 1.0), rcond=1e-14)[0][:size]
    itself = float(inner_product(step, gamma, step, gamma))
    missed = float(solution @ among @ solution - 2.0 * solution @ wanted + itself)
    return solution, math.sqrt(max(missed, 0.0) / itself)


def group_name(width: float) -> str:
    """Name of an average in checkpoints and as `weights`, such as "ema_0.05"."""
    return f"ema_{width:g}"


def reconstruct(
    directory: str | Path, *, width: float, step: int | None = None
) -> tuple[dict[str, np.ndarray], float]:
    """Make the average of any width out of the checkpoints of a phase.

    Args:
        directory: the checkpoints of a phase; `keep_every` of `fit_progressively` keeps enough of
            them.
        width: relative width of the average wanted.
        step: steps of the phase at its end; those of the last checkpoint unless given.

    Returns:
        ({variable path: float32 array}, distance of the profile that the stored ones give from the
        one wanted, relative to it: what is left out of account).

    Raises:
        ValueError: if no checkpoint holds power-function averages, or the step lies beyond them.

    Example:

    ```python
    arrays, distance = reconstruct("runs/x/checkpoints/phase-2", width=0.15)
    model.set_average(arrays)
    ```

    Reference: Karras et al. 2024 (arXiv 2312.02696), section 3.2.
    """
    stored, first_step, last = [], 0, 0
    for path in checkpoints.list_checkpoints(directory):
        if checkpoints.find_damage(path, contents=False) is not None:
            continue
        groups, state = checkpoints.load(path)
        last = checkpoints.step_of(path)
        made = int(state.get("ema_age", groups["optimizer"]["iterations"]))
        first_step = made - last  # of the phase
        stored += [
            (made, float(name.removeprefix("ema_")), arrays)
            for name, arrays in groups.items()
            if name.startswith("ema_")
        ]
    if not stored:
        raise checks.error(
            "the checkpoints must hold power-function averages",
            fix="train with MatryoshkaDiffusion(power_emas=(0.05, 0.1))",
            directory=str(directory),
        )
    step = last if step is None else checks.integer("step", step, minimum=1)
    if step > last:
        raise checks.error(
            f"`step` must be at most {last}, that of the last checkpoint",
            fix="leave it out",
            step=step,
        )
    names = [key.removeprefix("average/") for key in stored[0][2] if key.startswith("average/")]
    found, distance = {}, 0.0
    for name in names:
        # A weight counts its updates from the step at which it joined.
        start = int(stored[0][2][f"start/{name}"])
        ages = [(made - start, size) for made, size, _ in stored]
        weights, missed = combine(ages, step=first_step + step - start, width=width)
        distance = max(distance, missed)
        parts = zip(weights, stored, strict=True)
        total = sum(weight * arrays[f"average/{name}"] for weight, (_, _, arrays) in parts)
        found[name] = np.asarray(total, "float32")
    return found, distance
