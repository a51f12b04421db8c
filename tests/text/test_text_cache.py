"""Every caption is encoded once, whatever happens to the process or the disk."""

import logging

import numpy as np
import pytest

from keras_mdm.text import TextEncoder, encode_cached


class Letters:
    """A toy encoder that counts: the state of token i is made from letter i."""

    width = 3

    def __init__(self, length=4, scale=1.0):
        self.length, self.scale, self.seen = length, scale, []

    @property
    def identity(self):
        return {"name": "letters", "sha256": "0", "length": self.length, "scale": self.scale}

    def encode(self, texts):
        self.seen += list(texts)
        states = np.zeros((len(texts), self.length, self.width), np.float32)
        mask = np.zeros((len(texts), self.length), np.float32)
        for row, text in enumerate(texts):
            for column, letter in enumerate(text[: self.length]):
                states[row, column] = self.scale * np.array([1, 2, 3]) * ord(letter) / 97
                mask[row, column] = 1
        return states, mask

    def null(self):
        return np.zeros((0, self.width), np.float32), np.zeros(0, np.float32)


def encode(encoder, texts, cache, **options):
    return encode_cached(encoder, texts, cache_dir=cache, progress=False, **options)


def test_hits_do_not_call_the_encoder_and_give_the_same_bits(tmp_path):
    texts = ["apple", "cat", "apple", ""]
    first = encode(Letters(), texts, tmp_path)
    again = Letters()
    second = encode(again, texts, tmp_path)
    assert again.seen == []
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == np.float32


def test_rows_follow_the_order_asked_for_within_half_precision(tmp_path):
    encoder = Letters()
    encode(encoder, ["dog", "cat"], tmp_path)
    texts = ["cat", "ox", "dog", "cat"]
    states, mask = encode(encoder, texts, tmp_path)
    expected_states, expected_mask = Letters().encode(texts)
    np.testing.assert_allclose(states, expected_states, rtol=2**-11)
    np.testing.assert_array_equal(mask, expected_mask)


def test_only_new_texts_are_encoded_each_once(tmp_path):
    encoder = Letters()
    encode(encoder, ["a", "b", "a"], tmp_path)
    encode(encoder, ["c", "b", "c", "d"], tmp_path)
    assert encoder.seen == ["a", "b", "c", "d"]


@pytest.mark.parametrize("other", [Letters(length=5), Letters(scale=2.0)])
def test_another_identity_shares_nothing(tmp_path, other):
    encode(Letters(), ["apple"], tmp_path)
    states, _ = encode(other, ["apple"], tmp_path)
    assert other.seen == ["apple"]
    np.testing.assert_allclose(
        states, Letters(other.length, other.scale).encode(["apple"])[0], 1e-3
    )


def test_a_run_killed_half_way_keeps_what_it_had(tmp_path):
    class Mortal(Letters):
        def encode(self, texts):
            if len(self.seen) >= 1100:
                raise KeyboardInterrupt
            return super().encode(texts)

    texts = [f"text {number}" for number in range(1500)]
    with pytest.raises(KeyboardInterrupt):
        encode(Mortal(length=9), texts, tmp_path)
    survivor = Letters(length=9)
    states, _ = encode(survivor, texts, tmp_path)
    assert survivor.seen == texts[1024:]
    np.testing.assert_allclose(states, Letters(length=9).encode(texts)[0], rtol=2**-11)


def test_a_damaged_file_is_ignored_and_its_texts_encoded_again(tmp_path, caplog):
    encode(Letters(), ["apple"], tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    file.write_bytes(file.read_bytes()[:200])
    encoder = Letters()
    with caplog.at_level(logging.WARNING):
        states, _ = encode(encoder, ["apple"], tmp_path)
    assert encoder.seen == ["apple"] and file.name in caplog.text
    np.testing.assert_allclose(states, Letters().encode(["apple"])[0], rtol=2**-11)


def test_half_precision_can_be_asked_for(tmp_path):
    half, _ = encode(Letters(), ["apple"], tmp_path, dtype="float16")
    full, _ = encode(Letters(), ["apple"], tmp_path)
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half.astype(np.float32), full)


def test_states_that_half_precision_cannot_hold_are_refused(tmp_path):
    for scale in (1e6, np.nan):
        with pytest.raises(ValueError, match="float16"):
            encode(Letters(scale=scale), ["apple"], tmp_path)
    assert not list(tmp_path.rglob("*.npz"))


def test_a_lone_string_is_not_a_list_of_letters(tmp_path):
    with pytest.raises(ValueError, match="texts='apple'"):
        encode(Letters(), "apple", tmp_path)
    with pytest.raises(ValueError, match=r"texts=\[3\]"):
        encode(Letters(), ["apple", 3], tmp_path)


def test_the_interface_is_structural():
    assert isinstance(Letters(), TextEncoder)
    assert not isinstance(object(), TextEncoder)
