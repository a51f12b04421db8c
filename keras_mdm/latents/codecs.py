"""What makes codes of pictures and pictures of codes."""

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.data.python_calls import call_python
from keras_mdm.pictures import pixels


@runtime_checkable
class Codec(Protocol):
    """A frozen map from pictures to codes and back.

    Attributes:
        factor: how many times smaller codes are than pictures, in height and in width.
        channels: channels of the codes.
    """

    factor: int
    channels: int

    def encode(self, images: Any) -> tf.Tensor:
        """Return codes (B, H / factor, W / factor, channels) float32, of about unit scale, of
        pictures (B, H, W, 3) in [-1, 1]."""
        ...

    def decode(self, codes: Any) -> tf.Tensor:
        """Return pictures (B, H, W, 3) of codes."""
        ...


@keras.saving.register_keras_serializable("keras_mdm")
class SpaceToDepth:
    """A lossless codec without weights: blocks of pixels become channels.

    Codes of neighbouring blocks are as alike as the blocks, so a pyramid of codes means what a
    pyramid of pictures means. A trained autoencoder also compresses.

    Args:
        factor: side of the blocks.
        image_channels: channels of the pictures.

    Raises:
        ValueError: if an argument is not a positive integer; in `encode`, if the pictures cannot
            be divided into blocks.

    Example:

    >>> codec = SpaceToDepth(4)
    >>> codes = codec.encode(tf.zeros((2, 64, 64, 3)))
    >>> tuple(codes.shape), tuple(codec.decode(codes).shape)
    ((2, 16, 16, 48), (2, 64, 64, 3))

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 6, on latent spaces.
    """

    def __init__(self, factor: int = 4, *, image_channels: int = 3):
        self.factor = checks.integer("factor", factor, minimum=1)
        self.image_channels = checks.integer("image_channels", image_channels, minimum=1)
        self.channels = self.image_channels * self.factor**2

    def encode(self, images: Any) -> tf.Tensor:
        """Return codes (B, H / factor, W / factor, channels) of pictures (B, H, W, C)."""
        images = tf.convert_to_tensor(images)
        _check_pictures(self, images.shape)
        if images.dtype == tf.uint8:
            images = pixels.to_unit(images)
        return tf.nn.space_to_depth(images, self.factor) if self.factor > 1 else images

    def decode(self, codes: Any) -> tf.Tensor:
        """Return pictures (B, H, W, C) of codes (B, H / factor, W / factor, channels)."""
        codes = tf.convert_to_tensor(codes)
        return tf.nn.depth_to_space(codes, self.factor) if self.factor > 1 else codes

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"factor": self.factor, "image_channels": self.image_channels}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "SpaceToDepth":
        """Make the codec again."""
        return cls(**config)


def _check_pictures(codec: Any, shape: Any) -> None:
    """Raise unless pictures of this shape can be encoded; unknown sides pass."""
    shape, channels = tuple(shape), getattr(codec, "image_channels", 3)
    fits = len(shape) == 4 and shape[-1] in (None, channels)
    if not fits or any(side is not None and side % codec.factor for side in shape[1:3]):
        raise checks.error(
            f"pictures must be (B, H, W, {channels}) with sides that are multiples of "
            f"{codec.factor}",
            fix="resize them, or choose another codec",
            shape=shape,
        )


def check_codec(codec: Any, model: Any = None) -> None:
    """Raise unless a codec is one, and makes and reads the codes of a model.

    Args:
        codec: the codec.
        model: a `MatryoshkaDiffusion` of codes, or its network; not compared if `None`.

    Raises:
        ValueError: if it is no `Codec`, or the model has other channels.

    Example:

    >>> unet = build_nested_unet([LevelSpec(8, channels=(32,))], in_channels=4, out_channels=4)
    >>> check_codec(SpaceToDepth(4), unet)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: a codec must have as many channels as the codes of the model. Received: ...
    """
    if not isinstance(codec, Codec):
        raise checks.error(
            "a codec must have `factor`, `channels`, `encode` and `decode`",
            fix="pass a KLAutoencoder, a SpaceToDepth, or an object with these",
            codec=type(codec).__name__,
        )
    if model is None:
        return
    channels = getattr(model, "unet", model).spec.out_channels
    if channels != codec.channels:
        raise checks.error(
            "a codec must have as many channels as the codes of the model",
            fix=f"build the network with in_channels={codec.channels}, "
            f"out_channels={codec.channels}, or pass the codec that its codes come from",
            model_channels=channels,
            codec_channels=codec.channels,
        )


