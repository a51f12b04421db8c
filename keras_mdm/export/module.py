"""The signatures of an exported model, around one traced drawing for each set of levels."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from keras_mdm.conditioning.conditions import cast_conditions, pad_tokens
from keras_mdm.conditioning.low_res import LOW_RES, LOW_RES_NOISE, network_inputs
from keras_mdm.export import inputs as named
from keras_mdm.export.drawing import Drawing, null_text
from keras_mdm.export.inputs import NEGATIVE, PROMPT, TEXT, Specs
from keras_mdm.sampling.low_res_noise import LEAST

DEFAULT, SIMPLE, SCALARS = "serving_default", "simple", "scalars"
EMBEDDINGS, LABELS, DENOISE, PREVIEW = "embeddings", "labels", "denoise", "sample_"


class Exported(tf.Module):
    """Holds the variables that the graphs read, and the graphs by the name of their signature.

    Args:
        drawing: what is fixed. It is no part of what is written, and so are the models in it.
        previews: names of levels that are drawn without those above.
        denoiser: whether the network alone is a signature, too.
        encoder: the text encoder as a graph, if there is one.
        defaults: `steps` and `guidance_scale` of the simple signature.
    """

    def __init__(
        self,
        drawing: Drawing,
        *,
        previews: tuple[str, ...],
        denoiser: bool,
        encoder: tf.Module | None,
        defaults: Mapping[str, Any],
    ):
        super().__init__()
        self._drawing, self.defaults = drawing, dict(defaults)
        self.least_steps = drawing.least_steps
        self._with_denoiser = denoiser
        self.encoder = encoder  # tracked for its weights
        if encoder is not None:
            texts = tf.TensorSpec((None,), tf.string)
            self._encode = tf.function(encoder.__call__, autograph=False).get_concrete_function(
                texts
            )
        held: list[Any] = []
        for stage, plan in zip(drawing.stages, drawing.plans, strict=True):
            held += stage.averages.held(plan.weights)
            held += [*stage.residual_std.values(), *stage.null_condition.values()]
        held += getattr(drawing.codec, "weights", [])
        # Variables that the graphs read must be tracked, or they would not be written.
        self.held = [variable.value for variable in held]
        self._all = named.conditions_of(drawing.stages[0])
        core = self._core(drawing)
        top = list(drawing.names[-1].values())[-1]
        cores = {
            level: core if level == top else self._core(drawing.preview(level))
            for level in previews
        }
        self.graphs = dict(self._made(core, cores))

    def _made(self, core: Callable, previews: Mapping[str, Callable]) -> Iterator[tuple[str, Any]]:
        """(name, graph) of every signature."""
        conditions, guided = self._all, self._drawing.guided
        others = {k: v for k, v in conditions.items() if k not in TEXT}
        rows = named.amounts(self._drawing, guided=guided, rows=True)
        texts = named.prompts() if self.encoder is not None else {}
        if not guided:
            texts.pop(NEGATIVE, None)
        asked = {**texts, **others, **rows} if texts else {**conditions, **rows}
        yield DEFAULT, self._graph(core, asked)
        if set(TEXT) & set(conditions):
            yield EMBEDDINGS, self._graph(core, {**conditions, **rows})
        if "label" in conditions:
            yield LABELS, self._graph(core, {**others, **rows})
        least = {k: v for k, v in asked.items() if k in (*TEXT, PROMPT, "label", LOW_RES)}
        yield SIMPLE, self._graph(core, least or {"seed": rows["seed"]})
        for level, made in previews.items():
            yield f"{PREVIEW}{level}", self._graph(made, asked)
        scalars = named.amounts(self._drawing, guided=True, rows=False)
        number = {"num_images": tf.TensorSpec((), tf.int32, name="num_images")}
        yield SCALARS, self._graph(core, {**(conditions or number), **scalars})
        if self._with_denoiser:
            yield DENOISE, self._denoiser()

    def _core(self, drawing: Drawing) -> Callable:
        """The drawing of some levels as a graph, which signatures share."""
        vector = lambda dtype: tf.TensorSpec((None,), dtype)  # noqa: E731
        texts = {k: v for k, v in self._all.items() if k in TEXT[:2]}
        return tf.function(drawing.__call__, autograph=False).get_concrete_function(
            dict(self._all),
            texts if drawing.guided else {},
            vector(tf.float32),
            vector(tf.int64),
            vector(tf.int64),
            tf.TensorSpec((), tf.int32),
            tf.TensorSpec((), tf.int32),
        )

    def _graph(self, core: Callable, specs: Specs) -> Any:
        """A signature: checks, prompts to states, defaults for what is not asked, the drawing."""
        drawing = self._drawing

        def serve(**given: Any) -> dict[str, tf.Tensor]:
            given = self._checked(given)
            count = given.pop("num_images", None)
            if count is None:
                by_row = next(value for value in given.values() if len(value.shape))
                count = tf.shape(by_row)[0]
            conditions, away = self._conditions(given, count)
            seed = given.get("seed", tf.constant(0, tf.int64))
            whole = len(seed.shape) == 0 and "steps" in given  # picture i of one seed
            samples = tf.range(tf.cast(count, tf.int64)) if whole else tf.zeros([count], tf.int64)
            scale = given.get("guidance_scale", self.defaults["guidance_scale"])
            steps = given.get("steps", tf.constant(self.defaults["steps"], tf.int32))
            noise = given.get(LOW_RES_NOISE, tf.constant(LEAST, tf.int32))
            return core(
                conditions,
                away if drawing.guided else {},
                tf.broadcast_to(tf.cast(scale, tf.float32), [count]),
                tf.broadcast_to(seed, [count]),
                samples,
                tf.reshape(steps, [-1])[0],
                tf.reshape(noise, [-1])[0],
            )

        return tf.function(serve, autograph=False).get_concrete_function(**specs)

    def _checked(self, given: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        counts = [count for count in self._drawing.counts.values() if count is not None]
        needed = named.requirements(given, self._drawing, max(counts, default=None))
        with tf.control_dependencies(list(needed)):
            return {name: tf.identity(value) for name, value in given.items()}

    def _conditions(
        self, given: Mapping[str, tf.Tensor], count: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """All conditions of the network, and the text to guide away from."""
        model, found = self._drawing.stages[0], {k: v for k, v in given.items() if k in self._all}
        if PROMPT in given:
            found |= dict(zip(TEXT, self._encode(given[PROMPT]), strict=False))
        if "text" in self._all and "text" not in found:
            found |= null_text(model, count, tf.constant(1))
        if "pooled" in self._all and "pooled" not in found:
            null = tf.convert_to_tensor(model.null_condition["pooled"])
            found["pooled"] = tf.repeat(null[None], count, axis=0)
        if "label" in self._all and "label" not in found:
            found["label"] = tf.fill([count], -1)
        for name in self._all:  # what is left are micro-conditions, of which NaN is the default
            if name not in found:
                found[name] = tf.fill([count], float("nan"))
        away = {}
        if "text" in self._all:
            away = null_text(model, count, tf.shape(found["text"])[1])
            if NEGATIVE in given:
                away = self._negative(given[NEGATIVE], away)
        return {name: found[name] for name in self._all}, away

    def _negative(self, texts: tf.Tensor, null: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """States of negative prompts; an empty one is no prompt."""
        empty = tf.equal(texts, "")

        def encoded() -> tuple[tf.Tensor, tf.Tensor]:
            text, mask = self._encode(texts)
            text, mask = pad_tokens(text, mask, tf.shape(null["text"])[1])
            none = pad_tokens(null["text"], null["text_mask"], tf.shape(text)[1])
            text = tf.where(empty[:, None, None], none[0], text)
            return text, tf.where(empty[:, None], none[1], mask)

        plain = lambda: (tf.identity(null["text"]), tf.identity(null["text_mask"]))  # noqa: E731
        text, mask = tf.cond(tf.reduce_all(empty), plain, encoded)
        return {
            "text": tf.ensure_shape(text, (None, None, null["text"].shape[-1])),
            "text_mask": tf.ensure_shape(mask, (None, None)),
        }

    def _denoiser(self) -> Any:
        """The network alone: noisy levels and times to estimates, not guided, not clipped."""
        (model,), (plan,) = self._drawing.stages, self._drawing.plans
        process, spec = model.process, model.unet.spec

        def denoise(**given: Any) -> dict[str, tf.Tensor]:
            given = self._checked(given)
            x = {level: given[f"x_{level}"] for level in process.levels}
            conditions = cast_conditions(given, spec)
            schedule = process.schedules[process.levels[0]]
            time = tf.cast(schedule.time(given["t"]), tf.float32)
            network = model.network(plan.weights)
            outputs = network({**network_inputs(process, x, conditions), "time": time})
            _, x0 = process.predictions(outputs, x, given["t"], model.residual_std)
            return dict(process.multiplied(x0))

        specs = {**named.noisy(model), **self._all}
        return tf.function(denoise, autograph=False).get_concrete_function(**specs)
