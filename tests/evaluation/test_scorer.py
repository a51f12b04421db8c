import numpy as np
import pytest

from keras_mdm.evaluation import TextScorer, r_precision
from keras_mdm.evaluation.contrastive import contrastive_loss, fit_heads
from keras_mdm.evaluation.scorer import sentence_states

ENCODER = {"name": "minilm", "sha256": "53aa", "length": 16, "scale": 1.974}


@pytest.fixture(scope="module")
def pairs():
    """Pictures and texts of one latent meaning each, with noise: 500 to train on, 200 held out."""
    rng = np.random.default_rng(3)
    meaning = rng.normal(size=(700, 12))
    features = meaning @ rng.normal(size=(12, 96)) + 2.0 * rng.normal(size=(700, 96)) + 5.0
    tokens = (meaning @ rng.normal(size=(12, 48)))[:, None] + rng.normal(size=(700, 6, 48))
    mask = (np.arange(6) < rng.integers(2, 7, size=(700, 1))).astype("float32")
    return features.astype("float32"), (tokens * mask[..., None]).astype("float32"), mask


@pytest.fixture(scope="module")
def fitted(pairs):
    features, tokens, mask = pairs
    scorer = TextScorer("network, 224", ENCODER, width=32, steps=200)
    return scorer.fit(features[:500], tokens[:500], 1, mask=mask[:500])


def test_learns_the_pairs_and_the_rule_behind_them(pairs, fitted):
    features, tokens, mask = pairs
    pictures, texts = fitted.pictures(features), fitted.texts(tokens, mask)
    assert pictures.dtype == texts.dtype == "float32" and pictures.shape == (700, 32)
    np.testing.assert_allclose(np.linalg.norm(pictures, axis=1), 1.0, rtol=1e-5)
    known = r_precision(pictures[:500], texts[:500])
    unknown = r_precision(pictures[500:], texts[500:])
    assert known.value > 0.98
    assert unknown.value > 0.6 and unknown.value > unknown.chance + 10 * unknown.standard_error
    # Texts of other pictures: chance.
    wrong = r_precision(pictures[:500], np.roll(texts[:500], 1, axis=0))
    assert wrong.value < 0.03
    assert 0.01 <= fitted.temperature < 0.2


def test_the_same_seed_gives_the_same_heads(pairs, fitted):
    features, tokens, mask = pairs
    again = TextScorer("network, 224", ENCODER, width=32, steps=200)
    again.fit(features[:500], sentence_states(tokens[:500], mask[:500]), seed=1)
    np.testing.assert_array_equal(again.pictures(features), fitted.pictures(features))
    again.fit(features[:500], tokens[:500], 2, mask=mask[:500])
    assert np.abs(again.pictures(features) - fitted.pictures(features)).max() > 0.05


def test_the_loss_term_by_term(rng):
    x, y, ids = rng.normal(size=(3, 4)), rng.normal(size=(3, 2)), np.array([5, 8, 5])
    heads = {"picture_weight": rng.normal(size=(4, 6)), "picture_bias": rng.normal(size=6)}
    heads |= {"text_weight": rng.normal(size=(2, 6)), "text_bias": rng.normal(size=6)}
    heads["log_scale"] = np.array(np.log(3.0))
    u = [row @ heads["picture_weight"] + heads["picture_bias"] for row in x]
    v = [row @ heads["text_weight"] + heads["text_bias"] for row in y]
    logits = [[3.0 * a @ b / np.sqrt((a @ a) * (b @ b)) for b in v] for a in u]
    want = 0.0
    for table in (logits, np.transpose(logits)):
        for i, row in enumerate(table):
            logs = row - np.log(np.sum(np.exp(row)))
            same = [j for j in range(3) if ids[j] == ids[i]]
            want -= sum(logs[j] for j in same) / len(same) / 3 / 2
    assert float(contrastive_loss(heads, x, y, ids)) == pytest.approx(want, rel=1e-12)


