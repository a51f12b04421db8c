"""What is frozen in a network, and whether its layers still have their dtype policies."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras

from keras_mdm import checks

BEFORE_LORA = "_frozen_before_lora"  # of a network under LoRA


def layers_of(unet: keras.Model) -> Iterator[keras.layers.Layer]:
    """All layers of a network except inputs, outer ones before those inside them."""
    for layer in unet._flatten_layers(include_self=True):
        if not isinstance(layer, keras.layers.InputLayer):
            yield layer


def frozen_in(unet: keras.Model) -> dict[str, list[str]] | None:
    """Return what is frozen, as JSON values: layers, and weights whose flag differs from theirs.

    LoRA freezes the kernels that it adapts. Files hold merged kernels, so here the flags are those
    from before LoRA.

    Args:
        unet: the network.

    Returns:
        {"layers": paths, "weights": paths of weights whose flag differs from their layer's}, or
        `None` if everything is trainable.
    """
    if BEFORE_LORA in unet.__dict__:
        return unet.__dict__[BEFORE_LORA]
    layers, weights = [], []
    for layer in layers_of(unet):
        if not layer.trainable:
            layers.append(layer.path or "")
        adapted = lora_kernel(layer)
        for variable in layer._trainable_variables:
            if is_lora(variable.path):
                continue
            flag = layer.trainable if variable is adapted else variable.trainable
            if flag != layer.trainable:
                weights.append(variable.path)
    return {"layers": layers, "weights": weights} if layers or weights else None


def freeze(unet: keras.Model, frozen: Mapping[str, list[str]] | None) -> None:
    """Set the flags that `frozen_in` returned.

    Args:
        unet: the network, in which everything is trainable.
        frozen: what `frozen_in` returned.
    """
    if not frozen:
        return
    layers, weights = set(frozen["layers"]), set(frozen["weights"])
    for layer in layers_of(unet):  # outer ones first: each passes its flag down
        wanted = (layer.path or "") not in layers
        if layer.trainable != wanted:
            layer.trainable = wanted
    for layer in layers_of(unet):
        for variable in layer._trainable_variables:
            if variable.path in weights:
                variable.trainable = not layer.trainable


def is_lora(path: str) -> bool:
    """Whether a path names a weight that LoRA added to a layer."""
    return path.rsplit("/", 1)[-1].startswith("lora_")


def lora_kernel(layer: keras.layers.Layer) -> keras.Variable | None:
    """The weight of a layer that LoRA adapts, or `None` if there is none."""
    if not getattr(layer, "lora_enabled", False):
        return None
    return layer._kernel if hasattr(layer, "_kernel") else layer._embeddings


def policies_of(unet: keras.Model) -> dict[str, Any]:
    """Dtype policies of all layers, by an identity that is valid as long as the layer lives."""
    return {str(id(layer)): layer.dtype_policy.name for layer in layers_of(unet)}


def check_policies(unet: keras.Model) -> None:
    """Raise if a layer's dtype policy has changed since it was built, or it was quantized.

    Args:
        unet: a `NestedUNet`.

    Raises:
        ValueError: naming the layers.
    """
    known = unet.__dict__["_policies"]
    names = {layer: layer.dtype_policy.name for layer in layers_of(unet)}
    changed = [e for e, name in names.items() if known.get(str(id(e)), name) != name]
    quantized = sorted({layer.path for layer in layers_of(unet) if layer.quantization_mode})
    if quantized:
        raise quantization(layers=quantized)
    if changed:
        raise checks.error(
            "the dtype policies of a network must stay those that it was built with: files, "
            "averages and gradients rely on them",
            fix="build a network with dtype=..., and copy the weights with set_weights",
            layers={layer.path: names[layer] for layer in changed},
        )


def quantization(**received: Any) -> ValueError:
    """Return the error for networks that are, or are to be, quantized.

    Args:
        **received: as in `checks.error`.
    """
    return checks.error(
        "quantized networks can be neither averaged, trained nor saved here",
        fix='load the model again; for less memory build the network with dtype="mixed_bfloat16", '
        "or export it and quantize the SavedModel",
        **received,
    )


def remember_flags(unet: keras.Model, source: keras.Model) -> None:
    """Give a network that shares layers with one under LoRA the flags from before LoRA.

    Args:
        unet: the network that was made.
        source: the one that it shares layers with.
    """
    if BEFORE_LORA not in source.__dict__:
        return
    known = source.__dict__[BEFORE_LORA] or {"layers": [], "weights": []}
    there = {
        "layers": {layer.path or "" for layer in layers_of(unet)},
        "weights": {variable.path for variable in unet.variables},
    }
    left = {kind: [path for path in known[kind] if path in there[kind]] for kind in known}
    unet.__dict__[BEFORE_LORA] = left if any(left.values()) else None
