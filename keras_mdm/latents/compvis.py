"""KL autoencoders in the files of the authors of latent diffusion, by the names of their tensors.

The network of `KLAutoencoder` is theirs, so a file needs no conversion: every tensor has one
variable. All sizes follow from the shapes of the tensors.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.interop.key_map import TO_OFFICIAL, Entry
from keras_mdm.interop.strict import assign_entries
from keras_mdm.interop.torch_reader import TorchFile

# Where a file of a whole latent diffusion model holds its autoencoder.
FIRST_STAGE = "first_stage_model."
PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
# Layers inside a block, an attention or a resampling.
INSIDE = (
    *("norm1", "conv1", "norm2", "conv2", "nin_shortcut"),
    *("norm", "q", "k", "v", "proj_out", "conv"),
)


def load_compvis(
    make: Callable[..., Any],
    weights: str | os.PathLike | Mapping[str, Any],
    *,
    scale: float | None,
    groups: int,
    dtype: Any,
) -> Any:
    """Make a `KLAutoencoder` from a file; see `KLAutoencoder.from_compvis`.

    Args:
        make: the class.
        weights: as there, and so are the others.
    """
    if scale is not None and checks.real("scale", scale, minimum=0.0) == 0.0:
        raise checks.error("`scale` must be positive", fix="pass for example 0.18215", scale=scale)
    state, file = _read(weights)
    model = make(**sizes_of(state), groups=groups, dtype=dtype)
    assign_entries(
        list(entries(model)),
        state,
        what="a KL autoencoder of latent diffusion",
        fix="pass the model.ckpt of kl-f4.zip or kl-f8.zip, or of Stable Diffusion",
        after_each=file.release if file else None,
    )
    if scale is not None:
        model.code_deviation.assign(np.full(model.channels, 1.0 / scale, "float32"))
    return model


def to_compvis(model: Any) -> dict[str, np.ndarray]:
    """Return the weights of a `KLAutoencoder` under the authors' keys; without the scale of its
    codes, which their files do not hold.

    Args:
        model: the autoencoder.

    Example:

    >>> codec = KLAutoencoder(2, width=32, multipliers=(1, 1), channels=2)  # doctest: +SKIP
    >>> to_compvis(codec)["quant_conv.weight"].shape  # doctest: +SKIP
    (4, 4, 1, 1)
    """
    return {
        entry.key: np.ascontiguousarray(TO_OFFICIAL[entry.layout](np.asarray(entry.variable)))
        for entry in entries(model)
    }


def _read(weights: Any) -> tuple[dict[str, Any], TorchFile | None]:
    """The tensors of the autoencoder by key, and the file of which they are views."""
    file = None
    if not isinstance(weights, Mapping):
        file = TorchFile(weights)
        items = file.items()
        weights = items.get("state_dict", items) if isinstance(items, Mapping) else {}
    whole = any(key.startswith(FIRST_STAGE) for key in weights)
    prefix = FIRST_STAGE if whole else ""
    # The rest belongs to the loss of the training, or to the diffusion model.
    state = {
        key.removeprefix(prefix): value
        for key, value in weights.items()
        if key.startswith(tuple(prefix + part for part in PARTS))
    }
    return state, file


def sizes_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `KLAutoencoder` that belong to a file.

    Args:
        state: tensors by key.

    Raises:
        ValueError: if the file is of another kind.
    """
    first, last = "encoder.conv_in.weight", "encoder.conv_out.weight"
    codes, named = "post_quant_conv.weight", re.compile(r"encoder\.down\.(\d+)\.block\.(\d+)\.")
    found = [tuple(map(int, match.groups())) for match in map(named.match, state) if match]
    missing = [key for key in (first, last, codes) if key not in state]
    if missing or not found:
        raise checks.error(
            "the weights must be those of a KL autoencoder of latent diffusion",
            fix="pass the model.ckpt of kl-f4.zip or kl-f8.zip, or of Stable Diffusion",
            missing=missing or "encoder.down.0.block.0",
            keys=sorted(state)[:3],
        )
    width, image_channels = np.shape(state[first])[:2]
    inner, channels = np.shape(state[codes])[:2]
    twice = np.shape(state[last])[0]
    if inner != channels or twice != 2 * channels:
        raise checks.error(
            "the encoder must return mean and variance of as many channels as the codes have",
            fix="only KL autoencoders can be loaded, not those with a codebook",
            encoder_channels=twice,
            code_channels=channels,
        )
    count, blocks = (1 + max(numbers) for numbers in zip(*found, strict=True))
    resolutions = range(count)
    widths = [
        np.shape(state.get(f"encoder.down.{n}.block.0.conv1.weight", (0,)))[0] for n in resolutions
    ]
    return {
        "factor": 2 ** (count - 1),
        "channels": channels,
        "width": width,
        "multipliers": [max(1, wide // width) for wide in widths],
        "blocks": blocks,
        "attention": [int(f"encoder.down.{n}.attn.0.norm.weight" in state) for n in resolutions],
        "image_channels": image_channels,
    }


def entries(model: Any) -> Iterator[Entry]:
    """Every tensor of a file with its variable.

    Args:
        model: a `KLAutoencoder`.
    """
    for part in (model.encoder, model.decoder):
        yield from _affine(f"{part.name}.conv_in", part.conv_in)
        for layer in part.inside:
            for name in INSIDE:
                if (found := getattr(layer, name, None)) is not None:
                    yield from _affine(f"{part.name}.{layer.name}.{name}", found)
        yield from _affine(f"{part.name}.norm_out", part.norm_out)
        yield from _affine(f"{part.name}.conv_out", part.conv_out)
    yield from _affine("quant_conv", model.quant_conv)
    yield from _affine("post_quant_conv", model.post_quant_conv)


def _affine(key: str, layer: Any) -> Iterator[Entry]:
    """Weight and bias of a convolution, of a dense layer (theirs is a 1x1 convolution), or of a
    norm."""
    if hasattr(layer, "gamma"):
        yield Entry(f"{key}.weight", layer.gamma, "vector")
        yield Entry(f"{key}.bias", layer.beta, "vector")
        return
    layout = "conv" if len(layer.kernel.shape) == 4 else "pointwise"
    yield Entry(f"{key}.weight", layer.kernel, layout)
    yield Entry(f"{key}.bias", layer.bias, "vector")
