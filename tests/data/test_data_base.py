"""The record of captioned pictures and its block average."""

import numpy as np
import pytest

from keras_mdm.data import CaptionedImages, area_average


def record(rng, n=5):
    images = {size: rng.integers(0, 256, (n, size, size, 3), np.uint8) for size in (2, 4)}
    captions = tuple("abcde"[:n])
    return CaptionedImages(images, captions, np.arange(n, dtype=np.int32), ("x",) * n)


def test_area_average_is_the_rounded_mean_of_blocks():
    images = np.random.default_rng(0).integers(0, 256, (70, 12, 12, 3), np.uint8)
    blocks = images.astype(np.float64).reshape(70, 3, 4, 3, 4, 3).mean(axis=(2, 4))
    np.testing.assert_array_equal(area_average(images, 3), np.floor(blocks + 0.5))
    np.testing.assert_array_equal(area_average(images, 12), images)


@pytest.mark.parametrize("size", [5, 24])
def test_area_average_refuses_sizes_that_do_not_divide(size):
    with pytest.raises(ValueError, match=f"size={size}, larger=12"):
        area_average(np.zeros((1, 12, 12, 3), np.uint8), size)


@pytest.mark.parametrize("rows", [[3, 0], np.array([True, False, False, True, False])])
def test_take_keeps_pictures_captions_and_labels_together(rows):
    data = record(np.random.default_rng(0))
    taken = data.take(rows)
    order = np.arange(5)[rows]
    assert taken.captions == tuple("abcde"[row] for row in order)
    np.testing.assert_array_equal(taken.labels, order)
    for size in (2, 4):
        np.testing.assert_array_equal(taken.images[size], data.images[size][order])


def test_parts_that_do_not_belong_together_are_refused():
    data = record(np.random.default_rng(0))
    with pytest.raises(ValueError, match="captions=4"):
        CaptionedImages(data.images, data.captions[:4], data.labels, data.label_names)
    with pytest.raises(ValueError, match="one label per picture"):
        CaptionedImages(data.images, data.captions, data.labels[:4], data.label_names)
