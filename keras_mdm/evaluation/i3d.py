"""The feature network of published FVD figures, from the user's own file."""

import collections
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.evaluation import batches, inception_files, saved_models
from keras_mdm.evaluation.report import unverified

SIDE, WIDTH = 224, 400
# Shorter clips vanish: time is halved three times before windows of two steps.
LEAST_FRAMES = 9
_MEASURES = {"frechet": "FVD", "kernel": "KVD"}
# Channels of the branches: 1; 1 then 3; 1 then 3; 1 after a maximum (windows of 1 or 3).
_MIXED = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)


class I3D:
    """The logits of the I3D network of Kinetics-400, 400 per clip, averaged over time.

    SavedModels are programs: pass only what comes from a source you trust. Clips reach the network
    as in the authors' code of the FVD: each frame 224 x 224, bilinear without antialiasing and with
    TensorFlow 1's alignment, values in [-1, 1].

    Args:
        folder: the module `deepmind/i3d-kinetics-400/1` of TF-Hub, unpacked, or any SavedModel with
            a signature of one input, clips (B, F, 224, 224, 3) in [-1, 1], and an output of 400
            logits.
        trusted: you vouch that the weights are the published ones; no digest of them is known here.
        batch: number of clips that go through the network at a time.

    Attributes:
        name: network, digits of the weights, and resize.
        width: 400.
        measures: {general name: name in reports}. FVD and KVD only if the shapes of all layers are
            those of I3D, and you vouch for the weights. Such layers alone have names that say so;
            any other network has none here.
        least_frames: frames that a clip must have.

    Raises:
        ValueError: if the folder holds something else.

    Example:

    >>> network = I3D("i3d-kinetics-400", trusted=True)  # doctest: +SKIP
    >>> network(clips).shape  # (B, F, H, W, 3) uint8  # doctest: +SKIP
    (8, 400)

    Reference: Unterthiner et al., arXiv 1812.01717; Carreira and Zisserman, arXiv 1705.07750.
    """

    clips = True
    width = WIDTH

    def __init__(self, folder: str | os.PathLike, *, trusted: bool = False, batch: int = 4):
        self._signature = saved_models.load(folder)
        self._entry, self._output = _entries(self._signature, folder)
        known = is_i3d(shape for shape, _ in self._signature.weights())
        static = self._signature.inputs[self._entry].shape
        self.batch = static[0] or checks.integer("batch", batch, minimum=1)
        self._frames = static[1]
        self.least_frames = LEAST_FRAMES if known else 1
        network = "I3D of Kinetics-400" if known else "unknown SavedModel of clips"
        digits = inception_files.digest(folder)[:8]
        self.name = f"{network}, weights {digits}, {SIDE} bilinear of TensorFlow 1"
        self.measures: Mapping[str, str] = {}
        if known:
            layout = unverified(_MEASURES, "I3D layout", clips=True)
            self.measures = dict(_MEASURES) if trusted else layout

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """Return features (B, 400) float32 of uint8 clips (B, F, H, W, 3)."""
        clips = batches.checked(clips, clips=True)
        frames = clips.shape[1]
        if frames < self.least_frames or self._frames not in (None, frames):
            raise checks.error(
                f"clips must have {self._frames or f'at least {self.least_frames}'} frames",
                fix="pass clips of this length",
                shape=clips.shape,
            )
        return batches.in_batches(self._logits, clips, self.batch, self.width)

    def _logits(self, clips: tf.Tensor) -> tf.Tensor:
        found = self._signature(self._entry, resized(clips))[self._output]
        return tf.reshape(found, (len(clips), -1))


def resized(clips: tf.Tensor) -> tf.Tensor:
    """Bring clips (B, F, H, W, 3) in 0..255 to (B, F, 224, 224, 3) in [-1, 1]."""
    count, frames, *size = clips.shape
    pixels = tf.cast(tf.reshape(clips, (-1, *size)), tf.float32)
    if size[:2] != [SIDE, SIDE]:
        pixels = tf.raw_ops.ResizeBilinear(images=pixels, size=(SIDE, SIDE))
    return tf.reshape(pixels, (count, frames, SIDE, SIDE, 3)) * (2.0 / 255.0) - 1.0


def kernel_shapes() -> Iterator[tuple[int, ...]]:
    """Shapes of the kernels of I3D, (time, height, width, in, out)."""
    yield from ((7, 7, 7, 3, 64), (1, 1, 1, 64, 64), (3, 3, 3, 64, 192))
    channels = 192
    for one, before, three, before_second, second, pooled in _MIXED:
        for out in (one, before, before_second, pooled):
            yield (1, 1, 1, channels, out)
        yield (3, 3, 3, before, three)
        yield (3, 3, 3, before_second, second)
        channels = one + three + second + pooled
    yield (1, 1, 1, channels, WIDTH)


def is_i3d(shapes: Any) -> bool:
    """Whether the kernels among the weights of a network are those of I3D."""
    # The file's normalisations have five axes too, (1, 1, 1, 1, channels).
    kernels = collections.Counter(s for s in shapes if len(s) == 5 and s[3] > 1)
    return kernels == collections.Counter(kernel_shapes())


def _entries(found: saved_models.Signature, path: str | os.PathLike) -> tuple[str, str]:
    """Names of the input for clips, and of the output with the logits."""
    inputs = [n for n, spec in found.inputs.items() if spec.shape.rank == 5]
    shapes = {name: spec.shape for name, spec in found.outputs.items()}
    outputs = [name for name, shape in shapes.items() if shape.rank and shape[-1] == WIDTH]
    if len(found.inputs) != 1 or len(inputs) != 1 or not outputs:
        raise checks.error(
            f"the SavedModel must have a signature of one input, clips (B, F, {SIDE}, {SIDE}, 3) "
            f"in [-1, 1], and an output of {WIDTH} logits",
            fix="unpack deepmind/i3d-kinetics-400/1 of TF-Hub, or export such a signature",
            folder=str(path),
            signatures=found.names,
            inputs={name: str(spec.shape) for name, spec in found.inputs.items()},
            outputs={name: str(shape) for name, shape in shapes.items()},
        )
    return inputs[0], "default" if "default" in outputs else outputs[0]
