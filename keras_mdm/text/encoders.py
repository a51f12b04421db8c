"""What a text encoder is: the interface that training, caching and generation rely on."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np

from keras_mdm import checks


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen map from prompts to token states.

    Implementations are plain objects, not layers: a model that holds one neither trains, nor
    counts, nor saves its weights. Anything with these members will do.

    Attributes:
        width: D, the width of a token's state.
        length: L, the most tokens of a prompt; what a prompt is padded to as well, unless `pads` is
            there and false.
        identity: name, sha256 of the weights, length and whatever else changes the numbers. Two
            encoders with equal identities give equal states. It is what a saved model remembers.
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
        the call has. A prompt's states do not depend on the others of the call, up to rounding.
        """
        ...

    def null(self) -> tuple[np.ndarray, np.ndarray]:
        """Return states (L0, D) and mask (L0,) of the empty prompt, without padding."""
        ...


@runtime_checkable
class PooledTextEncoder(TextEncoder, Protocol):
    """A text encoder that has one vector per prompt besides, for networks with `pooled_width`.

    Attributes:
        pooled_width: P, the width of that vector.
    """

    @property
    def pooled_width(self) -> int: ...

    def pool(self, texts: Sequence[str]) -> np.ndarray:
        """Return vectors float32 (B, P)."""
        ...


def check_texts(texts: Sequence[str]) -> list[str]:
    """Return `texts` as a list, or raise unless it is a sequence of strings."""
    # A lone string is a sequence of strings as well, of its letters.
    listed = None if isinstance(texts, str | bytes) else list(texts)
    if listed is None or not all(isinstance(text, str) for text in listed):
        strange = (
            texts if listed is None else [text for text in listed if not isinstance(text, str)]
        )
        raise checks.error(
            "`texts` must be a list of strings",
            fix="pass ['a red apple'], with brackets for a single prompt too",
            texts=strange if listed is None else strange[:3],
        )
    return listed


def in_own_thread(work: Callable[[], Any]) -> Any:
    """Run `work` where none of the caller's Keras and TensorFlow context reaches.

    Both keep strategies, dtype policies, scopes and name counters per thread. In a fresh one the
    encoder's variables are neither mirrored nor does building them renumber the caller's layers.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(work).result()


def warn_of_cuts(lost: Sequence[tuple[str, str]], total: int, length: int) -> None:
    """Warn about prompts that were too long, showing what was lost.

    Args:
        lost: what was kept and what was lost of every prompt that was cut.
        total: number of prompts.
        length: the most tokens of a prompt.
    """
    if not lost:
        return
    shown = "; ".join(f"{kept.rstrip()!r} lost {rest!r}" for kept, rest in lost[:3])
    more = f", and {len(lost) - 3} more" if len(lost) > 3 else ""
    warnings.warn(
        f"{len(lost)} of {total} prompts are longer than {length} tokens and were cut: "
        f"{shown}{more}. Pass a larger `length` to keep all words.",
        stacklevel=4,
    )


def from_identity(
    identity: Mapping[str, Any], *, cache_dir: str | os.PathLike | None = None
) -> TextEncoder:
    """Return the encoder that an identity describes, to re-attach it to a loaded model.

    Args:
        identity: the `identity` of an encoder of this package.
        cache_dir: as in `keras_mdm.assets.cache_root`.

    Returns:
        An encoder with exactly this identity. Its weights are loaded at the first use.

    Raises:
        ValueError: when no encoder of this version of the package has the identity, or where its
            weights lie is not known on this machine.

    Example:

    >>> from keras_mdm.text import MiniLM
    >>> from_identity(MiniLM(length=24).identity).length
    24
    """
    from keras_mdm.text import clip, flan_t5
    from keras_mdm.text.minilm import MiniLM

    if identity.get("name") == flan_t5.FlanT5.name:
        encoder = flan_t5.from_identity(dict(identity), cache_dir=cache_dir)
        if encoder is not None:
            return encoder
        raise checks.error(
            "the folder of the model's FLAN-T5 encoder must be known on this machine",
            fix="assign model.text_encoder = keras_mdm.text.FlanT5(FOLDER), with the same weights",
            identity=dict(identity),
        )
    if identity.get("name") == clip.ClipText.name:
        encoder = clip.from_identity(identity, cache_dir=cache_dir)
        if encoder is not None:
            return encoder
        raise checks.error(
            "the preset of the model's CLIP encoder must be known on this machine, and have the "
            "same weights",
            fix="assign model.text_encoder = keras_mdm.text.ClipText(PRESET, length=...), with the "
            "preset, folder or pair that the model was trained with",
            identity=dict(identity),
        )
    if identity.get("name") == MiniLM.name:
        encoder = MiniLM(length=identity.get("length"), cache_dir=cache_dir)
        if encoder.identity == dict(identity):
            return encoder
        raise checks.error(
            "the model's MiniLM must be that of this version of keras_mdm",
            fix="attach the encoder that the model was trained with by hand, as `text_encoder`",
            identity=dict(identity),
            here=encoder.identity,
        )
    raise checks.error(
        "`identity` must be that of MiniLM, FlanT5 or ClipText: other encoders, such as a "
        "FunctionEncoder, cannot be made of it",
        fix="attach the encoder that the model was trained with by hand, as `text_encoder`",
        identity=dict(identity),
    )
