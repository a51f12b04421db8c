"""Sampling: step functions, and the one loop that runs them over all levels together.

A step goes from t to s < t, given the estimate of the clean data. The loop asks a `denoise`
function for the estimates of all levels, which is where the network, guidance and thresholds live;
levels meet nowhere else (Gu et al., arXiv 2310.15111, section 3.1).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from keras import ops

from keras_mdm import checks
from keras_mdm.diffusion.process import expand
from keras_mdm.diffusion.schedule import Schedule

GRIDS = ("uniform", "release")
Levels = dict[str, Any]


def time_grid(kind: str, steps: Any, num_steps: int = 1000) -> Any:
    """Return the times that a sampler visits, descending to 0.

    `"uniform"` goes from 1 in equal steps. `"release"` takes the table entries
    round(j * ((N + 1) / (K + 1))), halves to even, and so starts a little below 1 (0.981 for 50 of
    1000 steps) although sampling starts from pure noise. With K = N the two are the same.

    Args:
        kind: `"uniform"` or `"release"`.
        steps: K, a number or a scalar int32 tensor; at most `num_steps`.
        num_steps: N of the schedule.

    Returns:
        (K + 1,) float32.

    Raises:
        ValueError: if `kind` is unknown, or `steps` is a number outside 1..N.

    Example:

    >>> [float(t) for t in time_grid("uniform", 4)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
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
    # In float64: the release rounds so.
    count = ops.cast(steps, "float64")
    j = ops.cast(ops.arange(ops.cast(steps, "int32"), -1, -1), "float64")
    if kind == "uniform":
        return ops.cast(j / count, "float32")
    # Divided first, as the release does: 50 * 2.51 lies below the half that 50 * 251 / 100 hits.
    index = ops.round(j * ((num_steps + 1.0) / (count + 1.0)))
    return ops.cast(index / num_steps, "float32")


def ddpm_step(
    x_t: Any, x0: Any, alpha_t: Any, sigma_t: Any, alpha_s: Any, sigma_s: Any, noise: Any
) -> Any:
    """Draw from q(x_s | x_t, x0), the posterior of the forward process.

    With q = (alpha_t sigma_s) / (alpha_s sigma_t), whose square is SNR_t / SNR_s, the mean is
    alpha_s (1 - q^2) x0 + q sigma_s / sigma_t x_t and the variance sigma_s^2 (1 - q^2). In this
    form nothing cancels badly, and at sigma_s = 0 the result is exactly x0.

    Args:
        x_t: (B, ...).
        x0: (B, ...), estimate of the clean data.
        alpha_t: scalar or (B,), at the time left; as are `sigma_t` > 0, and `alpha_s`, `sigma_s` at
            the time entered.
        sigma_t: see `alpha_t`.
        alpha_s: see `alpha_t`.
        sigma_s: see `alpha_t`.
        noise: (B, ...), standard normal.

    Returns:
        x_s, (B, ...).

    Example:

    >>> x_t, x0, noise = ops.ones((1, 1)), ops.zeros((1, 1)), ops.ones((1, 1))
    >>> float(ddpm_step(x_t, x0, 0.6, 0.8, 1.0, 0.0, noise)[0, 0])
    0.0

    Reference: Ho et al., arXiv 2006.11239, equations 6 and 7.
    """
    alpha_t, sigma_t, alpha_s, sigma_s = _expand_all(x_t, alpha_t, sigma_t, alpha_s, sigma_s)
    q = alpha_t * sigma_s / (alpha_s * sigma_t)
    removed = (1.0 - q) * (1.0 + q)
    mean = alpha_s * removed * x0 + q * sigma_s / sigma_t * x_t
    return mean + sigma_s * ops.sqrt(removed) * noise


def ddim_step(
    x_t: Any,
    x0: Any,
    alpha_t: Any,
    sigma_t: Any,
    alpha_s: Any,
    sigma_s: Any,
    noise: Any = None,
    *,
    eta: float = 0.0,
) -> Any:
    """Move to s along the noise that the estimate implies, renewing a part of it.

    The noise is eps = (x_t - alpha_t x0) / sigma_t, from the estimate after thresholding. Of the
    variance sigma_s^2, the share eta^2 (1 - q^2), q as in `ddpm_step`, is drawn afresh. Eta 0 is
    deterministic: Euler's method for d(x / alpha) / d(sigma / alpha) = eps. Eta 1 has the mean and
    variance of DDPM.

    Args:
        x_t: (B, ...).
        x0: (B, ...), estimate of the clean data.
        alpha_t: scalar or (B,), at the time left; as are `sigma_t` > 0, and `alpha_s`, `sigma_s` at
            the time entered.
        sigma_t: see `alpha_t`.
        alpha_s: see `alpha_t`.
        sigma_s: see `alpha_t`.
        noise: (B, ...), standard normal; not used if `eta` is 0.
        eta: number in [0, 1].

    Returns:
        x_s, (B, ...).

    Reference: Song et al., arXiv 2010.02502, equations 12 and 16.
    """
    alpha_t, sigma_t, alpha_s, sigma_s = _expand_all(x_t, alpha_t, sigma_t, alpha_s, sigma_s)
    eps = (x_t - alpha_t * x0) / sigma_t
    if eta == 0.0:
        return alpha_s * x0 + sigma_s * eps
    q = alpha_t * sigma_s / (alpha_s * sigma_t)
    renewed = eta * eta * (1.0 - q) * (1.0 + q)
    return alpha_s * x0 + sigma_s * (ops.sqrt(1.0 - renewed) * eps + ops.sqrt(renewed) * noise)


@dataclasses.dataclass(frozen=True)
class Sampler:
    """One method: its step function and whether it draws noise.

    Args:
        name: for messages.
        step: function (x_t, x0, alpha_t, sigma_t, alpha_s, sigma_s, noise) -> x_s of one level.
        needs_noise: whether `step` uses noise; if not, it gets `None` and none is drawn.
    """

    name: str
    step: Callable[..., Any]
    needs_noise: bool


def get(sampler: str | Sampler, *, eta: float = 0.0) -> Sampler:
    """Return a sampler from its name; a `Sampler` is returned as it is.

    Args:
        sampler: `"ddim"`, `"ddpm"` or a record.
        eta: share of fresh noise of DDIM, in [0, 1].

    Returns:
        The record.

    Raises:
        ValueError: if the name is unknown or `eta` outside its range.

    Example:

    >>> get("ddim").needs_noise, get("ddim", eta=1.0).needs_noise, get("ddpm").needs_noise
    (False, True, True)
    """
    if isinstance(sampler, Sampler):
        return sampler
    eta = checks.real("eta", eta, minimum=0.0, maximum=1.0)
    if checks.one_of("sampler", sampler, ("ddim", "ddpm")) == "ddpm":
        return Sampler("ddpm", ddpm_step, needs_noise=True)
    return Sampler("ddim", functools.partial(ddim_step, eta=eta), needs_noise=eta > 0.0)


def run(
    sampler: Sampler,
    denoise: Callable[[Levels, Any], Levels],
    schedules: Mapping[str, Schedule],
    grid: Any,
    x: Levels,
    noise: Callable[[Any, str, Any], Any] | None = None,
    start: Any = 0,
    stop: Any = None,
) -> tuple[Levels, Levels]:
    """Take the steps `start` to `stop` of a grid, all levels together.

    The state is `x` alone, and step i depends on i, not on where a call began: running [0, a) and
    then [a, K) gives the same bits as running [0, K). Works eagerly and inside `tf.function`, with
    any batch size.

    Args:
        sampler: the method, see `get`.
        denoise: function (level name -> x_t, scalar t) -> level name -> estimate of the clean data,
            guided and thresholded.
        schedules: level name -> schedule.
        grid: (K + 1,), times descending to 0, see `time_grid`.
        x: level name -> (B, ...), at the time of grid entry `start`.
        noise: function (step index, level name, x_t) -> standard normal tensor like x_t; may be
            left out if the sampler needs none. The index is an int32 scalar tensor.
        start: first step, a number or a scalar int32 tensor.
        stop: the step to stop before, likewise; K by default.

    Returns:
        (x, x0), level name -> tensor each: the sample after the last step and the estimate it was
        made from. Without any step, x0 is zero.

    Raises:
        ValueError: if a level has no schedule, the sampler needs noise and none is given, or
            `start` and `stop` are numbers outside the grid.

    Example:

    >>> from keras_mdm.diffusion import schedules
    >>> grid, schedule = time_grid("uniform", 10), {"64": schedules.cosine()}
    >>> start = {"64": ops.ones((1, 64, 64, 3))}
    >>> black = lambda x, t: {"64": -ops.ones_like(x["64"])}  # a data set of one picture
    >>> sample, _ = run(get("ddim"), black, schedule, grid, start)
    >>> float(ops.max(sample["64"]))
    -1.0

    Reference: Gu et al., arXiv 2310.15111, appendix C.
    """
    checks.required_keys("schedules", schedules, x)
    if sampler.needs_noise and noise is None:
        raise checks.error(
            "A sampler that draws noise needs a noise function",
            fix='pass `noise`, or use get("ddim") with eta=0',
            sampler=sampler.name,
            noise=noise,
        )
    grid = ops.convert_to_tensor(grid)
    stop = ops.shape(grid)[0] - 1 if stop is None else stop
    _check_bounds(start, stop, grid.shape[0])
    stop = ops.cast(stop, "int32")
    x = {name: ops.convert_to_tensor(level) for name, level in x.items()}

    # For all steps at once: the table lookups stay out of the loop.
    amplitudes = {}
    for name, level in x.items():
        # Never in half precision, nor in float32 for a float64 state.
        dtype = "float64" if ops.dtype(level) == "float64" else "float32"
        amplitudes[name] = schedules[name].alpha_sigma(grid, dtype)

    def body(i: Any, x: Levels, x0: Levels) -> tuple[Any, Levels, Levels]:
        del x0  # carried only to return the last one
        estimate = denoise(x, ops.take(grid, i))
        checks.required_keys("denoise(x, t)", estimate, x)
        x0 = {name: _shaped_like(estimate[name], x_t) for name, x_t in x.items()}
        x_s = {}
        for name, x_t in x.items():
            at_t, at_s = ([ops.take(a, k) for a in amplitudes[name]] for k in (i, i + 1))
            z = noise(i, name, x_t) if sampler.needs_noise else None
            x_s[name] = _shaped_like(sampler.step(x_t, x0[name], *at_t, *at_s, z), x_t)
        return i + 1, x_s, x0

    zeros = {name: ops.zeros_like(level) for name, level in x.items()}
    _, x, x0 = ops.while_loop(lambda i, x, x0: i < stop, body, (ops.cast(start, "int32"), x, zeros))
    return x, x0


def _expand_all(x: Any, *coefficients: Any) -> tuple[Any, ...]:
    return tuple(expand(a, x) for a in coefficients)


def _shaped_like(value: Any, x: Any) -> Any:
    """Give `value` the dtype and the static shape of `x`: a loop's variables must keep theirs."""
    value = ops.cast(value, ops.dtype(x))
    return value if value.shape == x.shape else ops.reshape(value, ops.shape(x))


def _check_bounds(start: Any, stop: Any, entries: int | None) -> None:
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
