"""A KL autoencoder: pictures to codes of a smaller size and back."""

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.backends import require_tensorflow
from keras_mdm.files import write_atomically
from keras_mdm.latents import fitting, scaling
from keras_mdm.latents.networks import CodecPath, decoder_steps, encoder_steps
from keras_mdm.layers.initializers import dense
from keras_mdm.pictures import pixels
from keras_mdm.types import Tensor
from keras_mdm.untracked import Untracked, set_untracked

# Channels of the codes and channel multipliers by factor, as in the published models.
CHANNELS = {4: 3, 8: 4}
MULTIPLIERS = {4: (1, 2, 4), 8: (1, 2, 4, 4)}
# Bounds of the logarithm of the posterior's variance, and where a new encoder starts: with more
# noise the first steps would hardly see the pictures in the codes.
LOWEST, HIGHEST, START = -30.0, 20.0, -4.0


@keras.saving.register_keras_serializable("keras_mdm")
class KLAutoencoder(keras.Model):
    """The autoencoder of latent diffusion, whose codes are close to a standard normal.

    The encoder gives every position of the code a normal distribution, of which training decodes a
    sample. The loss is the difference of the pictures and, with a tiny weight, the divergence of
    that distribution from the standard normal. The paper's autoencoders also have an adversarial
    loss and one on the features of a network, and are sharper on photographs; here the only such
    network at hand is the one that measures. Published weights are loaded by `from_compvis`.

    `encode` and `decode` make it a `Codec`. They divide codes by the deviation of their channels,
    which `measure_scale` measures once, after training.

    Args:
        factor: how many times smaller codes are than pictures, a power of two.
        channels: channels of the codes; 3 for factor 4 and 4 for factor 8, as published.
        width: channels of the feature maps at the highest resolution.
        multipliers: factors on `width` per resolution, the highest first; (1, 2, 4) for factor 4
            and (1, 2, 4, 4) for factor 8.
        blocks: residual blocks per resolution; the decoder has one more.
        attention: per resolution, 1 for attention after every block. The lowest resolution has
            some in its middle in any case.
        groups: groups of the normalisations.
        image_channels: channels of the pictures.
        seed: of the initial values and of the samples in training.
        **kwargs: `name`, `dtype`.

    Call arguments:
        images: `(B, H, W, image_channels)`, uint8 or in [-1, 1]; H and W are multiples of `factor`.

    Returns:
        The reconstruction `(B, H, W, image_channels)` float32, from the mean of the posterior.

    Raises:
        ValueError: if an argument is out of range, or two of them contradict each other.

    Example:

    >>> codec = KLAutoencoder(4, width=32, multipliers=(1, 1, 1), blocks=1)
    >>> codec.compile("adam")
    >>> data = np.zeros((8, 16, 16, 3), "uint8")
    >>> history = codec.fit(data, batch_size=4, verbose=0)
    >>> data[::2] = 255
    >>> shift, deviation = codec.measure_scale(data)
    >>> codec.encode(data).shape
    TensorShape([8, 4, 4, 3])

    Reference: Rombach et al. 2022 (arXiv 2112.10752), section 3.1 and appendix G; Gu et al. 2023
    (arXiv 2310.15111), appendix D.2.
    """

    # Functions by what they do and the size of their input: a graph knows its sizes.
    _graphs = Untracked(dict)

    def __init__(
        self,
        factor: int = 4,
        *,
        channels: int | None = None,
        width: int = 128,
        multipliers: Sequence[int] | None = None,
        blocks: int = 2,
        attention: Sequence[int] | None = None,
        groups: int = 32,
        image_channels: int = 3,
        seed: int = 0,
        **kwargs: Any,
    ):
        require_tensorflow(type(self).__name__)
        super().__init__(**{"name": "autoencoder", **kwargs})
        self.factor = _power_of_two(factor)
        self.channels = checks.integer(
            "channels", _default("channels", channels, CHANNELS, factor), minimum=1
        )
        self.multipliers = _per_resolution(
            "multipliers", _default("multipliers", multipliers, MULTIPLIERS, factor), factor, 1
        )
        none = (0,) * len(self.multipliers)
        self.attention = _per_resolution("attention", attention or none, factor, 0)
        self.width = checks.integer("width", width, minimum=1)
        self.blocks = checks.integer("blocks", blocks, minimum=1)
        self.groups = checks.integer("groups", groups, minimum=1)
        self.image_channels = checks.integer("image_channels", image_channels, minimum=1)
        self.seed = checks.seed(seed)
        widths = tuple(self.width * multiplier for multiplier in self.multipliers)
        given = {"groups": self.groups, "seed": self.seed, "dtype": self.dtype_policy}
        ways = (widths, self.blocks, self.attention)
        twice = 2 * self.channels
        self.encoder = CodecPath(encoder_steps(*ways), twice, name="encoder", **given)
        self.decoder = CodecPath(decoder_steps(*ways), self.image_channels, name="decoder", **given)
        # In float32, as the codes are.
        exact: dict[str, Any] = {"seed": self.seed, "dtype": "float32"}
        self.quant_conv = dense("quant_conv", twice, twice, **exact)
        start = np.repeat(np.array([0.0, START], "float32"), self.channels)
        self.quant_conv.bias_initializer = keras.initializers.Constant(start)
        self.post_quant_conv = dense("post_quant_conv", self.channels, self.channels, **exact)
        self.encoder.build((None, self.factor, self.factor, self.image_channels))
        self.decoder.build((None, 1, 1, self.channels))
        self.quant_conv.build((None, None, None, twice))
        self.post_quant_conv.build((None, None, None, self.channels))
        fixed = {"shape": (self.channels,), "dtype": "float32", "trainable": False}
        # A deviation of zero: not measured.
        self.code_shift, self.code_deviation = (
            self.add_weight(name=name, initializer="zeros", autocast=False, **fixed)
            for name in ("code_shift", "code_deviation")
        )
        self._trackers = {name: keras.metrics.Mean(name=name) for name in fitting.LOGGED}
        self.built = True

    def __setattr__(self, name: str, value: Any) -> None:
        if not set_untracked(self, name, value):
            super().__setattr__(name, value)

    @classmethod
    def from_compvis(
        cls,
        weights: str | os.PathLike | Mapping[str, Any],
        *,
        scale: float | None = None,
        groups: int = 32,
        dtype: Any = None,
    ) -> "KLAutoencoder":
        """Make an autoencoder from a file of the authors of latent diffusion.

        Args:
            weights: a `.ckpt` file, such as the `model.ckpt` of kl-f4.zip or kl-f8.zip, or of
                Stable Diffusion, of which the first stage is taken; or `{key: array}`. PyTorch is
                not needed, and the file need not be trusted.
            scale: factor on codes that makes their deviation one: 0.18215 for that of Stable
                Diffusion. Otherwise call `measure_scale`.
            groups: groups of the normalisations, which the file does not tell.
            dtype: dtype policy.

        Returns:
            The autoencoder, with the file's sizes.

        Raises:
            ValueError: if the file cannot be read, or its tensors are not those of a KL
                autoencoder; all keys that do not fit are listed.

        Example:

        >>> codec = KLAutoencoder.from_compvis("kl-f8/model.ckpt", scale=0.18215)  # doctest: +SKIP
        """
        from keras_mdm.latents.compvis import load_compvis

        return load_compvis(cls, weights, scale=scale, groups=groups, dtype=dtype)

    # Pictures and codes

    def posterior(self, images: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Return mean and logarithm of the variance, both `(B, h, w, channels)`, of codes that are
        not yet divided by their deviation.

        Args:
            images: see the class.
        """
        return self._traced("posterior", self._posterior, self._pictures(images))

    def encode(self, images: Any, noise: Any = None) -> tf.Tensor:
        """Return codes `(B, H / factor, W / factor, channels)` float32 of unit scale.

        Args:
            images: see the class.
            noise: standard normal, of the codes' shape: the codes are then a sample of the
                posterior, otherwise its mean.

        Raises:
            ValueError: if the scale was not measured, or the pictures do not fit.
        """
        self.check_scale()
        codes, log_variance = self.posterior(images)
        if noise is not None:
            codes = codes + tf.exp(0.5 * log_variance) * tf.cast(noise, tf.float32)
        return (codes - self.code_shift) / self.code_deviation

    def decode(self, codes: Any) -> tf.Tensor:
        """Return pictures `(B, H, W, image_channels)` float32, mostly in [-1, 1], of codes of unit
        scale.

        Args:
            codes: `(B, H / factor, W / factor, channels)`.

        Raises:
            ValueError: if the scale was not measured, or the codes have other channels.
        """
        self.check_scale()
        codes = tf.cast(codes, tf.float32)
        if len(codes.shape) != 4 or codes.shape[-1] != self.channels:
            raise checks.error(
                f"codes must be (B, h, w, {self.channels})",
                fix="pass codes of this autoencoder, such as a model of its codes draws",
                shape=tuple(codes.shape),
            )
        return self._traced("decode", self._decode, codes)

    def measure_scale(
        self, data: Any, *, batches: int | None = None, batch_size: int = 32
    ) -> tuple[np.ndarray, np.ndarray]:
        """Measure mean and deviation of every channel of the codes, for `encode` and `decode`.

        Codes of about unit scale are what a noise schedule is made for. Measure once, after the
        training and before codes are made, and save the model: a diffusion model of its codes
        belongs to these numbers.

        Args:
            data: pictures `(n, H, W, C)`, or a dataset of batches as for `fit`.
            batches: number of batches to look at; needed for endless datasets.
            batch_size: of pictures in an array.

        Returns:
            (mean, deviation), `(channels,)` each.

        Raises:
            ValueError: if the data is endless or empty, or a channel does not vary.

        Reference: Rombach et al. 2022 (arXiv 2112.10752), appendix D.1, by channel.
        """
        shift, deviation = scaling.measured(self, data, batches=batches, batch_size=batch_size)
        self.code_shift.assign(shift)
        self.code_deviation.assign(deviation)
        return shift, deviation

    def check_scale(self) -> None:
        """Raise unless the scale of the codes is known."""
        with tf.init_scope():  # the value, even while a graph is made
            measured = bool(np.all(np.asarray(self.code_deviation) > 0.0))
        if not measured:
            raise checks.error(
                "the scale of an autoencoder's codes must be measured",
                fix="call measure_scale(pictures) after training or loading, and save the model",
                autoencoder=self.name,
            )

    def call(self, images: Tensor, training: bool | None = None) -> Tensor:
        mean, _ = self._posterior(self._pictures(images))
        return self._reconstructed(mean)

    def _pictures(self, images: Any) -> tf.Tensor:
        """Pictures in [-1, 1]; raises unless they fit."""
        images = tf.convert_to_tensor(images)
        fitting.check_pictures(self, images.shape)
        return pixels.to_unit(images) if images.dtype == tf.uint8 else tf.cast(images, tf.float32)

    def _posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = tf.split(self.quant_conv(self.encoder(images)), 2, axis=-1)
        return mean, tf.clip_by_value(log_variance, LOWEST, HIGHEST)

    def _reconstructed(self, codes: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(codes))

    def _decode(self, codes: Tensor) -> Tensor:
        return self._reconstructed(codes * self.code_deviation + self.code_shift)

    def _traced(self, name: str, function: Callable[..., Any], values: tf.Tensor) -> Any:
        """Call a function of tensors, by a graph of its own unless it becomes part of another."""
        if not tf.executing_eagerly():
            return function(values)
        key = (name, *values.shape[1:])
        if key not in self._graphs:
            spec = tf.TensorSpec((None, *values.shape[1:]), values.dtype)
            self._graphs[key] = tf.function(function, input_signature=[spec], autograph=False)
        return self._graphs[key](values)

    # Training

    fit = fitting.fit
    train_step = fitting.train_step
    test_step = fitting.test_step
    make_train_function = fitting.make_train_function
    make_test_function = fitting.make_test_function
    get_compile_config = fitting.get_compile_config
    compile_from_config = fitting.compile_from_config
    _shared_gradients = functools.cached_property(fitting.shared_gradients)

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str | dict[str, Any] | None = None,
        *,
        reconstruction: str = "l1",
        kl_weight: float = 1e-6,
        run_eagerly: bool = False,
        **others: Any,
    ) -> None:
        """Set the optimizer and the loss, which is per value of a picture:
        `reconstruction + kl_weight * divergence`, both summed over the picture and divided by the
        number of its values.

        Args:
            optimizer: as for `MatryoshkaDiffusion.compile`.
            reconstruction: `"l1"`, the absolute difference, or `"l2"`, its square.
            kl_weight: weight of the divergence; 1e-6 in the published models.
            run_eagerly: run steps without tracing, for debugging.
            **others: arguments of Keras' `compile` that have no meaning here; must be `None`.

        Raises:
            ValueError: for another loss, or an optimizer that clips on each replica separately.
        """
        self.reconstruction = checks.one_of("reconstruction", reconstruction, fitting.DIFFERENCES)
        self.kl_weight = checks.real("kl_weight", kl_weight, minimum=0.0)
        optimizer = fitting.prepared_optimizer(self, optimizer, others)
        super().compile(
            optimizer=optimizer, auto_scale_loss=False, run_eagerly=run_eagerly, jit_compile=False
        )

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is left to build; Keras would average a raw batch over replicas."""

    @property
    def metrics(self) -> list:
        """Mean of every logged value since the epoch began."""
        return list(self._trackers.values())

    # Saving

    def save(self, filepath: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.save`; the file is complete or absent.

        Args:
            filepath: ends in ".keras".
        """
        write = super().save
        write_atomically(os.fspath(filepath), lambda path: write(path, *args, **kwargs))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        names = ("factor", "channels", "width", "blocks", "groups", "image_channels", "seed")
        own = {name: getattr(self, name) for name in names}
        own |= {"multipliers": list(self.multipliers), "attention": list(self.attention)}
        policy = keras.dtype_policies.serialize(self.dtype_policy)
        return {**own, "name": self.name, "dtype": policy}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> "KLAutoencoder":
        """Make the autoencoder again; its weights come from the file."""
        return cls(**config)


def _power_of_two(factor: Any) -> int:
    factor = checks.integer("factor", factor, minimum=1)
    if factor & (factor - 1):
        raise checks.error("`factor` must be a power of two", fix="pass 4 or 8", factor=factor)
    return factor


def _default(name: str, given: Any, published: Mapping[int, Any], factor: int) -> Any:
    if given is not None:
        return given
    if factor not in published:
        raise checks.error(
            f"`{name}` has no default for this factor",
            fix=f"pass {name}, or a factor out of {sorted(published)}",
            factor=factor,
        )
    return published[factor]


def _per_resolution(name: str, given: Any, factor: int, minimum: int) -> tuple[int, ...]:
    count = 1 + int(math.log2(factor))
    values = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if len(values) != count:
        raise checks.error(
            f"`{name}` must hold one number per resolution, {count} for factor {factor}",
            fix="halve the pictures once for every further resolution",
            **{name: given},
        )
    return tuple(checks.integer(f"{name}[]", value, minimum=minimum) for value in values)
