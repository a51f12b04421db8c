"""FLAN-T5 from a folder: numbers of transformers, files of every kind, errors that list all."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file

from keras_mdm.text import FlanT5, encode_cached, from_identity, t5_network, t5_weights
from keras_mdm.text.t5_weights import T5Folder

from .test_t5_tokenizer import spiece  # noqa: F401 (a fixture)

GOLDEN = Path(__file__).parents[1] / "golden"
FORMS = ("flan", "original")


def stored(form):
    """(configuration, weights, ids, mask, states of the tokens) that transformers computed."""
    with np.load(GOLDEN / "t5_tiny.npz") as arrays:
        prefix = f"{form}/state/"
        weights = {
            key.removeprefix(prefix): arrays[key].astype("float32")
            for key in arrays
            if key.startswith(prefix)
        }
        config = json.loads(bytes(arrays[f"{form}/config"]))
        rest = (arrays[f"{form}/{name}"] for name in ("ids", "mask", "states"))
        return config, weights, *rest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Every encoder remembers its folder: not among those of the user."""
    monkeypatch.setenv("KERAS_MDM_CACHE", str(tmp_path / "own_cache"))


@pytest.fixture
def folder(tmp_path, spiece):  # noqa: F811
    return write(tmp_path / "flan-tiny", spiece)


def write(folder, vocabulary, form="flan", weights=None):
    folder.mkdir()
    config, own, *_ = stored(form)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "spiece.model").write_bytes(vocabulary)
    save_file(own if weights is None else weights, folder / "model.safetensors")
    return folder


# The network.


@pytest.mark.parametrize("form", FORMS)
def test_states_are_those_of_transformers(form):
    """150 tokens: every bucket of the relative positions, those beyond the largest too."""
    config, weights, ids, mask, states = stored(form)
    config = t5_network.T5Config.from_json(config)
    assert set(t5_network.tensor_shapes(config)) == set(weights)
    buckets = t5_network.relative_buckets(ids.shape[1], config)
    assert set(np.unique(buckets)) == set(range(32)) - {16}  # distance 0 is its own only once
    tensors = {key: tf.constant(value) for key, value in weights.items()}
    found = t5_network.encode(config, tensors, ids.astype("int32"), mask).numpy()
    np.testing.assert_allclose(found[mask], states, rtol=0, atol=1e-5)


def test_the_comparison_can_fail():
    """The exact GELU and a division by the width of a head are both far off."""
    config, weights, ids, mask, states = stored("flan")
    tensors = {key: tf.constant(value) for key, value in weights.items()}
    for change in ({"feed_forward_proj": "gated-relu"}, {"relative_attention_max_distance": 64}):
        other = t5_network.T5Config.from_json({**config, **change})
        found = t5_network.encode(other, tensors, ids.astype("int32"), mask).numpy()
        assert np.max(np.abs(found[mask] - states)) > 1e-3


def test_the_library_itself_agrees(folder):
    """Where the optional package is there: the same states from the same folder."""
    transformers = pytest.importorskip("transformers", reason="optional: pip install transformers")
    import torch

    model = transformers.T5EncoderModel.from_pretrained(folder).eval()
    encoder = FlanT5(folder)
    states, mask = encoder.encode(["a panda", "two red apples on a table", ""])
    ids = encoder._tokenizer.encode(["a panda", "two red apples on a table", ""])
    with torch.no_grad():
        expected = model(
            input_ids=torch.tensor(ids, dtype=torch.long), attention_mask=torch.tensor(mask)
        ).last_hidden_state.numpy()
    np.testing.assert_allclose(states, expected * mask[..., None], rtol=0, atol=1e-5)


# The encoder.


def test_padding_is_zero_and_only_as_long_as_needed(folder):
    encoder = FlanT5(folder)
    texts = ["", "a panda playing guitar"]
    states, mask = encoder.encode(texts)
    lengths = [len(row) for row in encoder._tokenizer.rows(texts)]
    assert states.shape == (2, lengths[1], 24) and states.dtype == np.float32
    np.testing.assert_array_equal(mask.sum(axis=1), lengths)
    assert not states[0, lengths[0] :].any() and states[0, : lengths[0]].all()
    alone, _ = encoder.encode(texts[:1])
    assert alone.shape == (1, lengths[0], 24)
    np.testing.assert_allclose(alone[0], states[0, : lengths[0]], atol=1e-5)
    null, null_mask = encoder.null()
    np.testing.assert_array_equal(null, alone[0])
    assert null_mask.tolist() == [1.0] * lengths[0]


