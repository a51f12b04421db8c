"""The autoencoder of keras-hub's Stable Diffusion as a codec."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.latents.codecs import _check_pictures
from keras_mdm.pictures import pixels


@keras.saving.register_keras_serializable("keras_mdm")
class HubAutoencoder(keras.Model):
    """The variational autoencoder inside keras-hub's Stable Diffusion 3, as a `Codec`.

    Codes are the mean of the posterior, shifted and scaled by the numbers that belong to the
    weights. The package keras-hub is imported only to read a preset or a file.

    Args:
        vae: a `VAEBackbone` of keras-hub, such as `.vae` of a `StableDiffusion3Backbone`, in
            channels-last format.
        scale: factor on codes; the backbone's own unless given.
        shift: subtracted from codes before; likewise.
        **kwargs: `name`.

    Raises:
        ValueError: if `vae` is something else, or has another format.

    Example:

    >>> codec = HubAutoencoder.from_preset("stable_diffusion_3_medium")  # doctest: +SKIP
    >>> codec.factor, codec.channels  # doctest: +SKIP
    (8, 16)

    Reference: Rombach et al. 2022 (arXiv 2112.10752); Esser et al. 2024 (arXiv 2403.03206).
    """

    def __init__(
        self, vae: Any, *, scale: float | None = None, shift: float | None = None, **kwargs: Any
    ):
        super().__init__(**{"name": "hub_autoencoder", **kwargs})
        parts = ("encoder", "decoder", "encoder_num_filters", "sample_channels", "scale", "shift")
        missing = [name for name in parts if not hasattr(vae, name)]
        if missing:
            raise checks.error(
                "`vae` must be a VAEBackbone of keras-hub",
                fix="pass backbone.vae of a keras_hub.models.StableDiffusion3Backbone",
                vae=type(vae).__name__,
                missing=missing,
            )
        if getattr(vae.encoder, "data_format", "channels_last") != "channels_last":
            raise checks.error(
                "the autoencoder must keep channels last",
                fix='load it with data_format="channels_last"',
                data_format=vae.encoder.data_format,
            )
        self.vae = vae
        self.factor = 2 ** (len(vae.encoder_num_filters) - 1)
        self.channels = vae.sample_channels // 2
        self.image_channels = vae.input_channels
        self.scale = checks.real("scale", vae.scale if scale is None else scale, minimum=1e-6)
        bound = 1e6
        self.shift = checks.real(
            "shift", vae.shift if shift is None else shift, minimum=-bound, maximum=bound
        )
        self.built = True

    @classmethod
    def from_preset(cls, preset: str, **options: Any) -> "HubAutoencoder":
        """Load a preset of keras-hub's Stable Diffusion 3, and keep its autoencoder.

        Args:
            preset: a name that `keras_hub.models.StableDiffusion3Backbone.presets` lists, or a
                folder. The whole model is read, as its autoencoder has no preset of its own.
            **options: of the backbone's `from_preset`, such as `dtype`.

        Raises:
            ValueError: if keras-hub is not installed.
        """
        try:
            from keras_hub.models import StableDiffusion3Backbone
        except ImportError as problem:
            raise checks.error(
                "the autoencoder of Stable Diffusion needs the package keras-hub",
                fix="pip install keras-hub",
                preset=preset,
                problem=str(problem),
            ) from problem
        return cls(StableDiffusion3Backbone.from_preset(preset, **options).vae)

    def encode(self, images: Any) -> tf.Tensor:
        """Return codes `(B, H / factor, W / factor, channels)` float32 of unit scale.

        Args:
            images: `(B, H, W, C)`, uint8 or in [-1, 1].

        Raises:
            ValueError: if the pictures do not fit.
        """
        images = tf.convert_to_tensor(images)
        _check_pictures(self, images.shape)
        images = pixels.to_unit(images) if images.dtype == tf.uint8 else images
        moments = self.vae.encoder(images, training=False)
        mean = tf.cast(tf.split(moments, 2, axis=-1)[0], tf.float32)
        return (mean - self.shift) * self.scale

    def decode(self, codes: Any) -> tf.Tensor:
        """Return pictures `(B, H, W, C)` float32 of codes of unit scale.

        Args:
            codes: `(B, H / factor, W / factor, channels)`.
        """
        codes = tf.cast(codes, tf.float32) / self.scale + self.shift
        return tf.cast(self.vae.decoder(codes, training=False), tf.float32)

    def call(self, images: Any, training: bool | None = None) -> tf.Tensor:
        """The reconstruction of pictures."""
        return self.decode(self.encode(images))

    def get_config(self) -> dict[str, Any]:
        """The backbone and the scale."""
        vae = keras.saving.serialize_keras_object(self.vae)
        return {"vae": vae, "scale": self.scale, "shift": self.shift, "name": self.name}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> "HubAutoencoder":
        """Make the backbone again; its weights come from the file."""
        vae = keras.saving.deserialize_keras_object(config["vae"], custom_objects)
        return cls(**{**config, "vae": vae})
