"""The start of sampling, and its steps."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_mdm import randomness
from keras_mdm.diffusion import samplers
from keras_mdm.diffusion.joint_process import LevelProcess
from keras_mdm.pictures import pixels
from keras_mdm.sampling.denoiser import Denoiser
from keras_mdm.sampling.plan import SamplingPlan


def start_noise(
    process: LevelProcess, channels: int, seeds: tf.Tensor, samples: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Draw standard normal noise, `(B, [T,] H, W, C)` float32 by level name; row i from seed i and
    sample i."""
    return randomness.normal_per_row(seeds, "start", 0, samples, level_shapes(process, channels))


def noisy_start(
    process: LevelProcess,
    init: Mapping[str, tf.Tensor],
    eps: Mapping[str, tf.Tensor],
    t: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """Add the noise of time `t` to pictures, from where sampling changes them.

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
    return {shape.name: shape.of_sample(channels) for shape in process.shapes}


def run_steps(
    plan: SamplingPlan,
    process: LevelProcess,
    denoise: Denoiser,
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
        samples: `(B,)` int64; seed and sample are the key of a row's noise.
        steps: number of steps of the whole grid.
        start: first step.
        stop: the step to stop before.
        eta: DDIM's share of fresh noise, used if the plan says so.

    Returns:
        The state after the last step, the same whether steps are taken at once or in stretches.
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
