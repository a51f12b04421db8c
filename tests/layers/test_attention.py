"""Attention: definition, masks, independence of rows, rotary positions."""

import numpy as np
import pytest

from keras_mdm.layers import SpatialAttention, TokenAttention
from keras_mdm.layers.attention import attend, rotate

from .reference import (
    affine,
    attention,
    f64,
    gelu,
    group_norm,
    layer_norm,
    randomize,
    token_attention,
)


@pytest.fixture
def rng():
    return np.random.default_rng(2)


def draw(rng, *shape):
    return rng.normal(size=shape).astype("float32")


def spatial(rng, *, text=True, feed_forward=True):
    """A random layer with its inputs: 2 samples, 5 tokens of which the first has 3."""
    x, tokens = draw(rng, 2, 4, 6, 64), draw(rng, 2, 5, 24)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], "float32")
    layer = SpatialAttention(heads=4, feed_forward=feed_forward)
    layer.build(x.shape, tokens.shape if text else None)
    randomize(layer, scale=0.15)
    return layer, x, tokens, mask


def test_attention_starts_as_the_identity(rng):
    x, tokens = draw(rng, 2, 4, 4, 32), draw(rng, 2, 5, 32)
    layer = SpatialAttention(heads=4, feed_forward=True)
    np.testing.assert_array_equal(layer(x, text=tokens, text_mask=np.ones((2, 5))), x)
    np.testing.assert_array_equal(TokenAttention(heads=4)(tokens), tokens)
    np.testing.assert_array_equal(TokenAttention(heads=4, rotary=True)(tokens), tokens)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("feed_forward", [False, True])
def test_spatial_attention_equals_the_definition(rng, text, feed_forward):
    """Two softmaxes with one query, added: not one softmax over pixels and tokens."""
    layer, x, tokens, mask = spatial(rng, text=text, feed_forward=feed_forward)
    pixels = group_norm(x, layer.norm.gamma, layer.norm.beta, 32).reshape(2, 24, 64)
    query, key, value = np.split(affine(layer.qkv, pixels), 3, axis=-1)
    h = attention(query, key, value, 4)
    given = {}
    if text:
        states = affine(layer.text_kv, layer_norm(layer.text_norm, tokens))
        h = h + attention(query, *np.split(states, 2, axis=-1), 4, mask)
        given = {"text": tokens, "text_mask": mask}
    expected = f64(x) + affine(layer.proj_out, h).reshape(x.shape)
    if feed_forward:
        u = group_norm(expected, layer.ffn_norm.gamma, layer.ffn_norm.beta, 32)
        expected = expected + affine(layer.ffn_out, gelu(affine(layer.ffn_in, u)))
    np.testing.assert_allclose(layer(x, **given), expected, rtol=0, atol=5e-5)


def test_token_attention_equals_the_definition(rng):
    x = draw(rng, 2, 5, 32)
    mask = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], "float32")
    layer = TokenAttention(heads=4)
    layer.build(x.shape)
    randomize(layer)
    np.testing.assert_allclose(layer(x), token_attention(layer, x), rtol=0, atol=5e-5)
    expected = token_attention(layer, x, mask)
    np.testing.assert_allclose(layer(x, token_mask=mask), expected, rtol=0, atol=5e-5)


def test_padding_changes_nothing(rng):
    """Neither its values nor how much of it there is."""
    layer, x, tokens, mask = spatial(rng)
    before = layer(x, text=tokens, text_mask=mask)
    other = np.where(mask[..., None] > 0, tokens, 1e3 * draw(rng, *tokens.shape))
    np.testing.assert_array_equal(layer(x, text=other, text_mask=mask), before)
    longer = np.concatenate([tokens, draw(rng, 2, 4, 24)], axis=1)
    longer_mask = np.concatenate([mask, np.zeros((2, 4), "float32")], axis=1)
    after = layer(x, text=longer, text_mask=longer_mask)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)
    without = layer(x, text=tokens)  # the mask itself does matter
    assert np.abs(without - before).max() > 1e-3


def test_padding_changes_no_other_token(rng):
    x = draw(rng, 2, 5, 32)
    mask = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], "float32")
    layer = TokenAttention(heads=4)
    layer.build(x.shape)
    randomize(layer)
    other = np.where(mask[..., None] > 0, x, 1e3 * draw(rng, *x.shape))
    kept = mask[..., None]
    before, after = layer(x, token_mask=mask), layer(other, token_mask=mask)
    np.testing.assert_array_equal(after * kept, before * kept)


