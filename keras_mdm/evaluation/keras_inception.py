"""Inception-v3 of `keras.applications`: another network than that of the FID."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.evaluation import batches, inception_files

SIDE, WIDTH = 299, 2048
# Layers of the classifier that Keras puts on top.
_TOP = "predictions"


class KerasInceptionV3:
    """The pooled features of Keras' Inception-v3, 2048 per picture.

    It was trained later than the network of the FID, on 1000 classes, and pools differently:
    numbers made with it compare only with each other, and are never called FID.

    Args:
        weights: `inception_v3_weights_tf_dim_ordering_tf_kernels.h5` of `keras.applications`, the
            same with `_notop`, or what Keras' `save` or `save_weights` wrote of such a model
            (`.keras`, `.h5`, `.weights.h5`).
        batch: number of pictures that go through the network at a time.

    Attributes:
        name: network, digits of the weights, and resize (bilinear, antialiased).
        width: 2048.

    Raises:
        ValueError: if the file holds other weights.

    Example:

    >>> network = KerasInceptionV3("inception_v3_weights.h5")  # doctest: +SKIP
    >>> network(images).shape  # (B, H, W, 3) uint8  # doctest: +SKIP
    (8, 2048)

    Reference: Szegedy et al., arXiv 1512.00567.
    """

    width = WIDTH
    measures: Mapping[str, str] = MappingProxyType({})  # none of the published names

    def __init__(self, weights: str | os.PathLike, *, batch: int = 32):
        self.batch = checks.integer("batch", batch, minimum=1)
        network, self._classifier = _load(Path(weights))
        digits = inception_files.digest(weights)[:8]
        self.name = f"Inception-v3 of Keras, weights {digits}, {SIDE} bilinear antialiased"
        pooled = network.get_layer("mixed10").output
        self._network = keras.Model(network.input, keras.ops.mean(pooled, axis=(1, 2)))
        self._traced = tf.function(self._pooled, autograph=False)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return features (B, 2048) float32 of uint8 pictures (B, H, W, 3)."""
        return batches.in_batches(self._traced, batches.checked(images), self.batch, self.width)

    def classify_features(self, features: np.ndarray) -> np.ndarray:
        """Return the probabilities (B, 1000) of the ImageNet classes, from the features."""
        if self._classifier is None:
            raise checks.error(
                "the file must hold the classifier",
                fix="pass the weights without `_notop`",
                network=self.name,
            )
        weight, bias = self._classifier
        return tf.nn.softmax(np.asarray(features, "float32") @ weight + bias).numpy()

    def _pooled(self, images: tf.Tensor) -> tf.Tensor:
        x = tf.cast(images, tf.float32)
        if images.shape[1:3] != (SIDE, SIDE):
            x = tf.image.resize(x, (SIDE, SIDE), "bilinear", antialias=True)
        return self._network(x / 127.5 - 1.0, training=False)


def _load(path: Path) -> tuple[Any, tuple[np.ndarray, np.ndarray] | None]:
    """The network with the weights of a file, and kernel and bias of its classifier, if any."""
    if not path.is_file():
        raise checks.error("the weights must be a file", fix="check the path", weights=str(path))
    problems = {}
    for top in (True, False):
        network = keras.applications.InceptionV3(
            weights=None, include_top=top, input_shape=(SIDE, SIDE, 3), classifier_activation=None
        )
        try:
            if path.suffix == ".keras":
                whole = keras.models.load_model(path, compile=False)
                network.set_weights(whole.get_weights())
            else:
                with warnings.catch_warnings():
                    # Layers without their weights raise; containers of layers have none.
                    warnings.filterwarnings("ignore", message="Skipping nested container")
                    network.load_weights(path)
        except Exception as problem:  # of Keras, h5py and zipfile: a file may hold anything
            problems["with_classifier" if top else "without"] = str(problem)[:160]
            continue
        classifier = network.get_layer(_TOP).get_weights() if top else None
        return network, tuple(classifier) if classifier else None
    raise checks.error(
        "the weights must be those of keras.applications.InceptionV3",
        fix="pass its .h5 file, or a .keras or .weights.h5 file of such a model",
        weights=str(path),
        **problems,
    )
