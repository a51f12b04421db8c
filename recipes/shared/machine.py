"""What a run needs of the machine: devices, memory, micro-batches; and the dry run that tells."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

import keras_mdm as mdm


def strategy(arguments: argparse.Namespace) -> tf.distribute.Strategy | None:
    """The requested strategy. Call this before anything else touches TensorFlow: several workers
    have to connect first."""
    if arguments.dry_run or arguments.strategy == "one":
        return None
    return mdm.distribute.strategy()


def devices(arguments: argparse.Namespace, strategy: tf.distribute.Strategy | None) -> int:
    """Number of replicas: those of the strategy, or with --dry-run those of --devices."""
    if not arguments.dry_run:
        if arguments.devices is not None:
            raise ValueError(
                "--devices must go with --dry-run. Received: --devices "
                f"{arguments.devices}. To fix it: leave it out; all devices of the machine train"
            )
        return 1 if strategy is None else strategy.num_replicas_in_sync
    if arguments.devices is not None:
        return arguments.devices
    if arguments.strategy == "one":
        return 1
    here = [len(tf.config.list_logical_devices(kind)) for kind in ("GPU", "CPU")]
    return mdm.distribute.workers() * (here[0] or here[1] or 1)


def memory(arguments: argparse.Namespace) -> int:
    """Bytes of a device."""
    asked = arguments.device_memory
    return mdm.costs.device_memory() if asked is None else int(asked * 1e9)


def is_gpu() -> bool:
    """Whether this machine trains on GPUs."""
    return bool(tf.config.list_logical_devices("GPU"))


def key(phase: mdm.Phase) -> tuple:
    """Everything that the number of micro-batches of a phase depends on."""
    return phase.level_names, phase.batch_size


def micro_batches(
    arguments: argparse.Namespace,
    made: Sequence[mdm.Phase],
    make_unet: Callable[[mdm.Phase], mdm.NestedUNet],
    *,
    devices: int,
    default: int | Callable[[mdm.Phase], int] = 1,
    **options: Any,
) -> dict[tuple, int]:
    """Micro-batches by phase. Call it outside a strategy: networks are built for the estimate.

    Args:
        arguments: of the recipe.
        made: the phases.
        make_unet: function (phase) -> network.
        devices: number of replicas.
        default: the number without --micro-batches, or a function of the phase.
        **options: of `estimate_training`.
    """
    asked = arguments.micro_batches
    found = {}
    for phase in made:
        if asked == "auto":
            found[key(phase)] = mdm.costs.smallest_micro_batches(
                phase,
                make_unet,
                devices=devices,
                memory=memory(arguments),
                **of_phase(options, phase),
            )
        else:
            given = default(phase) if callable(default) else default
            found[key(phase)] = given if asked is None else asked
    if asked == "auto" and mdm.distribute.is_chief():
        told = ", ".join(f"{' '.join(names)}: {n}" for (names, _), n in found.items())
        print(f"micro-batches by estimate, for {memory(arguments) / 1e9:.3g} GB: {told}")
    return found


def recompute(
    arguments: argparse.Namespace, made: Sequence[mdm.Phase], default: Sequence[str] = ()
) -> tuple[str, ...]:
    """Levels whose blocks are computed again, in all phases that have them."""
    asked, known = arguments.recompute, made[-1].level_names
    strange = [level for level in asked or () if level not in known]
    if strange:
        raise ValueError(
            f"--recompute must name levels of the run. Received: {', '.join(strange)}, of levels "
            f"{', '.join(known)}. To fix it: name those"
        )
    return tuple(default if asked is None else asked)


def of_phase(estimated: Mapping[str, Any], phase: mdm.Phase) -> dict[str, Any]:
    """Options of `estimate_training`, without levels that the phase does not have."""
    again = [level for level in estimated.get("recompute", ()) if level in phase.level_names]
    return {**estimated, "recompute": again}


def print_run(arguments: argparse.Namespace, phases: Sequence[mdm.Phase], **facts: object) -> None:
    """Print the resolved options of a run as JSON lines."""
    print(json.dumps({"arguments": vars(arguments), **facts}, default=str))
    for phase in phases:
        print(json.dumps(phase.table_row()))


def dry_run(
    arguments: argparse.Namespace,
    made: Sequence[mdm.Phase],
    make_unet: Callable[[mdm.Phase], mdm.NestedUNet],
    make_model: Callable[[mdm.Phase], mdm.MatryoshkaDiffusion],
    make_dataset: Callable[[mdm.Phase, int], tf.data.Dataset],
    micro: Mapping[tuple, int],
    *,
    devices: int,
    callbacks: Any,
    validation: Callable[[mdm.Phase], tf.data.Dataset] | None,
    **options: Any,
) -> None:
    """Check as before a training, print how the phases divide and what they cost, and raise if a
    step does not fit into a device.

    `make_model`, `make_dataset`, `callbacks` and `validation` are as in `fit_progressively`.

    Args:
        arguments: of the recipe.
        made: the phases.
        make_unet: function (phase) -> network.
        micro: from `micro_batches`.
        devices: number of replicas.
        **options: of `estimate_training`.
    """
    preflight = mdm.runs.preflight
    reports = preflight.check_phases(
        made,
        make_model,
        make_dataset,
        devices=devices,
        callbacks=callbacks,
        validation=validation,
        estimate=False,
    )
    preflight.check_disk(arguments.run_dir, max(report.checkpoint_bytes for report in reports))
    rows = []
    print(
        "| phase | groups | rows per replica | micro-batches | checkpoint, GB |\n"
        "|---|---|---|---|---|"
    )
    for report, phase in zip(reports, made, strict=True):
        rows += mdm.estimate.estimate_training(
            [phase],
            make_unet,
            devices=devices,
            micro_batches=micro[key(phase)],
            **of_phase(options, phase),
        )
        print(
            f"| {report.number} | {sizes(phase)} | {sizes(phase, devices)} | {micro[key(phase)]} "
            f"| {report.checkpoint_bytes / 1e9:.3g} |"
        )
    print(mdm.estimate.table(rows))
    largest, there = max(row["memory"]["total"] for row in rows), memory(arguments)
    if largest <= there:
        return
    text = (
        f"a step must fit into a device's {there / 1e9:.3g} GB. Received: {largest / 1e9:.3g} GB, "
        f"by estimate, on {devices} devices. To fix it: take more --devices, or --micro-batches "
        "auto"
    )
    if arguments.device_memory is not None or arguments.devices is None and is_gpu():
        raise ValueError(text)
    print(f"On this machine, without --devices and --device-memory: {text}")


def sizes(phase: mdm.Phase, devices: int = 1) -> str:
    """The groups of a phase, or a replica's part of them, in a few characters."""
    groups = phase.groups.items()
    return ", ".join(f"{level}: {rows // devices}" for level, rows in groups)
