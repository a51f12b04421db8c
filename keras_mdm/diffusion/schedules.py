"""Named noise schedules, and the shift of each level's schedule."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.diffusion.schedule import FACTORIES, Schedule
from keras_mdm.levels import LevelShape

# Largest beta of one step: 1 would remove all signal.
_MAX_BETA = 0.999
# Separates the name of a schedule from its shift, as in the paper's appendix A.
_SHIFT = "-shift"
# The p of SNR / s^p, for a level s times larger than the innermost.
SHIFT_POWER = 2.0


def cosine(num_steps: int = 1000, *, max_beta: float = _MAX_BETA) -> Schedule:
    """Squared cosine with capped steps: the schedule of the paper and the released models.

    Args:
        num_steps: N.
        max_beta: largest share of the signal variance that one step removes, below 1.

    Returns:
        The schedule.

    Reference: Nichol and Dhariwal, arXiv 2102.09672, section 3.2; Gu et al., arXiv 2310.15111,
    appendix A.
    """
    # With 1 the last step would remove all signal, and log-SNR would end at minus infinity.
    max_beta = checks.real("max_beta", max_beta, minimum=0.0, maximum=1.0 - 1e-9)
    u = np.arange(checks.integer("num_steps", num_steps, minimum=2) + 1) / num_steps
    alpha_bar = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    beta = np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], max_beta)
    return Schedule("cosine", num_steps, _from_beta(beta), options=(("max_beta", max_beta),))


def logsnr_cosine(num_steps: int = 1000) -> Schedule:
    """Cosine in log-SNR, from +5 at k = 1 to -5 at k = N: the release's `COSINE`.

    Args:
        num_steps: N.

    Returns:
        The schedule.

    Reference: Kingma and Gao, arXiv 2303.00848, table 1 (cosine, truncated).
    """
    u = np.linspace(0.0, 1.0, checks.integer("num_steps", num_steps, minimum=2))
    low, high = math.atan(math.exp(-2.5)), math.atan(math.exp(2.5))
    logsnr = -2.0 * np.log(np.tan(low + (high - low) * u))
    alpha_bar = np.concatenate([[1.0], 1.0 / (1.0 + np.exp(-logsnr))])
    return Schedule("logsnr_cosine", num_steps, alpha_bar, options=())


def linear_beta(
    num_steps: int = 1000, *, beta_start: float | None = None, beta_end: float | None = None
) -> Schedule:
    """Steps of linearly growing variance: the schedule of DDPM.

    Args:
        num_steps: N.
        beta_start: variance that the first step adds; 0.1 / N unless given. This is DDPM's 1e-4 for
            1000 steps, and leaves as little signal for other numbers of steps.
        beta_end: variance that the last step adds; 20 / N unless given, at most 0.999.

    Returns:
        The schedule.

    Reference: Ho et al., arXiv 2006.11239, section 4; the limit of these steps for large N is the
    VP SDE of Song et al., arXiv 2011.13456, appendix B.
    """
    num_steps = checks.integer("num_steps", num_steps, minimum=2)
    if beta_start is None:
        beta_start = 1e-4 * (1000 / num_steps)
    if beta_end is None:
        beta_end = min(0.02 * (1000 / num_steps), _MAX_BETA)
    beta_start = checks.real("beta_start", beta_start, minimum=0.0, maximum=1.0 - 1e-9)
    beta_end = checks.real("beta_end", beta_end, minimum=0.0, maximum=1.0 - 1e-9)
    beta = np.linspace(beta_start, beta_end, num_steps)
    options = (("beta_start", beta_start), ("beta_end", beta_end))
    return Schedule("linear", num_steps, _from_beta(beta), options=options)


def sigmoid(
    num_steps: int = 1000, *, start: float = -3.0, end: float = 3.0, tau: float = 1.0
) -> Schedule:
    """A piece of a falling sigmoid, stretched to fall from 1 to almost 0.

    Args:
        num_steps: N.
        start: where the piece starts.
        end: where it ends; above `start`.
        tau: temperature; small values flatten both ends.

    Returns:
        The schedule.

    Reference: Chen, arXiv 2301.10972, section 2.2.
    """
    tau = checks.real("tau", tau, minimum=1e-3)
    if not checks.is_real(start) or not checks.is_real(end) or start >= end:
        raise checks.error(
            "`start` must be a number below `end`", fix="swap the two", start=start, end=end
        )
    u = np.arange(checks.integer("num_steps", num_steps, minimum=2) + 1) / num_steps
    value = 0.5 * (1.0 + np.tanh(0.5 * (start + (end - start) * u) / tau))  # cannot overflow
    alpha_bar = (value[-1] - value) / (value[-1] - value[0])
    # The formula ends at exactly 0, where log-SNR is undefined; Chen's code clips here, too.
    alpha_bar[-1] = min(1e-9, 0.5 * alpha_bar[-2])
    options = (("start", start), ("end", end), ("tau", tau))
    return Schedule("sigmoid", num_steps, alpha_bar, options=options)


FACTORIES |= {
    "cosine": cosine,
    "logsnr_cosine": logsnr_cosine,
    "linear": linear_beta,
    "sigmoid": sigmoid,
}


def get(schedule: str | Schedule, num_steps: int | None = None, **options: float) -> Schedule:
    """Return a schedule by name; a `Schedule` is returned unchanged.

    Args:
        schedule: `"cosine"`, `"logsnr_cosine"`, `"linear"`, `"sigmoid"`; one of these with the
            scale of a level, such as `"cosine-shift4"` for a level 4 times larger, whose SNR is
            divided by 4^2; or a record.
        num_steps: N; unless given, 1000 for a name, and a record's own number.
        **options: passed to the factory of that name.

    Returns:
        The schedule.

    Raises:
        ValueError: if the name is unknown, or a record is given together with options or a
            different number of steps.

    Example:

    >>> get("cosine").num_steps
    1000
    >>> get("cosine-shift4") == get("cosine").shifted(4)
    True

    Reference: Gu et al., arXiv 2310.15111, appendix A (names with a shift).
    """
    if isinstance(schedule, Schedule):
        if options or num_steps not in (None, schedule.num_steps):
            raise checks.error(
                "a schedule that is a record has its own number of steps and options",
                fix="leave them out, or pass the name of the schedule instead of a record",
                schedule=f"{schedule.name} of {schedule.num_steps} steps",
                num_steps=num_steps,
                **options,
            )
        return schedule
    name, shift, scale = schedule.rpartition(_SHIFT) if isinstance(schedule, str) else ("", "", "")
    checks.one_of("schedule", name if shift else schedule, FACTORIES)
    factory = FACTORIES[name if shift else schedule]
    found = factory(1000 if num_steps is None else num_steps, **options)
    return found.shifted(_scale(schedule, scale)) if shift else found


def of_levels(
    schedule: str | Schedule | Mapping[str, str | Schedule],
    shapes: Sequence[LevelShape],
    num_steps: int | None = None,
    *,
    power: float = SHIFT_POWER,
) -> dict[str, Schedule]:
    """Return the schedule of every level.

    Args:
        schedule: the innermost level's schedule, which is shifted for the others; or a dict of one
            schedule per level, by name, none of which is shifted any further. Entries for other
            levels are ignored, so that one dict also serves models with fewer levels.
        shapes: the levels, ascending.
        num_steps: see `get`.
        power: power of the shift of a single schedule, see `Schedule.shifted`.

    Returns:
        Schedules by level name, ascending.

    Raises:
        ValueError: if a level is missing, or an entry is not a schedule.

    Example:

    >>> shapes = [LevelShape(None, 64), LevelShape(None, 256)]
    >>> of_levels({"64": "cosine", "256": "cosine-shift4"}, shapes) == of_levels("cosine", shapes)
    True
    """
    if isinstance(schedule, Mapping):
        checks.required_keys("schedule", schedule, [shape.name for shape in shapes])
        return {shape.name: get(schedule[shape.name], num_steps) for shape in shapes}
    innermost = get(schedule, num_steps)
    return {shape.name: innermost.shifted(level_shift(shape, shapes[0]), power) for shape in shapes}


def from_config(config: Mapping[str, Any]) -> Schedule | dict[str, Schedule]:
    """Rebuild one schedule, or one per level, from the results of `Schedule.get_config`."""
    if "num_steps" in config:
        return Schedule.from_config(config)
    return {level: Schedule.from_config(each) for level, each in config.items()}


def level_shift(level_shape: LevelShape, innermost_shape: LevelShape) -> float:
    """Return the scale by which a level's schedule is shifted.

    It is the ratio of the sizes, where the size of a picture that is not square is the root of its
    area. Frames count by the square root of their number, so 16 frames weigh as much as a size four
    times larger.

    Args:
        level_shape: the level.
        innermost_shape: the lowest level, which is not shifted.

    Returns:
        s, the argument of `Schedule.shifted`.

    Example:

    >>> level_shift(LevelShape(16, 256), LevelShape(None, 64))
    16.0

    Reference: Gu et al., arXiv 2310.15111, appendix A (`cosine-shift4` for 16 frames of 64).
    """
    frames = (level_shape.frames or 1) / (innermost_shape.frames or 1)
    height = level_shape.height / innermost_shape.height
    width = level_shape.width / innermost_shape.width
    return math.sqrt(height * width) * math.sqrt(frames)  # exactly the ratio for squares


def _scale(schedule: str, scale: str) -> float:
    """Parse what follows "-shift" in a name."""
    try:
        value = float(scale)
    except ValueError:
        value = 0.0
    if not checks.is_real(value) or value <= 0.0:
        raise checks.error(
            f"a schedule's name must have a positive number after {_SHIFT!r}: how many times "
            "larger the level is than the innermost",
            fix='write for example "cosine-shift4"',
            schedule=schedule,
        )
    return value


def _from_beta(beta: np.ndarray) -> np.ndarray:
    # Sums of logs: the product of a thousand factors would lose digits at the noisy end.
    return np.concatenate([[1.0], np.exp(np.cumsum(np.log1p(-beta)))])
