"""Cascaded diffusion: a model of small pictures, and an upsampler that enlarges what it draws."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_mdm import checks
from keras_mdm.backends import require_tensorflow
from keras_mdm.conditioning.low_res import LOW_RES, low_res_channels, micro_conditions
from keras_mdm.files import write_atomically
from keras_mdm.levels import LevelShape
from keras_mdm.pictures.pixels import PICTURE_CHANNELS
from keras_mdm.sampling.options import Options
from keras_mdm.sampling.starting import seeds_of
from keras_mdm.stages import is_larger, levels_of, seed_of_stage, without_optimizers
from keras_mdm.training import front_door
from keras_mdm.training.diffusion_model import MatryoshkaDiffusion

_ALL = frozenset(field.name for field in dataclasses.fields(Options))
# Options of `generate` that are the cascade's own, or would change what passes between its stages.
_OWN = {"prompts", "labels", "num_images", "num_images_per_prompt", "micro", LOW_RES}
_OWN |= {"low_res_noise", "seed", "batch_size", "progress", "dry_run"}
_OWN |= {"output", "return_steps", "stop_at"}
STAGE_OPTIONS = _ALL - _OWN
# Of these, what belongs to one stage: its sizes or its network.
_OF_ONE = {"autoguidance", "noise", "init_image", "strength", "mask", "hold", "reconstruction"}
_OF_ONE |= {"outer_steps"}
SHARED_OPTIONS = STAGE_OPTIONS - _OF_ONE - {"callback"}


@keras.saving.register_keras_serializable("keras_mdm")
class Cascade(keras.Model):
    """Two diffusion models that draw as one: small pictures, and an upsampler that enlarges them.

    Both are trained alone, the upsampler on pictures with their small versions as `low_res`. This
    is the baseline that the paper compares with. `save` writes both into one `.keras` file, which
    `keras_mdm.load` and the command line take like a model; so do `export_saved_model` and
    `evaluation.evaluate`. Averages and text encoders are those of the models.

    Args:
        low: a model that sees no picture. May have several levels; the highest is enlarged.
        high: the upsampler, with the same conditions and more in_channels than out_channels. With
            a micro-condition `low_res_noise` it is told how noisy its small pictures are, see
            `MatryoshkaDiffusion`.
        name: name of the model.

    Raises:
        ValueError: if the two do not fit each other.

    Example:

    >>> inner = LevelSpec(8, channels=(32,))
    >>> low = MatryoshkaDiffusion(build_nested_unet([inner], num_classes=10))
    >>> large = LevelSpec(16, channels=(32, 32), micro_conditions={"low_res_noise": 0.0})
    >>> unet = build_nested_unet([large], num_classes=10, in_channels=6)
    >>> cascade = Cascade(low, MatryoshkaDiffusion(unet))
    >>> pictures = cascade.generate(labels=[1, 2], low_res_noise=500, steps=2)
    >>> {level: value.shape for level, value in pictures.items()}
    {'8': (2, 8, 8, 3), '16': (2, 16, 16, 3)}

    Reference: Ho et al. 2021 (arXiv 2106.15282); Gu et al. 2023 (arXiv 2310.15111), appendix D.1.
    """

    def __init__(
        self, low: MatryoshkaDiffusion, high: MatryoshkaDiffusion, *, name: str = "cascade"
    ):
        require_tensorflow(type(self).__name__)
        _check_fit(low, high)
        super().__init__(name=name)
        self.low, self.high = low, high
        self.built = True

    @property
    def stages(self) -> tuple[MatryoshkaDiffusion, MatryoshkaDiffusion]:
        """Both models, in the order in which they draw."""
        return self.low, self.high

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the levels that `generate` returns, ascending."""
        return levels_of(self)

    def generate(
        self,
        prompts: Sequence[str] | Mapping[str, Any] | None = None,
        *,
        labels: Sequence[int] | None = None,
        num_images: int | None = None,
        num_images_per_prompt: int = 1,
        micro: Mapping[str, Any] | None = None,
        low_res_noise: int | None = None,
        low: Mapping[str, Any] | None = None,
        high: Mapping[str, Any] | None = None,
        seed: int | Sequence[int] = 0,
        batch_size: int = 32,
        progress: bool = True,
        dry_run: bool = False,
        **shared: Any,
    ) -> dict[str, np.ndarray]:
        """Draw pictures with both models, one after the other.

        Arguments that are not listed are those of `MatryoshkaDiffusion.generate`.

        Args:
            low_res_noise: how much noise the small pictures get before they are enlarged, as an
                index into the table of the training schedule. The paper tries 1, 100, 500, 700 and
                1000 of 1000, and finds 500 or 700 best: the more noise, the less the upsampler
                relies on details that the low model gets wrong.
            low: options of `generate` for the low model alone, such as `{"steps": 50}`.
            high: likewise for the upsampler.
            seed: as in `MatryoshkaDiffusion.generate`; the noise of both models follows from it.
            **shared: further options of `generate` for both models, such as `steps`, `sampler`,
                `guidance_scale` or `weights`. `low` and `high` take precedence. Scales by level
                name go to the model of the level.

        Returns:
            dict by level name of uint8 `(B, H, W, C)`, or `(B, T, H, W, C)` for clips, of all
            levels of the low model and the larger ones of the upsampler; empty with `dry_run`.

        Raises:
            ValueError: before anything is drawn, as `MatryoshkaDiffusion.generate`, or if an
                option is not one of the stages.

        Example:

        >>> cascade.generate(
        ...     ["a red apple"], low_res_noise=500, guidance_scale=4.0, high={"steps": 25}
        ... )  # doctest: +SKIP
        """
        options = self._options(shared, low, high)
        count, given = self.low.conditions_for(prompts, labels, num_images, micro)
        copies = checks.integer("num_images_per_prompt", num_images_per_prompt, minimum=1)
        given = {name: np.repeat(value, copies, axis=0) for name, value in given.items()}
        for each in options:
            if "negative_prompts" in each:
                each["negative_prompts"] = _repeated(each["negative_prompts"], copies)
        count *= copies
        seeds, _ = seeds_of(seed, count)
        for number, each in enumerate(options):
            own = seed_of_stage(seeds, number)
            each["seed"] = int(own[0]) if np.ndim(seed) == 0 else own.tolist()
            each |= {"batch_size": batch_size, "progress": progress}
        options[1]["low_res_noise"] = low_res_noise
        if not given:
            options[0]["num_images"] = count
        # All that can be wrong is found before the first picture.
        shape = LevelShape.parse(self.low.unet.levels[-1]).of_sample(
            self.low.unet.spec.out_channels
        )
        blank = {LOW_RES: np.zeros((count, *shape), "uint8")}
        self.low.generate(given or None, **options[0], dry_run=True)
        self.high.generate(given | blank, **options[1], dry_run=True)
        if dry_run:
            return {}
        drawn = self.low.generate(given or None, **options[0])
        seen = {LOW_RES: drawn[self.low.unet.levels[-1]]}
        drawn = self.high.generate(given | seen, **options[1]) | drawn
        return {level: drawn[level] for level in self.levels}

    def _options(
        self, shared: Mapping[str, Any], *own: Mapping[str, Any] | None
    ) -> list[dict[str, Any]]:
        """The options of both stages, of which `own` overrides `shared`."""
        checks.known_keys("generate", shared, SHARED_OPTIONS)
        found = []
        for name, stage, mine in zip(("low", "high"), self.stages, own, strict=True):
            checks.known_keys(name, mine or {}, STAGE_OPTIONS)
            options = {**shared, **(mine or {})}
            scale = shared.get("guidance_scale")
            if isinstance(scale, Mapping) and options["guidance_scale"] is scale:
                checks.known_keys("guidance_scale", scale, self.levels)
                levels = stage.unet.levels
                options["guidance_scale"] = {k: v for k, v in scale.items() if k in levels}
            found.append(options)
        return found

    @property
    def text_encoder(self) -> Any:
        """The text encoder of both models, or `None`; assign one to use prompts after loading."""
        return self.low.text_encoder

    @text_encoder.setter
    def text_encoder(self, encoder: Any) -> None:
        for stage in self.stages:
            stage.text_encoder = encoder

    @property
    def text_encoder_identity(self) -> dict[str, Any] | None:
        """Identity of the encoder that both models had first."""
        return self.low.text_encoder_identity

    export = front_door.export
    save_preset = front_door.save_preset
    from_preset: Any = classmethod(front_door.from_preset)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Refused: the models are trained one by one."""
        raise checks.error(
            "the models of a cascade are trained one by one",
            fix="compile and fit both, and make the cascade of them afterwards",
            compile=self.name,
        )

    def save(self, filepath: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.save`; the file is complete or absent.

        Args:
            filepath: ends in ".keras".
        """
        write = super().save
        with without_optimizers(self):
            write_atomically(os.fspath(filepath), lambda path: write(path, *args, **kwargs))

    def get_config(self) -> dict[str, Any]:
        """Both models and the name; optimizers are not part of a cascade."""
        saved = [keras.saving.serialize_keras_object(stage) for stage in self.stages]
        for config in saved:
            config.pop("compile_config", None)
        return {"low": saved[0], "high": saved[1], "name": self.name}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> "Cascade":
        """Rebuild both models; the weights come from the file."""
        low, high = (
            keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("low", "high")
        )
        return cls(low, high, name=config["name"])


