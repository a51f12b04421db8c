"""all-MiniLM-L6-v2 as a frozen text encoder: 22.7 M parameters, 384 wide, fast on a CPU."""

import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.assets import asset
from keras_mdm.assets import path as asset_path
from keras_mdm.text.prompts import check_texts, in_own_thread, warn_of_cuts

# Token states are multiplied by this, so that over the tokens of the 1,918 Twemoji captions their
# standard deviation is 1. Cross-attention trains better on states of unit scale.
SCALE = 1.974

# Prompts per forward pass. Always this many, padded with empty prompts: one compiled graph.
_BATCH = 32

# Position embeddings of the network.
_LONGEST = 512

CLS, SEP, PAD = 101, 102, 0

# A word of more characters is unknown.
LONGEST_WORD = 100


class MiniLM:
    """The token states of all-MiniLM-L6-v2 (asset `minilm`), scaled to unit standard deviation.

    The network is keras-hub's BERT; the tokenizer is the model's own, as keras-hub's does not strip
    accents and reads "café" as an unknown word. keras-hub's GELU is the tanh form, by which
    unscaled states differ from the original's by up to 0.003.

    Nothing is loaded before the first use. The network is deliberately kept where no model tracks
    it: this class is not a layer, and variables are made in a separate thread, outside the caller's
    strategy and dtype policy.

    Args:
        length: L, number of tokens to which prompts are padded or cut, including the two that mark
            beginning and end.
        cache_dir: as in `keras_mdm.assets.cache_root`.

    Raises:
        ValueError: if `length` is not in 2..512, or, at the first use, the asset has not been
            fetched (the error names the command).

    Example:

    >>> encoder = MiniLM(length=16)
    >>> states, mask = encoder.encode(["a red apple"])  # doctest: +SKIP
    >>> states.shape, int(mask.sum())  # doctest: +SKIP
    ((1, 16, 384), 5)

    Reference:
        Wang et al., MiniLM: Deep Self-Attention Distillation, arXiv 2002.10957.
    """

    name = "minilm"
    width = 384

    def __init__(self, length: int = 16, *, cache_dir: str | os.PathLike | None = None):
        self.length = checks.integer("length", length, minimum=2)
        if self.length > _LONGEST:
            raise checks.error(
                f"`length` must be at most {_LONGEST}, the longest text that the network takes",
                fix="pass a smaller length",
                length=length,
            )
        self._cache_dir = cache_dir
        self._network = None
        self._tokenizer = None
        self._null = None
        self._lock = threading.Lock()

    @property
    def identity(self) -> dict[str, Any]:
        """What the states depend on; known without loading anything."""
        return {
            "name": self.name,
            "sha256": asset("minilm").contents["model.safetensors"],
            "length": self.length,
            "scale": SCALE,
        }

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encode prompts.

        Args:
            texts: B strings; "" is the empty prompt. A prompt that is too long is cut, with a
                warning that shows what was lost.

        Returns:
            States float32 (B, L, 384), zero at padding, and their mask float32 (B, L).

        Raises:
            ValueError: if `texts` is not a list of strings, or the asset is missing.
        """
        texts = check_texts(texts)
        self._load()
        ids = self._tokenize(texts)
        mask = (ids != PAD).astype(np.float32)
        states = np.empty((len(texts), self.length, self.width), np.float32)
        for first in range(0, len(texts), _BATCH):
            part = ids[first : first + _BATCH]
            states[first : first + _BATCH] = self._forward(part)
        return states * (SCALE * mask[..., None]), mask

    def null(self) -> tuple[np.ndarray, np.ndarray]:
        """Return states (2, 384) and mask (2,) of the empty prompt, without padding."""
        if self._null is None:
            states, mask = self.encode([""])
            tokens = int(mask[0].sum())
            self._null = states[0, :tokens], mask[0, :tokens]
        states, mask = self._null
        return states.copy(), mask.copy()

    def parts(self) -> tuple[Any, Any]:
        """Tokenizer and network, loaded."""
        self._load()
        return self._tokenizer, self._network

    def _load(self) -> None:
        with self._lock:
            if self._network is not None:
                return
            directory = str(asset_path("minilm", cache_dir=self._cache_dir))
            try:
                import keras_hub
                import safetensors  # noqa: F401  (keras-hub reads the weights with it)
                from tokenizers import Tokenizer
            except ImportError as missing:
                raise checks.error(
                    "MiniLM needs the packages keras-hub, tokenizers and safetensors",
                    fix="run `pip install keras-hub tokenizers safetensors`",
                    missing=missing.name,
                ) from missing
            tokenizer = Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
            # The file asks for padding and cutting to 128; here both are done to any length.
            tokenizer.no_padding()
            tokenizer.no_truncation()
            # "[PAD]" and "[SEP]" in a caption are words, not tokens that steer the network.
            tokenizer.encode_special_tokens = True
            self._tokenizer = tokenizer
            self._network = in_own_thread(
                lambda: keras_hub.models.BertBackbone.from_preset(directory, dtype="float32")
            )

    def _tokenize(self, texts: list[str]) -> np.ndarray:
        """Return token ids int32 (B, L), padded with zeros; warn about prompts that are cut."""
        ids = np.full((len(texts), self.length), PAD, np.int32)
        room, cut = self.length - 2, []
        for row, (text, encoding) in enumerate(
            zip(texts, self._tokenizer.encode_batch(texts, add_special_tokens=False), strict=True)
        ):
            kept = encoding.ids[:room]
            if len(encoding.ids) > room:
                begin = encoding.offsets[room][0]
                cut.append((text[:begin], text[begin:]))
            ids[row, : len(kept) + 2] = [CLS, *kept, SEP]
        warn_of_cuts(cut, len(texts), self.length)
        return ids

    def _forward(self, ids: np.ndarray) -> np.ndarray:
        """Return unscaled states (b, L, D) for b <= _BATCH rows of token ids."""
        padded = np.full((_BATCH, self.length), PAD, np.int32)
        padded[:, :2] = CLS, SEP
        padded[: len(ids)] = ids
        inputs = {
            "token_ids": padded,
            "padding_mask": (padded != PAD).astype(np.int32),
            "segment_ids": np.zeros_like(padded),
        }
        outputs = in_own_thread(lambda: self._network.predict_on_batch(inputs))
        return outputs["sequence_output"][: len(ids)]
