"""What a tokenizer makes of every single character, as a table for graphs.

BERT's normalisation works character by character: lower case, accents taken off, control characters
removed, spaces around Chinese characters. So does its splitting at spaces and punctuation. The
table holds, for every character, what is left of it, with spaces where words are split.
"""

from typing import Any

import numpy as np

POINTS = 0x110000
_SURROGATES = range(0xD800, 0xE000)  # of no text
_SPACE = ord(" ")


def table_of(tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the table of a tokenizer with BERT's rules.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.

    Returns:
        Characters int32 `(N,)`, and where those of every code point begin, int32 `(0x110001,)`.
    """
    normalise = tokenizer.normalizer.normalize_str
    made = ["" if point in _SURROGATES else normalise(chr(point)) for point in range(POINTS)]
    kinds = _kinds(tokenizer, sorted(set().union(*made)))
    characters: list[int] = []
    splits = np.zeros(POINTS + 1, np.int32)
    for point, left in enumerate(made):
        for character in left:
            characters += kinds[character]
        splits[point + 1] = len(characters)
    return np.asarray(characters, np.int32), splits


def _kinds(tokenizer: Any, characters: list[str]) -> dict[str, list[int]]:
    """What stands for a character: itself, itself between spaces, or a space."""
    between = "".join(f"a{character}" for character in characters) + "a"
    found = [[_SPACE]] * len(characters)  # what is in no word
    for _, (begin, end) in tokenizer.pre_tokenizer.pre_tokenize_str(between):
        alone = end - begin == 1 and begin % 2
        for place in range(begin | 1, end, 2):
            point = ord(between[place])
            found[place // 2] = [_SPACE, point, _SPACE] if alone else [point]
    return dict(zip(characters, found, strict=True))
