"""TextConditioning: which tokens are pooled, and which are seen."""

import numpy as np
import pytest

from keras_mdm.layers import TextConditioning

from .reference import affine, f64, randomize, token_attention

MASK = np.array([[1, 1, 0, 0], [1, 1, 1, 1]], "float32")


@pytest.fixture
def text():
    return np.random.default_rng(4).normal(size=(2, 4, 16)).astype("float32")


def make(**settings):
    layer = TextConditioning(24, heads=4, **settings)
    layer.build((None, None, 16), (None, None))
    randomize(layer)
    return layer


def masked_mean(tokens):
    return (f64(tokens) * MASK[..., None]).sum(axis=1) / MASK.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("projection", [None, 32])
@pytest.mark.parametrize(
    ("use_mask", "blocks", "pools_padding"),
    [(True, 0, False), (True, 2, False), (False, 0, False), (False, 2, True)],
)
def test_pooling_and_tokens(text, projection, use_mask, blocks, pools_padding):
    """Padding is averaged in only where the blocks saw it: without a mask and with a block."""
    layer = make(projection=projection, blocks=blocks, use_mask=use_mask)
    tokens = f64(text) if projection is None else affine(layer.project, text)
    for block in layer.attention:
        tokens = token_attention(block, tokens, MASK if use_mask else None)
    pooled = tokens.mean(axis=1) if pools_padding else masked_mean(tokens)
    found = layer(text, MASK)
    np.testing.assert_allclose(found["tokens"], tokens, rtol=0, atol=2e-4)
    np.testing.assert_allclose(found["embedding"], affine(layer.pooled, pooled), 0, atol=2e-4)
    assert layer.pooled.bias is None
    assert np.abs(tokens.mean(axis=1) - masked_mean(tokens)).max() > 0.05  # the two do differ


def test_masked_padding_changes_nothing(text):
    layer = make(blocks=2)
    other = np.where(MASK[..., None] > 0, text, 50.0)
    before, after = layer(text, MASK), layer(other, MASK)
    np.testing.assert_array_equal(before["embedding"], after["embedding"])
    kept = MASK[..., None]
    np.testing.assert_array_equal(before["tokens"] * kept, after["tokens"] * kept)


@pytest.mark.parametrize("blocks", [0, 2])
def test_a_mask_of_zeros_is_finite(text, blocks):
    found = make(blocks=blocks)(text, np.zeros((2, 4), "float32"))
    assert np.isfinite(found["tokens"]).all()
    np.testing.assert_array_equal(found["embedding"], np.zeros((2, 24)))


def test_mask_and_pooling_follow_any_dtype(text):
    layer = make(blocks=1)
    expected = layer(text, MASK)["embedding"]
    for dtype in ("bool", "int32", "float32"):
        np.testing.assert_array_equal(layer(text, MASK.astype(dtype))["embedding"], expected)


def test_heads_must_divide_the_tokens():
    with pytest.raises(ValueError, match="width=18, heads=4"):
        TextConditioning(24, projection=18, heads=4).build((None, None, 16))
