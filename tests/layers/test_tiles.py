"""Adapters that see the frames of a clip side by side, as in the official networks."""

import keras
import numpy as np

from keras_mdm import LevelSpec, build_nested_unet
from keras_mdm.layers.level import tile_frames, untile_frames
from keras_mdm.layers.nested_level import adapt

from .reference import randomize


def test_frames_lie_row_by_row():
    rows = np.random.default_rng(0).normal(size=(8, 2, 3, 5)).astype("float32")
    picture = keras.ops.convert_to_numpy(tile_frames(rows, 4))
    assert picture.shape == (2, 4, 6, 5)
    np.testing.assert_array_equal(picture[0, :2, 3:], rows[1])  # the second: right of the first
    np.testing.assert_array_equal(picture[1, 2:, :3], rows[6])  # the third of the second clip
    np.testing.assert_array_equal(untile_frames(picture, 4), rows)


def test_a_tiled_adapter_looks_across_the_edges_of_frames():
    conv = keras.layers.Conv2D(1, 3, padding="same", kernel_initializer="ones")
    rows = np.zeros((4, 2, 2, 1), "float32")
    rows[0, :, 1] = 1.0  # the right edge of the first frame
    apart, tiled = np.array(adapt(conv, rows, 1)), np.array(adapt(conv, rows, 4))
    assert not apart[1].any()
    np.testing.assert_array_equal(tiled[1, :, 0, 0], [2.0, 2.0])
    np.testing.assert_array_equal(tiled[3, 0, 0], [1.0])  # over the corner


def test_the_builder_passes_it_on():
    levels = [
        LevelSpec(4, channels=(32,), blocks=(1,), attention=(0,)),
        LevelSpec(4, 4, channels=(32, 32, 32), blocks=(1, 1, 1)),
    ]
    outer = {"size": 8, "frames": 4, "channels": (32, 32), "blocks": (1, 1)}
    outputs = []
    for tiled in (False, True):
        level = LevelSpec(**outer, tiled_adapters=tiled)
        unet = build_nested_unet([*levels, level], time_width=32, text_blocks=0)
        randomize(unet)
        shapes = {name: (1, *tensor.shape[1:]) for name, tensor in unet.input.items()}
        rng = np.random.default_rng(1)
        inputs = {name: rng.uniform(size=shape) for name, shape in sorted(shapes.items())}
        outputs.append({name: np.array(x) for name, x in unet(inputs).items()})
    difference = {name: np.abs(outputs[0][name] - outputs[1][name]).max() for name in outputs[0]}
    assert min(difference.values()) > 1e-3, difference
