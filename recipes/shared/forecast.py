"""What a run takes, said before it starts; a run of days begins with --yes only."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_mdm as mdm

LONG = 48.0  # hours


def say(
    arguments: argparse.Namespace,
    phases: Sequence[mdm.Phase],
    make_unet: Callable[[mdm.Phase], mdm.NestedUNet],
    *,
    tokens: int,
    devices: int,
) -> None:
    """Print parameters, arithmetic and the least time of a whole run on this machine.

    Args:
        arguments: of the recipe.
        phases: of the run.
        make_unet: function (phase) -> network.
        tokens: of a text.
        devices: number of replicas.

    Raises:
        ValueError: if it takes days and --yes is not given.
    """
    steps = [mdm.costs.step_flop(phase, make_unet, text_tokens=tokens) for phase in phases]
    flop = sum(phase.steps * each for phase, each in zip(phases, steps, strict=True))
    with mdm.costs.unallocated.unallocated():
        unet = make_unet(phases[-1])
    _say(arguments, unet, sum(phase.steps for phase in phases), flop, devices)


def say_autoencoder(
    arguments: argparse.Namespace,
    model: mdm.latents.KLAutoencoder,
    *,
    size: int,
    steps: int,
    batch_size: int,
    devices: int,
) -> None:
    """The same of an autoencoder.

    Args:
        arguments: of the recipe.
        model: the autoencoder.
        size: side of the pictures.
        steps: of the run.
        batch_size: pictures per step.
        devices: number of replicas.

    Raises:
        ValueError: if it takes days and --yes is not given.
    """
    picture = tf.TensorSpec((1, size, size, model.image_channels))
    graph = tf.function(lambda x: model(x)).get_concrete_function(picture).graph
    counted = mdm.costs.describe.FLOP
    once = sum(counted[op.type](op) for op in graph.get_operations() if op.type in counted)
    _say(arguments, model, steps, 3 * once * batch_size * steps, devices)


def _say(
    arguments: argparse.Namespace, network: keras.Model, steps: int, flop: int, devices: int
) -> None:
    parameters = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
    speed = mdm.estimate.measured_speed(network.dtype_policy.compute_dtype)
    hours = flop / (mdm.estimate.EFFICIENCY * devices * speed) / 3600.0
    print(
        f"{parameters / 1e6:.3g} M parameters, {steps:,} steps, {flop / 1e12:,.4g} TFLOP: "
        f"at least {words(hours)} here",
        flush=True,
    )
    # A run that goes on was begun with --yes, or by an earlier version.
    begun = (Path(arguments.run_dir) / "run.json").is_file() and not arguments.fresh
    if hours > LONG and not arguments.yes and not begun:
        raise ValueError(
            f"a run that takes days needs --yes. Received: {hours:,.0f} hours at least, on "
            f"{devices} device{'s' * (devices > 1)} of this machine. To fix it: see what it needs "
            "with --dry-run, pass fewer steps or --scale small where the recipe has it, or start "
            "it with --yes"
        )


def words(hours: float) -> str:
    """A time in words.

    Example:

    >>> words(0.1), words(30.0)
    ('6 minutes', '30 hours')
    """
    if hours < 1.0:
        return f"{max(1, round(60 * hours))} minutes"
    return f"{hours:,.0f} hours"
