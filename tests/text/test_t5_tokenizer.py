"""The prompt rules of the authors' tokenizer, on a vocabulary trained here."""

import io
import math
import struct

import pytest

from keras_mdm.text.t5_tokenizer import T5Tokenizer

sentencepiece = pytest.importorskip("sentencepiece")

SENTENCES = [
    "a panda playing guitar in a garden",
    "an oil painting of a dog",
    "two red apples on a table, and a boat",
    "the quick brown fox jumps over the lazy dog",
    "numbers 1234567890 and snow man chair quality low",
] * 4


@pytest.fixture(scope="session")
def spiece():
    """A unigram model with T5's special ids and T5's usual normalisation, which must not count."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=written,
        vocab_size=60,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    return written.getvalue()


@pytest.fixture
def tokenizer(spiece):
    return T5Tokenizer(spiece, length=128, max_characters=512)


def pieces(spiece, row):
    model = sentencepiece.SentencePieceProcessor(model_proto=spiece)
    return [model.id_to_piece(int(i)) for i in row]


def test_ordinary_text_as_usual(tokenizer, spiece):
    """The usual tokenizer also puts one space in front, and appends the end."""
    model = sentencepiece.SentencePieceProcessor(model_proto=spiece)
    for text in SENTENCES[:5]:
        assert tokenizer.rows([text]) == [[*model.encode(text), 1]]


def test_the_empty_prompt_is_a_space_and_the_end(tokenizer, spiece):
    (row,) = tokenizer.rows([""])
    assert pieces(spiece, row) == ["▁", "</s>"]


def test_runs_of_spaces_are_kept(tokenizer, spiece):
    """The usual tokenizer collapses them."""
    (row,) = tokenizer.rows(["  a   dog "])
    assert "".join(pieces(spiece, row)) == "▁▁▁a▁▁▁dog▁</s>"
    model = sentencepiece.SentencePieceProcessor(model_proto=spiece)
    assert model.encode("  a   dog ") == model.encode("a dog")


@pytest.mark.parametrize("text", ["日本語", "☃", "\t\n"])
def test_unknown_characters_are_dropped(tokenizer, spiece, text):
    assert pieces(spiece, tokenizer.rows([text])[0]) == ["▁", "</s>"]
    joined = tokenizer.rows([f"snow {text} man"])[0]
    assert pieces(spiece, joined) == pieces(spiece, tokenizer.rows(["snow  man"])[0])


def test_nothing_is_normalised(tokenizer):
    """NFKC would make a full-width letter an ordinary one, and a ligature two letters."""
    for text in ("ａ", "ﬁ"):
        assert tokenizer.rows([text]) == tokenizer.rows([""])


def test_rows_are_padded_to_the_longest_and_no_further(tokenizer):
    ids = tokenizer.encode(["", "a panda playing guitar"])
    short, long = tokenizer.rows(["", "a panda playing guitar"])
    assert ids.shape == (2, len(long)) and ids.dtype == "int32"
    assert ids[0].tolist() == short + [0] * (len(long) - len(short))
    assert ids[1].tolist() == long
    assert tokenizer.encode([]).shape == (0, 0)


def test_a_long_row_loses_its_end_and_says_what(spiece):
    tokenizer = T5Tokenizer(spiece, length=6, max_characters=512)
    with pytest.warns(UserWarning, match="1 of 2 prompts are longer than 6 tokens") as caught:
        ids = tokenizer.encode(["a dog", "a panda playing guitar in a garden"])
    assert ids.shape == (2, 6)
    whole = tokenizer.rows(["a panda playing guitar in a garden"])[0]
    assert ids[1].tolist() == whole[:6] and 1 not in ids[1]
    assert "garden" in str(caught[0].message)


def test_losing_only_the_end_is_no_warning(spiece, recwarn):
    count = len(T5Tokenizer(spiece, length=99, max_characters=9).rows(["a dog"])[0])
    tokenizer = T5Tokenizer(spiece, length=count - 1, max_characters=9)
    assert tokenizer.encode(["a dog"]).shape == (1, count - 1)
    assert not recwarn.list


def test_characters_are_counted_before_the_space(spiece):
    tokenizer = T5Tokenizer(spiece, length=128, max_characters=5)
    with pytest.warns(UserWarning, match="lost ' on a table'"):
        ids = tokenizer.encode(["a dog on a table"])
    assert ids[0].tolist() == tokenizer.rows(["a dog"])[0]


def test_lone_surrogates_do_not_stop_it(tokenizer):
    assert tokenizer.rows(["a \ud800 dog"])[0][-1] == 1


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x0a\xff\xff"])
def test_other_files_are_refused(content):
    with pytest.raises(ValueError, match="SentencePiece model"):
        T5Tokenizer(content, length=8, max_characters=8)


def test_a_vocabulary_without_padding_is_refused():
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=written, vocab_size=60, minloglevel=2
    )
    with pytest.raises(ValueError, match="<pad>"):
        T5Tokenizer(written.getvalue(), length=8, max_characters=8)


@pytest.mark.parametrize("name", ["</s>", "<pad>", "<unk>"])
def test_names_of_control_tokens_are_words(spiece, name):
    """Also if the vocabulary has them as pieces like others."""
    from keras_mdm.text.t5_tokenizer import _parse

    proto = _parse(spiece)
    for piece in proto.pieces[:2]:
        piece.type, piece.score = 1, 0.0
    for model in (spiece, proto.SerializeToString()):
        found = T5Tokenizer(model, length=128, max_characters=512)
        (row,) = found.rows([f"a {name} dog"])
        assert row[-1] == 1 and not {0, 1, 2} & set(row[:-1])
        assert (found.encode([f"a {name} dog"]) != 0).all()


def numbered(number, kind, data):
    """A field of a protocol buffer."""
    head = bytes([number << 3 | kind])
    return head + (bytes([len(data)]) + data if kind == 2 else data)


def piece(name, score=-1.0, kind=1):
    inside = numbered(1, 2, name) + numbered(2, 5, struct.pack("<f", score))
    return numbered(1, 2, inside + numbered(3, 0, bytes([kind])))


WHOLE = [piece(b"<pad>", 0, 3), piece(b"</s>", 0, 3), piece(b"<unk>", 0, 2), piece(b"a")]
DAMAGED = {
    "no number": piece(b"b", math.nan),
    "endless": piece(b"b", -math.inf),
    "huge": piece(b"b", 3e38),
    "twice": piece(b"a"),
    "without a name": piece(b""),
    "no character": piece(b"b\0c"),
    "no text": piece(b"\xff\xfe"),
    "of no kind": piece(b"b", kind=9),
    "two unknown": piece(b"b", kind=2),
    "no byte": piece(b"b", kind=6),
    "a byte, but no characters by bytes": piece(b"<0x41>", kind=6),  # TensorFlow's own error
    "of a model of no kind": numbered(2, 2, numbered(3, 0, bytes([77]))),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_models_are_refused_before_they_are_loaded(kind):
    """SentencePiece ends the process, or reads where there is nothing."""
    with pytest.raises(ValueError, match="whole SentencePiece model.*To fix it"):
        T5Tokenizer(b"".join(WHOLE) + DAMAGED[kind], length=8, max_characters=9)


def test_notes_of_a_model_do_not_count(spiece, tokenizer):
    """Tests of itself and the rules for going back are others' bytes that are not needed."""
    notes = numbered(4, 2, b"\x0a\x7f") + numbered(5, 2, numbered(2, 2, b"\xff" * 9))
    other = T5Tokenizer(spiece + notes, length=128, max_characters=512)
    assert other.rows(SENTENCES[:5]) == tokenizer.rows(SENTENCES[:5])
