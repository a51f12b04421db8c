"""Weights of the official networks, in and out, strict both ways."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.interop.key_map import TO_OFFICIAL, TO_OURS, entries
from keras_mdm.interop.mdm_config import spec_from_config
from keras_mdm.models.nested_unet import NestedUNet


def load_ml_mdm(
    weights: Mapping[str, Any],
    *,
    config: Mapping[str, Any],
    size: int,
    in_channels: int = 3,
    out_channels: int = 3,
    dtype: Any = None,
) -> NestedUNet:
    """Build the network of an official configuration and fill it with official weights.

    Args:
        weights: `{official key: array}`.
        config: the network's configuration, a mapping with the official field names.
        size: height of one frame at the highest level; the number of frames follows from the
            temporal resamplings.
        in_channels: channels of the inputs.
        out_channels: channels of the predictions.
        dtype: dtype policy of the network.

    Returns:
        A `NestedUNet` that computes what the official network computes, levels ascending, channels
        last, clips as `(B, T, H, W, C)` instead of a grid of frames.

    Raises:
        ValueError: if the official code could not run this configuration, or if a key is missing,
            left over or of another shape; all of them are listed.

    Example:

    >>> unet = load_ml_mdm(state, config={"resolution_channels": [32, 64]}, size=8)
    """
    if not isinstance(weights, Mapping):
        raise checks.error(
            "`weights` must be a mapping from official keys to arrays",
            fix="load the file into such a mapping first",
            type=type(weights).__name__,
        )
    spec = spec_from_config(config, size=size, in_channels=in_channels, out_channels=out_channels)
    unet = NestedUNet(spec, dtype=dtype)
    ignored = ()
    if config.get("interp_conditioning"):  # two layers that the official code builds and never uses
        ignored = tuple(key for key in weights if "interp_layer" in key)
    assign_ml_mdm(unet, {key: value for key, value in weights.items() if key not in ignored})
    return unet


def assign_ml_mdm(unet: NestedUNet, weights: Mapping[str, Any]) -> None:
    """Fill `unet` with official weights; nothing is changed unless everything fits.

    Args:
        unet: the network.
        weights: `{official key: array}`, exactly the keys of `to_ml_mdm(unet)`.

    Raises:
        ValueError: listing all missing keys, keys left over, and differing shapes at once.
    """
    table = entries(unet)
    expected = {entry.key: entry.shape for entry in table}
    arrived = {key: tuple(np.shape(value)) for key, value in weights.items()}
    missing = [key for key in expected if key not in arrived]
    unexpected = [key for key in arrived if key not in expected]
    differing = [
        f"{key}: {arrived[key]} instead of {shape}"
        for key, shape in expected.items()
        if key in arrived and arrived[key] != shape
    ]
    if missing or unexpected or differing:
        raise checks.error(
            "the weights must be exactly those of the configured network",
            fix="use the configuration that belongs to the weights, and the right size",
            missing=missing,
            unexpected=unexpected,
            shapes=differing,
        )
    changed = [
        entry.key
        for entry in table
        if entry.constant is not None
        and not np.allclose(np.asarray(weights[entry.key]), entry.constant, rtol=1e-5)
    ]
    if changed:
        raise checks.error(
            "rotary frequencies must be the official constants",
            fix="networks with other frequencies are not supported",
            keys=changed,
        )
    for entry in table:
        if entry.constant is None:
            entry.variable.assign(TO_OURS[entry.layout](np.asarray(weights[entry.key])))


def to_ml_mdm(unet: NestedUNet) -> dict[str, np.ndarray]:
    """Return the weights of a network under their official keys, in the official order.

    Args:
        unet: any `NestedUNet` without classes.

    Returns:
        `{official key: float32 array}`, bit-identical to what was loaded.

    Raises:
        ValueError: if the network is class-conditional, which the official code cannot hold.

    Example:

    >>> state = to_ml_mdm(build_nested_unet([64]))
    >>> state["conv_in.weight"].shape
    (256, 3, 3, 3)
    """
    if unet.spec.num_classes:
        raise checks.error(
            "the official layout has no place for classes",
            fix="export text-conditional or unconditional networks only",
            num_classes=unet.spec.num_classes,
        )
    state = {}
    for entry in entries(unet):
        if entry.constant is not None:
            state[entry.key] = entry.constant
        else:
            value = TO_OFFICIAL[entry.layout](np.asarray(entry.variable))
            state[entry.key] = np.ascontiguousarray(value)
    return state
