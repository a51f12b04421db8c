"""ResBlock: the identity at first, its definition after that."""

import numpy as np
import pytest

from keras_mdm.layers import ResBlock, ResolutionBlock

from .reference import affine, conv2d, f64, group_norm, randomize, silu


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def test_starts_as_the_identity(rng):
    x = rng.normal(size=(2, 6, 6, 32)).astype("float32")
    embedding = rng.normal(size=(2, 48)).astype("float32")
    np.testing.assert_array_equal(ResBlock(32)(x, embedding), x)


def test_starts_as_its_skip_where_channels_change(rng):
    x = rng.normal(size=(2, 6, 6, 32)).astype("float32")
    block = ResBlock(64)
    y = block(x, rng.normal(size=(2, 48)).astype("float32"))
    np.testing.assert_allclose(y, affine(block.skip, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [32, 64])
def test_equals_the_definition(rng, channels):
    """The first half of the time layer scales, the second shifts, after the affine weights."""
    x = rng.normal(size=(2, 5, 6, 32)).astype("float32")
    embedding = rng.normal(size=(2, 48)).astype("float32")
    block = ResBlock(channels, groups=16)
    block.build(x.shape, embedding.shape)
    randomize(block, scale=0.1)
    h = conv2d(block.conv1, silu(group_norm(x, block.norm1.gamma, block.norm1.beta, 16)))
    scale, shift = np.split(affine(block.time_layer, silu(f64(embedding))), 2, axis=-1)
    h = group_norm(h, block.norm2.gamma, block.norm2.beta, 16)
    h = conv2d(block.conv2, silu(h * (1 + scale[:, None, None]) + shift[:, None, None]))
    expected = h + (f64(x) if channels == 32 else affine(block.skip, x))
    np.testing.assert_allclose(block(x, embedding), expected, rtol=0, atol=5e-5)


def test_frames_of_a_clip_share_their_embedding(rng):
    """Row b*T + t of a clip level belongs to embedding b."""
    stage = ResolutionBlock(32, blocks=1, frames=3)
    x = rng.normal(size=(6, 4, 4, 32)).astype("float32")
    embedding = rng.normal(size=(2, 48)).astype("float32")
    stage.build(x.shape, embedding.shape)
    randomize(stage)
    (block,) = stage.residual
    (y,) = stage(x, embedding)
    expected = block(x, np.repeat(embedding, 3, axis=0))
    np.testing.assert_array_equal(y, expected)


def test_skips_go_behind_x_in_order(rng):
    """The way up concatenates [x, skip] for every block, the first skip for the first block."""
    stage = ResolutionBlock(32, blocks=2)
    x, first, second = rng.normal(size=(3, 2, 4, 4, 32)).astype("float32")
    embedding = rng.normal(size=(2, 48)).astype("float32")
    stage.build(x.shape, embedding.shape, skips_shape=[first.shape, second.shape])
    randomize(stage)
    states = stage(x, embedding, skips=[first, second])
    one, two = stage.residual
    expected = one(np.concatenate([x, first], axis=-1), embedding)
    np.testing.assert_array_equal(states[0], expected)
    expected = two(np.concatenate([expected, second], axis=-1), embedding)
    np.testing.assert_array_equal(states[1], expected)
