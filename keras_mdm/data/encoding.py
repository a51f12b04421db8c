"""Captions of a batch, and the states that an encoder makes from them."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.data.python_calls import call_python


class Encoder(Protocol):
    """The part of a text encoder that batches need; `keras_mdm.text.TextEncoder` and
    `keras_mdm.text.StoredStates` have it."""

    width: int

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]: ...


def check_encoder(encoder: Any) -> None:
    """Raise unless this is an encoder, or `None`."""
    if encoder is not None and not callable(getattr(encoder, "encode", None)):
        raise checks.error(
            "`encoder` must be a text encoder", fix="pass MiniLM() or StoredStates", encoder=encoder
        )


def encoding(
    encoder: Encoder, column: str, texts: Callable[[np.ndarray], Sequence[str]]
) -> Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]:
    """Return a function that replaces a column of a batch with states.

    Map it over batches, not over samples: the encoder is called once for all captions of a batch.

    Args:
        encoder: makes the states.
        column: the column that determines the captions.
        texts: function from the values of this column to the captions.

    Returns:
        A function from batch to batch that adds "text" (B, L, D) and "text_mask" (B, L), where L
        is the length to which the encoder pads.
    """

    def encode(values: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(np.asarray(found, np.float32) for found in encoder.encode(texts(values)))

    def encoded(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        values = batch[column]
        states, mask = call_python(encode, (values,), (tf.float32, tf.float32))
        states.set_shape((values.shape[0], None, encoder.width))
        mask.set_shape((values.shape[0], None))
        rest = {key: value for key, value in batch.items() if key != column}
        return rest | {"text": states, "text_mask": mask}

    return encoded
