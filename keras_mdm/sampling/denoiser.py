"""The traced part of sampling: start noise, a stretch of steps, guidance and thresholds."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_mdm import randomness
from keras_mdm.conditioning.conditions import match_tokens
from keras_mdm.conditioning.low_res import network_inputs
from keras_mdm.diffusion import Schedule, guidance, samplers, thresholding, time_grid
from keras_mdm.diffusion.joint_process import LevelProcess
from keras_mdm.pictures import pixels

Amounts = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class SamplingPlan:
    """The static choices of sampling: one plan, one traced graph. What is continuous is no part of
    it, see `amounts_of`.

    Args:
        sampler: name of the sampler.
        renewed: whether DDIM draws a share of fresh noise.
        grid: kind of the time grid.
        threshold: name of the threshold of x0.
        guided: whether both halves of guidance are computed.
        weights: `"ema"`, `"raw"` or a power-function average.
        rescaled: whether the guided output gets (part of) the conditional one's deviation.
        split: compute the halves of guidance one after the other instead of in one batch.
        weak: (model, weights) of autoguidance, or `None` for classifier-free guidance.
        stop_at: the highest level that is computed; all of them unless given.
        reconstructed: whether estimates are moved to where what is known would be found.
    """

    sampler: str = "ddim"
    renewed: bool = False
    grid: str = "uniform"
    threshold: str = "dynamic"
    guided: bool = True
    weights: str = "ema"
    rescaled: bool = False
    split: bool = False
    weak: tuple[Any, str] | None = None
    stop_at: str | None = None
    reconstructed: bool = False

    def check(self) -> "SamplingPlan":
        """Raise if a choice is unknown."""
        samplers.get(self.sampler, eta=float(self.renewed))
        thresholding.get(self.threshold)
        time_grid(self.grid, 1)
        return self

    def unguided(self) -> "SamplingPlan":
        """The plan without guidance; what only matters to it makes no other graph."""
        return dataclasses.replace(self, guided=False, rescaled=False, split=False, weak=None)

    def start(self) -> "SamplingPlan":
        """The plan of what sampling starts from, which most choices do not matter to."""
        return SamplingPlan(sampler=self.sampler, stop_at=self.stop_at)

    def times(self, process: LevelProcess, steps: Any) -> tf.Tensor:
        """Times that are visited, `(K + 1,)` float32 descending to 0."""
        schedule = process.schedules[process.levels[0]]
        return time_grid(self.grid, steps, schedule.num_steps, schedule=schedule)


def amounts_of(
    levels: Sequence[str],
    *,
    guidance_scale: Any,
    shares: Mapping[str, float] | None = None,
    rescale: float = 0.0,
    reconstruction: float = 0.0,
    eta: float = 0.0,
) -> Amounts:
    """The continuous choices of sampling as tensors: no value of theirs makes another graph.

    Args:
        levels: names of all levels.
        guidance_scale: scalar.
        shares: how much of the guidance a level gets, by its name; 1 unless given.
        rescale: see `make_denoiser`, as for `reconstruction`.
        reconstruction: weight of reconstruction guidance.
        eta: share of fresh noise of DDIM; used if the plan says so.

    Returns:
        dict of scalars, of which "shares" is a dict by level name; float32, and "eta" float64.
    """
    shares = shares or {}
    return {
        "guidance_scale": tf.convert_to_tensor(guidance_scale, tf.float32),
        "shares": {name: tf.constant(shares.get(name, 1.0), tf.float32) for name in levels},
        "rescale": tf.constant(rescale, tf.float32),
        "reconstruction": tf.constant(reconstruction, tf.float32),
        "eta": tf.constant(eta, tf.float64),
    }


def start_noise(
    process: LevelProcess, channels: int, seeds: tf.Tensor, samples: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Draw standard normal noise, `(B, [T,] H, W, C)` float32 by level name, row i from sample i of
    seed i."""
    return randomness.normal_per_row(seeds, "start", 0, samples, level_shapes(process, channels))


