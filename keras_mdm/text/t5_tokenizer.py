"""T5's SentencePiece vocabulary, with the prompt rules of the authors' tokenizer."""

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mdm import checks

PAD, END = "<pad>", "</s>"
# SentencePiece's kinds of pieces.
NORMAL_TYPE, UNKNOWN_TYPE, CONTROL_TYPE, BYTE_TYPE = 1, 2, 3, 6
_KINDS = (1, 2, 3, 4, 5, 6)
# SentencePiece's kinds of models: unigram, BPE, words, characters.
_MODELS = (1, 2, 3, 4)
# Scores are logarithms of probabilities, or places in an order.
_MAX_SCORE = 1e8


class T5Tokenizer:
    """Turns prompts into token ids as in the training of the released models.

    A prompt is cut to `max_characters`, gets one space in front, and is segmented without Unicode
    normalisation; runs of spaces are kept, and characters outside the vocabulary are dropped. The
    end token follows; rows are padded to the longest of the call and cut to `length` tokens. For
    ordinary text this equals the usual T5 tokenizer; "" gives the space and the end token.

    Args:
        model: the content of `spiece.model`.
        length: the most tokens of a prompt, including the end token. A longer prompt loses its end
            token, as in the authors' code.
        max_characters: the most characters of a prompt.

    Raises:
        ValueError: if `model` is not a SentencePiece model, or lacks T5's special pieces.
    """

    def __init__(self, model: bytes, *, length: int, max_characters: int):
        import tensorflow as tf
        import tensorflow_text

        self.length, self.max_characters = length, max_characters
        proto = _parse(model)
        names = [piece.piece for piece in proto.pieces]
        kinds = [piece.type for piece in proto.pieces]
        if PAD not in names or END not in names or UNKNOWN_TYPE not in kinds:
            raise checks.error(
                f"the vocabulary must have the pieces {PAD}, {END} and one for unknown characters",
                fix="use the spiece.model of a T5 model",
                pieces=names[:4],
            )
        self.pad, self.end = names.index(PAD), names.index(END)
        self.unknown = kinds.index(UNKNOWN_TYPE)
        self.size = len(names)
        for special in (self.pad, self.end):  # never found in a text
            proto.pieces[special].type = CONTROL_TYPE
        rules = proto.normalizer_spec
        rules.Clear()
        rules.name = "identity"
        rules.add_dummy_prefix = False
        rules.remove_extra_whitespaces = False
        rules.escape_whitespaces = True
        # Outside whatever graph or strategy the caller is in.
        with tf.init_scope():
            try:
                self.pieces = tensorflow_text.SentencepieceTokenizer(
                    proto.SerializeToString(), out_type=tf.int32
                )
                self.pieces.tokenize([" "])  # some versions load it only now
            except tf.errors.OpError as problem:
                raise _not_whole(model, problem.message) from None

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of every text, end token included, neither cut nor padded."""
        if not texts:
            return []
        spaced = [" " + text[: self.max_characters] for text in texts]
        found = self.pieces.tokenize([text.encode("utf-8", "replace") for text in spaced])
        return [[i for i in row if i != self.unknown] + [self.end] for row in found.to_list()]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return ids int32 (B, L), with L the longest of the call and at most `length`.

        Warns about texts that are cut, showing what was lost.
        """
        rows = self.rows(texts)
        longest = min(max(map(len, rows), default=0), self.length)
        ids = np.full((len(rows), longest), self.pad, np.int32)
        cut = []
        for index, (row, text) in enumerate(zip(rows, texts, strict=True)):
            ids[index, : min(len(row), longest)] = row[:longest]
            lost = self._lost(row, text)
            if lost:
                cut.append(f"{text[:20]!r}... lost {lost!r}")
        if cut:
            more = f", and {len(cut) - 3} more" if len(cut) > 3 else ""
            warnings.warn(
                f"{len(cut)} of {len(texts)} prompts are longer than {self.length} tokens or "
                f"{self.max_characters} characters and were cut: {'; '.join(cut[:3])}{more}. Pass "
                "a larger `length` or `max_characters` to keep all words.",
                stacklevel=3,
            )
        return ids

    def _lost(self, row: list[int], text: str) -> str:
        """The part of a text that is lost; losing only the end token loses no words."""
        tokens = [token for token in row[self.length :] if token != self.end]
        lost = self.pieces.detokenize(tokens).numpy().decode() if tokens else ""
        return lost + text[self.max_characters :]


