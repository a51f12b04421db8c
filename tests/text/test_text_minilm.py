"""all-MiniLM-L6-v2: padding, batching and cutting change nothing that they should not."""

import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mdm import assets
from keras_mdm.text import MiniLM, TextEncoder, encode_cached, from_identity

PROMPTS = ["a red apple", "", "a cat asleep on a warm blue sofa", "sun", "a sparkling gem stone"]


@pytest.fixture(scope="module")
def encoder(request):
    if not assets.is_fetched("minilm"):
        if not request.config.getoption("--network", default=False):
            pytest.skip("needs `keras-mdm assets fetch minilm`, or --network")
        assets.fetch("minilm", progress=False)
    for package in ("keras_hub", "tokenizers", "safetensors"):
        pytest.importorskip(package)
    return MiniLM(length=16)


def test_a_missing_asset_names_the_command_at_the_first_use(tmp_path):
    encoder = MiniLM(cache_dir=tmp_path)
    with pytest.raises(ValueError, match="`keras-mdm assets fetch minilm`"):
        encoder.encode(["a red apple"])


@pytest.mark.parametrize("length", [1, 513, 16.0, True])
def test_impossible_lengths_are_refused(length):
    with pytest.raises(ValueError, match=f"length={length}"):
        MiniLM(length=length)


def test_an_identity_survives_json_and_leads_back_to_the_encoder(tmp_path):
    # Known without the asset: a model can be saved and described where nothing is cached.
    identity = json.loads(json.dumps(MiniLM(length=24, cache_dir=tmp_path).identity))
    again = from_identity(identity, cache_dir=tmp_path)
    assert again.identity == identity and again.length == 24
    assert isinstance(again, TextEncoder)
    for change in ({"scale": 3.0}, {"sha256": "0" * 64}, {"name": "t5"}):
        with pytest.raises(ValueError, match="text_encoder"):
            from_identity(identity | change)


@pytest.mark.network
def test_padding_is_zero_and_tokens_are_not(encoder):
    states, mask = encoder.encode(PROMPTS)
    assert states.shape == (5, 16, 384) and states.dtype == mask.dtype == np.float32
    assert mask.sum(axis=1).tolist() == [5, 2, 10, 3, 6]
    assert np.all(np.diff(mask, axis=1) <= 0)
    assert np.all(states[mask == 0] == 0)
    assert np.abs(states[mask == 1]).max(axis=-1).min() > 0.5


@pytest.mark.network
def test_the_rest_of_the_batch_does_not_change_an_encoding(encoder):
    many = PROMPTS + [f"number {number}" for number in range(40)]
    together, _ = encoder.encode(many)
    for row, prompt in enumerate(PROMPTS):
        alone, _ = encoder.encode([prompt])
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)
    backwards, _ = encoder.encode(many[::-1])
    np.testing.assert_allclose(backwards[::-1], together, atol=1e-5)


@pytest.mark.network
def test_the_padded_length_does_not_change_an_encoding(encoder):
    short, _ = encoder.encode(PROMPTS)
    long, mask = MiniLM(length=40).encode(PROMPTS)
    np.testing.assert_allclose(long[:, :16], short, atol=1e-4)
    assert mask[:, 16:].sum() == 0


@pytest.mark.network
def test_meaning_spelling_and_accents(encoder):
    def sentence(text):
        states, mask = encoder.encode([text])
        mean = states[0].sum(axis=0) / mask.sum()
        return mean / np.linalg.norm(mean)

    # The network's purpose: paraphrases are near. A wrong weight or mask breaks this.
    apple = sentence("a red apple")
    assert apple @ sentence("an apple that is red") > 0.8
    assert apple @ sentence("the stock market fell sharply") < 0.3
    np.testing.assert_array_equal(sentence("Café"), sentence("cafe"))


@pytest.mark.network
def test_the_null_prompt_is_the_empty_one_without_padding(encoder):
    states, mask = encoder.null()
    encoded, _ = encoder.encode([""])
    np.testing.assert_array_equal(states, encoded[0, :2])
    assert mask.tolist() == [1, 1]
    states[:] = 0
    assert np.abs(encoder.null()[0]).max() > 0.5  # The caller got a copy.


@pytest.mark.network
def test_cut_prompts_are_shown_and_equal_what_is_left(encoder):
    kept = "red " * 13 + "red"
    with pytest.warns(UserWarning, match="'blue ocean'") as caught:
        cut, mask = encoder.encode(["sun", f"{kept} blue ocean"])
    assert len(caught) == 1 and "1 of 2" in str(caught[0].message)
    assert "lost 'blue ocean'" in str(caught[0].message) and mask[1].sum() == 16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole, _ = encoder.encode([kept])  # Exactly as long as there is room for.
    np.testing.assert_allclose(cut[1], whole[0], atol=1e-5)


@pytest.mark.network
def test_the_callers_context_does_not_reach_the_encoder(encoder):
    expected, _ = encoder.encode(PROMPTS)
    policy = keras.config.dtype_policy()
    fresh = MiniLM(length=16)
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
            states, _ = fresh.encode(PROMPTS)
            model = keras.Sequential([keras.layers.Dense(1)])
            model.text_encoder = fresh
            model.build((None, 2))
    finally:
        keras.config.set_dtype_policy(policy)
    np.testing.assert_allclose(states, expected, atol=1e-5)
    assert model.count_params() == 3
    network = fresh._network
    assert not any(isinstance(v.value, tf.distribute.DistributedValues) for v in network.weights)


@pytest.mark.network
def test_the_cache_returns_what_the_encoder_would(encoder, tmp_path):
    states, mask = encode_cached(encoder, PROMPTS, cache_dir=tmp_path)
    expected, expected_mask = encoder.encode(PROMPTS)
    np.testing.assert_allclose(states, expected, rtol=2**-11, atol=1e-7)
    np.testing.assert_array_equal(mask, expected_mask)


def wordpieces():
    """A tokenizer of BERT's kind with a few words."""
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "pad", "sep", "cl", "##s"]
    words += ["mask", "un", "##k", "a", "dog", *(f"##filler{i}" for i in range(120))]
    model = tokenizers.models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    found = tokenizers.Tokenizer(model)
    found.normalizer = tokenizers.normalizers.BertNormalizer()
    found.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    found.add_special_tokens(words[:5])
    return found, words


def test_names_of_control_tokens_are_words(tmp_path, monkeypatch):
    keras_hub = pytest.importorskip("keras_hub")
    found, words = wordpieces()
    found.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr("keras_mdm.text.minilm.asset_path", lambda *_, **__: tmp_path)
    monkeypatch.setattr(keras_hub.models.BertBackbone, "from_preset", lambda *_, **__: object())
    encoder = MiniLM(length=12)
    encoder._load()
    ids = encoder._tokenize(["a [PAD] dog", "a [SEP] dog", "[CLS]", "[MASK] [UNK]"])
    read = [[words[i] for i in row if i not in (0, 101, 102)] for row in ids]
    assert read == [
        ["a", "[", "pad", "]", "dog"],
        ["a", "[", "sep", "]", "dog"],
        ["[", "cl", "##s", "]"],
        ["[", "mask", "]", "[", "un", "##k", "]"],
    ]
    mask = ids != 0
    assert (np.diff(mask.astype(int), axis=1) <= 0).all()