def noisy_start(
    process: LevelProcess,
    init: Mapping[str, tf.Tensor],
    eps: Mapping[str, tf.Tensor],
    t: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """Pictures with the noise of time `t`, from where sampling changes them.

    Args:
        process: the joint process.
        init: `(B, [T,] H, W, C)` in [-1, 1], by level name.
        eps: the noise, likewise.
        t: scalar.

    Reference: Meng et al., arXiv 2108.01073 (SDEdit).
    """
    found = {}
    for name, x0 in process.divided(init).items():
        alpha, sigma = process.amplitudes(name, t)
        found[name] = alpha * x0 + sigma * eps[name]
    return found


def level_shapes(process: LevelProcess, channels: int) -> dict[str, tuple[int, ...]]:
    """Shape of one sample by level name."""
    return {
        shape.name: (*(() if shape.frames is None else (shape.frames,)),)
        + (shape.size, shape.size, channels)
        for shape in process.shapes
    }


Network = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def make_denoiser(
    network: Network,
    process: LevelProcess,
    conditions: Mapping[str, tf.Tensor],
    without: Mapping[str, tf.Tensor] | None,
    guidance_scale: Any,
    threshold: str,
    residual_std: Mapping[str, Any],
    shares: Mapping[str, Any] | None = None,
    *,
    weak: Network | None = None,
    rescale: Any = None,
    split: bool = False,
    known: Mapping[str, tuple[tf.Tensor, tf.Tensor]] | None = None,
    reconstruction: Any = None,
) -> Callable[[dict, tf.Tensor], dict]:
    """Make the function that the sampler's loop calls: estimates of the clean data at time t.

    Args:
        network: function (inputs) -> outputs by level name.
        process: the joint process.
        conditions: conditions of every row.
        without: conditions to be guided away from, or `None` for no classifier-free guidance.
        guidance_scale: scalar, or `(B,)`.
        threshold: name of the threshold, applied per sample and level.
        residual_std: see `LevelProcess.predictions`.
        shares: how much of the guidance a level gets, by its name: its scale is
            1 + share * (guidance_scale - 1). Numbers or scalars.
        weak: a weaker network to be guided away from, instead of `without`.
        rescale: scalar, see `guidance.rescale`; `None` to leave it out.
        split: compute the two halves of guidance one after the other.
        known: pictures in [-1, 1] and masks (1 where they are not known) by level name: what is
            known replaces the estimate.
        reconstruction: scalar w; before that, the estimates are moved along the slope of how badly
            the network finds what is known, so that the rest follows from it. `None` to leave it
            out: it takes a gradient through the network.

    Returns:
        function (x_t by level name, scalar t) -> x0 by level name.

    Reference: Ho and Salimans 2022 (arXiv 2207.12598), equation 6, on the network's output at
    every level; Karras et al. 2024 (arXiv 2406.02507), equation 3, for the weaker network; Ho et
    al. 2022 (arXiv 2204.03458), equation 7, for reconstruction guidance.
    """
    shares, known = shares or {}, known or {}
    limit = thresholding.get(threshold)
    schedule: Schedule = process.schedules[process.levels[0]]
    if without is not None:
        conditions, without = match_tokens(conditions, without)
    # Both halves in one batch, the unconditional one first.
    together = without is not None and not split
    if together:
        both = {name: tf.concat([without[name], conditions[name]], axis=0) for name in conditions}

    def outputs_of(x: dict, t: tf.Tensor) -> tuple[dict | None, dict]:
        """Outputs to be guided away from, if any, and those of the condition."""
        time = tf.fill([tf.shape(x[process.levels[0]])[0]], tf.cast(schedule.time(t), tf.float32))

        def inputs_for(given: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return {**network_inputs(process, x, given), "time": time}

        if together:
            x = {name: tf.concat([value, value], axis=0) for name, value in x.items()}
            time = tf.concat([time, time], axis=0)
            halves = {
                name: tf.split(value, 2, axis=0)
                for name, value in network(inputs_for(both)).items()
            }
            return tuple({name: pair[i] for name, pair in halves.items()} for i in (0, 1))
        outputs = dict(network(inputs_for(conditions)))
        if weak is not None:
            return dict(weak(inputs_for(conditions))), outputs
        if without is None:
            return None, outputs
        # One after the other, or both would be in memory at once after all.
        with tf.control_dependencies(list(outputs.values())):
            x = {name: tf.identity(value) for name, value in x.items()}
            time = tf.identity(time)
        return dict(network(inputs_for(without))), outputs

    def estimate(x: dict, t: tf.Tensor) -> dict:
        base, outputs = outputs_of(x, t)
        if base is not None:
            scales = {
                name: 1.0 + shares.get(name, 1.0) * (guidance_scale - 1.0) for name in outputs
            }
            guided = {
                name: guidance.classifier_free(base[name], outputs[name], scale)
                for name, scale in scales.items()
            }
            outputs = guided if rescale is None else guidance.rescale(guided, outputs, rescale)
        return process.predictions(outputs, x, t, residual_std)[1]

    def pulled(x: dict, t: tf.Tensor) -> dict:
        """Estimates, moved to where the network finds more of what is known."""
        wanted = process.divided({name: picture for name, (picture, _) in known.items()})
        with tf.GradientTape() as tape:
            tape.watch(x)
            x0 = estimate(x, t)
            missed = tf.add_n(
                [
                    tf.reduce_sum((1.0 - mask) * tf.square(wanted[name] - x0[name]))
                    for name, (_, mask) in known.items()
                ]
            )
        slopes = tape.gradient(missed, x)
        return {
            name: x0[name] - 0.5 * reconstruction * process.amplitudes(name, t)[0] * slopes[name]
            for name in x0
        }

    def denoise(x: dict, t: tf.Tensor) -> dict:
        x0 = estimate(x, t) if reconstruction is None or not known else pulled(x, t)
        # Thresholds are about pictures, not about what the process divided them by.
        pictures = {name: limit(value) for name, value in process.multiplied(x0).items()}
        for name, (picture, mask) in known.items():
            pictures[name] = mask * pictures[name] + (1.0 - mask) * picture
        return process.divided(pictures)

    return denoise


def run_steps(
    plan: SamplingPlan,
    process: LevelProcess,
    denoise: Callable[[dict, tf.Tensor], dict],
    state: samplers.State,
    *,
    seeds: tf.Tensor,
    samples: tf.Tensor,
    steps: Any,
    start: Any,
    stop: Any,
    eta: Any = 0.0,
) -> samplers.State:
    """Take the steps `start` to `stop` of `steps`; all of them may be tensors.

    Args:
        plan: the static choices.
        process: the joint process.
        denoise: from `make_denoiser`.
        state: from `samplers.begin`, or from the steps before.
        seeds: `(B,)` int64.
        samples: `(B,)` int64, keys the noise of every row together with its seed.
        steps: number of steps of the whole grid.
        start: first step.
        stop: the step to stop before.
        eta: share of fresh noise of DDIM, used if the plan says so.

    Returns:
        The state after the last step. Equal whether taken at once or in stretches.
    """

    def noise(index, name, x_like):
        shape = {name: tuple(x_like.shape[1:])}
        return randomness.normal_per_row(seeds, "step", index, samples, shape)[name]

    return samplers.advance(
        samplers.get(plan.sampler, eta=eta if plan.renewed else 0.0),
        denoise,
        process.schedules,
        plan.times(process, steps),
        state,
        noise,
        start,
        stop,
    )


def to_uint8(x: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Turn levels in [-1, 1] into uint8, see `pixels.to_uint8`."""
    return {name: pixels.to_uint8(value) for name, value in x.items()}
