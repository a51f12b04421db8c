"""Estimates of what phases of training will cost: arithmetic, memory per device, time."""

import collections
import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# The public constructor fills its variables.
from tensorflow.python.ops.resource_variable_ops import UninitializedVariable

from keras_mdm import checks
from keras_mdm.costs.describe import (
    DEFAULT_TEXT_TOKENS,
    FLOP,
    count_step_flop,
    warn_of_uncounted,
)
from keras_mdm.costs.unallocated import unallocated
from keras_mdm.models import NestedUNet
from keras_mdm.models.own_network import as_network
from keras_mdm.models.recompute import set_recompute
from keras_mdm.training.mixing import check_groups
from keras_mdm.training.phases import Phase, number_phases

FLOAT32 = 4
# Share of the speed of one large matrix product that a training step reaches: the middle of what
# benchmarks/step.py measured for the released networks.
EFFICIENCY = 0.7

# Outputs that are their input under another name.
_ALIASES = {"Identity", "IdentityN", "Reshape", "Squeeze", "ExpandDims", "StopGradient"}
# Outputs that need no memory of their own: weights, which are counted once, and constants.
_FREE = {"ReadVariableOp", "Const", "Placeholder", "VarHandleOp", "Shape", "NoOp"}
# Outputs that overwrite an input which is no longer needed.
_IN_PLACE = {
    *("Add", "AddV2", "AddN", "Sub", "Mul", "RealDiv", "DivNoNan", "Neg", "Exp", "Erf", "Square"),
    *("Sqrt", "Rsqrt", "Sigmoid", "Tanh", "Maximum", "Minimum", "SelectV2", "BiasAdd", "Softmax"),
    *("Pow", "Reciprocal", "SigmoidGrad", "TanhGrad", "RsqrtGrad", "SquaredDifference", "Log"),
}


def _filter_gradient(op: tf.Operation) -> int:
    *window, _ = op.outputs[0].shape
    return 2 * op.inputs[2].shape.num_elements() * math.prod(window)


def _depthwise_gradient(op: tf.Operation) -> int:
    height, width, *_ = op.inputs[1].shape if "Input" in op.type else op.outputs[0].shape
    return 2 * op.inputs[2].shape.num_elements() * height * width


FLOP_WITH_GRADIENTS: dict[str, Callable[[tf.Operation], int]] = {
    **FLOP,
    "Conv2DBackpropFilter": _filter_gradient,
    "Conv3DBackpropFilterV2": _filter_gradient,
    "DepthwiseConv2dNativeBackpropInput": _depthwise_gradient,
    "DepthwiseConv2dNativeBackpropFilter": _depthwise_gradient,
}


def step_flop(
    phase: Phase,
    make_unet: Callable[[Phase], NestedUNet],
    *,
    text_tokens: int = DEFAULT_TEXT_TOKENS,
) -> int:
    """Count the arithmetic of an optimizer step of a phase; nothing is allocated.

    By definition these are three forward passes of every sample at its levels, which is what
    trainings of equal compute have in common whatever their optimizer and their memory.

    Args:
        phase: the phase.
        make_unet: function (phase) -> network with the levels of the phase.
        text_tokens: tokens of the text.

    Returns:
        Twice the multiply-adds of convolutions and matrix products.

    Example:

    >>> level = LevelSpec(8, channels=(32, 64), blocks=(1, 1))
    >>> phases = [Phase([level], steps=1, batch_size=size) for size in (2, 6)]
    >>> few, many = (step_flop(p, lambda p: build_nested_unet(p.levels)) for p in phases)
    >>> many == 3 * few
    True
    """
    tokens = checks.integer("text_tokens", text_tokens, minimum=1)
    with unallocated():
        return count_step_flop(as_network(make_unet(phase)), phase.groups, tokens)


