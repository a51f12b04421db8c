"""The interface of text encoders that training, caching and generation rely on."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen map from prompts to token states.

    Implementations are plain objects, not layers: a model that holds one neither trains nor counts
    nor saves its weights. Any object with these members will do.

    Attributes:
        width: D, the width of a token's state.
        length: L, the most tokens of a prompt; prompts are also padded to it, unless an attribute
            `pads` is false.
        identity: name, sha256 of the weights, length and whatever else changes the numbers. Two
            encoders with equal identities give equal states. A saved model remembers it.
    """

    @property
    def width(self) -> int: ...

    @property
    def length(self) -> int: ...

    @property
    def identity(self) -> dict[str, Any]: ...

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return states float32 (B, L, D), zero at padding, and their mask float32 (B, L).

        An encoder whose attribute `pads` is false returns as many tokens as the longest prompt of
        the call has. Up to rounding, a prompt's states do not depend on other prompts of the call.
        """
        ...

    def null(self) -> tuple[np.ndarray, np.ndarray]:
        """Return states (L0, D) and mask (L0,) of the empty prompt, without padding."""
        ...


@runtime_checkable
class PooledTextEncoder(TextEncoder, Protocol):
    """A text encoder that also gives one vector per prompt, for networks with `pooled_width`.

    Attributes:
        pooled_width: P, the width of that vector.
    """

    @property
    def pooled_width(self) -> int: ...

    def pool(self, texts: Sequence[str]) -> np.ndarray:
        """Return vectors float32 (B, P)."""
        ...