def test_many_prompts_are_encoded_in_parts(folder):
    encoder = FlanT5(folder)
    texts = [f"a dog and {count} boats"[: 5 + count % 13] for count in range(70)]
    states, mask = encoder.encode(texts)
    for row in (0, 31, 32, 69):
        alone, _ = encoder.encode([texts[row]])
        tokens = int(mask[row].sum())
        np.testing.assert_allclose(states[row, :tokens], alone[0], atol=1e-5)


def test_bfloat16_halves_the_weights_and_nothing_else(folder):
    exact, half = FlanT5(folder), FlanT5(folder, dtype="bfloat16")
    one, other = (encoder.encode(["a panda playing guitar"])[0] for encoder in (exact, half))
    assert {w.dtype for w in half._weights.values()} == {tf.bfloat16}
    difference = np.max(np.abs(one - other))
    assert 1e-6 < difference < 0.05
    # The same as the float32 network with rounded weights.
    exact._weights = {
        key: tf.cast(tf.cast(value, tf.bfloat16), tf.float32)
        for key, value in exact._weights.items()
    }
    np.testing.assert_array_equal(exact.encode(["a panda playing guitar"])[0], other)


def test_it_is_no_part_of_the_strategy_it_is_used_in(folder, two_replicas):
    with two_replicas.scope():
        inside = FlanT5(folder).encode(["a dog"])[0]
    np.testing.assert_array_equal(inside, FlanT5(folder).encode(["a dog"])[0])


def test_texts_are_checked(folder):
    with pytest.raises(ValueError, match="list of strings"):
        FlanT5(folder).encode("a dog")


# Files.


def split(folder, weights):
    """Rewrite the weights as two shards with an index."""
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2]}
    shards["model-00002-of-00002.safetensors"] = names[1::2]
    for file, part in shards.items():
        save_file({name: weights[name] for name in part}, folder / file)
    places = {name: file for file, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float64"])
def test_shards_and_types(folder, dtype, monkeypatch):
    monkeypatch.setattr(t5_weights, "PART", 100)  # not a divisor of any tensor
    weights = {key: value.astype(dtype) for key, value in stored("flan")[1].items()}
    expected = FlanT5(folder).encode(["a dog"])[0]
    split(folder, weights)
    found = FlanT5(folder).encode(["a dog"])[0]
    np.testing.assert_allclose(found, expected, atol=0.05 if dtype is ml_dtypes.bfloat16 else 1e-6)
    files = T5Folder(folder)
    for name, value in weights.items():
        found = np.concatenate(list(files.parts(name)))
        np.testing.assert_array_equal(found, value.astype("float32").ravel(), err_msg=name)


def test_decoders_are_ignored_and_the_embedding_may_have_its_other_name(folder):
    weights = stored("flan")[1]
    expected = FlanT5(folder).encode(["a dog"])[0]
    weights["encoder.embed_tokens.weight"] = weights.pop("shared.weight")
    weights["decoder.block.0.layer.0.SelfAttention.q.weight"] = np.zeros((2, 2), "float32")
    save_file(weights, folder / "model.safetensors")
    np.testing.assert_array_equal(FlanT5(folder).encode(["a dog"])[0], expected)


def test_everything_that_is_missing_is_listed_at_once(folder):
    split(folder, stored("flan")[1])
    (folder / "model-00001-of-00002.safetensors").unlink()
    (folder / "spiece.model").unlink()
    whole = (folder / "model-00002-of-00002.safetensors").read_bytes()
    (folder / "model-00002-of-00002.safetensors").write_bytes(whole[:-10])
    with pytest.raises(ValueError) as failure:
        FlanT5(folder)
    message = str(failure.value)
    for words in (
        "spiece.model is missing",
        "model-00001-of-00002.safetensors is missing",
        "model-00002-of-00002.safetensors is truncated",
        "tensor encoder.block.0.layer.0.SelfAttention.k.weight is missing",
    ):
        assert words in message
    assert "SelfAttention.o.weight is missing" not in message  # in the shard that is there


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "config.json").write_text('{"d_model": 24}'), "d_ff=None"),
        (
            lambda f: (f / "config.json").write_text(
                json.dumps({**stored("flan")[0], "model_type": "bert"})
            ),
            "model_type='bert'",
        ),
        (
            lambda f: (f / "config.json").write_text(
                json.dumps({**stored("flan")[0], "feed_forward_proj": "gated-swish2"})
            ),
            "feed_forward_proj='gated-swish2'",
        ),
        (
            lambda f: (f / "config.json").write_text(json.dumps({**stored("flan")[0], "d_ff": 80})),
            "wo.weight has shape (24, 40) instead of (24, 80)",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "*.bin files are not read",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"version 1 of a pointer"),
            "Git LFS pointer",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"abc"),
            "truncated, or not a safetensors",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"\5" + b"\0" * 7 + b"[1,2]"),
            "is not a saf",
        ),
        (lambda f: shutil.rmtree(f), "must be a folder"),
    ],
)
def test_folders_that_are_not_whole(folder, change, words):
    change(folder)
    with pytest.raises(ValueError) as failure:
        FlanT5(folder)
    assert words in str(failure.value)


