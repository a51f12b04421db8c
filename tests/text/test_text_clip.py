"""CLIP text encoders of keras-hub, on a small one of random weights; functions as encoders."""

import warnings

import numpy as np
import pytest
from tiny_models import INNER, THREE_PARTS, as_dataset, outer, tiny_unet

from keras_mdm import MatryoshkaDiffusion, optimizers
from keras_mdm.text import (
    ClipText,
    FunctionEncoder,
    PooledTextEncoder,
    encode_cached,
    from_identity,
)

WORDS = ["a", "red", "apple", "cat", "blue"]


@pytest.fixture(scope="module")
def parts():
    hub = pytest.importorskip("keras_hub")
    letters = sorted(set("".join(WORDS)))
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "ap", "re", "red</w>"]
    vocabulary = {token: index for index, token in enumerate(vocabulary)}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    tokenizer = hub.models.CLIPTokenizer(vocabulary=vocabulary, merges=["a p", "r e", "re d</w>"])
    encoder = hub.models.CLIPTextEncoder(
        vocabulary_size=len(vocabulary),
        embedding_dim=16,
        hidden_dim=16,
        num_layers=2,
        num_heads=2,
        intermediate_dim=32,
        max_sequence_length=12,
    )
    rng = np.random.default_rng(0)
    for variable in encoder.variables:
        variable.assign(np.asarray(variable) + 0.3 * rng.normal(size=variable.shape))
    return encoder, tokenizer


def test_states_are_the_encoders_and_padding_changes_nothing(parts):
    encoder, tokenizer = parts
    clip = ClipText(parts, length=12)
    assert isinstance(clip, PooledTextEncoder)
    states, mask = clip.encode(["a cat", ""])
    ids = [int(token) for token in np.asarray(tokenizer("a cat"))]
    ids = [tokenizer.start_token_id, *ids, tokenizer.end_token_id]
    expected = np.asarray(encoder({"token_ids": np.array([ids])}))[0]
    np.testing.assert_allclose(states[0, : len(ids)], expected, atol=1e-5)
    assert mask.sum(axis=1).tolist() == [len(ids), 2]
    assert not states[0, len(ids) :].any()
    np.testing.assert_allclose(clip.pool(["a cat"])[0], expected[-1], atol=1e-5)
    short, _ = ClipText(parts, length=6).encode(["a cat"])
    np.testing.assert_allclose(short[0, : len(ids)], expected, atol=1e-5)
    null, null_mask = clip.null()
    np.testing.assert_allclose(null, states[1, :2], atol=1e-6)
    assert null_mask.tolist() == [1.0, 1.0]


def test_cut_prompts_are_shown(parts):
    clip = ClipText(parts, length=6)
    with pytest.warns(UserWarning, match=r"1 of 2 prompts .*lost 'b?lue'"):
        _, mask = clip.encode(["a cat blue", "cat"])
    assert mask[0].sum() == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip.encode(["a cat"])
    with pytest.raises(ValueError, match=THREE_PARTS):
        ClipText(parts, length=13).encode(["a"])


def test_identity_follows_weights_and_length(parts, tmp_path):
    encoder, tokenizer = parts
    one = ClipText(parts, length=8).identity
    assert one == ClipText((encoder, tokenizer), length=8).identity
    assert one != ClipText(parts, length=9).identity
    hub = pytest.importorskip("keras_hub")
    vision = hub.models.CLIPVisionEncoder(
        patch_size=8,
        hidden_dim=16,
        num_layers=1,
        num_heads=2,
        intermediate_dim=16,
        image_shape=(16, 16, 3),
    )
    whole = hub.models.CLIPBackbone(vision, encoder, projection_dim=8)
    whole.save_to_preset(str(tmp_path / "clip"))
    tokenizer.save_to_preset(str(tmp_path / "clip"))
    loaded = ClipText(tmp_path / "clip", length=8)
    assert loaded.identity == one
    expected = ClipText(parts, length=8).encode(["red"])[0]
    np.testing.assert_allclose(loaded.encode(["red"])[0], expected, atol=1e-6)


