"""Guidance: combining predictions with and without the condition."""

from collections.abc import Mapping
from typing import Any

from keras_mdm import checks
from keras_mdm.diffusion.process import expand


def classifier_free(unconditional: Any, conditional: Any, scale: Any) -> Any:
    """Return u + scale * (c - u).

    Scale 0 is the unconditional prediction, 1 the conditional one, larger values go beyond it. As
    in the release it is applied to the raw output of the network (v or eps) with the same scale at
    every level, before the output becomes an x0 and before thresholding.

    Args:
        unconditional: (B, ...) or level name -> (B, ...).
        conditional: the same structure.
        scale: number, scalar tensor or (B,).

    Returns:
        The same structure.

    Raises:
        ValueError: if the two have different levels.

    Example:

    >>> from keras import ops
    >>> guided = classifier_free({"64": ops.zeros((1, 2))}, {"64": ops.ones((1, 2))}, 4.0)
    >>> float(guided["64"][0, 0])
    4.0

    Reference: Ho and Salimans, arXiv 2207.12598, equation 6, with scale = 1 + w there.
    """
    if isinstance(unconditional, Mapping):
        checks.required_keys("conditional", conditional, unconditional)
        checks.known_keys("conditional", conditional, unconditional)
        return {
            name: classifier_free(level, conditional[name], scale)
            for name, level in unconditional.items()
        }
    return unconditional + expand(scale, unconditional) * (conditional - unconditional)
