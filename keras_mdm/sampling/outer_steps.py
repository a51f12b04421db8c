"""Outer levels that are computed in some of the steps only: which levels, which steps, the loop."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from keras_mdm import checks
from keras_mdm.diffusion import held_detail, samplers
from keras_mdm.diffusion.joint_process import LevelProcess
from keras_mdm.models.nested_unet import check_nested

if TYPE_CHECKING:
    from keras_mdm.sampling.denoiser import Denoiser

# Number of steps that compute a level, by name of the outer levels; `None` for all steps.
Counts = dict[str, int | None]


def resolve(model: Any, given: Any, steps: int, stop_at: str | None = None) -> Counts:
    """Check the option `outer_steps`; the counts of the outer levels that are drawn.

    Args:
        model: a `MatryoshkaDiffusion`.
        given: a number for all outer levels, or numbers by level name, all steps for a level that
            is missing; or `None`.
        steps: number of steps of the whole grid.
        stop_at: the highest level to draw; all levels unless given.

    Returns:
        Counts by level name; empty if all levels are computed in every step.

    Raises:
        ValueError: if there is no outer level, a number is not in 1..steps, a level is unknown, or
            a level is computed more often than one below it.
    """
    if given is None:
        return {}
    levels = model.unet.levels
    levels = levels if stop_at is None else levels[: levels.index(stop_at) + 1]
    if len(levels) == 1:
        raise checks.error(
            "`outer_steps` needs a level above the innermost one",
            fix="leave it out",
            levels=levels,
            outer_steps=given,
        )
    if isinstance(given, Mapping):
        checks.known_keys("outer_steps", given, model.unet.levels[1:])
        numbers = {level: given[level] for level in levels[1:] if level in given}
    else:
        numbers = dict.fromkeys(levels[1:], given)
    for level, count in numbers.items():
        name = f"outer_steps[{level!r}]" if isinstance(given, Mapping) else "outer_steps"
        if checks.integer(name, count, minimum=1) > steps:
            raise checks.error(
                f"`{name}` must be at most the number of steps, {steps}",
                fix=f"pass {steps} or fewer, or more steps",
                outer_steps=given,
            )
    counts = {level: _unless_all(numbers.get(level), steps) for level in levels[1:]}
    for below, level in zip(levels[1:], levels[2:], strict=False):
        if _often(counts[level]) > _often(counts[below]):
            raise checks.error(
                f"level {level!r} must not be computed in more steps than level {below!r} below "
                "it, which is computed with it",
                fix=f"pass fewer for {level!r}, or more for {below!r}",
                outer_steps=given,
                steps=steps,
            )
    if not any(counts.values()):
        return {}
    check_nested(model.unet, "outer_steps")
    _warn_of_untrained(model, tops_of(levels, counts)[:-1])
    return counts


def _unless_all(count: int | None, steps: int) -> int | None:
    return None if count is None or count == steps else int(count)


def _often(count: int | None) -> float:
    return math.inf if count is None else count


def tops_of(levels: Sequence[str], counts: Counts) -> tuple[str, ...]:
    """The levels that are the highest one computed in some step, ascending; empty if that is always
    the highest level of all.

    Args:
        levels: names of the levels that are drawn, ascending.
        counts: from `resolve`.
    """
    if not counts:
        return ()
    often = [math.inf, *(_often(counts[level]) for level in levels[1:])]
    pairs = zip(levels, often, [*often[1:], 0], strict=True)
    return tuple(level for level, own, above in pairs if own > above)


def due(counts: Counts, steps: Any, first: int | None = None) -> dict[str, tf.Tensor]:
    """Whether a step computes a level, `(steps,)` bool by level name.

    Args:
        counts: from `resolve`.
        steps: number of steps, or a scalar int32 tensor.
        first: a step that computes all levels; `None` for none.
    """
    found = {
        level: held_detail.due(steps if count is None else count, steps)
        for level, count in counts.items()
    }
    if first is None:
        return found
    return {level: each | (tf.range(steps) == first) for level, each in found.items()}


def _warn_of_untrained(model: Any, tops: Sequence[str]) -> None:
    strangers = [level for level in tops if not model.unet.runs_alone(level)]
    if strangers:
        warnings.warn(
            f"the model was trained without mixed resolutions: its levels {strangers} never ran "
            "without the features of the levels above, and are likely to be worse without them. "
            "Leave `outer_steps` out, or train with `mixed`",
            stacklevel=5,
        )


def holding(
    denoise: "Denoiser",
    process: LevelProcess,
    computed: Sequence[str],
    before: Mapping[str, tf.Tensor],
    limit: Callable[[tf.Tensor], tf.Tensor],
    known: Mapping[str, tuple[tf.Tensor, tf.Tensor]],
) -> "Denoiser":
    """Extend a denoiser of lower levels to all levels: the others hold their detail.

    Args:
        denoise: of the levels `computed`.
        process: of all levels.
        computed: names of the lower levels.
        before: the estimates of the step before, as the process sees data.
        limit: threshold of pictures.
        known: pictures and masks by level name; known pixels replace the estimate.
    """
    last = process.multiplied(before)

    def finish(level: str, picture: tf.Tensor) -> tf.Tensor:
        picture = limit(picture)
        if level not in known:
            return picture
        kept, mask = known[level]
        return mask * picture + (1.0 - mask) * kept

    def extended(x: dict[str, tf.Tensor], t: tf.Tensor) -> dict[str, tf.Tensor]:
        x0 = denoise({level: x[level] for level in computed}, t)
        pictures = held_detail.hold(process, process.multiplied(x0), last, finish)
        return {**process.divided(pictures), **x0}  # the lower levels' bits stay

    return extended


def run(
    take: Sequence[Callable[[samplers.State, tf.Tensor], samplers.State]],
    computed: Sequence[tf.Tensor],
    state: samplers.State,
    start: tf.Tensor,
    stop: tf.Tensor,
) -> samplers.State:
    """Take the steps `start` to `stop`, each with the levels that it computes.

    Args:
        take: functions (state, step) -> state; number j takes a step with the lowest j outer levels
            of those that skip steps.
        computed: for each but the first of them, whether a step takes it, `(steps,)` bool.
        state: from `samplers.begin`, or from the steps before.
        start: scalar int32.
        stop: likewise.

    Returns:
        The state after the last step, the same whether steps are taken at once or in stretches.
    """

    def body(i: tf.Tensor, state: samplers.State) -> tuple[tf.Tensor, samplers.State]:
        which = held_detail.highest([tf.constant(True), *(each[i] for each in computed)])
        branches = [lambda take=take: take(state, i) for take in take]
        return i + 1, tf.switch_case(which, branches)

    _, state = tf.while_loop(lambda i, state: i < stop, body, (start, state))
    return state
