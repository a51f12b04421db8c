"""Parameters and arithmetic of a network, counted from its real layers without allocating them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.costs.unallocated import unallocated
from keras_mdm.models import NestedUNet, NestedUNetSpec, build_nested_unet, presets

DEFAULT_TEXT_TOKENS = 32


# Arithmetic of one operation, from static shapes. The kernel of a convolution is
# (h, w, C_in / groups, C_out), that of a depthwise one (h, w, C, multiplier).


def _convolution(op: tf.Operation) -> int:
    *window, _ = op.inputs[1].shape
    return 2 * op.outputs[0].shape.num_elements() * math.prod(window)


def _depthwise_convolution(op: tf.Operation) -> int:
    height, width, _, _ = op.inputs[1].shape
    return 2 * op.outputs[0].shape.num_elements() * height * width


def _matmul(op: tf.Operation) -> int:
    inner = op.inputs[0].shape[-2 if op.get_attr("transpose_a") else -1]
    return 2 * op.outputs[0].shape.num_elements() * inner


def _batch_matmul(op: tf.Operation) -> int:
    inner = op.inputs[0].shape[-2 if op.get_attr("adj_x") else -1]
    return 2 * op.outputs[0].shape.num_elements() * inner


def _einsum(op: tf.Operation) -> int:
    letters = op.get_attr("equation").decode().partition("->")[0].split(",")
    sizes: dict[Any, Any] = {}
    for term, tensor in zip(letters, op.inputs, strict=True):
        sizes.update(zip(term, tensor.shape, strict=True))
    return 2 * math.prod(sizes.values())


FLOP: dict[str, Callable[[tf.Operation], int]] = {
    "Conv2D": _convolution,
    "DepthwiseConv2dNative": _depthwise_convolution,
    "MatMul": _matmul,
    "BatchMatMulV2": _batch_matmul,
    "BatchMatMulV3": _batch_matmul,
    "Einsum": _einsum,
}


def count_parameters(unet: NestedUNet) -> dict[str, int]:
    """Number of weights by name of the network's parts (`unet.parts`)."""
    parts = {layer.name: layer for layer in unet.layers if layer.name in unet.parts}
    return {name: layer.count_params() for name, layer in parts.items()}


def count_flop(unet: NestedUNet, text_tokens: int = DEFAULT_TEXT_TOKENS) -> dict[str, int]:
    """Arithmetic of one forward pass on one sample, by name of the network's parts.

    Args:
        unet: the network; its variables need no values.
        text_tokens: tokens of the text.

    Returns:
        Twice the multiply-adds of convolutions and matrix products.

    Example:

    >>> unet = build_nested_unet([LevelSpec(8, channels=(32, 64)), 16], num_classes=10)
    >>> sorted(count_flop(unet))[:2]
    ['level_16_down', 'level_16_embedding']
    """
    graph = tf.Graph()
    with graph.as_default():
        # Placeholders in place of values: nothing is initialised, read or copied.
        state = [(v, tf.compat.v1.placeholder(v.dtype, v.shape)) for v in unet.variables]
        inputs = {
            tensor.name: tf.compat.v1.placeholder(
                tensor.dtype, [1, *(text_tokens if d is None else d for d in tensor.shape[1:])]
            )
            for tensor in unet.inputs
        }
        with keras.StatelessScope(state_mapping=state, initialize_variables=False):
            unet(inputs)
    found = dict.fromkeys(unet.parts, 0)
    for op in graph.get_operations():
        if op.type in FLOP:
            found[_part_of(op.name, unet)] += FLOP[op.type](op)
    return {name: flop for name, flop in found.items() if flop}


