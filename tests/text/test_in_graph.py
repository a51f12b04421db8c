"""Text encoders as graphs: the same tokens, and states within rounding."""

import random
import warnings

import numpy as np
import pytest
import tensorflow as tf

from keras_mdm import assets, data
from keras_mdm.text import FlanT5, MiniLM
from keras_mdm.text.in_graph import in_graph

from .test_flan_t5 import own_cache, write  # noqa: F401 (a fixture)
from .test_t5_tokenizer import spiece  # noqa: F401 (a fixture)

STRANGE = ["", " ", "\n\t", "🍎🍏", "红苹果 a red 苹果", "a" * 10_000, "word " * 2000]
STRANGE += ["naïve café ÀÉÎ ß ﬁ İstanbul ΣΑΣ", "[PAD] [SEP] [CLS] [UNK]", "한국어 ハロー ｶﾀｶﾅ"]
STRANGE += ["a\u200bb\u00a0c\ufeff", "\x00\x01\x7f", "x" * 100, "x" * 101, "é" * 100, "é" * 101]
STRANGE += ["\U0001f469\u200d\U0001f467", "don't stop-it... (now)!", "$100 + 5% = #1 ^_^ ~`|"]
STRANGE += ["\ufffd", "ﷺ", "ǅ ŉ", "\u0345\u0301a", "</s> <pad> <unk>", "  two  spaces  "]


def soup(count):
    """Texts of any characters, most of them from the first planes."""
    rng = random.Random(1)
    pool = [chr(c) for c in range(0x20, 0x110000) if not 0xD800 <= c < 0xE000]
    draw = lambda: rng.choice(pool[:0x3000] if rng.random() < 0.8 else pool)  # noqa: E731
    return ["".join(draw() for _ in range(12)) for _ in range(count)]


def traced(function):
    texts = [tf.TensorSpec([None], tf.string)]
    return tf.function(function, input_signature=texts, autograph=False)


def encoded(texts):
    return tf.constant([text.encode() for text in texts])


@pytest.fixture
def t5(tmp_path, spiece):  # noqa: F811
    return FlanT5(write(tmp_path / "flan-tiny", spiece), length=12, max_characters=40)


def test_tokens_of_t5(t5):
    tokenize, texts = traced(in_graph(t5).tokenize), [*STRANGE, *soup(500)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = t5.parts()[0].encode(texts)
    np.testing.assert_array_equal(tokenize(encoded(texts)), expected)
    for text in ("", "a red panda"):  # as long as the longest of the call
        expected = t5.parts()[0].encode([text])
        np.testing.assert_array_equal(tokenize(encoded([text])), expected)


def test_states_of_t5(t5):
    texts = ["a red panda", "", "the cow"]
    states, mask = traced(in_graph(t5).__call__)(encoded(texts))
    expected, lengths = t5.encode(texts)
    np.testing.assert_array_equal(mask, lengths)
    np.testing.assert_allclose(states, expected, atol=1e-5)


@pytest.fixture(scope="module")
def minilm(request):
    if not assets.is_fetched("minilm"):
        if not request.config.getoption("--network", default=False):
            pytest.skip("needs `keras-mdm assets fetch minilm`, or --network")
        assets.fetch("minilm", progress=False)
    for package in ("keras_hub", "tokenizers", "safetensors"):
        pytest.importorskip(package)
    encoder = MiniLM(length=16)
    return encoder, in_graph(encoder)


@pytest.mark.network
def test_tokens_of_minilm(minilm):
    encoder, graph = minilm
    tokenize, texts = traced(graph.tokenize), [*STRANGE, *soup(2000)]
    for style in ("twemoji", "openmoji", "fluent"):
        name = {"twemoji": "emoji"}.get(style, style)
        if assets.is_fetched(name):
            texts += data.load_emoji((16,), style=style).captions
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = encoder._tokenize(texts)
    np.testing.assert_array_equal(tokenize(encoded(texts)), expected)


@pytest.mark.network
def test_states_of_minilm(minilm):
    encoder, graph = minilm
    texts = ["a red apple", "", "a cat asleep on a warm blue sofa"]
    states, mask = traced(graph.__call__)(encoded(texts))
    expected, lengths = encoder.encode(texts)
    np.testing.assert_array_equal(mask, lengths)
    np.testing.assert_allclose(states, expected, atol=2e-5)