@pytest.mark.slow
def test_text_pooled_vector_and_class_together(parts):
    clip = ClipText(parts, length=8)
    unet = tiny_unet([INNER, outer(16)], text_width=16, pooled_width=16, num_classes=3)
    model = MatryoshkaDiffusion(
        unet, text_encoder=clip, cond_dropout={"text": 0.5, "pooled": 0.5, "label": 0.1}
    )
    np.testing.assert_allclose(model.null_condition["pooled"], clip.pool([""])[0], atol=1e-6)
    options = {"steps": 2, "progress": False, "labels": [0, 1]}
    images = model.generate(["a cat", "red apple"], **options)
    states, mask = clip.encode(["a cat", "red apple"])
    given = {"text": states, "text_mask": mask, "pooled": clip.pool(["a cat", "red apple"])}
    for name, value in model.generate(given, **options).items():
        np.testing.assert_array_equal(value, images[name])
    other = model.generate({**given, "pooled": -given["pooled"]}, **options)
    assert np.any(other["16"] != images["16"])
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (4, 16, 16, 3)).astype("uint8"),
        "label": np.array([0, 1, 2, -1], "int32"),
        "text": np.repeat(states, 2, axis=0),
        "text_mask": np.repeat(mask, 2, axis=0),
        "pooled": np.repeat(given["pooled"], 2, axis=0),
    }
    model.compile(optimizer=optimizers.Adam(1e-3))
    history = model.fit(as_dataset([batch]), epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    with pytest.raises(ValueError, match=THREE_PARTS):
        model.text_encoder = _without_pool()


def _without_pool():
    return FunctionEncoder(
        lambda texts: (np.ones((len(texts), 3, 16)), np.ones((len(texts), 3))),
        length=3,
        name="no-pool",
    )


def test_any_function_can_encode(tmp_path):
    def letters(texts):
        states, mask = np.zeros((len(texts), 4, 6)), np.zeros((len(texts), 4))
        for row, text in enumerate(texts):
            for column, letter in enumerate(text[:4] or " "):
                states[row, column], mask[row, column] = ord(letter) / 100.0, 1.0
        return states + 7.0, mask

    encoder = FunctionEncoder(letters, length=4, name="letters-1")
    assert encoder.width == 6 and encoder.null()[0].shape == (1, 6)
    states, mask = encoder.encode(["ab"])
    assert mask.tolist() == [[1, 1, 0, 0]] and not states[0, 2:].any()
    cached, _ = encode_cached(encoder, ["ab", "c"], cache_dir=tmp_path, progress=False)
    np.testing.assert_allclose(cached[0], states[0], rtol=1e-3)
    model = MatryoshkaDiffusion(tiny_unet([INNER], text_width=6), text_encoder=encoder)
    assert model.generate(["ab"], steps=1, progress=False)["8"].shape == (1, 8, 8, 3)
    for bad in (
        lambda: FunctionEncoder(letters, length=5, name="x"),
        lambda: FunctionEncoder(letters, length=4, name=""),
        lambda: encoder.pool(["a"]),
        lambda: encoder.encode("ab"),
    ):
        with pytest.raises(ValueError, match=THREE_PARTS):
            bad()


def test_an_identity_leads_back_to_the_preset_where_it_was_used(parts, tmp_path):
    hub = pytest.importorskip("keras_hub")
    encoder, tokenizer = parts
    vision = hub.models.CLIPVisionEncoder(
        patch_size=8,
        hidden_dim=16,
        num_layers=1,
        num_heads=2,
        intermediate_dim=16,
        image_shape=(16, 16, 3),
    )
    whole = hub.models.CLIPBackbone(vision, encoder, projection_dim=8)
    for saved in (whole, tokenizer):
        saved.save_to_preset(str(tmp_path / "clip"))
    identity = ClipText(parts, length=8).identity
    # A pair has no place, and nothing was loaded from the folder yet.
    with pytest.raises(ValueError, match=r"preset of the model's CLIP encoder.*ClipText\(PRESET"):
        from_identity(identity, cache_dir=tmp_path)
    first = ClipText(tmp_path / "clip", length=8, cache_dir=tmp_path)
    expected = first.encode(["red cat"])
    again = from_identity(identity, cache_dir=tmp_path)
    assert type(again) is ClipText and again.identity == identity and again.length == 8
    np.testing.assert_array_equal(again.encode(["red cat"])[0], expected[0])
    with pytest.raises(ValueError, match=THREE_PARTS):
        from_identity({**identity, "sha256": "0" * 64}, cache_dir=tmp_path)
    shorter = from_identity({**identity, "length": 6}, cache_dir=tmp_path)
    assert shorter.length == 6
    with pytest.raises(ValueError, match="MiniLM, FlanT5 or ClipText"):
        from_identity({"name": "letters-1", "length": 4}, cache_dir=tmp_path)


def test_names_of_control_tokens_are_words(parts):
    hub = pytest.importorskip("keras_hub")
    signs = sorted(set("abcdefghijklmnopqrstuvwxyz<|>"))
    listed = [*signs, *(f"{sign}</w>" for sign in signs), "ab", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(listed)}
    tokenizer = hub.models.CLIPTokenizer(vocabulary=vocabulary, merges=["a b"])
    clip = ClipText((parts[0], tokenizer), length=40)
    for text, words in {
        "a <|endoftext|> cat": ["a", "<|", "endoftext", "|>", "cat"],
        "cat<|startoftext|>": ["cat", "<|", "startoftext", "|>"],
        "c<|EndOfText|>d": ["c", "<|", "endoftext", "|>", "d"],
    }.items():
        ids, tokens = clip._tokenize(tokenizer, [text])
        found = [listed[i] for i in ids[0, : tokens[0]]]
        spelled = [letter for word in words for letter in (*word[:-1], f"{word[-1]}</w>")]
        assert found == ["<|startoftext|>", *spelled, "<|endoftext|>"]
