"""A model of codes with its codec: together they draw pictures."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.backends import require_tensorflow
from keras_mdm.files import write_atomically
from keras_mdm.latents.codecs import Codec, check_codec, to_pictures
from keras_mdm.levels import LevelShape
from keras_mdm.pictures.pixels import PICTURE_CHANNELS
from keras_mdm.sampling.options import Options
from keras_mdm.sampling.starting import as_pictures
from keras_mdm.stages import levels_of, without_optimizers
from keras_mdm.training import front_door
from keras_mdm.training.diffusion_model import MatryoshkaDiffusion

# Options of `generate` that are about codes; for these, call the model and decode what it returns.
_OF_CODES = {"output", "return_steps", "callback", "noise", "mask", "hold", "stop_at"}
_OF_CODES |= {"reconstruction", "low_res", "low_res_noise"}
OPTIONS = frozenset(field.name for field in dataclasses.fields(Options)) - _OF_CODES


@keras.saving.register_keras_serializable("keras_mdm")
class LatentDiffusion(keras.Model):
    """A diffusion model of codes and the codec of these codes, which draw pictures as one model.

    This is the baseline that the paper calls latent DM. Both are trained alone, first the codec.
    `save` writes them into one `.keras` file, which `keras_mdm.load` and the command line take like
    a model; so do `export_saved_model` and `evaluation.evaluate`. Averages and text encoder are
    those of the diffusion model.

    Args:
        diffusion: the model of codes; its threshold should be "none", since codes have no range.
        codec: a `KLAutoencoder` or another `Codec`, the one that its codes come from.
        name: name of the model.

    Raises:
        ValueError: if the codec has other channels than the model, or draws what is no picture.

    Example:

    >>> codec = SpaceToDepth(2)
    >>> level = LevelSpec(8, channels=(32,))
    >>> unet = build_nested_unet([level], num_classes=4, in_channels=12, out_channels=12)
    >>> latent = LatentDiffusion(MatryoshkaDiffusion(unet, threshold="none"), codec)
    >>> pictures = latent.generate(labels=[1, 2], steps=2)
    >>> {level: value.shape for level, value in pictures.items()}
    {'16': (2, 16, 16, 3)}

    Reference: Rombach et al. 2022 (arXiv 2112.10752); Gu et al. 2023 (arXiv 2310.15111), section
    4.1 and appendix D.2.
    """

    def __init__(
        self, diffusion: MatryoshkaDiffusion, codec: Codec, *, name: str = "latent_diffusion"
    ):
        require_tensorflow(type(self).__name__)
        if not isinstance(diffusion, MatryoshkaDiffusion):
            raise checks.error(
                "`diffusion` must be a MatryoshkaDiffusion",
                fix="pass the diffusion model of codes, such as keras_mdm.load returns",
                diffusion=type(diffusion).__name__,
            )
        check_codec(codec, diffusion)
        channels = getattr(codec, "image_channels", 3)
        if channels not in PICTURE_CHANNELS:
            raise checks.error(
                "the codec must make pictures of 1, 3 or 4 channels",
                fix="pass the codec of the pictures",
                image_channels=channels,
            )
        super().__init__(name=name)
        self.diffusion, self.codec = diffusion, codec
        self.built = True

    @property
    def stages(self) -> tuple[MatryoshkaDiffusion]:
        """The diffusion model."""
        return (self.diffusion,)

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the levels that `generate` returns, ascending: sizes of pictures, not codes."""
        return levels_of(self)

    def generate(
        self,
        prompts: Sequence[str] | Mapping[str, Any] | None = None,
        *,
        batch_size: int = 32,
        dry_run: bool = False,
        **options: Any,
    ) -> dict[str, np.ndarray]:
        """Draw codes and decode them.

        Args:
            prompts: as in `MatryoshkaDiffusion.generate`.
            batch_size: number of pictures drawn and decoded at a time.
            dry_run: check all arguments and draw nothing.
            **options: further options of `MatryoshkaDiffusion.generate`, such as `labels`, `steps`,
                `guidance_scale` or `seed`; values by level name use the names of the pictures. An
                `init_image` is encoded first. What is about codes themselves, such as `noise` and
                `mask`, is not among them: call `diffusion.generate(output="float32")` and
                `codec.decode`.

        Returns:
            dict by level name of uint8 `(B, H, W, C)`; empty with `dry_run`.

        Raises:
            ValueError: before anything is drawn, as `MatryoshkaDiffusion.generate`, or for an
                option that is not one of these.

        Example:

        >>> latent.generate(["a red apple"], steps=50, guidance_scale=4.0)  # doctest: +SKIP
        """
        checks.known_keys("generate", options, OPTIONS)
        checks.integer("batch_size", batch_size, minimum=1)
        names = dict(zip(self.levels, self.diffusion.unet.levels, strict=True))
        for option in ("guidance_scale", "outer_steps"):
            given = options.get(option)
            if isinstance(given, Mapping):
                checks.known_keys(option, given, self.levels)
                options[option] = {names[level]: value for level, value in given.items()}
        if options.get("init_image") is not None:
            options["init_image"] = self._encoded(options["init_image"], batch_size, dry_run)
        options |= {"batch_size": batch_size, "dry_run": dry_run, "output": "float32"}
        getattr(self.codec, "check_scale", lambda: None)()
        codes = self.diffusion.generate(prompts, **options)
        if dry_run:
            return {}
        return {level: self._decoded(codes[name], batch_size) for level, name in names.items()}

    def _decoded(self, codes: np.ndarray, batch_size: int) -> np.ndarray:
        parts = range(0, len(codes), batch_size)
        return np.concatenate(
            [to_pictures(self.codec, codes[first : first + batch_size]) for first in parts]
        )

    def _encoded(self, images: Any, batch_size: int, blank: bool) -> np.ndarray:
        """Codes of pictures to change, one for all or one each; zeros if `blank`."""
        images, shape = np.asarray(images), LevelShape.parse(self.levels[-1])
        channels = getattr(self.codec, "image_channels", 3)
        alone = images.ndim == (3 if shape.frames is None else 4)
        count = 1 if alone else len(images)
        # Resized first: a codec sees neighbourhoods, and may need memory like their number squared.
        pictures = as_pictures("init_image", images, shape, channels, count, ranged=True)
        if blank:
            level = self.diffusion.unet.spec.levels[-1]
            codes = np.zeros((count, *level.input_shape(self.diffusion.unet.spec.out_channels)))
        else:
            frames = tf.reshape(pictures, (-1, *pictures.shape[-3:]))  # of all clips
            parts = range(0, len(frames), batch_size)
            codes = np.concatenate(
                [np.asarray(self.codec.encode(frames[i : i + batch_size])) for i in parts]
            )
            codes = codes.reshape((*pictures.shape[:-3], *codes.shape[1:]))
        return codes[0] if alone else codes

    @property
    def text_encoder(self) -> Any:
        """The text encoder, or `None`; assign one to use prompts after loading."""
        return self.diffusion.text_encoder

    @text_encoder.setter
    def text_encoder(self, encoder: Any) -> None:
        self.diffusion.text_encoder = encoder

    @property
    def text_encoder_identity(self) -> dict[str, Any] | None:
        """Identity of the encoder that the model had first."""
        return self.diffusion.text_encoder_identity

    export = front_door.export
    save_preset = front_door.save_preset
    from_preset: Any = classmethod(front_door.from_preset)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Refused: codec and model are trained one by one."""
        raise checks.error(
            "the codec and the model of codes are trained one by one",
            fix="compile and fit both, and put them together afterwards",
            compile=self.name,
        )

    def save(self, filepath: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.save`; the file is complete or absent.

        Args:
            filepath: ends in ".keras".

        Raises:
            ValueError: if the codec is of a class that a file cannot name.
        """
        cls, wanted = type(self.codec), ("get_config", "from_config")
        name = keras.saving.get_registered_name(cls)
        known = keras.saving.get_registered_object(name) is cls
        if not known or not all(hasattr(cls, method) for method in wanted):
            raise checks.error(
                "a codec in a file must be registered with Keras, and have get_config and "
                "from_config; its weights are saved if it is a Keras layer or model",
                fix="decorate its class with @keras.saving.register_keras_serializable()",
                codec=cls.__name__,
            )
        write = super().save
        with without_optimizers(self):
            write_atomically(os.fspath(filepath), lambda path: write(path, *args, **kwargs))

    def get_config(self) -> dict[str, Any]:
        """Model, codec and name; optimizers are not part of it."""
        saved = [keras.saving.serialize_keras_object(one) for one in (self.diffusion, self.codec)]
        for config in saved:
            config.pop("compile_config", None)
        return {"diffusion": saved[0], "codec": saved[1], "name": self.name}

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Any = None
    ) -> "LatentDiffusion":
        """Make both again; the weights come from the file."""
        diffusion, codec = (
            keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("diffusion", "codec")
        )
        return cls(diffusion, codec, name=config["name"])