def _repeated(negative: Any, copies: int) -> Any:
    """Negative prompts, repeated like the prompts; a single text is for all pictures."""
    if isinstance(negative, Mapping):
        return {name: _repeated(value, copies) for name, value in negative.items()}
    if negative is None or isinstance(negative, str):
        return negative
    if isinstance(negative, Sequence):
        return [each for each in negative for _ in range(copies)]
    return np.repeat(np.asarray(negative), copies, axis=0)


def _check_fit(low: Any, high: Any) -> None:
    """Raise unless an upsampler can enlarge what a model draws."""
    for name, model in (("low", low), ("high", high)):
        if not isinstance(model, MatryoshkaDiffusion):
            raise checks.error(
                f"`{name}` must be a MatryoshkaDiffusion",
                fix="pass the diffusion model, such as keras_mdm.load returns",
                **{name: type(model).__name__},
            )
    first, second = low.unet.spec, high.unet.spec
    if low_res_channels(first) or not low_res_channels(second):
        raise checks.error(
            f"`high` must see a picture `{LOW_RES}` beside the noisy one, and `low` must not",
            fix="build the network of `high` with in_channels = out_channels + channels of the "
            "pictures that `low` draws, and pass the models in this order",
            low=(first.in_channels, first.out_channels),
            high=(second.in_channels, second.out_channels),
        )
    channels = (first.out_channels, low_res_channels(second), second.out_channels)
    if len(set(channels)) > 1 or channels[0] not in PICTURE_CHANNELS:
        raise checks.error(
            f"`low` must draw pictures with as many channels as `high` sees and draws, one of "
            f"{PICTURE_CHANNELS}",
            fix="build `high` with out_channels = those of `low`, and in_channels = twice as many",
            drawn_by_low=channels[0],
            seen_by_high=channels[1],
            drawn_by_high=channels[2],
        )
    small, large = first.levels[-1].shape, second.levels[-1].shape
    same_aspect = small.height * large.width == large.height * small.width
    whole = not small.frames or (bool(large.frames) and large.frames % small.frames == 0)
    if not (is_larger(large, small) and same_aspect and whole):
        raise checks.error(
            "the highest level of `low` must be smaller than that of `high`, of the same aspect, "
            "with frames that divide those of `high`",
            fix="pass a model of smaller pictures and its upsampler, in this order",
            low=small.name,
            high=large.name,
        )
    mine, its = _conditions(low), _conditions(high)
    different = [name for name in mine if mine[name] != its[name]]
    if different:
        raise checks.error(
            "the models of a cascade must have the same conditions and the same text encoder",
            fix="train the upsampler with the conditions of the low model; a missing encoder is "
            "given by `high.text_encoder = low.text_encoder`",
            **{name: (mine[name], its[name]) for name in different},
        )


def _conditions(model: MatryoshkaDiffusion) -> dict[str, Any]:
    spec = model.unet.spec
    return {
        "num_classes": spec.num_classes,
        "text_width": spec.text_width,
        "pooled_width": spec.pooled_width,
        "micro_conditions": sorted(micro_conditions(spec)),
        "text_encoder": model.text_encoder_identity,
    }
