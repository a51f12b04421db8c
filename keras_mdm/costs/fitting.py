"""The memory of a device, and the number of parts into which a batch must be cut to fit."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_mdm import checks
from keras_mdm.costs.estimate import estimate_training
from keras_mdm.models import NestedUNet
from keras_mdm.training.mixing import check_groups
from keras_mdm.training.phases import Phase

# Files with a container's limit: version 2 of control groups, and version 1.
_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def device_memory() -> int:
    """Return the bytes that one device of this machine has for training.

    On a GPU that is the memory that TensorFlow may take. CPU devices evenly share the machine's
    memory, or a container's part of it.

    Returns:
        Bytes per device.
    """
    if tf.config.list_logical_devices("GPU"):
        from tensorflow.python.client import device_lib

        gpus = [d for d in device_lib.list_local_devices() if d.device_type == "GPU"]
        return int(gpus[0].memory_limit)
    return host_memory() // max(1, len(tf.config.list_logical_devices("CPU")))


def host_memory() -> int:
    """Bytes of the machine's memory, or of a container's share of it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in _LIMITS:
        try:
            memory = min(memory, int(file.read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return memory


def smallest_micro_batches(
    phase: Phase,
    make_unet: Callable[[Phase], NestedUNet],
    *,
    devices: int,
    memory: int,
    **options: Any,
) -> int:
    """Return the smallest number of micro-batches whose estimate fits into a device.

    The candidates divide every group's rows per device. Activations shrink at most in proportion to
    the micro-batch, so some candidates can be skipped without tracing, which takes long.

    Args:
        phase: the phase.
        make_unet: function (phase) -> network with the levels of the phase.
        devices: replicas over which a batch is split.
        memory: bytes per device, such as `device_memory()`.
        **options: of `estimate_training`: text_tokens, recompute, averages.

    Returns:
        The number, for `MatryoshkaDiffusion.compile`.

    Raises:
        ValueError: if the groups cannot be divided over the devices, or nothing fits.

    Example:

    >>> level = LevelSpec(8, channels=(32, 64), blocks=(1, 1))
    >>> phase = Phase([level], steps=1, batch_size=8)
    >>> def make_unet(phase):
    ...     return build_nested_unet(phase.levels, num_classes=10)
    >>> smallest_micro_batches(phase, make_unet, devices=2, memory=10**12)
    1
    """
    devices = checks.integer("devices", devices, minimum=1)
    memory = checks.integer("memory", memory, minimum=1)
    check_groups(phase.groups, phase.shares, devices)
    rows = math.gcd(*phase.groups.values()) // devices
    choices = [n for n in range(1, rows + 1) if rows % n == 0]
    closest = None
    while choices:
        parts = choices[0]
        (row,) = estimate_training(
            [phase],
            make_unet,
            devices=devices,
            micro_batches=parts,
            flop_per_second=1.0,  # hours do not matter here
            **options,
        )
        needed = row["memory"]
        if needed["total"] <= memory:
            return parts
        if closest is None or needed["total"] < closest[1]:
            closest = parts, needed["total"]
        free = memory - needed["total"] + needed["activations"]
        if free <= 0:
            # More than one part adds a sum of gradients; nothing else changes.
            break
        least = max(parts + 1, parts * needed["activations"] / free)
        choices = [n for n in choices if n >= least]
    parts, total = closest
    raise checks.error(
        "a step must fit into the memory of a device",
        fix="take more devices, a smaller batch, recomputation, or a smaller network",
        levels=phase.level_names,
        groups=phase.groups,
        devices=devices,
        memory=f"{memory / 1e9:.3g} GB",
        closest=f"{total / 1e9:.3g} GB with micro_batches={parts}",
    )