def test_a_mask_of_zeros_is_finite(rng):
    layer, x, tokens, _ = spatial(rng)
    y = layer(x, text=tokens, text_mask=np.zeros((2, 5), "float32"))
    uniform = layer(x, text=tokens, text_mask=np.ones((2, 5), "float32"))
    assert np.isfinite(y).all()
    assert not np.allclose(y, uniform)
    tokens = draw(rng, 2, 5, 64)
    block = TokenAttention(heads=4)
    block.build(tokens.shape)
    randomize(block)
    assert np.isfinite(block(tokens, token_mask=np.zeros((2, 5), "float32"))).all()


def test_attention_over_nothing_is_uniform(rng):
    query, key, value = (draw(rng, 1, 2, 5, 8) for _ in range(3))
    mean = np.mean(value, axis=2, keepdims=True)  # (1, 2, 1, 8)
    expected = np.broadcast_to(mean, value.shape).transpose(0, 2, 1, 3).reshape(1, 5, 16)
    y = attend(query, key, value, np.zeros((1, 5), "float32"))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)


def test_rows_of_a_batch_are_independent(rng):
    layer, x, tokens, mask = spatial(rng)
    whole = layer(x, text=tokens, text_mask=mask)
    for row in range(2):
        one = slice(row, row + 1)
        alone = layer(x[one], text=tokens[one], text_mask=mask[one])
        np.testing.assert_allclose(whole[one], alone, rtol=0, atol=1e-5)
    x2 = np.concatenate([x[:1], draw(rng, 1, 4, 6, 64)])
    changed = layer(x2, text=tokens, text_mask=mask)
    np.testing.assert_array_equal(changed[0], whole[0])


def test_pixels_are_in_row_major_order(rng):
    """Attention knows no positions: permuting the pixels permutes the result."""
    layer, x, tokens, mask = spatial(rng)
    order = rng.permutation(24)
    shuffled = x.reshape(2, 24, 64)[:, order].reshape(x.shape)
    y = np.asarray(layer(x, text=tokens, text_mask=mask)).reshape(2, 24, 64)[:, order]
    found = layer(shuffled, text=tokens, text_mask=mask)
    np.testing.assert_allclose(found, y.reshape(x.shape), rtol=0, atol=1e-5)


def turn(x, heads):
    """Rotary positions with complex numbers: pair (2i, 2i+1) times exp(i p 10000^(-2i/d))."""
    batch, length, width = x.shape
    d = width // heads
    pairs = f64(x).reshape(batch, length, heads, d // 2, 2)
    numbers = pairs[..., 0] + 1j * pairs[..., 1]
    angles = np.arange(length)[:, None] * 10000.0 ** (-2.0 * np.arange(d // 2) / d)
    numbers = numbers * np.exp(1j * angles)[None, :, None, :]
    return np.stack([numbers.real, numbers.imag], axis=-1).reshape(x.shape)


def test_rotation_equals_complex_multiplication(rng):
    x = draw(rng, 2, 7, 3 * 8)  # (B, T, heads * d)
    heads_first = x.reshape(2, 7, 3, 8).transpose(0, 2, 1, 3)
    found = np.asarray(rotate(heads_first)).transpose(0, 2, 1, 3).reshape(x.shape)
    np.testing.assert_allclose(found, turn(x, 3), rtol=0, atol=1e-5)


def test_rotated_products_depend_on_the_distance_only(rng):
    query, key = draw(rng, 1, 1, 1, 16), draw(rng, 1, 1, 1, 16)
    turned_q = f64(rotate(np.repeat(query, 12, axis=2)))[0, 0]
    turned_k = f64(rotate(np.repeat(key, 12, axis=2)))[0, 0]
    products = turned_q @ turned_k.T
    for distance in range(-3, 4):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=0, atol=1e-5)
    assert np.ptp(products[0]) > 0.1


def test_rotary_token_attention_equals_the_definition(rng):
    x = draw(rng, 3, 6, 64)
    layer = TokenAttention(heads=2, rotary=True)
    layer.build(x.shape)
    randomize(layer)
    expected = token_attention(layer, x, turn=lambda tokens: turn(tokens, 2))
    np.testing.assert_allclose(layer(x), expected, rtol=0, atol=5e-5)
    assert np.abs(expected - token_attention(layer, x)).max() > 1e-2


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="width=64, heads=5"):
        SpatialAttention(heads=5).build((None, 4, 4, 64))
    with pytest.raises(ValueError, match="width=30, heads=4"):
        TokenAttention(heads=4).build((None, 5, 30))
