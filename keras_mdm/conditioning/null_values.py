"""The values that mean "no prompt"."""

from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.finite import check_finite
from keras_mdm.models.network import NetworkFacts


def null_values(
    spec: NetworkFacts, encoder: Any, text: Any, mask: Any, pooled: Any
) -> dict[str, np.ndarray]:
    """States, mask and pooled vector of "no prompt", as far as the network takes them.

    Args:
        spec: the network.
        encoder: a text encoder, whose empty prompt means "no prompt" unless values are given.
        text: see `check_null`.
        mask: see `check_null`.
        pooled: `(P,)`.
    """
    if not spec.text_width and not spec.pooled_width:
        if encoder is not None:
            raise checks.error(
                "a text encoder needs a network with text",
                fix="build the network with text_width=encoder.width",
                text_width=None,
            )
        return {}
    values = {}
    if spec.text_width:
        if text is None and encoder is not None:
            text, mask = encoder.null()
        text, mask = check_null(spec, text, mask)
        values = {"text": text, "text_mask": mask}
    if spec.pooled_width:
        if pooled is None and encoder is not None:
            pooled = encoder.pool([""])[0]
        values["pooled"] = check_null_pooled(spec, pooled)
    return values


def check_null(spec: NetworkFacts, text: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check and return the states and the mask that mean "no prompt".

    Args:
        spec: a network with text.
        text: `(L, D)`, or `None` for one token of zeros.
        mask: `(L,)` of 0/1, or `None` for ones.

    Raises:
        ValueError: if a shape does not fit or the mask is all zero.
    """
    text = np.zeros((1, spec.text_width)) if text is None else np.asarray(text)
    mask = np.ones(len(text)) if mask is None else np.asarray(mask)
    if text.ndim != 2 or text.shape[1] != spec.text_width or mask.shape != text.shape[:1]:
        raise checks.error(
            f"`null_text` must be (L, {spec.text_width}) and `null_mask` (L,)",
            fix="pass the encoder's states of the empty prompt",
            null_text_shape=text.shape,
            null_mask_shape=mask.shape,
        )
    if not mask.any():
        raise checks.error(
            "`null_mask` must mark at least one token",
            fix="pass the mask of the empty prompt; attention over no token is undefined",
            null_mask=mask.tolist(),
        )
    check_finite({"null_text": text, "null_mask": mask})
    return text.astype("float32"), mask.astype("float32")


def check_null_pooled(spec: NetworkFacts, pooled: Any) -> np.ndarray:
    """Check and return the pooled vector of "no prompt"; `None` gives zeros."""
    pooled = np.zeros(spec.pooled_width) if pooled is None else np.asarray(pooled)
    if pooled.shape != (spec.pooled_width,):
        raise checks.error(
            f"`null_pooled` must be ({spec.pooled_width},)",
            fix="pass the encoder's pooled vector of the empty prompt",
            null_pooled_shape=pooled.shape,
        )
    check_finite({"null_pooled": pooled})
    return pooled.astype("float32")
