"""The drawing inside an exported model: all stages, their steps, and what decodes them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_mdm.conditioning.conditions import cast_conditions, pad_tokens, unconditional
from keras_mdm.conditioning.low_res import LOW_RES
from keras_mdm.diffusion import samplers
from keras_mdm.latents.codecs import decoded
from keras_mdm.sampling import graph
from keras_mdm.sampling.low_res_noise import LEAST
from keras_mdm.sampling.outer_steps import Counts, due
from keras_mdm.sampling.plan import Amounts, SamplingPlan, amounts_of
from keras_mdm.sampling.stepping import start_noise, to_uint8
from keras_mdm.stages import seed_of_stage
from keras_mdm.training.diffusion_model import MatryoshkaDiffusion

Tensors = Mapping[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What is fixed in an export.

    Args:
        stages: the models that draw one after the other.
        plans: the static choices of each.
        names: name of every level that is returned, by stage and the level's name there; all levels
            of all stages if empty.
        eta: DDIM's share of fresh noise.
        rescale: how much of the conditional output's deviation the guided one gets.
        interval: (lowest, highest) time at which guidance applies.
        shares: share of the guidance that a level gets, for each stage.
        codec: decodes what the last stage draws.
        counts: number of steps that compute an outer level.
    """

    stages: Sequence[MatryoshkaDiffusion]
    plans: Sequence[SamplingPlan]
    names: Sequence[Mapping[str, str]]
    eta: float = 0.0
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)
    shares: Sequence[Mapping[str, float]] = ()
    codec: Any = None
    counts: Counts = dataclasses.field(default_factory=dict)

    @property
    def guided(self) -> bool:
        """Whether there is guidance."""
        return any(plan.guidance is not None for plan in self.plans)

    @property
    def least_steps(self) -> int:
        """The fewest steps that it can draw with."""
        return max([1, *(count for count in self.counts.values() if count)])

    def preview(self, level: str) -> "Drawing":
        """The same up to a level of the first stage."""
        stage, plan = self.stages[0], self.plans[0]
        inner = next(own for own, name in self.names[0].items() if name == level)
        plan = dataclasses.replace(plan, stop_at=inner, tops=())
        kept = stage.unet.levels[: stage.unet.levels.index(inner) + 1]
        return dataclasses.replace(
            self,
            stages=[stage],
            plans=[plan],
            names=[{own: name for own, name in self.names[0].items() if own in kept}],
            counts={},
        )

    def __call__(
        self,
        conditions: Tensors,
        away: Tensors,
        guidance_scale: tf.Tensor,
        seeds: tf.Tensor,
        samples: tf.Tensor,
        steps: tf.Tensor,
        low_res_noise: tf.Tensor | int = LEAST,
    ) -> dict[str, tf.Tensor]:
        """Trace the drawing.

        Args:
            conditions: of every picture.
            away: `text` and `text_mask` to guide away from, or neither.
            guidance_scale: scalar or `(B,)`.
            seeds: `(B,)` int64.
            samples: `(B,)` int64.
            steps: scalar int32.
            low_res_noise: scalar int32.

        Returns:
            uint8 pictures by level name.
        """
        count, given = tf.shape(seeds)[0], (dict(conditions), dict(away), seeds, samples)
        if self._single_rows:
            # A single row is computed by other kernels: `generate` has none either.
            rows = tf.minimum(tf.range(tf.maximum(count, 2)), count - 1)
            chosen = lambda value: tf.gather(value, rows)  # noqa: E731
            given = tf.nest.map_structure(chosen, given)
            if len(guidance_scale.shape):
                guidance_scale = chosen(guidance_scale)
        inputs, away, seeds, samples = given
        found: dict[str, tf.Tensor] = {}
        for number, (model, plan) in enumerate(zip(self.stages, self.plans, strict=True)):
            amounts = amounts_of(
                model.unet.levels,
                guidance_scale=guidance_scale,
                shares=self.shares[number],
                rescale=self.rescale,
                eta=self.eta,
                low_res_noise=low_res_noise,
                outer_steps=due(self.counts, steps),
            )
            rows = {
                "conditions": inputs,
                "seeds": seed_of_stage(seeds, number),
                "samples": samples,
            }
            drawn = self._stage(model, plan, rows, away, amounts, steps)
            drawn = {level: value[:count] for level, value in drawn.items()}
            names = self.names[number]
            if self.codec is not None:
                pictures = {new: decoded(self.codec, drawn[own]) for own, new in names.items()}
                return to_uint8(pictures)
            drawn = to_uint8(drawn)
            found |= {new: drawn[own] for own, new in names.items() if new not in found}
            # The next one enlarges the highest level.
            highest = drawn[graph.process_of(model, plan).levels[-1]]
            inputs[LOW_RES] = tf.gather(highest, rows_of(seeds, count))
        return found

    @property
    def _single_rows(self) -> bool:
        """Whether some step computes one row for a single picture."""
        return self.interval != (0.0, 1.0) or any(plan.guidance is None for plan in self.plans)

    def _stage(
        self,
        model: MatryoshkaDiffusion,
        plan: SamplingPlan,
        rows: dict[str, Any],
        away: Tensors,
        amounts: Amounts,
        steps: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        process = graph.process_of(model, plan)
        channels = model.unet.spec.out_channels
        x = start_noise(process, channels, rows["seeds"], rows["samples"])
        state = samplers.begin(samplers.get(plan.sampler), x)
        guided = {**rows, "away": _away(model, rows["conditions"], away)} if away else rows
        ends = [(plan, guided, tf.constant(0), steps)]
        if self.interval != (0.0, 1.0) and plan.guidance is not None:
            first, last = _guided_steps(plan.times(process, steps), self.interval)
            ends = [
                (plan.unguided(), rows, tf.constant(0), first),
                (plan, guided, first, last),
                (plan.unguided(), rows, last, steps),
            ]
        for active, given, start, stop in ends:
            state = graph.sample_stretch(model, active, state, given, amounts, steps, start, stop)
        return dict(process.multiplied(state["x"]))


def rows_of(seeds: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """The rows of the pictures that were drawn, one for each row that is computed."""
    return tf.minimum(tf.range(tf.shape(seeds)[0]), count - 1)


def _away(model: MatryoshkaDiffusion, conditions: Tensors, text: Tensors) -> dict[str, tf.Tensor]:
    """The dropped conditions, with this text instead of none."""
    cast = cast_conditions(conditions, model.unet.spec)
    found = unconditional(cast, model.null_condition)
    found |= dict(zip(("text", "text_mask"), (text["text"], text["text_mask"]), strict=True))
    # As it came, since it is prepared with the noise.
    return {k: conditions[k] if k == LOW_RES else v for k, v in found.items()}


def null_text(model: MatryoshkaDiffusion, rows: tf.Tensor, length: tf.Tensor) -> dict[str, Any]:
    """The text of "no prompt" for some rows, of at least some tokens.

    Args:
        model: the model.
        rows: scalar.
        length: scalar.
    """
    null = model.null_condition
    text = tf.repeat(tf.convert_to_tensor(null["text"])[None], rows, axis=0)
    mask = tf.repeat(tf.convert_to_tensor(null["text_mask"])[None], rows, axis=0)
    text, mask = pad_tokens(text, mask, length)
    return {"text": text, "text_mask": mask}


def _guided_steps(times: tf.Tensor, interval: tuple[float, float]) -> tuple[tf.Tensor, tf.Tensor]:
    """As `Guidance.steps`: the first guided step, and the one after the last."""
    inside = (times[:-1] >= interval[0] - 1e-6) & (times[:-1] <= interval[1] + 1e-6)
    count = tf.reduce_sum(tf.cast(inside, tf.int32))
    first = tf.where(count > 0, tf.argmax(tf.cast(inside, tf.int32), output_type=tf.int32), 0)
    return first, first + count
