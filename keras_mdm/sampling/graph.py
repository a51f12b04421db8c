"""The network as a sampler sees it, and the traced steps; one graph per plan."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import named_arrays
from keras_mdm.conditioning.conditions import cast_conditions, unconditional
from keras_mdm.conditioning.low_res import LOW_RES
from keras_mdm.diffusion import samplers
from keras_mdm.diffusion.joint_process import LevelProcess
from keras_mdm.models import cut
from keras_mdm.models.recompute import no_recompute
from keras_mdm.sampling.denoiser import (
    Amounts,
    SamplingPlan,
    make_denoiser,
    noisy_start,
    run_steps,
    start_noise,
)
from keras_mdm.sampling.graphs import Graphs
from keras_mdm.sampling.guiding import Guidance

# The steps between two updates of the progress bar are at most this share of all steps.
STRETCHES = 25


class SamplingMixin:
    """Traced sampling of a `MatryoshkaDiffusion`; needs its `unet`, `process`, `ema`,
    `residual_std` and `null_condition`."""

    def network(
        self, weights: str = "ema", stop_at: str | None = None
    ) -> Callable[[Mapping[str, Any]], dict]:
        """Return the network as a function, with averaged or raw weights.

        Nothing is swapped: the averages are used for the time of the call.

        Args:
            weights: `"ema"`, `"raw"`, or a power-function average such as `"ema_0.05"`.
            stop_at: the highest level that is computed; all unless given.

        Returns:
            function (inputs) -> outputs by level name, without training behaviour.

        Raises:
            ValueError: if the model has no such weights or level.
        """
        self.averages.check(weights)
        self.refresh(contents=weights != "raw")
        unet = self._inner_unet(stop_at)

        def infer(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
            with no_recompute():
                return self.bounded(unet(inputs, training=False))

        if weights == "raw":
            return infer

        def averaged(inputs):
            with self.averages.substituted(weights):
                return infer(inputs)

        return averaged

    def _inner_unet(self, stop_at: str | None) -> Any:
        """The network without the levels above `stop_at`; kept, past Keras' tracking."""
        if stop_at is None or stop_at == self.unet.levels[-1]:
            return self.unet
        known = self.__dict__.setdefault("_inner_unets", {})
        if stop_at not in known:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # `generate` warns in its own words
                known[stop_at] = cut(self.unet, stop_at)
        return known[stop_at]

    def set_average(self, arrays: Mapping[str, Any]) -> None:
        """Replace the averaged weights, for example by what `runs.reconstruct` returned.

        Args:
            arrays: {variable path: array} of all weights of the network; those that are frozen may
                be left out and keep their average.

        Raises:
            ValueError: naming all paths that are missing or unexpected and all shapes that differ.
        """
        self.refresh()
        moving = {variable.path for variable in self.unet.trainable_variables}
        averages = {
            path: average
            for path, average in self.ema.by_path().items()
            if path in arrays or path in moving
        }
        named_arrays.assign(averages, arrays, what="averages")
        self.averages.mark()

    def bounded(self, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Bound the network's outputs smoothly to +-`output_limit`, if there is one."""
        limit = self.output_limit
        if not limit:
            return outputs
        return {
            name: limit * tf.tanh(tf.cast(value, tf.float32) / limit)
            for name, value in outputs.items()
        }

    def _process_of(self, plan: SamplingPlan) -> LevelProcess:
        return self.process.up_to(plan.stop_at) if plan.stop_at else self.process

    def _begin(
        self, plan: SamplingPlan, process: LevelProcess, rows: dict, steps: int, first: int
    ) -> samplers.State:
        """State before step `first`."""
        times = plan.times(process, steps)
        given = rows["seeds"], rows["samples"], rows["noise"], rows["init"]
        return self._graphs.call("start", plan.start(), self._start, *given, times[first])

    def _stretches(
        self,
        plan: SamplingPlan,
        guidance: Guidance,
        amounts: Amounts,
        rows: dict,
        state: samplers.State,
        steps: int,
        first: int,
        marks: np.ndarray,
        *,
        each: bool,
        jit_compile: bool,
    ) -> Iterator[tuple[int, int, samplers.State]]:
        """Take the steps from `first` on; yields (first step, step after the last, state)."""
        stretch = 1 if each else max(1, steps // STRETCHES)
        guided = guidance.steps(plan.times(self._process_of(plan), steps).numpy())
        ends = {*range(first + stretch, steps, stretch), *marks.tolist(), *guided, steps}
        begin = first
        for end in sorted(mark for mark in ends if first < mark <= steps):
            # Steps outside of the interval run in a graph without the other half of guidance.
            inside = guided[0] <= begin < guided[1]
            active = plan if inside else plan.unguided()
            # Another model, to be guided away from, may change as well.
            version = active.weak[0].network_version if active.weak else ""
            state = self._graphs.call(
                f"run{version}",
                active,
                self._run,
                state,
                rows["conditions"],
                rows["without"] if active.guided else {},
                rows["known"],
                amounts,
                rows["seeds"],
                rows["samples"],
                *(tf.constant(value, tf.int32) for value in (steps, begin, end)),
                jit_compile=jit_compile,
            )
            yield begin, end, state
            begin = end

    @property
    def _graphs(self) -> Graphs:
        """The traced steps that were used last; past Keras' tracking."""
        return self.__dict__.setdefault("_sampling_graphs", Graphs())

    def _start(
        self,
        plan: SamplingPlan,
        seeds: tf.Tensor,
        samples: tf.Tensor,
        noise: Mapping[str, tf.Tensor],
        init: Mapping[str, tf.Tensor],
        t: tf.Tensor,
    ) -> samplers.State:
        process = self._process_of(plan)
        x = dict(noise) or start_noise(process, self.unet.spec.out_channels, seeds, samples)
        x = noisy_start(process, init, x, t) if init else x
        return samplers.begin(samplers.get(plan.sampler), x)

    def _run(
        self,
        plan: SamplingPlan,
        state: samplers.State,
        conditions: Mapping[str, tf.Tensor],
        without: Mapping[str, tf.Tensor],
        known: Mapping[str, tuple[tf.Tensor, tf.Tensor]],
        amounts: Amounts,
        seeds: tf.Tensor,
        samples: tf.Tensor,
        *bounds: tf.Tensor,
    ) -> samplers.State:
        return self.sample_stretch(
            plan, state, conditions, amounts, seeds, samples, *bounds, without=without, known=known
        )

    def sample_stretch(
        self,
        plan: SamplingPlan,
        state: samplers.State,
        conditions: Mapping[str, tf.Tensor],
        amounts: Amounts,
        seeds: tf.Tensor,
        samples: tf.Tensor,
        steps: tf.Tensor,
        start: tf.Tensor,
        stop: tf.Tensor,
        *,
        without: Mapping[str, tf.Tensor] | None = None,
        known: Mapping[str, tuple[tf.Tensor, tf.Tensor]] | None = None,
    ) -> samplers.State:
        """Trace steps `start` to `stop`; the body of `generate` and of the exported model.

        Args:
            plan: the static choices.
            state: from `samplers.begin`, or from the steps before.
            conditions: conditions of every row.
            amounts: the continuous choices, see `amounts_of`.
            seeds: `(B,)` int64, as are `samples`.
            samples: see `seeds`.
            steps: scalar int32, as are `start` and `stop`.
            start: see `steps`.
            stop: see `steps`.
            without: conditions to be guided away from; the dropped condition unless given.
            known: see `make_denoiser`.

        Returns:
            The state at the end.
        """
        spec, process = self.unet.spec, self._process_of(plan)
        conditions = cast_conditions(conditions, spec)
        weak, away = None, None
        if plan.guided and plan.weak:
            model, weights = plan.weak
            weak = model.network(weights, plan.stop_at)
        elif plan.guided:
            away = (
                cast_conditions(without, spec)
                if without
                else unconditional(conditions, self.null_condition)
            )
        inner = {k: v for k, v in conditions.items() if self._takes(plan, k)}
        denoise = make_denoiser(
            self.network(plan.weights, plan.stop_at),
            process,
            inner,
            None if away is None else {k: v for k, v in away.items() if k in inner},
            amounts["guidance_scale"],
            plan.threshold,
            self.residual_std,
            amounts["shares"],
            weak=weak,
            rescale=amounts["rescale"] if plan.rescaled else None,
            split=plan.split,
            known=known,
            reconstruction=amounts["reconstruction"] if plan.reconstructed else None,
        )
        return run_steps(
            plan,
            process,
            denoise,
            state,
            seeds=seeds,
            samples=samples,
            steps=steps,
            start=start,
            stop=stop,
            eta=amounts["eta"],
        )

    def _takes(self, plan: SamplingPlan, condition: str) -> bool:
        """Whether the network of a plan has an input of that name: micro-conditions belong to
        levels."""
        # A picture is a part of every level's input.
        return condition == LOW_RES or condition in self._inner_unet(plan.stop_at).input_names

    def comparable(self) -> dict[str, Any]:
        """What two models must share for their outputs to be compared, as plain values."""
        spec, process = self.unet.spec, self.process
        return {
            "levels": self.unet.levels,
            "conditions": (spec.num_classes, spec.text_width, spec.pooled_width),
            "micro_conditions": spec.micro_conditions,
            "channels": (spec.in_channels, spec.out_channels),
            "schedules": {k: v.get_config() for k, v in process.schedules.items()},
            "prediction": process.prediction,
            "signal_scale": dict(process.signal_scale),
            "residual_std": {k: round(float(v), 4) for k, v in self.residual_std.items()},
        }
