"""Parameters and arithmetic of a network, counted from its real layers without allocating them."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.costs.unallocated import unallocated
from keras_mdm.models import NestedUNet, NestedUNetSpec, build_nested_unet, presets
from keras_mdm.models.network import LevelNetwork
from keras_mdm.models.own_network import as_network

DEFAULT_TEXT_TOKENS = 32


# Arithmetic of one operation, from static shapes. The kernel of a convolution is
# (h, w, C_in / groups, C_out), that of a depthwise one (h, w, C, multiplier).


def _convolution(op: tf.Operation) -> int:
    *window, _ = op.inputs[1].shape
    return 2 * op.outputs[0].shape.num_elements() * math.prod(window)


def _depthwise_convolution(op: tf.Operation) -> int:
    height, width, _, _ = op.inputs[1].shape
    return 2 * op.outputs[0].shape.num_elements() * height * width


def _convolution_input(op: tf.Operation) -> int:
    """For a transposed convolution, or the gradient of a convolution's input."""
    *window, _ = op.inputs[1].shape
    return 2 * op.inputs[2].shape.num_elements() * math.prod(window)


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
    "Conv3D": _convolution,
    "Conv2DBackpropInput": _convolution_input,
    "Conv3DBackpropInputV2": _convolution_input,
    "DepthwiseConv2dNative": _depthwise_convolution,
    "MatMul": _matmul,
    "BatchMatMulV2": _batch_matmul,
    "BatchMatMulV3": _batch_matmul,
    "Einsum": _einsum,
}


# Operations whose arithmetic is not counted: transforms, products that only XLA knows, and
# functions such as loops, which are not searched.
_UNCOUNTED = {"XlaDotV2", "XlaConvV2", "While", "StatelessWhile", "If", "StatelessIf", "Case"}
_UNCOUNTED |= {"PartitionedCall", "StatefulPartitionedCall", "SparseTensorDenseMatMul"}


def warn_of_uncounted(operations: Iterable[tf.Operation]) -> None:
    """Warn which operations of a network are left out of its arithmetic.

    Args:
        operations: of the graph.
    """
    found = sorted({op.type for op in operations if op.type in _UNCOUNTED or "FFT" in op.type})
    if found:
        warnings.warn(
            f"the arithmetic inside {', '.join(found)} is not counted: a layer of the network "
            "uses it and costs more than stated here",
            stacklevel=3,
        )


def count_parameters(unet: NestedUNet) -> dict[str, int]:
    """Number of weights by name of the network's parts (`unet.parts`)."""
    return {name: layer.count_params() for name, layer in unet.parts.items()}


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
    warn_of_uncounted(graph.get_operations())
    for op in graph.get_operations():
        if op.type in FLOP:
            found[_part_of(op.name, unet)] += FLOP[op.type](op)
    return {name: flop for name, flop in found.items() if flop}


def count_step_flop(
    unet: NestedUNet, groups: Mapping[str, int], text_tokens: int = DEFAULT_TEXT_TOKENS
) -> int:
    """Arithmetic of an optimizer step, by definition three forward passes of every sample at its
    levels. Recomputation is not counted, and frozen levels are not deducted.

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
    """The part whose name scope holds an operation; TensorFlow may have numbered the scope."""
    for scope in op_name.split("/"):
        for candidate in (scope, scope.rpartition("_")[0]):
            if candidate in unet.parts:
                return candidate
    return f"level_{unet.levels[0]}"


def _per_level(unet: NestedUNet, by_part: Mapping[str, int]) -> dict[str, int]:
    """Sum over the parts of a level; those of no outer level belong to the innermost."""
    found = dict.fromkeys(unet.levels, 0)
    for part, value in by_part.items():
        found[unet.level_of(part)] += value
    return found


def describe(
    network: str | Sequence[Any] | NestedUNetSpec | keras.Model,
    *,
    text_width: int | None = None,
    num_classes: int | None = None,
    text_tokens: int = DEFAULT_TEXT_TOKENS,
    width: float = 1.0,
) -> dict[str, Any]:
    """Count the parameters of a network and the arithmetic of one forward pass.

    The layers are built with variables that are never filled, and called on placeholders; the
    convolutions and matrix products of the resulting graph are counted. So the numbers follow the
    layers, with no second formula that could disagree.

    Args:
        network: levels as in `build_nested_unet`, the name of a preset, a `NestedUNetSpec`, a
            `NestedUNet` or any model that `MatryoshkaDiffusion` takes.
        text_width: as in `build_nested_unet`, like `num_classes`; only for levels and presets.
        text_tokens: tokens of the text in the forward pass; ignored without text.
        width: factor on the channels.

    Returns:
        dict with `name`; `parameters`; `gflop`, per sample and forward pass, twice the
        multiply-adds of convolutions and matrix products (those of attention included); and
        `levels`, ascending: dicts with `name`, `channels`, `resolutions` (both empty for a network
        that was not built here), and the `parameters` and `gflop` of the level's own part. The
        innermost level includes the text conditioning and the class embedding.

    Raises:
        ValueError: if the network cannot be built, or `text_width`, `num_classes` or `width` is
            given for a network that is already built.

    Example:

    >>> describe("released_64")["parameters"]
    461359107
    """
    tokens = checks.integer("text_tokens", text_tokens, minimum=1)
    options = {"text_width": text_width, "num_classes": num_classes, "width": width}
    if isinstance(network, NestedUNetSpec | keras.Model):
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
                "channels": list(level.channels or ()),
                "resolutions": list(level.resolutions or ()),
                "parameters": parameters[level.name],
                "gflop": gflop[level.name],
            }
            for level in unet.spec.levels
        ],
    }


def _build(network: Any, options: Mapping[str, Any]) -> LevelNetwork:
    if isinstance(network, keras.Model):
        return as_network(network)
    if isinstance(network, NestedUNetSpec):
        return NestedUNet(network)
    if isinstance(network, str):
        return presets.build(network, **options)
    return build_nested_unet(network, **options)
