"""Import and export of official weights, strict in both directions."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.interop.key_map import TO_OFFICIAL, entries
from keras_mdm.interop.mdm_config import idle_prefixes, spec_from_config, with_text_width
from keras_mdm.interop.mdm_files import read_config, read_weights
from keras_mdm.interop.strict import assign_entries
from keras_mdm.interop.torch_writer import write_state_dict
from keras_mdm.models.nested_unet import NestedUNet, check_nested
from keras_mdm.models.specs import OWN_LAYERS, LevelSpec


def load_ml_mdm(
    weights: str | os.PathLike | Mapping[str, Any],
    *,
    config: str | os.PathLike | Mapping[str, Any],
    size: int,
    in_channels: int = 3,
    out_channels: int = 3,
    dtype: Any = None,
) -> NestedUNet:
    """Build the network of an official configuration and fill it with official weights.

    Args:
        weights: path of a checkpoint (`vis_model_*.pth`), or `{official key: array}`. PyTorch is
            not needed, and the file need not be trusted.
        config: path of the model's YAML file, or a mapping with the official field names: the whole
            file's, or only the network's section.
        size: height of one frame at the highest level; the number of frames follows from the
            temporal resamplings.
        in_channels: channels of the inputs.
        out_channels: channels of the predictions.
        dtype: dtype policy of the network.

    Returns:
        A `NestedUNet` that computes the same as the official network, but with ascending levels,
        channels last, and clips as `(B, T, H, W, C)` instead of a grid of frames.

    Raises:
        ValueError: if a file cannot be read, if the official code could not run this configuration,
            or if keys are missing, left over, of another shape or hold a NaN; all such keys are
            listed.

    Example:

    >>> unet = load_ml_mdm("vis_model_64x64.pth", config="cc12m_64x64.yaml", size=64)
    >>> unet.levels
    ('64',)
    """
    checks.integer("size", size, minimum=2)
    whole = read_config(config)
    state, file = read_weights(weights)
    network = with_text_width(whole, state)
    spec = spec_from_config(network, size=size, in_channels=in_channels, out_channels=out_channels)
    unet = NestedUNet(spec, dtype=dtype)
    idle = idle_prefixes(network)
    used = {key: value for key, value in state.items() if not key.startswith(idle)}
    assign_ml_mdm(unet, used, after_each=file.release if file else None)
    return unet


def assign_ml_mdm(
    unet: NestedUNet,
    weights: Mapping[str, Any],
    *,
    after_each: Callable[[], None] | None = None,
) -> None:
    """Fill `unet` with official weights; nothing is changed unless everything fits.

    Args:
        unet: the network.
        weights: `{official key: array}`, exactly the keys of `to_ml_mdm(unet)`.
        after_each: called after each tensor, to free the memory that reading it took.

    Raises:
        ValueError: listing all missing keys, surplus keys and differing shapes at once, or all
            tensors with a NaN or an infinity.
    """
    assign_entries(
        entries(unet),
        weights,
        what="the configured network",
        fix="use the configuration that belongs to the weights, and the right size",
        after_each=after_each,
    )


def to_ml_mdm(unet: NestedUNet) -> dict[str, np.ndarray]:
    """Return the weights of a network under their official keys, in the official order.

    Args:
        unet: any `NestedUNet` without classes.

    Returns:
        `{official key: float32 array}`, bit-identical to what was loaded.

    Raises:
        ValueError: if the network is class-conditional or has the user's own layers, which the
            official code cannot represent.

    Example:

    >>> state = to_ml_mdm(build_nested_unet([LevelSpec(8, channels=(32, 64))]))
    >>> state["conv_in.weight"].shape
    (32, 3, 3, 3)
    """
    check_nested(unet, "to_ml_mdm")
    if unet.spec.num_classes or unet.spec.pooled_width:
        raise checks.error(
            "the official layout has no place for classes or pooled text",
            fix="export only networks with text tokens, or unconditional ones",
            num_classes=unet.spec.num_classes,
            pooled_width=unet.spec.pooled_width,
        )
    own = {
        level.name: name
        for level in unet.spec.levels
        for name in OWN_LAYERS
        if getattr(level, name) is not None
    }
    if own:
        raise checks.error(
            "the official layout has no place for layers of your own",
            fix="export only networks made of this package's layers",
            levels=own,
        )
    ours = ("patch", "learned_deviation", "sees_below")
    plain = LevelSpec(2)
    other = {
        f"{level.name}: {name}": getattr(level, name)
        for level in unet.spec.levels
        for name in ours
        if getattr(level, name) != getattr(plain, name)
    }
    if other:
        raise checks.error(
            "the official layout has no place for these options of levels",
            fix="export only networks without them",
            levels=other,
        )
    state = {}
    for entry in entries(unet):
        if entry.constant is not None:
            state[entry.key] = entry.constant
        else:
            value = TO_OFFICIAL[entry.layout](np.asarray(entry.variable))
            state[entry.key] = np.ascontiguousarray(value)
    return state


def save_ml_mdm(unet: NestedUNet, path: str | os.PathLike) -> Path:
    """Write the weights of a network as a checkpoint that the official code loads.

    Args:
        unet: any `NestedUNet` without classes.
        path: the file, usually named `vis_model_*.pth`; it is replaced only when the new one is
            complete.

    Returns:
        The path.

    Raises:
        ValueError: if the network is class-conditional.

    Example:

    >>> save_ml_mdm(unet, "vis_model_64x64.pth")
    """
    return write_state_dict(to_ml_mdm(unet), path)