def _parse(model: bytes) -> Any:
    """The model as a protocol buffer, reduced to the fields that are declared here.

    SentencePiece trusts its models: a damaged one ends the process instead of raising.
    """
    from google.protobuf.message import DecodeError

    proto = _message_class()()
    try:
        proto.ParseFromString(model)
        wrong = _damage(proto) if proto.pieces else "it has no pieces"
    except (DecodeError, UnicodeDecodeError) as problem:
        wrong = str(problem)
    if wrong:
        raise _not_whole(model, wrong)
    proto.DiscardUnknownFields()
    return proto


def _not_whole(model: bytes, problem: str) -> ValueError:
    return checks.error(
        "the vocabulary must be a whole SentencePiece model",
        fix="use the spiece.model of a T5 model, downloaded whole",
        size=len(model),
        problem=problem,
    )


def _damage(proto: Any) -> str | None:
    """Damage in a model that SentencePiece would not survive."""
    if proto.trainer_spec.model_type not in _MODELS:
        return f"it is of the unknown kind {proto.trainer_spec.model_type}"
    seen, unknown, normal = set(), 0, 0
    for number, piece in enumerate(proto.pieces):
        name, score, kind = piece.piece, piece.score, piece.type
        # A name that is not UTF-8 is read as bytes.
        if not name or isinstance(name, bytes) or "\0" in name or name in seen:
            return f"piece {number} is {name!r:.40}: empty, no text, or there before"
        if kind not in _KINDS or not abs(score) <= _MAX_SCORE:  # also refuses NaN
            return f"piece {number} is of kind {kind} and has the score {score}"
        if kind == BYTE_TYPE and not re.fullmatch("<0x[0-9A-F]{2}>", name):
            return f"piece {number} stands for a byte and is called {name!r:.40}"
        seen.add(name)
        unknown += kind == UNKNOWN_TYPE
        normal += kind == NORMAL_TYPE
    return None if unknown <= 1 and normal else f"{unknown} pieces are for unknown characters"


def _message_class() -> type:
    """SentencePiece's ModelProto, without its self-tests and notes on its training."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="keras_mdm_sentencepiece.proto", package="keras_mdm_sentencepiece", syntax="proto2"
    )

    def declare(message: str, fields: Sequence[tuple]) -> None:
        found = file.message_type.add(name=message)
        for name, number, field_type, label, type_name, *default in fields:
            added = found.field.add(
                name=name, number=number, type=field_type, label=label, type_name=type_name
            )
            if default:
                (added.default_value,) = default

    one, many = kind.LABEL_OPTIONAL, kind.LABEL_REPEATED
    inside = ".keras_mdm_sentencepiece."
    declare(
        "Piece",
        [
            ("piece", 1, kind.TYPE_STRING, one, None),
            ("score", 2, kind.TYPE_FLOAT, one, None),
            ("type", 3, kind.TYPE_INT32, one, None, "1"),
        ],
    )
    declare(
        "Trainer",
        [
            ("model_type", 3, kind.TYPE_INT32, one, None, "1"),
            ("treat_whitespace_as_suffix", 24, kind.TYPE_BOOL, one, None),
            ("byte_fallback", 35, kind.TYPE_BOOL, one, None),
        ],
    )
    declare(
        "Rules",
        [
            ("name", 1, kind.TYPE_STRING, one, None),
            ("precompiled_charsmap", 2, kind.TYPE_BYTES, one, None),
            ("add_dummy_prefix", 3, kind.TYPE_BOOL, one, None),
            ("remove_extra_whitespaces", 4, kind.TYPE_BOOL, one, None),
            ("escape_whitespaces", 5, kind.TYPE_BOOL, one, None),
        ],
    )
    declare(
        "Model",
        [
            ("pieces", 1, kind.TYPE_MESSAGE, many, f"{inside}Piece"),
            ("trainer_spec", 2, kind.TYPE_MESSAGE, one, f"{inside}Trainer"),
            ("normalizer_spec", 3, kind.TYPE_MESSAGE, one, f"{inside}Rules"),
        ],
    )
    # A separate pool: the default one is shared by everything in the process.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("keras_mdm_sentencepiece.Model")
    )
