"""Token states on disk: a frozen encoder sees every caption once."""

import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.assets import kept
from keras_mdm.assets.cache import cache_root
from keras_mdm.files import is_temporary
from keras_mdm.text.encoders import TextEncoder
from keras_mdm.text.prompts import check_texts
from keras_mdm.turns import take_turn

# Texts per file: as many as a killed run can lose, and as are read at once.
_TEXTS_PER_FILE = 1024

# Texts per call of the encoder, and the number above which a progress bar is shown.
_TEXTS_PER_CALL = 32
_LONG = 256


def encode_cached(
    encoder: TextEncoder,
    texts: Sequence[str],
    *,
    cache_dir: str | os.PathLike | None = None,
    dtype: str = "float32",
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the encoder's states of `texts`, encoding only those never seen before.

    States are kept as float16, which halves their size, and are also rounded when they were just
    computed: every call returns the same. For states of unit scale the rounding is a relative error
    of at most 0.0005, a sixth of the difference between two implementations of the same encoder.
    If several processes have the same texts, such as the workers of a run, one encodes.

    Args:
        encoder: its identity is part of the cache key, so a change of weights, length or scale
            starts afresh.
        texts: n strings, repetitions allowed.
        cache_dir: as in `keras_mdm.assets.cache_root`.
        dtype: dtype of the returned states, "float32" or "float16".
        progress: show a progress bar if there are many texts to encode.

    Returns:
        States (n, L, D) and their mask (n, L), float32, in the order of `texts`. L is the encoder's
        length, or the longest of the texts if the encoder does not pad.

    Raises:
        ValueError: if `texts` is not a list of strings, or the encoder's result has a wrong shape.

    Example:

    >>> from keras_mdm.text import MiniLM
    >>> states, mask = encode_cached(MiniLM(), ["a red apple", "a cat"])  # doctest: +SKIP
    """
    checks.one_of("dtype", dtype, ("float32", "float16"))
    texts = check_texts(texts)
    directory = cache_root(cache_dir) / "text" / _identity_key(encoder)
    rows = {_text_key(text): text for text in texts}
    found = _read(directory, rows.keys(), encoder)
    if missing := {key: text for key, text in rows.items() if key not in found}:
        # Without turns, all workers of a run would encode the same texts.
        with take_turn(directory):
            found.update(_read(directory, missing.keys(), encoder))
            missing = {key: text for key, text in missing.items() if key not in found}
            found.update(_encode(encoder, missing, directory, progress))
    length = encoder.length
    if not _pads(encoder):
        length = max((_tokens(mask) for _, mask in found.values()), default=0)
    states = np.zeros((len(texts), length, encoder.width), dtype)
    mask = np.zeros((len(texts), length), np.float32)
    for row, text in enumerate(texts):
        row_states, row_mask = found[_text_key(text)]
        states[row, : len(row_mask)] = row_states[:length]
        mask[row, : len(row_mask)] = row_mask[:length]
    return states, mask


def _pads(encoder: TextEncoder) -> bool:
    """Whether all states of an encoder have its full length."""
    return getattr(encoder, "pads", True)


def _tokens(mask: np.ndarray) -> int:
    """Tokens up to the last one that counts."""
    return int(np.max(np.flatnonzero(mask), initial=-1)) + 1


def _identity_key(encoder: TextEncoder) -> str:
    described = json.dumps(encoder.identity, sort_keys=True)
    return f"{encoder.identity['name']}-{hashlib.sha256(described.encode()).hexdigest()[:16]}"


def _text_key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _fits(states: np.ndarray, mask: np.ndarray, encoder: TextEncoder) -> bool:
    """Whether states and mask of a call or a file have the right shapes."""
    length = encoder.length if _pads(encoder) else min(encoder.length, states.shape[1])
    expected = (len(states), length, encoder.width)
    return states.shape == expected and mask.shape == expected[:2]


def _read(directory: Path, keys, encoder: TextEncoder) -> dict:
    """Return {key: (states, mask)} of the wanted texts that some file holds."""
    found = {}

    def use(archive: Any) -> dict:
        # Members are read on demand: files without a wanted text cost only their keys.
        listed = archive["keys"].tolist()
        wanted = [(row, key) for row, key in enumerate(listed) if key in keys and key not in found]
        if not wanted:
            return {}
        states, mask = archive["states"], archive["mask"]
        if not _fits(states, mask, encoder) or len(states) != len(listed):
            raise ValueError(f"states of shape {states.shape} for {len(listed)} texts")
        if states.dtype != np.float16 or mask.dtype != np.uint8:
            raise ValueError(f"states {states.dtype} and a mask {mask.dtype}")
        return {key: (states[row], mask[row]) for row, key in wanted}

    for file in sorted(directory.glob("*.npz")):
        if not is_temporary(file):  # another process is writing it
            found.update(kept.read(file, use) or {})
    return found


def _encode(encoder: TextEncoder, missing: dict[str, str], directory: Path, progress: bool) -> dict:
    """Encode the missing texts and write them as new files; return {key: (states, mask)}."""
    from tqdm.auto import tqdm

    keys, made = list(missing), {}
    with tqdm(
        total=len(keys), desc="encoding captions", disable=not progress or len(keys) < _LONG
    ) as bar:
        for begin in range(0, len(keys), _TEXTS_PER_FILE):
            group = keys[begin : begin + _TEXTS_PER_FILE]
            states, masks = [], []
            for first in range(0, len(group), _TEXTS_PER_CALL):
                part = group[first : first + _TEXTS_PER_CALL]
                new_states, new_mask = encoder.encode([missing[key] for key in part])
                whole = len(new_states) == len(part) and np.ndim(new_states) == 3
                if not whole or not _fits(new_states, new_mask, encoder):
                    expected = (len(part), encoder.length, encoder.width)
                    raise checks.error(
                        f"the encoder must return states {expected} and a mask {expected[:2]}",
                        fix="correct its `encode`, or its `length` and `width`",
                        states=new_states.shape,
                        mask=new_mask.shape,
                    )
                states.append(_to_half(new_states))
                masks.append(new_mask.astype(np.uint8))
                bar.update(len(part))
            columns = {
                "keys": np.array(group),
                "states": _join(states),
                "mask": _join(masks),
            }
            # A unique name: processes that encode the same texts at once do not collide.
            target = directory / f"{uuid.uuid4().hex}.npz"
            kept.write(target, lambda file, columns=columns: np.savez(file, **columns))
            made.update(
                zip(group, zip(columns["states"], columns["mask"], strict=True), strict=True)
            )
    return made


def _join(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenate rows, padded with zeros to the longest part."""
    longest = max(part.shape[1] for part in parts)
    padding = [(0, 0)] * (parts[0].ndim - 2)
    return np.concatenate(
        [np.pad(part, [(0, 0), (0, longest - part.shape[1]), *padding]) for part in parts]
    )


def _to_half(states: np.ndarray) -> np.ndarray:
    largest = float(np.abs(states).max(initial=0.0))
    if not largest <= float(np.finfo(np.float16).max):  # Also catches NaN.
        raise checks.error(
            "states must be finite and fit into float16",
            fix="scale the encoder's states to a standard deviation near 1",
            largest=largest,
        )
    return states.astype(np.float16)
