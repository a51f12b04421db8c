"""Guidance: combining predictions with and without the condition."""

from collections.abc import Mapping

from keras import ops

from keras_mdm import checks
from keras_mdm.diffusion.process import expand
from keras_mdm.types import Tensor


def classifier_free(unconditional: Tensor, conditional: Tensor, scale: Tensor) -> Tensor:
    """Return u + scale * (c - u).

    Scale 0 is the unconditional prediction, 1 the conditional one; larger values go beyond it. As
    in the release, guidance is applied to the raw output of the network (v or eps), with the same
    scale at every level, before the output becomes an x0 and before thresholding.

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


def rescale(guided: Tensor, conditional: Tensor, amount: Tensor) -> Tensor:
    """Give a guided prediction the standard deviation of the conditional one, or part of it.

    Guidance widens the prediction, which overexposes pictures. Per sample, over all other axes:
    amount * (std of conditional / std of guided) * guided + (1 - amount) * guided.

    Args:
        guided: (B, ...) or level name -> (B, ...).
        conditional: the same structure.
        amount: number or scalar tensor in [0, 1]; 0 changes nothing.

    Returns:
        The same structure.

    Example:

    >>> from keras import ops
    >>> conditional = ops.convert_to_tensor([[1.0, -1.0]])
    >>> [float(value) for value in rescale(4.0 * conditional, conditional, 1.0)[0]]
    [1.0, -1.0]

    Reference: Lin et al., arXiv 2305.08891, equations 15 and 16.
    """
    if isinstance(guided, Mapping):
        checks.required_keys("conditional", conditional, guided)
        return {name: rescale(level, conditional[name], amount) for name, level in guided.items()}
    axes = tuple(range(1, len(guided.shape)))
    wide, narrow = (ops.std(value, axis=axes, keepdims=True) for value in (guided, conditional))
    # A constant prediction has nothing to rescale.
    ratio = ops.where(wide > 0.0, narrow / ops.where(wide > 0.0, wide, 1.0), 1.0)
    amount = expand(amount, guided)
    return guided * (1.0 + amount * (ratio - 1.0))
