"""Time grids: the times that a sampler visits, from noise to clean."""

import math

from keras import ops

from keras_mdm import checks
from keras_mdm.diffusion import schedules
from keras_mdm.diffusion.schedule import Schedule
from keras_mdm.types import Tensor

GRIDS = ("uniform", "release", "logsnr", "karras")
# sigma / alpha at which the grids by noise level start, and Karras' exponent.
SIGMA_MAX = 80.0
RHO = 7.0


def time_grid(
    kind: str, steps: Tensor, num_steps: int = 1000, *, schedule: Schedule | None = None
) -> Tensor:
    """Return the times that a sampler visits, descending to 0.

    `"uniform"` goes from 1 in equal steps. `"release"` takes the table entries
    round(j * ((N + 1) / (K + 1))), halves to even, and so starts a little below 1 (0.981 for 50 of
    1000 steps) although sampling starts from pure noise. With K = N the two are the same.
    `"logsnr"` takes equal steps of log-SNR and `"karras"` equal steps of (sigma / alpha)^(1 / 7),
    both from sigma / alpha = 80, where 1.25 % of the signal's amplitude remains, to the first step
    of the schedule, and then to 0. They put more steps where little noise is left.

    All levels of a model share the times; grids by noise level follow the innermost level.

    Args:
        kind: `"uniform"`, `"release"`, `"logsnr"` or `"karras"`.
        steps: K, a number or a scalar int32 tensor; at most `num_steps`.
        num_steps: N of the schedule.
        schedule: the innermost level's schedule, for grids by noise level; the cosine unless given.

    Returns:
        (K + 1,) float32.

    Raises:
        ValueError: if `kind` is unknown, or `steps` is a number outside 1..N.

    Example:

    >>> [float(t) for t in time_grid("uniform", 4)]
    [1.0, 0.75, 0.5, 0.25, 0.0]

    Reference: Lu et al., arXiv 2206.00927, section 3.3 (uniform log-SNR); Karras et al., arXiv
    2206.00364, equation 5.
    """
    checks.one_of("kind", kind, GRIDS)
    if not ops.is_tensor(steps):
        checks.integer("steps", steps, minimum=1)
        if steps > num_steps:
            raise checks.error(
                "`steps` must not exceed the training steps of the schedule",
                fix=f"pass steps={num_steps} or fewer",
                steps=steps,
                num_steps=num_steps,
            )
    # In float64, to round as the release does.
    count = ops.cast(steps, "float64")
    j = ops.cast(ops.arange(ops.cast(steps, "int32"), -1, -1), "float64")
    if kind == "uniform":
        return ops.cast(j / count, "float32")
    if kind == "release":
        # Divided first, as in the release: 50 * 2.51 is below the half that 50 * 251 / 100 hits.
        index = ops.round(j * ((num_steps + 1.0) / (count + 1.0)))
        return ops.cast(index / num_steps, "float32")
    schedule = schedules.cosine(num_steps) if schedule is None else schedule
    # K times between the two ends; the last step goes from the lower end to 0. A single step starts
    # at the noisy end.
    left = ops.maximum((j - 1.0) / ops.maximum(count - 1.0, 1.0), 0.0)
    left = ops.where(count > 1.0, left, ops.ones_like(left))
    high, low = _noise_ends(schedule)
    if kind == "logsnr":
        noise = math.log(low) + left * (math.log(high) - math.log(low))
    else:
        root = low ** (1.0 / RHO) + left * (high ** (1.0 / RHO) - low ** (1.0 / RHO))
        noise = RHO * ops.log(root)
    t = schedule.inverse(-2.0 * noise)
    return ops.cast(ops.where(j > 0.0, t, ops.zeros_like(t)), "float32")


def _noise_ends(schedule: Schedule) -> tuple[float, float]:
    """sigma / alpha at both ends of the grids by noise level."""
    table = schedule.table()
    first, last = (math.sqrt((1.0 - a) / a) for a in (table[1], table[-1]))
    return min(SIGMA_MAX, last), first
