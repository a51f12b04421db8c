"""The forward process q(z_t | x): noise is added to every level independently.

Randomness is always an argument; the caller draws it.
"""

from collections.abc import Mapping

from keras import ops

from keras_mdm import checks
from keras_mdm.diffusion.schedule import Schedule
from keras_mdm.types import Levels, Tensor


def expand(a: Tensor, x: Tensor) -> Tensor:
    """Shape a coefficient so that it multiplies `x` sample by sample.

    Args:
        a: a number or scalar tensor for all samples, or (B,), one per sample.
        x: (B, ...).

    Returns:
        Tensor in the dtype of `x`: scalar, or (B, 1, ..., 1).

    Raises:
        ValueError: if `a` has more than one axis.

    Example:

    >>> tuple(expand([1.0, 2.0], ops.zeros((2, 8, 8, 3))).shape)
    (2, 1, 1, 1)
    """
    a = ops.convert_to_tensor(a, dtype=ops.dtype(x))
    rank = len(a.shape)
    if rank > 1:
        raise checks.error(
            "A coefficient must be a scalar or hold one value per sample",
            fix="reshape it to (batch,)",
            shape=tuple(a.shape),
        )
    return a if rank == 0 else ops.reshape(a, (-1,) + (1,) * (len(x.shape) - 1))


def first_rows(a: Tensor, x: Tensor) -> Tensor:
    """Cut per-sample values to the batch of `x`.

    In mixed-resolution batches the outer levels hold only the first samples, while times are drawn
    for all.

    Args:
        a: scalar or (B, ...).
        x: (B', ...), B' <= B.

    Returns:
        `a` if it is a scalar, else its first B' rows.
    """
    return a if len(a.shape) == 0 else a[: ops.shape(x)[0]]


def add_noise(x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return x_t = alpha * x0 + sigma * eps.

    Args:
        x0: (B, ...), clean data.
        eps: (B, ...), standard normal noise.
        alpha: scalar or (B,), amplitude of the signal.
        sigma: scalar or (B,), amplitude of the noise.

    Returns:
        (B, ...) in the dtype of `x0`.

    Example:

    >>> float(add_noise(ops.ones((1, 1)), ops.ones((1, 1)), 0.5, 0.75)[0, 0])
    1.25

    Reference: Gu et al., arXiv 2310.15111, equations 1 and 2.
    """
    return expand(alpha, x0) * x0 + expand(sigma, x0) * eps


def forward(
    x0: Mapping[str, Tensor],
    eps: Mapping[str, Tensor],
    t: Tensor,
    schedules: Mapping[str, Schedule],
) -> Levels:
    """Add noise to all levels at the same time t, each with its own schedule.

    Args:
        x0: level name -> (B', ...), clean data; a level may hold only the first B' samples.
        eps: level name -> (B', ...), independent standard normal noise.
        t: scalar or (B,), time in [0, 1].
        schedules: level name -> schedule.

    Returns:
        Level name -> x_t, in the order of `x0`.

    Raises:
        ValueError: if a level of `x0` has no noise or no schedule.

    Reference: Gu et al., arXiv 2310.15111, equation 2.
    """
    checks.required_keys("eps", eps, x0)
    checks.required_keys("schedules", schedules, x0)
    x_t = {}
    for name, clean in x0.items():
        alpha, sigma = schedules[name].alpha_sigma(t)
        x_t[name] = add_noise(clean, eps[name], first_rows(alpha, clean), first_rows(sigma, clean))
    return x_t