def identity_of(codec: Any) -> dict[str, Any]:
    """What distinguishes a codec: a model of codes belongs to the one that it was trained with.

    Args:
        codec: the codec.

    Returns:
        JSON values: class, factor, channels and, if it has weights, a SHA-256 of them. The scale of
        codes is told in three digits: measured on another machine, it differs in the seventh.

    Example:

    >>> identity_of(SpaceToDepth(2))
    {'codec': 'SpaceToDepth', 'factor': 2, 'channels': 12}
    """
    found = {"codec": type(codec).__name__, "factor": codec.factor, "channels": codec.channels}
    scales = {name: getattr(codec, name, None) for name in ("code_shift", "code_deviation")}
    weights = [w for w in getattr(codec, "weights", ()) if not any(w is s for s in scales.values())]
    if weights:
        digest = hashlib.sha256()
        for weight in weights:
            digest.update(np.ascontiguousarray(np.asarray(weight)).tobytes())
        found["sha256"] = digest.hexdigest()
    for name, value in scales.items():
        if value is not None:
            found[name] = [float(f"{number:.3g}") for number in np.asarray(value)]
    return found


def to_codes(dataset: tf.data.Dataset, codec: Codec, *, model: Any = None) -> tf.data.Dataset:
    """Turn a dataset of pictures into one of codes, for a model of codes.

    Pictures are encoded while batches are read. For a data set that fits into memory it is cheaper
    to encode once: `image_text_dataset(codes, ...)` takes the arrays.

    Args:
        dataset: batches with "image" (B, H, W, C), uint8 or in [-1, 1], as from
            `keras_mdm.data.image_dataset`.
        codec: makes the codes.
        model: the model that the codes are for, to compare its channels.

    Returns:
        The dataset with float32 codes in place of the pictures; everything else is unchanged.

    Raises:
        ValueError: before anything is encoded, if the codec and the model have different channels,
            the pictures do not fit the codec, or the scale of its codes is not known.

    Example:

    >>> batches = to_codes(batches, SpaceToDepth(4))  # doctest: +SKIP
    """
    check_codec(codec, model)
    spec = dataset.element_spec
    image = spec.get("image") if isinstance(spec, Mapping) else None
    if image is None:
        raise checks.error(
            "batches must be dicts that hold pictures under `image`",
            fix="pass a dataset of keras_mdm.data; mixed batches are made of several such",
            batches=sorted(spec) if isinstance(spec, Mapping) else type(spec).__name__,
        )
    _check_pictures(codec, image.shape)
    getattr(codec, "check_scale", lambda: None)()
    sides = [side and side // codec.factor for side in image.shape[1:3]]

    def encode(images: np.ndarray) -> np.ndarray:
        if images.dtype == np.uint8:
            images = pixels.to_unit(images)
        return np.asarray(codec.encode(images), "float32")

    def encoded(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        # By a call of Python: weights on a GPU cannot be read in the pipeline, which is on the CPU.
        codes: Any = call_python(encode, (batch["image"],), tf.float32)
        codes.set_shape((image.shape[0], *sides, codec.channels))
        return {**batch, "image": codes}

    return dataset.map(encoded, num_parallel_calls=1)


def decoded(codec: Codec, codes: tf.Tensor) -> tf.Tensor:
    """Decode codes (B, h, w, channels), or every frame of clips (B, T, h, w, channels), float32."""
    rows = tf.reshape(codes, (-1, *codes.shape[-3:]))
    found = tf.cast(codec.decode(rows), tf.float32)
    return tf.reshape(found, (-1, *codes.shape[1:-3], *found.shape[1:]))


def to_pictures(codec: Codec, codes: Any) -> np.ndarray:
    """Decode codes to uint8 pictures.

    Args:
        codec: the codec that made the codes.
        codes: (B, h, w, channels), or of clips (B, T, h, w, channels).

    Returns:
        (B, H, W, C) uint8, or (B, T, H, W, C).
    """
    return pixels.to_uint8(decoded(codec, tf.cast(codes, tf.float32))).numpy()
