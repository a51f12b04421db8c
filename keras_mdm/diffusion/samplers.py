"""Samplers, and the one loop that runs them over all levels together.

A step goes from t to s < t, given the estimate of the clean data. The loop gets the estimates of
all levels from a `denoise` function, which contains the network, guidance and thresholds; levels
interact nowhere else (Gu et al., arXiv 2310.15111, section 3.1).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from keras import ops

from keras_mdm import checks
from keras_mdm.diffusion import sampling_steps
from keras_mdm.diffusion.sampling_steps import Moment
from keras_mdm.diffusion.sampling_steps import ddim_step as ddim_step
from keras_mdm.diffusion.sampling_steps import ddpm_step as ddpm_step
from keras_mdm.diffusion.schedule import Schedule
from keras_mdm.types import Denoiser, Levels, Tensor

# The state from which sampling continues, see `begin`.
State = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """One method: its step function, its memory, and whether it draws noise.

    Args:
        name: for messages.
        step: function for one level, (x_t, x0, memory, moment, noise) -> (x_s, memory), where the
            memory is a tuple of tensors like x_t and `moment` a `sampling_steps.Moment`. Without a
            memory it may return x_s alone.
        needs_noise: whether `step` uses noise; if not, it gets `None` and none is drawn.
        memory: number of tensors that a step passes to the next one.
        evaluations: evaluations of the network per step, 1 or 2. The first returns the point, at
            the time entered, where the second is made; a step to time 0 has no second one.
    """

    name: str
    step: Callable[..., Any]
    needs_noise: bool
    memory: int = 0
    evaluations: int = 1


_SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler("ddim", sampling_steps.follow_noise, needs_noise=False),
    "ddpm": Sampler("ddpm", sampling_steps.draw_posterior, needs_noise=True),
    # The same two methods under their names for x / alpha as a function of sigma / alpha.
    "euler": Sampler("euler", sampling_steps.follow_noise, needs_noise=False),
    "euler_ancestral": Sampler("euler_ancestral", sampling_steps.draw_posterior, needs_noise=True),
    "heun": Sampler("heun", sampling_steps.heun_step, needs_noise=False, memory=2, evaluations=2),
    "dpmpp_2m": Sampler("dpmpp_2m", sampling_steps.dpmpp_2m_step, needs_noise=False, memory=1),
    "dpmpp_2m_sde": Sampler(
        "dpmpp_2m_sde", sampling_steps.dpmpp_2m_sde_step, needs_noise=True, memory=1
    ),
    "unipc": Sampler("unipc", sampling_steps.unipc_step, needs_noise=False, memory=3),
}
NAMES = tuple(_SAMPLERS)


def get(sampler: str | Sampler, *, eta: Tensor = 0.0) -> Sampler:
    """Return a sampler by name; a `Sampler` is returned unchanged.

    Args:
        sampler: one of `NAMES`, or a record. `"euler"` is `"ddim"` and `"euler_ancestral"` is
            `"ddpm"`, under the names used with sigma / alpha.
        eta: DDIM's share of fresh noise, in [0, 1]; must be 0 for all others. With a scalar tensor
            the sampler draws noise, whatever the value.

    Returns:
        The record.

    Raises:
        ValueError: if the name is unknown, `eta` is outside its range, or the sampler has no `eta`.

    Example:

    >>> get("ddim").needs_noise, get("ddim", eta=1.0).needs_noise, get("ddpm").needs_noise
    (False, True, True)
    """
    given = ops.is_tensor(eta)  # its value is not known yet
    eta = eta if given else checks.real("eta", eta, minimum=0.0, maximum=1.0)
    if isinstance(sampler, Sampler):
        found = sampler
    else:
        found = _SAMPLERS[checks.one_of("sampler", sampler, NAMES)]
    if not given and eta == 0.0:
        return found
    if sampler != "ddim":
        raise checks.error(
            "only DDIM has a share of fresh noise, `eta`",
            fix='leave eta out, or pass sampler="ddim"',
            sampler=found.name,
            eta=eta,
        )
    return Sampler(
        "ddim", functools.partial(sampling_steps.follow_noise, eta=eta), needs_noise=True
    )


def begin(sampler: Sampler, x: Mapping[str, Tensor]) -> State:
    """Return the initial state of sampling: the noisy data and an empty memory.

    Args:
        sampler: the method.
        x: level name -> (B, ...), noisy data at the first time that will be visited.

    Returns:
        dict of `x`, `x0` (the estimates from which x was made; here zeros), `memory` (a tuple of
        zeros like x) and `filled`, the number of steps in the memory.
    """
    x = {name: ops.convert_to_tensor(level) for name, level in x.items()}

    def zeros() -> Levels:
        return {name: ops.zeros_like(level) for name, level in x.items()}

    memory = tuple(zeros() for _ in range(sampler.memory))
    return {"x": x, "x0": zeros(), "memory": memory, "filled": ops.cast(0, "int32")}


def advance(
    sampler: Sampler,
    denoise: Denoiser,
    schedules: Mapping[str, Schedule],
    grid: Tensor,
    state: State,
    noise: Callable[[Tensor, str, Tensor], Tensor] | None = None,
    start: Tensor = 0,
    stop: Tensor = None,
) -> State:
    """Take the steps `start` to `stop` of a grid, all levels together.

    Step i depends on i and the state, not on where a call began: advancing over [0, a) and then [a,
    K) gives the same bits as advancing over [0, K). It works eagerly and inside `tf.function`, with
    any batch size.

    Args:
        sampler: the method, see `get`.
        denoise: function (level name -> x_t, scalar t) -> level name -> estimate of the clean data,
            guided and thresholded.
        schedules: level name -> schedule.
        grid: (K + 1,), descending times, usually to 0, see `time_grid`.
        state: from `begin`, or from an earlier call that stopped at `start`.
        noise: function (step index, level name, x_t) -> standard normal tensor like x_t, with an
            int32 scalar tensor as index; not needed for samplers without noise.
        start: first step, a number or a scalar int32 tensor.
        stop: the step before which to stop, likewise; K by default.

    Returns:
        The state after the last step.

    Raises:
        ValueError: if a level has no schedule, the sampler needs noise and none is given, or
            `start` and `stop` are numbers outside the grid.

    Reference: Gu et al., arXiv 2310.15111, appendix C.
    """
    checks.required_keys("schedules", schedules, state["x"])
    if sampler.needs_noise and noise is None:
        raise checks.error(
            "A sampler that draws noise needs a noise function",
            fix='pass `noise`, or use get("ddim") with eta=0',
            sampler=sampler.name,
            noise=noise,
        )
    grid = ops.convert_to_tensor(grid)
    steps = ops.shape(grid)[0] - 1
    stop = steps if stop is None else stop
    _check_bounds(start, stop, grid.shape[0])
    start, stop = ops.cast(start, "int32"), ops.cast(stop, "int32")
    amplitudes = {
        name: _amplitudes(schedules[name], grid, level) for name, level in state["x"].items()
    }
    growth = _growth(schedules, grid)

    def body(j: Tensor, state: State) -> tuple[Tensor, State]:
        i, evaluation = j // sampler.evaluations, j % sampler.evaluations
        x = state["x"]
        estimate = denoise(x, ops.take(grid, i + evaluation))
        checks.required_keys("denoise(x, t)", estimate, x)
        x0 = {name: _shaped_like(estimate[name], x_t) for name, x_t in x.items()}
        x_s: Levels = {}
        memories: list[Levels] = [{} for _ in state["memory"]]
        for name, x_t in x.items():
            z = noise(i, name, x_t) if noise and sampler.needs_noise else None
            moment = _moment(amplitudes[name], growth[name], i, state["filled"], evaluation)
            held = tuple(memory[name] for memory in state["memory"])
            found = sampler.step(x_t, x0[name], held, moment, z)
            entered, held = found if isinstance(found, tuple) else (found, ())
            for memory, value in zip(memories, held, strict=True):
                memory[name] = _shaped_like(value, x_t)
            x_s[name] = _shaped_like(entered, x_t)
        done = ops.cast(ops.equal(evaluation, sampler.evaluations - 1), "int32")
        filled = state["filled"] + done
        return j + 1, {"x": x_s, "x0": x0, "memory": tuple(memories), "filled": filled}

    first, last = start * sampler.evaluations, stop * sampler.evaluations
    if sampler.evaluations > 1:
        # The network cannot be evaluated at the clean end, and no step follows.
        clean = ops.logical_and(ops.equal(stop, steps), ops.take(grid, steps) <= 0)
        last = last - ops.cast(clean, "int32") * (sampler.evaluations - 1)
    _, state = ops.while_loop(lambda j, state: j < last, body, (first, state))
    return state


def run(
    sampler: Sampler,
    denoise: Denoiser,
    schedules: Mapping[str, Schedule],
    grid: Tensor,
    x: Levels,
    noise: Callable[[Tensor, str, Tensor], Tensor] | None = None,
    start: Tensor = 0,
    stop: Tensor = None,
) -> tuple[Levels, Levels]:
    """Begin with `x` and take the steps `start` to `stop` of a grid: `begin` and `advance` in one.

    Arguments and errors as there.

    Returns:
        (x, x0), level name -> tensor each: the sample after the last step and the estimate from
        which it was made. Without any step, x0 is zero.

    Example:

    >>> from keras_mdm.diffusion import schedules, time_grid
    >>> grid, schedule = time_grid("uniform", 10), {"64": schedules.cosine()}
    >>> start = {"64": ops.ones((1, 64, 64, 3))}
    >>> black = lambda x, t: {"64": -ops.ones_like(x["64"])}  # a data set of one picture
    >>> sample, _ = run(get("ddim"), black, schedule, grid, start)
    >>> float(ops.max(sample["64"]))
    -1.0
    """
    state = advance(
        sampler, denoise, schedules, grid, begin(sampler, x), noise, start=start, stop=stop
    )
    return state["x"], state["x0"]


def _amplitudes(schedule: Schedule, grid: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma at all times at once, so that table lookups stay out of the loop."""
    # Never in half precision, and in float64 for a float64 state.
    return schedule.alpha_sigma(grid, "float64" if ops.dtype(x) == "float64" else "float32")


