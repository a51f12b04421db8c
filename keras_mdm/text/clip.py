"""The text half of a CLIP model from keras-hub as a frozen text encoder."""

import hashlib
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.text import places
from keras_mdm.text.prompts import check_texts, in_own_thread, warn_of_cuts

_BATCH = 32
_PAD = 0
# keras-hub turns each of these into one token, wherever it occurs. Split, they are what CLIP makes
# of text: it separates punctuation from letters, and spaces do not count.
_CONTROL = re.compile(r"(<\|)(startoftext|endoftext)(\|>)", re.IGNORECASE)


class ClipText:
    """Token states of a CLIP text encoder, and its state at the end of the text as pooled vector.

    States are those after the last normalisation, zero at padding; attention is causal, so padding
    changes nothing before it. Nothing is loaded before the first use. Weights are not part of this
    package: pass a preset of keras-hub, or a folder written by `save_to_preset`. The cache keeps
    the preset's name, so that a saved model finds its encoder again; it does not keep a pair. Names
    of control tokens in a text, such as "<|endoftext|>", are ordinary words.

    Args:
        preset: what `keras_hub.models.CLIPBackbone.from_preset` takes: the name of a CLIP model, or
            a folder; or a pair of a `CLIPTextEncoder` and a `CLIPTokenizer`.
        length: L, number of tokens to which prompts are padded or cut, including the two that mark
            beginning and end; at most what the model was made for (77 for all published ones).
        cache_dir: as in `keras_mdm.assets.cache_root`.

    Raises:
        ValueError: if `length` is out of range, or, at the first use, the preset is not a CLIP
            model.

    Example:

    ```python
    encoder = ClipText("clip_vit_large_patch14")
    states, mask = encoder.encode(["a red apple"])  # (1, 77, 768), (1, 77)
    pooled = encoder.pool(["a red apple"])  # (1, 768)
    ```

    Reference: Radford et al., arXiv 2103.00020, section 2.4.
    """

    name = "clip_text"

    def __init__(
        self,
        preset: str | os.PathLike | tuple[Any, Any],
        *,
        length: int = 77,
        cache_dir: str | os.PathLike | None = None,
    ):
        self.length = checks.integer("length", length, minimum=2)
        self._preset = preset if isinstance(preset, tuple) else str(preset)
        self._cache_dir = cache_dir
        self._parts = None
        self._sha256 = ""
        self._lock = threading.Lock()

    @property
    def width(self) -> int:
        """D, the width of a token's state."""
        return int(self._load()[0].hidden_dim)

    @property
    def pooled_width(self) -> int:
        """P, equal to D: the pooled vector is the state of the end token."""
        return self.width

    @property
    def identity(self) -> dict[str, Any]:
        """What the states depend on."""
        self._load()
        return {"name": self.name, "sha256": self._sha256, "length": self.length}

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encode prompts.

        Args:
            texts: B strings; "" is the empty prompt. A prompt that is too long is cut, with a
                warning that shows what was lost.

        Returns:
            States float32 (B, L, D), zero at padding, and their mask float32 (B, L).

        Raises:
            ValueError: if `texts` is not a list of strings.
        """
        states, tokens = self._states(check_texts(texts))
        mask = (np.arange(self.length) < tokens[:, None]).astype("float32")
        return states * mask[..., None], mask

    def pool(self, texts: Sequence[str]) -> np.ndarray:
        """Return the states of the end tokens, float32 (B, D); arguments as in `encode`."""
        states, tokens = self._states(check_texts(texts))
        return states[np.arange(len(states)), tokens - 1]

    def null(self) -> tuple[np.ndarray, np.ndarray]:
        """Return states (2, D) and mask (2,) of the empty prompt, without padding."""
        states, mask = self.encode([""])
        tokens = int(mask[0].sum())
        return states[0, :tokens], mask[0, :tokens]

    def _states(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """States of all tokens (B, L, D), and the number of tokens of every prompt."""
        encoder, tokenizer = self._load()
        ids, tokens = self._tokenize(tokenizer, texts)
        states = np.empty((len(texts), self.length, encoder.hidden_dim), "float32")
        for begin in range(0, len(texts), _BATCH):
            rows = ids[begin : begin + _BATCH]
            # Always the same number of rows: one graph.
            whole = np.full((_BATCH, self.length), _PAD, "int32")
            whole[: len(rows)] = rows
            found = encoder.predict_on_batch({"token_ids": whole})
            found = found["sequence_output"] if isinstance(found, dict) else found
            states[begin : begin + len(rows)] = found[: len(rows)]
        return states, tokens

    def _tokenize(self, tokenizer: Any, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        start, end = tokenizer.start_token_id, tokenizer.end_token_id
        ids = np.full((len(texts), self.length), _PAD, "int32")
        tokens, lost, room = np.zeros(len(texts), int), [], self.length - 2
        for row, text in enumerate(texts):
            text = _CONTROL.sub(r"\1 \2 \3", text)
            found = [int(token) for token in np.asarray(tokenizer(text))] if text.strip() else []
            if len(found) > room:
                # Decoded, as the places of keras-hub's tokens in the text are unknown.
                kept, rest = (
                    str(tokenizer.detokenize(part)) for part in (found[:room], found[room:])
                )
                lost.append((kept, rest))
            found = [start, *found[:room], end]
            ids[row, : len(found)], tokens[row] = found, len(found)
        warn_of_cuts(lost, len(texts), self.length)
        return ids, tokens

    def _load(self) -> tuple[Any, Any]:
        with self._lock:
            if self._parts is None:
                encoder, tokenizer = self._open()
                if self.length > encoder.max_sequence_length:
                    raise checks.error(
                        f"`length` must be at most {encoder.max_sequence_length}, the longest text "
                        "that the model takes",
                        fix="pass a smaller length",
                        length=self.length,
                    )
                digest = hashlib.sha256()
                for variable in encoder.variables:
                    digest.update(np.ascontiguousarray(np.asarray(variable)))
                self._sha256 = digest.hexdigest()
                self._parts = encoder, tokenizer
                self._remember()
            return self._parts

    def _remember(self) -> None:
        if isinstance(self._preset, tuple):
            return
        folder = Path(self._preset)
        place = str(folder.resolve()) if folder.is_dir() else self._preset
        places.remember(self._sha256, place, self._cache_dir)

    def _open(self) -> tuple[Any, Any]:
        if isinstance(self._preset, tuple):
            return self._preset
        import keras_hub

        backbone = in_own_thread(
            lambda: keras_hub.models.Backbone.from_preset(self._preset, dtype="float32")
        )
        if not isinstance(backbone, keras_hub.models.CLIPBackbone):
            raise checks.error(
                "`preset` must be a CLIP model",
                fix="pass for example 'clip_vit_large_patch14', or a pair of encoder and tokenizer",
                preset=self._preset,
                found=type(backbone).__name__,
            )
        return backbone.text_encoder, keras_hub.models.CLIPTokenizer.from_preset(self._preset)


def from_identity(
    identity: Mapping[str, Any], *, cache_dir: str | os.PathLike | None = None
) -> ClipText | None:
    """Return the encoder with an identity, or `None` if its preset is unknown on this machine.

    Args:
        identity: the `identity` of a `ClipText`.
        cache_dir: as in `keras_mdm.assets.cache_root`.
    """
    preset = places.known(cache_dir).get(str(identity.get("sha256")))
    if preset is None or (Path(preset).is_absolute() and not Path(preset).is_dir()):
        return None
    encoder = ClipText(preset, length=identity.get("length"), cache_dir=cache_dir)
    return encoder if encoder.identity == dict(identity) else None