def estimate_training(
    phases: Sequence[Phase],
    make_unet: Callable[[Phase], NestedUNet],
    *,
    text_tokens: int = DEFAULT_TEXT_TOKENS,
    devices: int = 1,
    micro_batches: int = 1,
    recompute: Sequence[str] | bool = False,
    averages: int = 1,
    flop_per_second: float | None = None,
) -> list[dict[str, Any]]:
    """Estimate what phases of training cost, from the graph of the real layers and gradients.

    Nothing is allocated and nothing runs: the forward and backward pass of one micro-batch are
    traced with the batch sizes that a device sees. Convolutions and matrix products are counted,
    including those of gradients and recomputation. The memory of activations is that of a walk
    through the graph in which every tensor lives from its operation to its last use; it excludes
    what the device's libraries take besides (benchmarks/training.py shows how much that was).

    Args:
        phases: the phases.
        make_unet: function (phase) -> network with the levels of the phase.
        text_tokens: tokens of the text.
        devices: replicas over which a batch is split.
        micro_batches: as in `MatryoshkaDiffusion.compile`.
        recompute: likewise; levels that a phase does not have are ignored.
        averages: number of averages of the weights, including power-function averages.
        flop_per_second: speed of one device; measured on this machine's first device with a large
            matrix product unless given.

    Returns:
        One dict per phase: `levels`, `steps`, `groups`, `parameters`, `gflop` per step and device,
        `memory`, bytes per device by `weights`, `gradients`, `moments`, `averages`, `activations`
        and their `total`; and `hours`, assuming `EFFICIENCY` of `flop_per_second`.

    Raises:
        ValueError: if the phases do not fit together, a batch cannot be split evenly, or a network
            has other levels than its phase.

    Example:

    >>> def make_unet(phase):
    ...     return build_nested_unet(phase.levels, num_classes=10)
    >>> level = LevelSpec(8, channels=(32, 64), blocks=(1, 1))
    >>> rows = estimate_training([Phase([level], steps=1000, batch_size=8)], make_unet)
    >>> sorted(rows[0]["memory"])
    ['activations', 'averages', 'gradients', 'moments', 'total', 'weights']

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix B.
    """
    phases = number_phases(phases)
    devices = checks.integer("devices", devices, minimum=1)
    parts = checks.integer("micro_batches", micro_batches, minimum=1)
    tokens = checks.integer("text_tokens", text_tokens, minimum=1)
    checks.integer("averages", averages, minimum=0)
    if flop_per_second is not None:
        checks.real("flop_per_second", flop_per_second, minimum=1.0)
    if not isinstance(recompute, bool):
        checks.known_keys("recompute", recompute, phases[-1].level_names)
    for phase in phases:
        check_groups(phase.groups, phase.shares, devices * parts)
    rows = []
    for phase in phases:
        with unallocated():
            unet = as_network(make_unet(phase))
        if unet.levels != phase.level_names:
            raise checks.error(
                f"make_unet must return a network with the levels {phase.level_names}",
                fix="build it from phase.levels",
                levels=unet.levels,
            )
        speed = flop_per_second or measured_speed(unet.policy.compute_dtype)
        chosen = recompute
        if not isinstance(recompute, bool):
            chosen = [name for name in recompute if name in phase.level_names]
        set_recompute(unet, chosen)
        sizes = {level: count // (devices * parts) for level, count in phase.groups.items()}
        flop, activations = trace_step(unet, sizes, phase.freeze, tokens)
        moving = sum(_elements(v) for v in _moving(unet, phase.freeze))
        weights = FLOAT32 * unet.count_params()
        memory = {
            "weights": weights,
            "gradients": FLOAT32 * moving * (2 if parts > 1 else 1),  # their sum, and one part's
            "moments": 2 * FLOAT32 * sum(_elements(v) for v in unet.trainable_variables),
            "averages": averages * weights,
            "activations": activations,
        }
        rows.append(
            {
                "levels": list(phase.level_names),
                "steps": phase.steps,
                "groups": phase.groups,
                "parameters": unet.count_params(),
                "gflop": parts * flop / 1e9,
                "memory": {**memory, "total": sum(memory.values())},
                "hours": phase.steps * parts * flop / (EFFICIENCY * speed) / 3600,
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out the result of `estimate_training` as a Markdown table.

    Args:
        rows: that result.

    Returns:
        A line per phase, and one for the total.
    """
    lines = [
        "| phase | steps x batch | parameters | TFLOP/step | GB per device (activations) | hours |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory, batch = row["memory"], sum(row["groups"].values())
        lines.append(
            f"| {' '.join(row['levels'])} | {row['steps']:,} x {batch:,} | {row['parameters']:,} "
            f"| {row['gflop'] / 1e3:,.3g} | {memory['total'] / 1e9:,.3g} "
            f"({memory['activations'] / 1e9:,.3g}) | {row['hours']:,.3g} |"
        )
    lines.append(f"| total | | | | | {sum(row['hours'] for row in rows):,.3g} |")
    return "\n".join(lines)


def trace_step(
    unet: NestedUNet,
    groups: Mapping[str, int],
    freeze: Sequence[str] = (),
    text_tokens: int = DEFAULT_TEXT_TOKENS,
) -> tuple[int, int]:
    """Trace the forward and backward pass of a batch, without values.

    Args:
        unet: the network; its variables need no values.
        groups: samples by their highest level.
        freeze: levels that get no gradients.
        text_tokens: tokens of the text.

    Returns:
        (FLOP, peak of the memory of activations in bytes without the weights' gradients).
    """
    rows, left = {}, sum(groups.values())
    for level in unet.levels:
        rows[level] = left
        left -= groups.get(level, 0)
    total = rows[unet.levels[0]]
    specs = {}
    for tensor in unet.inputs:
        count = rows[tensor.name.removeprefix("z_")] if tensor.name.startswith("z_") else total
        shape = [count, *(text_tokens if d is None else d for d in tensor.shape[1:])]
        specs[tensor.name] = tf.TensorSpec(shape, tensor.dtype)
    moving = _moving(unet, freeze)

    def step(inputs: Mapping[str, tf.Tensor]) -> list[tf.Tensor]:
        variables = [variable._value for variable in moving]
        with tf.GradientTape() as tape:
            outputs = unet(inputs, training=True)
            loss = tf.add_n([tf.reduce_mean(tf.square(outputs[n])) for n in unet.levels])
        zero = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(loss, variables, unconnected_gradients=zero)
        return [tf.convert_to_tensor(gradient) for gradient in gradients]

    with _without_values(unet):
        traced = tf.function(step, autograph=False).get_concrete_function(specs)
    results = traced.graph.structured_outputs
    operations = order_of_execution(results)
    warn_of_uncounted(operations)
    flop = sum(FLOP_WITH_GRADIENTS[o.type](o) for o in operations if o.type in FLOP_WITH_GRADIENTS)
    return flop, peak_memory(operations, results)


@contextlib.contextmanager
def _without_values(unet: NestedUNet) -> Iterator[None]:
    """Temporarily give the network's variables resources that hold nothing.

    A stateless scope would give tensors, but recomputation finds the weights of a block by seeing
    which variables are read.
    """
    before = [(variable, variable._value) for variable in unet.variables]
    try:
        for variable in unet.variables:
            variable._value = UninitializedVariable(
                trainable=variable.trainable,
                shape=variable.shape,
                dtype=tf.as_dtype(variable.dtype),
            )
        yield
    finally:
        for variable, value in before:
            variable._value = value


def peak_memory(operations: Sequence[tf.Operation], results: Sequence[tf.Tensor]) -> int:
    """Peak of the memory in bytes, if every tensor is freed after its last use.

    Args:
        operations: in the order in which they run.
        results: tensors that stay; their memory is not counted.
    """
    home: dict[Any, Any] = {}  # the tensor whose memory a tensor uses; None if it needs none
    last: dict[Any, int] = {}
    for number, op in enumerate(operations):
        for tensor in op.inputs:
            last[home.get(tensor.ref(), tensor.ref())] = number
        for place, tensor in enumerate(op.outputs):
            ref = tensor.ref()
            if op.type in _FREE:
                home[ref] = None
            elif op.type in _ALIASES:
                source = op.inputs[min(place, len(op.inputs) - 1)].ref()
                home[ref] = home.get(source, source)
            else:
                home[ref] = ref
                last[ref] = number
    kept = {home.get(tensor.ref(), tensor.ref()) for tensor in results}
    ends: dict[int, list[Any]] = {}
    for ref, number in last.items():
        ends.setdefault(number, []).append(ref)
    size: dict[Any, int] = {}
    now = peak = 0
    for number, op in enumerate(operations):
        made = {t.ref(): _bytes(t) for t in op.outputs if home[t.ref()] == t.ref()}
        made = {ref: count for ref, count in made.items() if ref not in kept}
        size |= made
        new = sum(made.values())
        dying = [ref for ref in ends.get(number, ()) if ref in size]
        reused = op.type in _IN_PLACE and any(size[r] >= new for r in dying if r not in made)
        peak = max(peak, now + (0 if reused else new))
        now += new - sum(size[ref] for ref in dying)
    return peak


def order_of_execution(results: Sequence[tf.Tensor]) -> list[tf.Operation]:
    """The operations that lead to the results; the first one ready runs first, as in TensorFlow."""
    needed, waiting = set(), [tensor.op for tensor in results]
    while waiting:
        op = waiting.pop()
        if op not in needed:
            needed.add(op)
            waiting += _sources(op)
    created = results[0].graph.get_operations()
    missing = {op: len(_sources(op)) for op in created if op in needed}
    users: dict[tf.Operation, list[tf.Operation]] = {}
    for op in missing:
        for source in _sources(op):
            users.setdefault(source, []).append(op)
    order = collections.deque(op for op, count in missing.items() if not count)
    found = []
    while order:
        op = order.popleft()
        found.append(op)
        for user in users.get(op, ()):
            missing[user] -= 1
            if not missing[user]:
                order.append(user)
    return found


def _sources(op: tf.Operation) -> set[tf.Operation]:
    return {tensor.op for tensor in op.inputs} | set(op.control_inputs)


@functools.cache
def measured_speed(dtype: str, repeats: int = 5) -> float:
    """FLOP/s of a large matrix product on this machine's first device.

    Args:
        dtype: type of the numbers.
        repeats: number of measurements; the best counts.
    """
    side, best = 2048, float("inf")
    a = tf.cast(tf.random.stateless_uniform((side, side), (0, 0)), dtype)
    product = tf.function(lambda x: tf.reduce_max(tf.matmul(x, x)), autograph=False)
    float(product(a))
    for _ in range(repeats):
        began = time.perf_counter()
        float(product(a))  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def _moving(unet: NestedUNet, freeze: Sequence[str]) -> list[Any]:
    """Trainable variables of the levels that are not frozen."""
    found = []
    for name, part in unet.parts.items():
        if unet.level_of(name) not in freeze:
            found += part.trainable_variables
    return found


def _elements(variable: Any) -> int:
    return int(np.prod(variable.shape, dtype="int64"))


def _bytes(tensor: tf.Tensor) -> int:
    count = tensor.shape.num_elements()
    return 0 if count is None or tensor.dtype == tf.resource else count * tensor.dtype.size