def _growth(schedules: Mapping[str, Schedule], grid: Tensor) -> Levels:
    """Growth of log(alpha / sigma) in every step, (K,) float64 by level name.

    In float64, because higher orders divide small differences by each other. Levels whose schedules
    are shifts of one another have bit-identical numbers.
    """
    found: Levels = {}
    for name, schedule in schedules.items():
        alike = next((other for other in found if schedule.is_shift_of(schedules[other])), None)
        if alike is None:
            half_logsnr = 0.5 * schedule.logsnr(grid, "float64")
            found[name] = half_logsnr[1:] - half_logsnr[:-1]
        else:
            found[name] = found[alike]
    return found


def _moment(
    amplitudes: tuple[Tensor, Tensor], growth: Tensor, i: Tensor, filled: Tensor, evaluation: Tensor
) -> Moment:
    alpha, sigma = (ops.cast(a, "float64") for a in amplitudes)
    before, earlier = ops.maximum(i - 1, 0), ops.maximum(i - 2, 0)
    alpha_t, sigma_t, alpha_s, sigma_s = (
        ops.take(a, k) for k in (i, i + 1) for a in (alpha, sigma)
    )
    return Moment(
        alpha_t=alpha_t,
        sigma_t=sigma_t,
        alpha_s=alpha_s,
        sigma_s=sigma_s,
        q=alpha_t * sigma_s / (alpha_s * sigma_t),
        h=ops.take(growth, i),
        sigma_before=ops.take(sigma, before),
        h_before=ops.take(growth, before),
        h_earlier=ops.take(growth, earlier),
        filled=filled,
        evaluation=evaluation,
    )


def _shaped_like(value: Tensor, x: Tensor) -> Tensor:
    """Give `value` the dtype and static shape of `x`, as loop variables must keep theirs."""
    value = ops.cast(value, ops.dtype(x))
    return value if value.shape == x.shape else ops.reshape(value, ops.shape(x))


def _check_bounds(start: Tensor, stop: Tensor, entries: int | None) -> None:
    if not ops.is_tensor(start):
        checks.integer("start", start, minimum=0)
    if not ops.is_tensor(stop):
        checks.integer("stop", stop, minimum=0 if ops.is_tensor(start) else start)
        if entries is not None and stop > entries - 1:
            raise checks.error(
                "`stop` must not exceed the number of steps of the grid",
                fix=f"pass stop={entries - 1} or less, or a finer grid",
                stop=stop,
            )