def test_a_vocabulary_of_another_model_is_refused(folder):
    config, weights, *_ = stored("flan")
    weights["shared.weight"] = weights["shared.weight"][:40]
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 40}))
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match="pieces=60, vocab_size=40"):
        FlanT5(folder).encode(["a dog"])


# Identity and cache.


def test_the_identity_knows_the_weights_but_not_the_place(folder, tmp_path):
    identity = FlanT5(folder).identity
    assert str(tmp_path) not in json.dumps(identity)
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert FlanT5(moved).identity == identity
    weights = stored("flan")[1]
    weights["encoder.block.1.layer.1.DenseReluDense.wo.weight"] += 1e-4
    save_file(weights, moved / "model.safetensors")
    assert FlanT5(moved).identity != identity
    assert FlanT5(folder, dtype="bfloat16").identity != identity


def test_a_saved_model_finds_its_encoder_again(folder, tmp_path):
    cache = tmp_path / "cache"
    encoder = FlanT5(folder, length=20, dtype="bfloat16", cache_dir=cache)
    again = from_identity(encoder.identity, cache_dir=cache)
    assert again.identity == encoder.identity
    np.testing.assert_array_equal(again.encode(["a dog"])[0], encoder.encode(["a dog"])[0])
    with pytest.raises(ValueError, match="FlanT5\\(FOLDER\\)"):
        from_identity(encoder.identity, cache_dir=tmp_path / "other")
    identity = encoder.identity
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="FlanT5\\(FOLDER\\)"):
        from_identity(identity, cache_dir=cache)


def test_a_cache_that_cannot_be_written_or_read_is_only_forgotten(folder, tmp_path):
    (tmp_path / "file").write_text("")
    assert FlanT5(folder, cache_dir=tmp_path / "file").width == 24
    (tmp_path / "cache" / "text").mkdir(parents=True)
    (tmp_path / "cache" / "text" / "folders.json").write_text("{")
    encoder = FlanT5(folder, cache_dir=tmp_path / "cache")
    assert from_identity(encoder.identity, cache_dir=tmp_path / "cache").width == 24


def test_cached_states_are_as_long_as_the_longest_text(folder, tmp_path):
    encoder = FlanT5(folder)
    options = {"cache_dir": tmp_path / "cache", "progress": False}
    texts = ["a panda playing guitar", "", "a dog"]
    first = encode_cached(encoder, texts, **options)
    expected = encoder.encode(texts)
    np.testing.assert_allclose(first[0], expected[0], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(first[1], expected[1])
    # From the file, alone: not padded to what it was stored with.
    states, mask = encode_cached(encoder, ["", "a dog"], **options)
    longest = int(expected[1][2].sum())
    assert states.shape == (2, longest, 24)
    np.testing.assert_array_equal(states, first[0][1:, :longest])
    np.testing.assert_array_equal(mask, first[1][1:, :longest])
