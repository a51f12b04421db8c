"""FLAN-T5, the encoder of the released models, as a frozen text encoder from a local folder."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.text import places
from keras_mdm.text.prompts import check_texts
from keras_mdm.text.t5_weights import T5Folder

# Prompts per forward pass.
_BATCH = 32


class FlanT5:
    """The encoder of a FLAN-T5 model, small to xxl, from a folder of Hugging Face files.

    The released models use `google/flan-t5-xl` (width 2048). The folder must hold `config.json`,
    `spiece.model` and the `*.safetensors` files; neither PyTorch nor transformers is needed.
    Prompts are handled as in the authors' code (see `T5Tokenizer`). States are zero at padding and
    never padded beyond the longest prompt of a call, as the released networks attend to padding.

    Only headers are read before the first use. The cache remembers the folder, so that a saved
    model finds its encoder again.

    Args:
        folder: folder with the files.
        length: the most tokens of a prompt.
        max_characters: the most characters of a prompt.
        dtype: dtype in which weights are kept, `"float32"` or `"bfloat16"`: half the memory, 2.5 GB
            for flan-t5-xl. Computation is in float32.
        cache_dir: as in `keras_mdm.assets.cache_root`.

    Raises:
        ValueError: if an argument is out of range, or files or tensors in the folder are missing,
            cut off or of another shape; the error lists all of them.

    Example:

    ```python
    encoder = FlanT5("flan-t5-xl", dtype="bfloat16")
    states, mask = encoder.encode(["a panda playing guitar"])  # (1, 8, 2048), (1, 8)
    ```

    Reference: Chung et al. 2022 (arXiv 2210.11416); Gu et al. 2023 (arXiv 2310.15111), appendix B.
    """

    name = "flan_t5"

    # States are as long as the longest prompt of a call, not `length`.
    pads = False

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        length: int = 128,
        max_characters: int = 512,
        dtype: str = "float32",
        cache_dir: str | os.PathLike | None = None,
    ):
        self.length = checks.integer("length", length, minimum=2)
        self.max_characters = checks.integer("max_characters", max_characters, minimum=1)
        self.dtype = checks.one_of("dtype", dtype, ("float32", "bfloat16"))
        self._files = T5Folder(folder)
        self.width = self._files.config.d_model
        self._fingerprint = self._files.fingerprint()
        self._tokenizer = self._weights = self._null = None
        self._lock = threading.Lock()
        places.remember(self._fingerprint, str(self._files.folder.resolve()), cache_dir)

    @property
    def identity(self) -> dict[str, Any]:
        """What the states depend on, without the folder."""
        return {
            "name": self.name,
            "sha256": self._fingerprint,
            "length": self.length,
            "max_characters": self.max_characters,
            "dtype": self.dtype,
        }

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encode prompts.

        Args:
            texts: B strings; "" is the empty prompt. A prompt that is too long is cut, with a
                warning that shows what was lost.

        Returns:
            States float32 (B, L, D), zero at padding, and their mask float32 (B, L); L is the
            longest prompt of the call.

        Raises:
            ValueError: if `texts` is not a list of strings.
        """
        from keras_mdm.text import t5_network

        texts = check_texts(texts)
        self._load()
        ids = self._tokenizer.encode(texts)
        mask = (ids != self._tokenizer.pad).astype(np.float32)
        states = np.zeros((*ids.shape, self.width), np.float32)
        for first in range(0, len(texts), _BATCH):
            rows = slice(first, first + _BATCH)
            longest = int(mask[rows].sum(axis=1).max())
            part = (rows, slice(0, longest))
            states[part] = t5_network.encode(
                self._files.config, self._weights, ids[part], mask[part]
            )
        return states * mask[..., None], mask

    def null(self) -> tuple[np.ndarray, np.ndarray]:
        """Return states (2, D) and mask (2,) of the empty prompt, without padding."""
        if self._null is None:
            states, mask = self.encode([""])
            self._null = states[0], mask[0]
        states, mask = self._null
        return states.copy(), mask.copy()

    def parts(self) -> tuple[Any, Any, Any]:
        """Tokenizer, configuration and weights, loaded."""
        self._load()
        return self._tokenizer, self._files.config, self._weights

    def _load(self) -> None:
        with self._lock:
            if self._weights is not None:
                return
            import tensorflow as tf

            from keras_mdm.text.t5_network import tensor_shapes
            from keras_mdm.text.t5_tokenizer import T5Tokenizer

            self._tokenizer = T5Tokenizer(
                self._files.vocabulary, length=self.length, max_characters=self.max_characters
            )
            rows = self._files.config.vocab_size
            if self._tokenizer.size > rows:
                raise checks.error(
                    "the vocabulary must fit the embedding of the model",
                    fix="use config.json, spiece.model and weights of one model",
                    pieces=self._tokenizer.size,
                    vocab_size=rows,
                )
            with tf.init_scope():  # plain tensors, whatever graph or strategy the caller is in
                self._weights = {
                    name: tf.reshape(
                        # TensorFlow keeps an array beside its copy, but owns what it joins.
                        tf.concat([tf.cast(p, self.dtype) for p in self._files.parts(name)], 0),
                        shape,
                    )
                    for name, shape in tensor_shapes(self._files.config).items()
                }


def from_identity(
    identity: dict[str, Any], *, cache_dir: str | os.PathLike | None = None
) -> FlanT5 | None:
    """Return the encoder with an identity, or `None` if its folder is no longer known.

    Args:
        identity: the `identity` of a `FlanT5`.
        cache_dir: as in `keras_mdm.assets.cache_root`.
    """
    folder = places.known(cache_dir).get(str(identity.get("sha256")))
    if folder is None or not Path(folder).is_dir():
        return None
    options = {k: identity[k] for k in ("length", "max_characters", "dtype") if k in identity}
    encoder = FlanT5(folder, cache_dir=cache_dir, **options)
    return encoder if encoder.identity == identity else None