def test_constant_columns_and_few_pairs(rng):
    x, y = np.ones((8, 5)), rng.normal(size=(8, 3))
    x[:, :3] = 1e4 * y
    heads = fit_heads(x, y, width=4, steps=50, seed=0)
    assert all(np.isfinite(value).all() for value in heads.values())


def test_means_leave_padding_out(rng):
    states, mask = rng.normal(size=(2, 4, 3)), np.array([[1, 1, 0, 0], [1, 0, 0, 1]])
    want = [(states[0, 0] + states[0, 1]) / 2, (states[1, 0] + states[1, 3]) / 2]
    states[0, 2:] = np.nan
    np.testing.assert_allclose(sentence_states(states, mask), want)


def test_a_file_brings_all_of_it_back(tmp_path, pairs, fitted):
    features, tokens, mask = pairs
    path = fitted.save(tmp_path / "scorer.npz")
    assert fitted.save(tmp_path / "again.npz").read_bytes() == path.read_bytes()
    loaded = TextScorer.load(path, network="network, 224", encoder=dict(reversed(ENCODER.items())))
    assert (loaded.network, loaded.encoder) == ("network, 224", ENCODER)
    assert (loaded.width, loaded.steps, loaded.temperature) == (32, 200, fitted.temperature)
    np.testing.assert_array_equal(loaded.pictures(features), fitted.pictures(features))
    np.testing.assert_array_equal(loaded.texts(tokens, mask), fitted.texts(tokens, mask))
    assert TextScorer.load(path).encoder == ENCODER


def test_refuses_another_network_or_encoder(tmp_path, fitted):
    path = fitted.save(tmp_path / "scorer.npz")
    with pytest.raises(ValueError, match="network_of_training='network, 224', network_at_hand='x'"):
        TextScorer.load(path, network="x", encoder=ENCODER)
    with pytest.raises(ValueError, match=r"encoder_of_training=.*'length': 16.*'length': 24"):
        TextScorer.load(path, network="network, 224", encoder=ENCODER | {"length": 24})


def test_refuses_damaged_files(tmp_path, fitted):
    path = fitted.save(tmp_path / "scorer.npz")
    whole = path.read_bytes()
    with np.load(path) as arrays:
        arrays = dict(arrays)
    short = {name: value for name, value in arrays.items() if name != "text_bias"}
    other = arrays | {"text_bias": np.zeros(3, "float32")}
    foreign = arrays | {"about": np.array('{"format": "x"}')}
    listed = arrays | {"about": np.array("[]")}
    for content in (b"", b"text", whole[: len(whole) // 2], short, other, foreign, listed):
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.savez(path, **content)
        with pytest.raises(ValueError, match="`TextScorer.save` wrote.*problem=.*To fix it: "):
            TextScorer.load(path)
    with pytest.raises(FileNotFoundError):
        TextScorer.load(tmp_path / "none.npz")


def test_bad_input(tmp_path, pairs, fitted):
    features, tokens, mask = pairs
    new = TextScorer("network", ENCODER, steps=1)

    def refused(says, call, *arguments, **options):
        with pytest.raises(ValueError, match=f"{says}.*To fix it: "):
            call(*arguments, **options)

    refused("trained first", new.pictures, features)
    refused("trained first", new.save, tmp_path / "scorer.npz")
    refused("end with .npz", fitted.save, tmp_path / "scorer")
    refused("with a mask", new.fit, features, tokens)
    refused("every text must have a token", new.fit, features, tokens, mask=0 * mask)
    refused("same number of rows", new.fit, features[:9], tokens, mask=mask)
    refused("at least 8 rows", new.fit, features[:7], tokens[:7], mask=mask[:7])
    refused("not_finite_in_features", new.fit, np.nan * features, tokens, mask=mask)
    refused("`seed` must be", new.fit, features, tokens, -1, mask=mask)
    refused("as wide as in training, 96", fitted.pictures, features[:, :95])
    refused("as wide as in training, 48", fitted.texts, tokens[:, :, :47], mask)
    refused("`network` must be a name", TextScorer, None, ENCODER)
    refused("what JSON can", TextScorer, "network", {"x": object()})
