"""From the identity that a saved model remembers to the encoder itself."""

import os
from collections.abc import Mapping
from typing import Any

from keras_mdm import checks
from keras_mdm.text import clip, flan_t5
from keras_mdm.text.encoders import TextEncoder
from keras_mdm.text.minilm import MiniLM


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
        ValueError: if no encoder of this version of the package has the identity, or the place of
            its weights is unknown on this machine.

    Example:

    >>> from keras_mdm.text import MiniLM
    >>> from_identity(MiniLM(length=24).identity).length
    24
    """
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
        "`identity` must come from MiniLM, FlanT5 or ClipText: other encoders, such as "
        "a FunctionEncoder, cannot be made from it",
        fix="attach the encoder that the model was trained with by hand, as `text_encoder`",
        identity=dict(identity),
    )
