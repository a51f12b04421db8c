"""Any function as a text encoder."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.text.prompts import check_texts


class FunctionEncoder:
    """A text encoder made from a function, for encoders that this package does not know.

    Args:
        function: maps a list of B texts to states `(B, L, D)` and mask `(B, L)` of 0/1. Tokens
            beyond the mask are set to zero.
        length: L, the most tokens that the function returns.
        name: identifies the encoder and its weights: states are cached under it, and a saved model
            remembers it.
        pool: maps a list of B texts to vectors `(B, P)`, if the network takes them.

    Raises:
        ValueError: if an argument is invalid, or the function returns other shapes.

    Example:

    >>> def letters(texts):
    ...     states = np.zeros((len(texts), 4, 2))
    ...     for row, text in enumerate(texts):
    ...         for column, letter in enumerate(text[:4]):
    ...             states[row, column] = ord(letter), 1.0
    ...     return states, np.ones((len(texts), 4))
    >>> encoder = FunctionEncoder(letters, length=4, name="letters-1")
    >>> encoder.encode(["cat"])[0].shape, encoder.width
    ((1, 4, 2), 2)
    """

    def __init__(
        self,
        function: Callable[[list[str]], tuple[Any, Any]],
        *,
        length: int,
        name: str,
        pool: Callable[[list[str]], Any] | None = None,
    ):
        self.length = checks.integer("length", length, minimum=1)
        if not callable(function) or not isinstance(name, str) or not name:
            raise checks.error(
                "a function encoder needs a function and a name",
                fix='pass FunctionEncoder(encode, length=77, name="my-encoder-v1")',
                function=function,
                name=name,
            )
        self.name, self._function, self._pool = name, function, pool
        self._null = self.encode([""])  # gives the width, and checks the shapes
        self.width = self._null[0].shape[-1]
        if pool is not None:
            self.pooled_width = self.pool([""]).shape[-1]

    @property
    def identity(self) -> dict[str, Any]:
        """Name and length."""
        return {"name": self.name, "length": self.length}

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return states (B, L, D), zero at padding, and their mask (B, L), float32."""
        texts = check_texts(texts)
        states, mask = (np.asarray(value, "float32") for value in self._function(texts))
        fits = states.ndim == 3 and states.shape[:2] == mask.shape == (len(texts), self.length)
        if not fits:
            raise checks.error(
                f"the function must return states ({len(texts)}, {self.length}, D) and a mask "
                f"({len(texts)}, {self.length})",
                fix="pad to `length` tokens",
                states=states.shape,
                mask=mask.shape,
            )
        return states * mask[..., None], mask

    def pool(self, texts: Sequence[str]) -> np.ndarray:
        """Return vectors (B, P) float32."""
        if self._pool is None:
            raise checks.error(
                "this encoder has no pooled vector", fix="pass `pool`", name=self.name
            )
        texts = check_texts(texts)
        vectors = np.asarray(self._pool(texts), "float32")
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise checks.error(
                f"`pool` must return vectors ({len(texts)}, P)",
                fix="return one per text",
                shape=vectors.shape,
            )
        return vectors

    def null(self) -> tuple[np.ndarray, np.ndarray]:
        """Return states (L0, D) and mask (L0,) of the empty prompt, without padding."""
        states, mask = (value[0] for value in self._null)
        tokens = max(int(mask.sum()), 1)
        return states[:tokens].copy(), np.ones(tokens, "float32")
