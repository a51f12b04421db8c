"""Pixels there and back, and that there is one place for it."""

import re
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_mdm.pictures import pixels


def test_every_pixel_survives():
    every = np.arange(256, dtype="uint8")
    unit = pixels.to_unit(every)
    assert unit.dtype == tf.float32
    np.testing.assert_allclose(unit, every / 127.5 - 1.0, atol=1e-6)
    np.testing.assert_array_equal(pixels.to_uint8(unit), every)
    assert pixels.to_uint8(tf.constant([-3.0, 3.0])).numpy().tolist() == [0, 255]


def test_there_is_one_place_for_it():
    package = Path(pixels.__file__).parent
    found = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        if re.search(r"[*/] ?127\.5\b", re.sub(r'""".*?"""', "", file.read_text(), flags=re.S))
    }
    assert found == {"pixels.py"}
