import numpy as np
import pytest
import tensorflow as tf

from keras_mdm.diffusion.pyramid import LevelShape, build_pyramid, downsample, upsample

IMAGE, SMALL, TINY = (LevelShape(None, size) for size in (24, 8, 4))


def pooled(x, ratio):
    *batch, height, width, channels = x.shape
    blocks = x.reshape(*batch, height // ratio, ratio, width // ratio, ratio, channels)
    return blocks.mean(axis=(-4, -2))


def test_names():
    for text, shape in {"64": LevelShape(None, 64), "16x64": LevelShape(16, 64)}.items():
        assert shape.name == text and LevelShape.parse(text) == shape == LevelShape.parse(shape)
    assert LevelShape.parse(64).name == "64" and LevelShape.parse((16, 256)).name == "16x256"
    for bad in ("64x", "x64", "a", 1.5, True, None, 0, (0, 4)):
        with pytest.raises(ValueError, match="Received: .*To fix it: "):
            LevelShape.parse(bad)


def test_area_is_the_mean_of_blocks(rng):
    x = rng.standard_normal((2, 24, 24, 3))
    np.testing.assert_allclose(downsample(x, IMAGE, SMALL), pooled(x, 3), rtol=0, atol=1e-15)
    clip = rng.standard_normal((2, 6, 24, 24, 3))
    low = downsample(clip, LevelShape(6, 24), LevelShape(3, 8))
    np.testing.assert_allclose(low, pooled(clip[:, ::2], 3), rtol=0, atol=1e-15)


def test_bilinear_by_hand():
    # One axis 0..7, ratio 4: centres at 1.5 and 5.5. Ratio 2: 0.5, 2.5, ... Odd ratio: the middle.
    x = np.broadcast_to(np.arange(8.0)[None, None, :, None] ** 2, (1, 8, 8, 1))
    low = downsample(x, LevelShape(None, 8), LevelShape(None, 2), "bilinear")
    np.testing.assert_array_equal(low[0, 0, :, 0], [(1 + 4) / 2, (25 + 36) / 2])
    x = np.broadcast_to(np.arange(9.0)[None, :, None, None] ** 2, (1, 9, 9, 1))
    low = downsample(x, LevelShape(None, 9), LevelShape(None, 3), "bilinear")
    np.testing.assert_array_equal(low[0, :, 0, 0], [1, 16, 49])


@pytest.mark.parametrize("size", [12, 8, 6, 4])
def test_bilinear_is_tensorflows_resize(rng, size):
    x = rng.standard_normal((2, 24, 24, 3)).astype("float32")
    low = downsample(x, IMAGE, LevelShape(None, size), "bilinear")
    resized = tf.image.resize(x, (size, size), "bilinear", antialias=False)
    np.testing.assert_allclose(low, resized, rtol=0, atol=1e-6)
    shape = LevelShape(None, size)
    high = upsample(low, shape, IMAGE, "bilinear")
    # TensorFlow computes the positions in float32: half a unit in the last place of 24 is 1e-6.
    np.testing.assert_allclose(high, tf.image.resize(low, (24, 24)), rtol=0, atol=5e-6)


def test_an_image_over_a_clip_is_its_first_frame(rng):
    clip = rng.standard_normal((2, 4, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(downsample(clip, LevelShape(4, 8), SMALL), clip[:, 0])
    kept = downsample(clip, LevelShape(4, 8), LevelShape(2, 8))
    np.testing.assert_array_equal(kept, clip[:, [0, 2]])


def test_area_pyramid_equals_one_shot(rng):
    shapes = [TINY, LevelShape(None, 8), LevelShape(4, 8), LevelShape(4, 24)]
    clip = rng.standard_normal((2, 4, 24, 24, 3))
    pyramid = build_pyramid(clip, shapes)
    assert list(pyramid) == ["4", "8", "4x8", "4x24"]
    for shape in shapes:
        one_shot = downsample(clip, shapes[-1], shape)
        np.testing.assert_allclose(pyramid[shape.name], one_shot, rtol=0, atol=1e-15)


def test_bilinear_pyramid_samples_the_top(rng):
    x = rng.standard_normal((1, 24, 24, 3))
    shapes = [LevelShape(None, 6), LevelShape(None, 12), IMAGE]
    pyramid = build_pyramid(x, shapes, "bilinear")
    for shape in shapes:
        one_shot = downsample(x, IMAGE, shape, "bilinear")
        np.testing.assert_array_equal(pyramid[shape.name], one_shot)
    chained = downsample(pyramid["12"], shapes[1], shapes[0], "bilinear")
    assert np.max(np.abs(chained - pyramid["6"])) > 0.1  # so the order matters


@pytest.mark.parametrize("low", [TINY, LevelShape(2, 4), LevelShape(4, 8)], ids=lambda s: s.name)
def test_downsampling_undoes_nearest_upsampling(rng, low):
    high = LevelShape(4, 8)
    frames = () if low.frames is None else (low.frames,)
    x = rng.standard_normal((2, *frames, low.size, low.size, 3))
    np.testing.assert_array_equal(downsample(upsample(x, low, high), high, low), x)


def test_upsampling_in_time_keeps_the_frames_that_were_kept(rng):
    low, high = LevelShape(2, 4), LevelShape(8, 4)
    x = rng.standard_normal((2, 2, 4, 4, 3))
    held, linear = (upsample(x, low, high, kind) for kind in ("nearest", "bilinear"))
    np.testing.assert_array_equal(held, x[:, [0, 0, 0, 0, 1, 1, 1, 1]])
    np.testing.assert_allclose(linear[:, 1], 0.75 * x[:, 0] + 0.25 * x[:, 1], atol=1e-15)
    np.testing.assert_array_equal(linear[:, 4:], held[:, 4:])
    np.testing.assert_array_equal(downsample(linear, high, low), x)
    picture = rng.standard_normal((2, 4, 4, 3))
    for kind in ("nearest", "bilinear"):
        clip = upsample(picture, TINY, high, kind)
        np.testing.assert_array_equal(clip, np.repeat(picture[:, None], 8, axis=1))


KEPT = {"first": ([0, 4], 0), "middle": ([2, 6], 4)}


@pytest.mark.parametrize("frame", ["first", "middle", "average"])
def test_a_frame_stands_for_its_group(rng, frame):
    image, two, eight = LevelShape(None, 4), LevelShape(2, 4), LevelShape(8, 8)
    clip = rng.standard_normal((2, 8, 8, 8, 3))
    pyramid = build_pyramid(clip, [image, two, LevelShape(8, 4), eight], frame=frame)
    small = downsample(clip, eight, LevelShape(8, 4))
    if frame == "average":
        expected = small.numpy().reshape(2, 2, 4, 4, 4, 3).mean(axis=2), small.numpy().mean(axis=1)
    else:
        frames, single = KEPT[frame]
        expected = small.numpy()[:, frames], small.numpy()[:, single]
    np.testing.assert_allclose(pyramid["2x4"], expected[0], rtol=0, atol=1e-15)
    np.testing.assert_allclose(pyramid["4"], expected[1], rtol=0, atol=1e-15)
    # What was kept, or averaged, returns from the clip that is made of it.
    for kind in ("nearest", "bilinear"):
        back = upsample(pyramid["2x4"], two, LevelShape(8, 4), kind, frame)
        again = downsample(back, LevelShape(8, 4), two, frame=frame)
        if (kind, frame) != ("bilinear", "average"):  # the ends are held: not their average
            np.testing.assert_allclose(again, pyramid["2x4"], rtol=0, atol=1e-15)
    # A clip that changes evenly is rebuilt between the places of its frames.
    ramp = np.broadcast_to(np.arange(8.0)[None, :, None, None, None], (1, 8, 4, 4, 3))
    low = downsample(ramp, LevelShape(8, 4), two, frame=frame)
    line = np.array(upsample(low, two, LevelShape(8, 4), "bilinear", frame))[0, :, 0, 0, 0]
    place = {"first": 0, "middle": 2, "average": 1.5}[frame]
    np.testing.assert_allclose(line, np.clip(np.arange(8), place, place + 4), atol=1e-12)


@pytest.mark.parametrize("kinds", [("area", "nearest"), ("bilinear", "bilinear")])
def test_in_a_graph_with_an_unknown_batch(rng, kinds):
    shapes = [TINY, LevelShape(2, 4), LevelShape(4, 8)]

    def ladder(x):
        pyramid = build_pyramid(x, shapes, kinds[0])
        return pyramid, upsample(pyramid["4"], shapes[0], shapes[-1], kinds[1])

    traced = tf.function(ladder, input_signature=[tf.TensorSpec([None, 4, 8, 8, 3], "float32")])
    static = traced.get_concrete_function().structured_outputs
    assert static[0]["4"].shape.as_list() == [None, 4, 4, 3]
    assert static[1].shape.as_list() == [None, 4, 8, 8, 3]
    for batch in (1, 3):
        x = rng.standard_normal((batch, 4, 8, 8, 3)).astype("float32")
        graph, eager = traced(x), ladder(tf.constant(x))
        tf.nest.map_structure(np.testing.assert_array_equal, graph, eager)


@pytest.mark.parametrize(
    ("source", "target"),
    [("24", "16"), ("8", "24"), ("24", "2x24"), ("4x24", "3x24"), ("4x24", "24x24")],
)
def test_levels_that_do_not_divide_are_refused(source, target):
    source, target = LevelShape.parse(source), LevelShape.parse(target)
    x = np.zeros((1, *(() if source.frames is None else (source.frames,)), source.size, 24, 3))
    with pytest.raises(ValueError, match="Received: .*To fix it: "):
        downsample(x, source, target)


def test_data_of_another_level_are_refused():
    with pytest.raises(ValueError, match="level '24'"):
        downsample(np.zeros((1, 8, 8, 3)), IMAGE, TINY)
