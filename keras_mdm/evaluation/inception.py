"""The feature network of published FID, KID and IS figures, from the user's own file."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.evaluation import batches, inception_files
from keras_mdm.evaluation.inception_layers import SIDE, WIDTH
from keras_mdm.evaluation.report import CLASSES, unverified

_RESIZES = {
    "fid": "bilinear of TensorFlow 1",
    "clean": "bicubic antialiased",
    "pytorch-fid": "bilinear of pytorch-fid",
}
_MEASURES = {"frechet": "FID", "kernel": "KID", CLASSES: "IS"}


class FIDInception:
    """The pooled features of the Inception network of 2015, 2048 per picture; no PyTorch needed.

    Graphs and SavedModels are programs: pass only what comes from a source you trust. Weights files
    are not; nothing in them is run. On a GPU, TensorFlow rounds to TF32 unless told otherwise; for
    figures to publish, call `tf.config.experimental.enable_tensor_float_32_execution(False)`.

    Args:
        weights: one of
            - `pt_inception-2015-12-05-6726825d.pth`, the public PyTorch port's file, or a
              safetensors file of the same names;
            - `classify_image_graph_def.pb`, the original frozen graph, which is run as it is;
            - the folder of a SavedModel that takes pictures (B, 299, 299, 3) in [-1, 1] and gives
              an output `pool_3`.
        resize: how pictures reach 299 x 299. "fid" as the original graph does: bilinear, without
            antialiasing, with TensorFlow 1's alignment. "clean": bicubic with antialiasing, not
            rounded. "pytorch-fid" as that program does: bilinear, without antialiasing, aligned by
            the pixels' centres, and scaled by 2 / 255 - 1 instead of (x - 128) / 128. Figures
            compare only within one of them.
        trusted: you vouch that the weights are the published ones. The port's `.pth` is known by
            its sha256 (of which the file's name has the beginning) and needs no word; of the other
            files no digest is known here.
        batch: number of pictures that go through the network at a time.

    Attributes:
        name: network, digits of the weights, and resize; features of two names do not compare.
        width: 2048.
        measures: {general name: name in reports}. The published names, FID, KID and IS, are for
            weights that are known or vouched for, in layers of the shapes of 2015. Such layers with
            other weights have names that say so, and any other network has none here.
        sha256: of the file.
        published: whether this is the port's file, bit by bit.

    Raises:
        ValueError: if the file is of another kind, damaged, or holds another network.

    Example:

    >>> network = FIDInception("pt_inception-2015-12-05-6726825d.pth")
    >>> network(images).shape  # (B, H, W, 3) uint8
    (8, 2048)
    >>> network.name
    'inception-2015-12-05, weights 1f3c0a9b, 299 bilinear of TensorFlow 1'

    Reference: Szegedy et al., arXiv 1512.00567; Heusel et al., arXiv 1706.08500; Parmar et al.,
    arXiv 2104.11222, on resizing.
    """

    width = WIDTH

    def __init__(
        self,
        weights: str | os.PathLike,
        *,
        resize: str = "fid",
        batch: int = 32,
        trusted: bool = False,
    ):
        if not isinstance(weights, str | os.PathLike):
            raise checks.error(
                "`weights` must be a path",
                fix="pass for example 'pt_inception-2015-12-05-6726825d.pth'",
                type=type(weights).__name__,
            )
        self.resize = checks.one_of("resize", resize, _RESIZES)
        self.batch = checks.integer("batch", batch, minimum=1)
        self._source = inception_files.read(weights)
        self.sha256 = inception_files.digest(weights)
        self.published = self.sha256 in inception_files.PUBLISHED
        network = "inception-2015-12-05" if self._source.known else "unknown SavedModel or graph"
        digits = inception_files.fingerprint(self._source, self.sha256)
        self.name = f"{network}, weights {digits}, {SIDE} {_RESIZES[resize]}"
        self.measures: Mapping[str, str] = {}
        if self._source.known:
            sure = self.published or trusted
            self.measures = dict(_MEASURES) if sure else unverified(_MEASURES, "Inception layout")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return features (B, 2048) float32 of uint8 pictures (B, H, W, 3)."""
        images = batches.checked(images)
        return batches.in_batches(self._pooled, images, self.batch, self.width)

    def _pooled(self, images: tf.Tensor) -> np.ndarray:
        pixels = tf.cast(images, tf.float32)
        if not (self._source.resizes and self.resize == "fid"):
            pixels = resized(pixels, self.resize)
        return self._source.pooled(pixels)

    def classify(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities (B, 1008) on which the IS rests.

        The classifier's bias is left out, as in the published implementations of the IS.
        """
        return self.classify_features(self(images))

    def classify_features(self, features: np.ndarray) -> np.ndarray:
        """Return what `classify` returns, from the features (B, 2048) of the pictures."""
        if self._source.matrix is None:
            raise checks.error(
                "the file must hold the classifier's matrix (2048, 1008)",
                fix="pass the weights of the port, or the original graph",
                network=self.name,
            )
        return tf.nn.softmax(np.asarray(features, "float32") @ self._source.matrix).numpy()


def resized(pixels: Any, kind: str) -> tf.Tensor:
    """Bring float pictures (B, H, W, 3) in 0..255 to 299 x 299.

    Args:
        pixels: the pictures.
        kind: as `resize` of `FIDInception`.

    Returns:
        Pictures x of which (x - 128) / 128 is the input of the network.
    """
    if tuple(pixels.shape[1:3]) != (SIDE, SIDE):
        if kind == "fid":
            pixels = tf.raw_ops.ResizeBilinear(images=pixels, size=(SIDE, SIDE))
        elif kind == "clean":
            pixels = tf.image.resize(pixels, (SIDE, SIDE), "bicubic", antialias=True)
            pixels = tf.clip_by_value(pixels, 0.0, 255.0)
        else:
            pixels = tf.image.resize(pixels, (SIDE, SIDE), "bilinear")
    return pixels * (128.0 / 127.5) if kind == "pytorch-fid" else pixels
