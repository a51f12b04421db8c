"""Low-rank adaptation: a trained network stays unchanged, and small matrices beside it learn."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_mdm import checks
from keras_mdm.models.flags import BEFORE_LORA, freeze, frozen_in, is_lora, layers_of, lora_kernel

ADAPTED = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Conv2D)


def adapted_layers(unet: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a network that LoRA adapts."""
    return [layer for layer in layers_of(unet) if lora_kernel(layer) is not None]


def enable_lora(
    unet: keras.Model,
    rank: int,
    *,
    levels: Sequence[str] | None = None,
    alpha: float | None = None,
) -> list[str]:
    """Train only low-rank additions to the kernels: W + alpha / rank * A @ B.

    All dense layers and convolutions of the levels get them. B starts at zero, so nothing changes
    before training. Everything else is frozen until `merge_lora`.

    Args:
        unet: a `NestedUNet`.
        rank: rank of the additions.
        levels: names of the levels to adapt; all unless given.
        alpha: the additions are multiplied by alpha / rank; `rank` unless given.

    Returns:
        Paths of the new weights.

    Raises:
        ValueError: if a level is unknown or already adapted, or the rank is not a positive integer.

    Example:

    >>> unet = build_nested_unet([LevelSpec(8, channels=(32, 64)), 16])
    >>> paths = enable_lora(unet, 4, levels=["8"])
    >>> paths[0].rpartition("/")[2]
    'lora_kernel_a'

    Reference: Hu et al. 2021 (arXiv 2106.09685), section 4.1.
    """
    rank = checks.integer("rank", rank, minimum=1)
    alpha = rank if alpha is None else checks.real("alpha", alpha, minimum=1e-6)
    if isinstance(levels, str):
        raise checks.error(
            "`levels` must be a list of level names", fix=f"pass [{levels!r}]", levels=levels
        )
    levels = unet.levels if levels is None else levels
    checks.known_keys("levels", levels, unet.levels)
    chosen = []
    for name, part in unet.parts.items():
        if unet.level_of(name) in levels:
            chosen += [layer for layer in layers_of(part) if isinstance(layer, ADAPTED)]
    known = [layer.path for layer in chosen if layer.lora_enabled]
    if known or not chosen:
        raise checks.error(
            "`levels` must name levels with kernels that LoRA does not adapt yet",
            fix="merge the present LoRA with merge_lora(), or choose other levels",
            levels=list(levels),
            adapted=known,
        )
    # Files and `merge_lora` restore these flags.
    unet.__dict__.setdefault(BEFORE_LORA, frozen_in(unet))
    for layer in chosen:
        layer.enable_lora(rank, lora_alpha=alpha)
        _use_factors(layer)
    _train_only_additions(unet)
    return [v.path for layer in chosen for v in layer.weights if is_lora(v.path)]


def _use_factors(layer: keras.layers.Layer) -> None:
    """Have a layer compute W x + alpha / rank * B (A x), as in the paper.

    Keras adds A B to the kernel first. All these sums would be kept for the backward pass, and take
    as much memory as the whole network.
    """

    def call(inputs: Any, training: bool | None = None) -> Any:
        if isinstance(layer, keras.layers.Dense):
            apply = keras.ops.matmul
        elif isinstance(layer, keras.layers.EinsumDense):
            apply = functools.partial(keras.ops.einsum, layer.equation)
        else:
            apply = layer.convolution_op
        a, b = _additions(layer)
        scale = layer.lora_alpha / layer.lora_rank
        outputs = apply(inputs, layer._kernel)
        outputs += scale * keras.ops.matmul(apply(inputs, a), b)
        if layer.bias is not None:
            outputs += keras.ops.convert_to_tensor(layer.bias)
        return outputs if layer.activation is None else layer.activation(outputs)

    if isinstance(layer, keras.layers.EinsumDense):
        kernel, _, result = layer.equation.partition(",")[2].partition("->")
        if kernel[-1] != result[-1]:
            return  # B is not the last factor: left to Keras

    layer.__dict__["call"] = call


def _train_only_additions(unet: keras.Model) -> None:
    for layer in layers_of(unet):
        layer._trainable = True  # a level's flag would hide those of its weights
    for variable in unet.weights:
        variable.trainable = is_lora(variable.path)


def adapt(unet: keras.Model, adapted: Mapping[str, Sequence[float]]) -> None:
    """Give layers of a network the LoRA that they had before.

    Args:
        unet: the network.
        adapted: (rank, alpha) by path of the layer.
    """
    if not adapted:
        return
    unet.__dict__[BEFORE_LORA] = frozen_in(unet)
    for layer in list(layers_of(unet)):
        if layer.path in adapted:
            rank, alpha = adapted[layer.path]
            layer.enable_lora(int(rank), lora_alpha=alpha)
            if isinstance(layer, ADAPTED):
                _use_factors(layer)
    _train_only_additions(unet)


def merged(layer: keras.layers.Layer) -> np.ndarray:
    """The kernel of a layer with LoRA's addition, float32.

    Inside a `StatelessScope` it uses the values there, for example averages.
    """
    a, b = (keras.ops.cast(each.value, "float32") for each in _additions(layer))
    # Computed as Keras does when it saves, so that it is rounded alike.
    scale = layer.lora_alpha / layer.lora_rank
    added = keras.ops.multiply(scale, keras.ops.matmul(a, b))
    return np.asarray(keras.ops.add(keras.ops.cast(lora_kernel(layer).value, "float32"), added))


def remove_lora(unet: keras.Model) -> None:
    """Remove LoRA from all layers, whose kernels are already merged, and restore every weight's
    earlier flag."""
    frozen = frozen_in(unet)
    unet.__dict__.pop(BEFORE_LORA, None)
    for layer in adapted_layers(unet):
        for each in _additions(layer):
            layer._untrack_variable(each)
            # Not `delattr`: Keras would run a garbage collection for every weight.
            layer._delete_tracking(each.name)
            del layer.__dict__[each.name]
        layer.__dict__.pop("call", None)  # uncovers the class's own
        layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
    for layer in layers_of(unet):
        layer._trainable = True
        for variable in layer._trainable_variables:
            variable.trainable = True
    freeze(unet, frozen)


def _additions(layer: keras.layers.Layer) -> list[keras.Variable]:
    """A and B of a layer; their names are also the layer's attributes."""
    stem = "lora_kernel" if hasattr(layer, "_kernel") else "lora_embeddings"
    return [getattr(layer, f"{stem}_{each}") for each in "ab"]


def check_without_lora(unet: keras.Model, operation: str) -> None:
    """Raise if a network has LoRA, for operations that go by the names of weights.

    Args:
        unet: the network.
        operation: name of the operation, for the error.
    """
    adapted = [layer.path for layer in adapted_layers(unet)]
    if adapted:
        raise checks.error(
            f"{operation} needs a network without LoRA",
            fix="call merge_lora() first",
            adapted=adapted[:3],
        )
