"""Halving and doubling in space and time, and attention over time, against explicit loops."""

import numpy as np
import pytest

from keras_mdm.layers import Downsample, TemporalAttention, Upsample
from keras_mdm.layers.resampling import double_pixels

from .reference import conv2d, f64, randomize, token_attention


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def draw(rng, *shape):
    return rng.normal(size=shape).astype("float32")


def built(layer, shape):
    layer.build(shape)
    randomize(layer)
    return layer


def conv1d(layer, frames, stride):
    """`(T, C)` -> `(T / stride, C)`: kernel of 3, one zero on either side."""
    kernel = f64(layer.kernel)[:, 0]  # (3, C, C)
    padded = np.pad(f64(frames), ((1, 1), (0, 0)))
    steps = range(0, len(frames), stride)
    rows = [sum(padded[step + k] @ kernel[k] for k in range(3)) for step in steps]
    return np.stack(rows) + f64(layer.bias)


def nearest(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def test_downsample_pads_alike_on_both_sides(rng):
    """Padding "same" at stride 2 would pad the bottom and the right only."""
    x = draw(rng, 2, 8, 6, 16)
    layer = built(Downsample(), x.shape)
    np.testing.assert_allclose(layer(x), conv2d(layer.conv, x, stride=2), rtol=0, atol=5e-5)


def test_upsample_is_nearest_and_a_convolution(rng):
    x = draw(rng, 2, 3, 4, 16)
    layer = built(Upsample(), x.shape)
    np.testing.assert_allclose(layer(x), conv2d(layer.conv, nearest(x)), rtol=0, atol=5e-5)
    np.testing.assert_array_equal(double_pixels(x), nearest(x))


@pytest.mark.parametrize("cls", [Downsample, Upsample])
def test_factor_one_keeps_the_size(rng, cls):
    x = draw(rng, 2, 5, 6, 16)
    layer = built(cls(factor=1), x.shape)
    np.testing.assert_allclose(layer(x), conv2d(layer.conv, x), rtol=0, atol=5e-5)


def test_time_is_halved_pixel_by_pixel(rng):
    clips = draw(rng, 2, 6, 3, 4, 16)  # (B, T, H, W, C)
    layer = built(Downsample(axis="time", frames=6), (12, 3, 4, 16))
    y = np.asarray(layer(clips.reshape(12, 3, 4, 16))).reshape(2, 3, 3, 4, 16)
    for b, i, j in np.ndindex(2, 3, 4):
        expected = conv1d(layer.conv, clips[b, :, i, j], 2)
        np.testing.assert_allclose(y[b, :, i, j], expected, rtol=0, atol=5e-5)


def test_time_is_doubled_pixel_by_pixel(rng):
    clips = draw(rng, 2, 3, 3, 4, 16)
    layer = built(Upsample(axis="time", frames=3), (6, 3, 4, 16))
    y = np.asarray(layer(clips.reshape(6, 3, 4, 16))).reshape(2, 6, 3, 4, 16)
    for b, i, j in np.ndindex(2, 3, 4):
        expected = conv1d(layer.conv, clips[b, :, i, j].repeat(2, axis=0), 1)
        np.testing.assert_allclose(y[b, :, i, j], expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("rotary", [False, True])
def test_temporal_attention_equals_the_definition(rng, rotary):
    """x + up_conv(nearest(attention over frames(down_conv(x)))), every pixel on its own."""
    clips = draw(rng, 2, 3, 4, 6, 64)
    x = clips.reshape(6, 4, 6, 64)
    layer = TemporalAttention(3, rotary=rotary)
    layer.build(x.shape)
    randomize(layer, scale=0.1)
    h = conv2d(layer.down_conv, x, stride=2).reshape(2, 3, 2, 3, 64)
    attended = np.empty_like(h)
    for i, j in np.ndindex(2, 3):
        frames = h[:, :, i, j]
        if rotary:  # against the layer itself, which has its own test
            attended[:, :, i, j] = layer.attention(frames.astype("float32"))
        else:
            attended[:, :, i, j] = token_attention(layer.attention, frames)
    expected = f64(x) + conv2d(layer.up_conv, nearest(attended.reshape(6, 2, 3, 64)))
    np.testing.assert_allclose(layer(x), expected, rtol=0, atol=2e-4)
    assert layer.attention.heads == 2  # heads of width 32


def test_temporal_attention_starts_without_attention(rng):
    """At first it is x plus two convolutions: frames do not see each other yet."""
    x = draw(rng, 6, 4, 4, 32)
    layer = TemporalAttention(3)
    expected = layer(x)
    detour = conv2d(layer.up_conv, nearest(conv2d(layer.down_conv, x, stride=2)))
    np.testing.assert_allclose(expected, f64(x) + detour, rtol=0, atol=1e-5)
    assert np.abs(detour).max() > 1e-2


def test_clips_are_independent_and_frames_are_not(rng):
    x = draw(rng, 6, 4, 4, 32)
    layer = built(TemporalAttention(3), x.shape)
    before = np.asarray(layer(x))
    x[5] += 1.0  # the last frame of the second clip
    after = np.asarray(layer(x))
    np.testing.assert_array_equal(after[:3], before[:3])
    assert np.abs(after[3] - before[3]).max() > 1e-3


@pytest.mark.parametrize("shape", [(2, 4, 4, 48), (2, 5, 4, 32), (2, 4, 3, 32)])
def test_temporal_attention_names_what_does_not_fit(shape):
    with pytest.raises(ValueError, match=f"channels={shape[3]}, height={shape[1]}"):
        TemporalAttention(2).build(shape)
