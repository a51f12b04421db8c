"""EfficientNet-Lite0 as a feature extractor: a classifier of photographs, fast on a CPU."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.assets import path as asset_path
from keras_mdm.evaluation import batches
from keras_mdm.interop.torch_legacy import read_legacy

# Kernel, stride, expansion, channels, repeats of the stages.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_EPSILON = 1e-3
_BATCH = 32


class EfficientNetLite0:
    """The pooled features of EfficientNet-Lite0 (asset `efficientnet-lite0`), 1280 per picture.

    Published FID and KID figures use Inception-v3 instead, so figures made with this network
    compare only with each other.

    Args:
        size: side to which pictures are resized, bicubic with antialiasing; the network was trained
            on 224.
        cache_dir: as in `keras_mdm.assets.cache_root`.

    Raises:
        ValueError: if the asset has not been fetched (the error names the command).

    Example:

    >>> features = EfficientNetLite0()(images)  # (B, H, W, 3) uint8
    >>> features.shape
    (8, 1280)

    Reference: Tan and Le, arXiv 1905.11946, table 1; the "lite" form uses ReLU6 and no
    squeeze-and-excitation.
    """

    width = 1280
    measures: Mapping[str, str] = MappingProxyType({})  # none of the published names

    def __init__(self, size: int = 224, *, cache_dir: str | os.PathLike | None = None):
        self.size = checks.integer("size", size, minimum=32)
        self.name = f"efficientnet-lite0, {size} bicubic antialiased"
        folder = Path(asset_path("efficientnet-lite0", cache_dir=cache_dir))
        state = read_legacy(next(folder.glob("*.pth")))
        self._layers = _folded(state)
        self._classifier = (state["_fc.weight"].T, state["_fc.bias"])
        # One graph: all batches are filled up to the same number of pictures.
        self._traced = tf.function(self._pooled, autograph=False)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return features (B, 1280) float32 of uint8 pictures (B, H, W, 3)."""
        images = batches.checked(images)
        return batches.in_batches(self._traced, images, _BATCH, self.width)

    def classify(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities (B, 1000) of the ImageNet classes."""
        return self.classify_features(self(images))

    def classify_features(self, features: np.ndarray) -> np.ndarray:
        """Return what `classify` returns, from the features (B, 1280) of the pictures."""
        weight, bias = self._classifier
        return tf.nn.softmax(np.asarray(features, "float32") @ weight + bias).numpy()

    def _pooled(self, images: tf.Tensor) -> tf.Tensor:
        x = tf.cast(images, tf.float32)
        if images.shape[1:3] != (self.size, self.size):
            x = tf.image.resize(x, (self.size, self.size), "bicubic", antialias=True)
            x = tf.clip_by_value(x, 0.0, 255.0)
        x = (x - 127.0) / 128.0
        layers = iter(self._layers)
        x = tf.nn.relu6(_convolve(x, *next(layers), stride=2))
        channels = 32
        for _, stride, expansion, out, repeats in _STAGES:
            for index in range(repeats):
                step, h = stride if index == 0 else 1, x
                if expansion != 1:
                    h = tf.nn.relu6(_convolve(h, *next(layers)))
                h = tf.nn.relu6(_convolve(h, *next(layers), stride=step, depthwise=True))
                h = _convolve(h, *next(layers))
                x = x + h if step == 1 and channels == out else h
                channels = out
        x = tf.nn.relu6(_convolve(x, *next(layers)))
        return tf.reduce_mean(x, axis=(1, 2))


def _convolve(
    x: tf.Tensor, kernel: Any, bias: Any, *, stride: int = 1, depthwise: bool = False
) -> tf.Tensor:
    strides = (1, stride, stride, 1)
    if depthwise:
        return tf.nn.depthwise_conv2d(x, kernel, strides, "SAME") + bias
    return tf.nn.conv2d(x, kernel, strides, "SAME") + bias


def _folded(state: Mapping[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernels and biases of all convolutions in order, with normalisations folded in."""

    def pair(convolution: str, norm: str, *, depthwise: bool = False) -> tuple:
        kernel = state[f"{convolution}.weight"].astype("float64")
        mean, variance, gamma, beta = (
            state[f"{norm}.{name}"].astype("float64")
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        scale = gamma / np.sqrt(variance + _EPSILON)
        kernel = kernel * scale[:, None, None, None]
        # (out, in, h, w) -> (h, w, in, out); depthwise (channels, 1, h, w) -> (h, w, channels, 1).
        kernel = kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
        return kernel.astype("float32"), (beta - mean * scale).astype("float32")

    found, number = [pair("_conv_stem", "_bn0")], 0
    for _, _, expansion, _, repeats in _STAGES:
        for _ in range(repeats):
            block = f"_blocks.{number}."
            if expansion != 1:
                found.append(pair(f"{block}_expand_conv", f"{block}_bn0"))
            found.append(pair(f"{block}_depthwise_conv", f"{block}_bn1", depthwise=True))
            found.append(pair(f"{block}_project_conv", f"{block}_bn2"))
            number += 1
    return [*found, pair("_conv_head", "_bn1")]
