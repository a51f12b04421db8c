"""The operators D^r on bytes are those of the pyramid."""

import numpy as np
import pytest

from keras_mdm.data.reduction import reduce_pixels
from keras_mdm.diffusion import LevelShape, downsample
from keras_mdm.diffusion.pyramid import DOWNSAMPLING


@pytest.mark.parametrize("kind", DOWNSAMPLING)
@pytest.mark.parametrize(
    ("larger", "size"), [(12, 6), (12, 4), (12, 12), (15, 3), (64, 4), (96, 2)]
)
def test_bytes_are_reduced_as_tensors_are(kind, larger, size):
    pixels = np.random.default_rng(0).integers(0, 256, (5, larger, larger, 3), np.uint8)
    shapes = LevelShape(None, larger), LevelShape(None, size)
    # Sums of bytes are exact in float32, up to one rounding: halves go up.
    exact = np.asarray(downsample(pixels.astype(np.float64), *shapes, kind))
    found = reduce_pixels(pixels, size, kind)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.floor(exact + 0.5 + 1e-6))


def test_axes_before_the_picture_stay():
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 1), np.uint8)
    found = reduce_pixels(clips, 2, "bilinear")
    assert found.shape == (2, 3, 2, 2, 1)
    np.testing.assert_array_equal(found[1, 2], reduce_pixels(clips[1, 2], 2, "bilinear"))


def test_many_pictures_are_reduced_in_parts():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2048, 2048, 3), np.uint8)
    found = reduce_pixels(pixels, 64)
    for whole, small in zip(pixels, found, strict=True):
        blocks = whole.reshape(64, 32, 64, 32, 3).mean((1, 3), dtype=np.float64)
        np.testing.assert_array_equal(small, np.floor(blocks + 0.5))
    np.testing.assert_array_equal(reduce_pixels(np.full((512, 512, 1), 255, np.uint8), 1), 255)


@pytest.mark.parametrize(
    ("pixels", "size", "kind", "message"),
    [
        (np.zeros((12, 12, 3), np.uint8), 5, "area", "size=5, larger=12"),
        (np.zeros((12, 12, 3), np.uint8), 24, "area", "size=24, larger=12"),
        (np.zeros((12, 12, 3), np.uint8), 6, "cubic", "kind='cubic'"),
        (np.zeros((12, 12, 3), np.float32), 6, "area", "dtype='float32'"),
        (np.zeros((12, 16, 3), np.uint8), 4, "area", "larger=(12, 16)"),
    ],
)
def test_what_cannot_be_reduced_is_refused(pixels, size, kind, message):
    with pytest.raises(ValueError) as caught:
        reduce_pixels(pixels, size, kind)
    assert message in str(caught.value)
