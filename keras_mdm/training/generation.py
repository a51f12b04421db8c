"""`generate`: from prompts, labels or tensors to pictures at every level."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_mdm import checks
from keras_mdm.models.recompute import no_recompute
from keras_mdm.training import checkpoints
from keras_mdm.training.conditions import NO_CLASS, cast_conditions, condition_names, unconditional
from keras_mdm.training.sampling import (
    SamplingPlan,
    make_denoiser,
    run_steps,
    start_noise,
    to_uint8,
)

# Keyword defaults by name of a way of sampling.
SAMPLING = {
    "default": {"steps": 50, "sampler": "ddim"},
    # Appendix C: 250 steps of standard DDPM sampling, dynamic thresholding.
    "paper": {"steps": 250, "sampler": "ddpm", "threshold": "dynamic"},
}
GUIDANCE_SCALE = 4.0


class GenerationMixin:
    """Sampling of a `MatryoshkaDiffusion`; needs its `unet`, `process`, `ema` and `threshold`."""

    def network(self, weights: str = "ema") -> Callable[[Mapping[str, Any]], dict]:
        """Return the network as a function, with averaged or raw weights.

        Nothing is swapped: the averages are used for the time of the call.

        Args:
            weights: `"ema"`, `"raw"`, or a power-function average such as `"ema_0.05"`.

        Returns:
            function (inputs) -> outputs by level name, without training behaviour.

        Raises:
            ValueError: if the model has no such weights.
        """
        if self._known_weights(weights) == "raw":
            return self._infer
        ema = self.ema if weights == "ema" else self.power_emas[weights]

        def averaged(inputs):
            pairs = zip(ema.variables, ema.averages, strict=True)
            mapping = [(variable, average.value) for variable, average in pairs]
            # Nothing is made in here, so nothing has to be filled when it ends.
            with keras.StatelessScope(state_mapping=mapping, initialize_variables=False):
                return self._infer(inputs)

        return averaged

    def _infer(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        with no_recompute():
            return self.bounded(self.unet(inputs, training=False))

    def _known_weights(self, weights: Any) -> str:
        return checks.one_of("weights", weights, ("ema", "raw", *self.power_emas))

    def set_average(self, arrays: Mapping[str, Any]) -> None:
        """Replace the averaged weights, for example by what `power_ema.reconstruct` returned.

        Args:
            arrays: {variable path: array} of all trainable variables of the network.

        Raises:
            ValueError: naming all paths that are missing or unexpected and all shapes that differ.
        """
        averages = {v.path: a for v, a in zip(self.ema.variables, self.ema.averages, strict=True)}
        checkpoints.assign(averages, arrays, what="averages")

    def bounded(self, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Bound the network's outputs smoothly to +-`output_limit`, if there is one."""
        limit = self.output_limit
        if not limit:
            return outputs
        return {
            name: limit * tf.tanh(tf.cast(value, tf.float32) / limit)
            for name, value in outputs.items()
        }

    def generate(
        self,
        prompts: Sequence[str] | Mapping[str, Any] | None = None,
        *,
        labels: Sequence[int] | None = None,
        num_images: int | None = None,
        sampling: str = "default",
        steps: int | None = None,
        sampler: str | None = None,
        eta: float = 0.0,
        guidance_scale: float | Mapping[str, float] | None = None,
        threshold: str | None = None,
        grid: str = "uniform",
        seed: int = 0,
        weights: str = "ema",
        batch_size: int = 32,
        progress: bool = True,
    ) -> dict[str, np.ndarray]:
        """Draw pictures or clips at all levels together.

        Args:
            prompts: texts, one picture each; or a dict of tensors with the conditions of the
                network (`text`, `text_mask`, `label`, micro-conditions).
            labels: classes, one picture each; -1 for none.
            num_images: how many pictures to draw without any condition.
            sampling: `"default"` (DDIM, 50 steps) or `"paper"` (DDPM, 250 steps, dynamic
                threshold).
            steps: number of steps, at most that of the training schedule.
            sampler: `"ddim"` or `"ddpm"`.
            eta: share of fresh noise of DDIM.
            guidance_scale: w of classifier-free guidance; 1 is the conditional model, 0 the
                unconditional one. 4 unless given. A dict gives every level its own, 1 for levels
                that are missing; a number is spread by the model's `guidance_shares`.
            threshold: `"dynamic"`, `"dynamic_if"`, `"static"` or `"none"`; the model's own unless
                given.
            grid: `"uniform"` or `"release"`.
            seed: equal seeds give equal pictures; picture i does not depend on the others.
            weights: `"ema"`, `"raw"`, or a power-function average such as `"ema_0.05"`.
            batch_size: pictures drawn at a time.
            progress: show a progress bar.

        Returns:
            dict by level name of uint8 `(B, H, W, C)`, or `(B, T, H, W, C)` for clips.

        Raises:
            ValueError: if an argument is out of range, or a condition is missing or does not fit.

        Example:

        >>> images = model.generate(["a red apple"], steps=50, guidance_scale=4.0, seed=0)
        >>> images["64"].shape
        (1, 64, 64, 3)

        Reference: Gu et al. 2023 (arXiv 2310.15111), appendix C.
        """
        defaults = SAMPLING[checks.one_of("sampling", sampling, tuple(SAMPLING))]
        steps = defaults["steps"] if steps is None else checks.integer("steps", steps, minimum=1)
        limit = self.process.schedules[self.unet.levels[0]].num_steps
        if steps > limit:
            raise checks.error(
                f"`steps` must be at most {limit}, the steps of the training schedule",
                fix=f"pass steps={limit} or fewer",
                steps=steps,
            )
        seed = checks.seed(seed)
        batch_size = checks.integer("batch_size", batch_size, minimum=1)
        conditional = bool(condition_names(self.unet.spec))
        if guidance_scale is None:
            guidance_scale = GUIDANCE_SCALE if conditional else 1.0
        shares = self.guidance_shares
        if isinstance(guidance_scale, Mapping):
            guidance_scale, shares = self._spread(guidance_scale)
        guidance_scale = checks.real("guidance_scale", guidance_scale, minimum=0.0)
        if not conditional and guidance_scale != 1.0:
            raise checks.error(
                "guidance needs a conditional network",
                fix="leave guidance_scale out",
                guidance_scale=guidance_scale,
            )
        plan = SamplingPlan(
            sampler=sampler or defaults["sampler"],
            eta=eta,
            grid=grid,
            threshold=threshold or defaults.get("threshold", self.threshold),
            guided=guidance_scale != 1.0,
            weights=self._known_weights(weights),
            shares=tuple(sorted(shares.items())),
        ).check()
        self.check_ready()
        count, conditions = self._conditions(prompts, labels, num_images)
        start, run = self._sampling_functions(plan)
        stretch = max(1, steps // 25) if progress else steps
        pieces = []
        with tqdm(
            total=steps * -(-count // batch_size),
            desc="sampling",
            unit="step",
            disable=None if progress else True,  # None: only on a terminal
        ) as bar:
            for first in range(0, count, batch_size):
                samples = tf.range(first, min(first + batch_size, count), dtype=tf.int64)
                rows = {
                    name: tf.convert_to_tensor(value[first : first + batch_size])
                    for name, value in conditions.items()
                }
                x = start(tf.constant(seed, tf.int64), samples)
                for begin in range(0, steps, stretch):
                    end = min(begin + stretch, steps)
                    x = run(
                        x,
                        rows,
                        tf.constant(guidance_scale, tf.float32),
                        tf.constant(seed, tf.int64),
                        samples,
                        *(tf.constant(value, tf.int32) for value in (steps, begin, end)),
                    )
                    bar.update(end - begin)
                pictures = to_uint8(self.process.multiplied(x))
                pieces.append({name: value.numpy() for name, value in pictures.items()})
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def _spread(self, scales: Mapping[str, float]) -> tuple[float, dict[str, float]]:
        """Turn scales by level into one scale and every level's share of it."""
        checks.known_keys("guidance_scale", scales, self.unet.levels)
        scales = {
            level: checks.real(f"guidance_scale[{level!r}]", scales.get(level, 1.0), minimum=0.0)
            for level in self.unet.levels
        }
        most = max(scales.values(), key=lambda scale: abs(scale - 1.0))
        if most == 1.0:
            return 1.0, {}
        return most, {level: (scale - 1.0) / (most - 1.0) for level, scale in scales.items()}

    def _sampling_functions(self, plan: SamplingPlan) -> tuple[Any, Any]:
        """Traced functions of a plan: start noise, and a stretch of steps. Kept."""
        known = self.__dict__.setdefault("_sampling_cache", {})
        if plan not in known:
            channels = self.unet.spec.in_channels

            @tf.function(reduce_retracing=True, autograph=False)
            def start(seed, samples):
                return start_noise(self.process, channels, seed, samples)

            @tf.function(reduce_retracing=True, autograph=False)
            def run(x, conditions, guidance_scale, seed, samples, steps, start, stop):
                return self.sample_stretch(
                    plan, x, conditions, guidance_scale, seed, samples, steps, start, stop
                )

            known[plan] = (start, run)
        return known[plan]

    def sample_stretch(
        self, plan, x, conditions, guidance_scale, seed, samples, steps, start, stop
    ) -> dict[str, tf.Tensor]:
        """Trace steps `start` to `stop`; the body of `generate` and of the exported model.

        Args:
            plan: the static choices.
            x: `(B, [T,] H, W, C)` by level name.
            conditions: conditions of every row.
            guidance_scale: scalar float32.
            seed: scalar int64.
            samples: `(B,)` int64.
            steps: scalar int32, as are `start` and `stop`.
            start: see `steps`.
            stop: see `steps`.

        Returns:
            x at the end, by level name.
        """
        conditions = cast_conditions(conditions, self.unet.spec)
        without = unconditional(conditions, self._null) if plan.guided else None
        denoise = make_denoiser(
            self.network(plan.weights),
            self.process,
            conditions,
            without,
            guidance_scale,
            plan.threshold,
            self.residual_std,
            dict(plan.shares),
        )
        return run_steps(
            plan,
            self.process,
            denoise,
            x,
            seed=seed,
            samples=samples,
            steps=steps,
            start=start,
            stop=stop,
        )

    # Conditions

    @property
    def text_encoder(self) -> Any:
        """The text encoder, or `None`; assign one to use prompts after loading a model."""
        return self.__dict__.get("_encoder")

    @text_encoder.setter
    def text_encoder(self, encoder: Any) -> None:
        if encoder is not None and encoder.width != self.unet.spec.text_width:
            raise checks.error(
                f"the text encoder must have the width {self.unet.spec.text_width}",
                fix="use the encoder that the network was built for",
                width=encoder.width,
            )
        if encoder is not None and self._encoder_identity is None:
            self._encoder_identity = getattr(encoder, "identity", None)
            if self._null and not np.any(self._null["text"]):
                warnings.warn(
                    "the model was made without a text encoder: guidance compares with a token of "
                    "zeros, not with the empty prompt. Pass text_encoder when making the model",
                    stacklevel=2,
                )
        # Past Keras' tracking: the encoder is never a part of the model or of its file.
        self.__dict__["_encoder"] = encoder

    @property
    def text_encoder_identity(self) -> dict[str, Any] | None:
        """Identity of the encoder that the model was made with, or was given first."""
        return self._encoder_identity

    def _conditions(self, prompts: Any, labels: Any, num_images: int | None):
        """Number of pictures, and the conditions of all of them as arrays."""
        names = condition_names(self.unet.spec)
        given = {"prompts": prompts, "labels": labels, "num_images": num_images}
        if isinstance(prompts, str):
            raise checks.error(
                "`prompts` must be a list of texts", fix=f"pass [{prompts!r}]", prompts=prompts
            )
        if isinstance(prompts, Mapping):
            checks.known_keys("prompts", prompts, names)
            conditions = {name: np.asarray(value) for name, value in prompts.items()}
        elif prompts is not None:
            if "text" not in names:
                raise checks.error(
                    "prompts need a network with text",
                    fix="pass labels or num_images",
                    prompts=prompts,
                )
            conditions = dict(zip(("text", "text_mask"), self._encode(prompts), strict=True))
        else:
            conditions = {}
        labels = conditions.get("label") if labels is None else labels
        if labels is not None:
            conditions["label"] = self._check_labels(labels)
        counts = {name: len(value) for name, value in conditions.items()}
        if num_images is not None:
            counts["num_images"] = checks.integer("num_images", num_images, minimum=1)
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise checks.error(
                "the conditions must be given for one number of pictures, at least one",
                fix="pass prompts, labels or num_images",
                counts=counts or given,
            )
        count = next(iter(counts.values()))
        if "label" in names and "label" not in conditions:
            conditions["label"] = np.full(count, NO_CLASS, "int32")
        if "text" in names and "text" not in conditions:
            null = self._null
            conditions["text"] = np.repeat(np.asarray(null["text"])[None], count, axis=0)
            conditions["text_mask"] = np.repeat(np.asarray(null["text_mask"])[None], count, axis=0)
        cast_conditions({k: tf.convert_to_tensor(v) for k, v in conditions.items()}, self.unet.spec)
        return count, conditions

    def _check_labels(self, labels: Any) -> np.ndarray:
        classes = self.unet.spec.num_classes
        if classes is None:
            raise checks.error(
                "labels need a class-conditional network", fix="pass prompts", labels=labels
            )
        labels = np.asarray(labels)
        fits = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
        if not fits or (labels.size and (labels.min() < NO_CLASS or labels.max() >= classes)):
            raise checks.error(
                f"`labels` must be integers from -1 to {classes - 1}",
                fix="pass one class for every picture",
                labels=labels.tolist(),
            )
        return labels.astype("int32")

    def _encode(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        prompts = list(prompts) if isinstance(prompts, Iterable) else prompts
        texts = isinstance(prompts, list) and all(isinstance(prompt, str) for prompt in prompts)
        if not texts or not prompts:
            raise checks.error(
                "`prompts` must be a non-empty list of texts",
                fix='pass for example ["a red apple"]',
                prompts=prompts,
            )
        if self.text_encoder is None:
            self.text_encoder = self._restore_encoder()
        return self.text_encoder.encode(prompts)

    def _restore_encoder(self) -> Any:
        """The encoder whose identity the model was saved with, if it is cached."""
        from keras_mdm import text  # only prompts need it

        if self._encoder_identity is None:
            raise checks.error(
                "prompts need a text encoder, and this model was made without one",
                fix="pass text_encoder when making the model (keras-mdm import: "
                "--text-encoder DIR), or prompts as {'text': ..., 'text_mask': ...}",
                text_encoder=None,
            )
        return text.from_identity(self._encoder_identity)