def count_step_flop(
    unet: NestedUNet, groups: Mapping[str, int], text_tokens: int = DEFAULT_TEXT_TOKENS
) -> int:
    """Arithmetic that an optimizer step is worth: three forward passes of every sample at its
    levels. What recomputation repeats is not counted, and nothing is taken off for frozen levels.

    Args:
        unet: the network.
        groups: samples of the global batch by their highest level, such as `Phase.groups`.
        text_tokens: tokens of the text.

    Returns:
        Twice the multiply-adds of convolutions and matrix products.

    Example:

    >>> unet = build_nested_unet([LevelSpec(8, channels=(32, 64)), 16], num_classes=10)
    >>> count_step_flop(unet, {"16": 2}) == 6 * sum(count_flop(unet).values())
    True
    """
    per_level = _per_level(unet, count_flop(unet, text_tokens))
    rows, total = sum(groups.values()), 0
    for level in unet.levels:
        total += 3 * rows * per_level[level]
        rows -= groups.get(level, 0)
    return total


def _part_of(op_name: str, unet: NestedUNet) -> str:
    """The part whose name scope an operation lies in; TensorFlow may have numbered the scope."""
    for scope in op_name.split("/"):
        for candidate in (scope, scope.rpartition("_")[0]):
            if candidate in unet.parts:
                return candidate
    return f"level_{unet.levels[0]}"


def _per_level(unet: NestedUNet, by_part: Mapping[str, int]) -> dict[str, int]:
    """Sum over the parts of a level; what belongs to no outer level belongs to the innermost."""
    found = dict.fromkeys(unet.levels, 0)
    for part, value in by_part.items():
        found[unet.level_of(part)] += value
    return found


def describe(
    network: str | Sequence[Any] | NestedUNetSpec | NestedUNet,
    *,
    text_width: int | None = None,
    num_classes: int | None = None,
    text_tokens: int = DEFAULT_TEXT_TOKENS,
    width: float = 1.0,
) -> dict[str, Any]:
    """Count the parameters of a network and the arithmetic of one forward pass.

    The layers are built with variables that are never filled and called on placeholders; the
    convolutions and matrix products of the resulting graph are counted. So the numbers follow the
    layers: there is no second formula that could disagree with them.

    Args:
        network: levels as in `build_nested_unet`, the name of a preset, a `NestedUNetSpec` or a
            `NestedUNet`.
        text_width: as in `build_nested_unet`; for levels and presets only, like the next ones.
        num_classes: as in `build_nested_unet`.
        text_tokens: tokens of the text in the forward pass; ignored without text.
        width: factor on the channels.

    Returns:
        dict with `name`; `parameters`; `gflop`, per sample and forward pass, twice the
        multiply-adds of convolutions and matrix products (those of attention included); and
        `levels`, ascending: dicts with `name`, `channels`, `resolutions`, and the `parameters` and
        `gflop` of the level's own part. The innermost level includes the text conditioning and the
        class embedding.

    Raises:
        ValueError: if the network cannot be built, or `text_width`, `num_classes` or `width` is
            given for a network that is built already.

    Example:

    >>> describe("released_64")["parameters"]
    461359107
    """
    tokens = checks.integer("text_tokens", text_tokens, minimum=1)
    options = {"text_width": text_width, "num_classes": num_classes, "width": width}
    if isinstance(network, NestedUNetSpec | NestedUNet):
        changed = {k: v for k, v in options.items() if v != (1.0 if k == "width" else None)}
        if changed:
            raise checks.error(
                "options of the architecture belong to the network when it is built",
                fix="leave them out, or pass levels instead",
                **changed,
            )
    with unallocated():
        unet = _build(network, options)
    gflop = {name: flop / 1e9 for name, flop in _per_level(unet, count_flop(unet, tokens)).items()}
    parameters = _per_level(unet, count_parameters(unet))
    return {
        "name": network if isinstance(network, str) else " ".join(unet.levels),
        "parameters": sum(parameters.values()),
        "gflop": sum(gflop.values()),
        "levels": [
            {
                "name": level.name,
                "channels": list(level.channels),
                "resolutions": list(level.resolutions),
                "parameters": parameters[level.name],
                "gflop": gflop[level.name],
            }
            for level in unet.spec.levels
        ],
    }


def _build(network: Any, options: Mapping[str, Any]) -> NestedUNet:
    if isinstance(network, NestedUNet):
        return network
    if isinstance(network, NestedUNetSpec):
        return NestedUNet(network)
    if isinstance(network, str):
        return presets.build(network, **options)
    return build_nested_unet(network, **options)
