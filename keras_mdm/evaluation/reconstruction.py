"""How much an autoencoder loses: pictures beside their reconstructions."""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.evaluation.kid import KID, paired_kernel_distance
from keras_mdm.evaluation.report import name_of

_LARGEST, _WINDOW, _AT_A_TIME = 255.0, 11, 256


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """Result of `reconstruction`.

    Attributes:
        pictures: number of pairs.
        psnr: mean peak signal-to-noise ratio in dB, infinite if a pair is equal.
        psnr_error: its standard error.
        ssim: mean structural similarity, 1 for equal pictures.
        ssim_error: its standard error.
        distance: kernel distance of the reconstructions from the pictures; `None` without features.
        measure: what that distance is called.
    """

    pictures: int
    psnr: float
    psnr_error: float
    ssim: float
    ssim_error: float
    distance: KID | None = None
    measure: str = ""

    def __str__(self) -> str:
        rows = [
            ("PSNR, dB", f"{self.psnr:.2f} +- {self.psnr_error:.2f}"),
            ("SSIM", f"{self.ssim:.4f} +- {self.ssim_error:.4f}"),
        ]
        if self.distance is not None:
            rows.append((self.measure, str(self.distance)))
        lines = [f"| {name} | {value} | {self.pictures} |" for name, value in rows]
        return "\n".join(["| measure | reconstructions | pictures |", "|---|---|---|", *lines])


def reconstruction(real: np.ndarray, found: np.ndarray, *, features: Any = None) -> Reconstruction:
    """Compare pictures with what an autoencoder made of them.

    The peak signal-to-noise ratio is 10 log10(255^2 / mean squared error), the structural
    similarity has a Gaussian window of 11 pixels; both are means over pictures. The kernel distance
    is that of `evaluate`, without the pairs of a picture with its own reconstruction.

    Args:
        real: uint8 (n, H, W, C).
        found: uint8 (n, H, W, C), in the same order.
        features: a feature network such as `EfficientNetLite0`; no distance without one.

    Returns:
        A `Reconstruction`; its `str` is a table.

    Raises:
        ValueError: if the pictures do not fit each other, or are smaller than 11 pixels.

    Example:

    >>> real = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype("uint8")
    >>> print(reconstruction(real, real // 2 + 64))  # doctest: +ELLIPSIS
    | measure | reconstructions | pictures |
    |---|---|---|
    | PSNR, dB | ...

    Reference: Wang et al. 2004, Image quality assessment: from error visibility to structural
    similarity; Binkowski et al., arXiv 1801.01401 (the distance).
    """
    real, found = np.asarray(real), np.asarray(found)
    fits = real.ndim == 4 and real.shape == found.shape and len(real)
    if not fits or real.dtype != np.uint8 or found.dtype != np.uint8:
        raise checks.error(
            "pictures and reconstructions must be uint8 (n, H, W, C), in the same order",
            fix="decode with keras_mdm.latents.to_pictures",
            real=(real.shape, str(real.dtype)),
            found=(found.shape, str(found.dtype)),
        )
    if min(real.shape[1:3]) < _WINDOW:
        raise checks.error(
            f"structural similarity needs pictures of at least {_WINDOW} pixels",
            fix="compare larger pictures",
            shape=real.shape,
        )
    ratios, similarities = [], []
    for first in range(0, len(real), _AT_A_TIME):
        rows = slice(first, first + _AT_A_TIME)
        pair = [tf.cast(pictures[rows], tf.float32) for pictures in (real, found)]
        ratios.append(tf.image.psnr(*pair, max_val=_LARGEST).numpy())
        similarities.append(tf.image.ssim(*pair, max_val=_LARGEST).numpy())
    psnr, ssim = (_mean(np.concatenate(values)) for values in (ratios, similarities))
    if features is None:
        return Reconstruction(len(real), *psnr, *ssim)
    distance = paired_kernel_distance(features(real), features(found))
    return Reconstruction(len(real), *psnr, *ssim, distance, name_of("kernel", features))


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error."""
    values = values.astype("float64")
    if len(values) < 2 or not np.isfinite(values).all():
        return float(values.mean()), math.nan
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
