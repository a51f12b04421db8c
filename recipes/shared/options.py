"""The paper's ablations and the machine: options that all recipes have, and what they say."""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

import keras_mdm as mdm


def add(made: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    phases = made.add_argument_group("phases")
    phases.add_argument(
        "--steps-scale", type=positive, default=1.0, help="factor on the steps of all phases"
    )
    phases.add_argument(
        "--batch-scale",
        type=positive,
        default=1.0,
        help="factor on the batches of all phases; those with fewer samples than levels are not "
        "mixed",
    )
    phases.add_argument(
        "--phase-steps", type=whole, nargs="+", metavar="N", help="steps, a number per phase"
    )
    phases.add_argument(
        "--phase-batches", type=whole, nargs="+", metavar="N", help="batches, a number per phase"
    )
    phases.add_argument(
        "--mixed",
        type=share,
        nargs="+",
        action="append",
        metavar="LEVEL=SHARE",
        help="shares of a batch by highest level, for the phases that end at the highest level "
        "named, such as 64=0.5 256=0.5; again for other phases; or no",
    )
    phases.add_argument(
        "--no-progressive",
        action="store_true",
        help="the last phase alone: all levels from the start, as in figure 4",
    )
    phases.add_argument(
        "--highest-only",
        action="store_true",
        help="only the highest level's loss counts; batches are not mixed",
    )
    run = made.add_argument_group("run")
    run.add_argument(
        "--extend",
        action="store_true",
        help="let the phase that runs have more steps, another batch or rate than it began with",
    )
    run.add_argument(
        "--restart-phase", type=whole, metavar="N", help="train phase N again from its beginning"
    )
    run.add_argument(
        "--validate-every",
        type=whole,
        metavar="N",
        help="steps between losses on pairs that are not trained: one of a thousand; small sets "
        "keep all, and their first 64 are taken",
    )
    drawing = made.add_argument_group("drawing")
    drawing.add_argument("--sampling-steps", type=whole, metavar="N", help="steps of drawing")
    drawing.add_argument("--guidance", type=positive, metavar="W", help="guidance scale")
    machine = made.add_argument_group("machine")
    machine.add_argument(
        "--micro-batches",
        type=parts,
        metavar="N|auto",
        help="parts of a replica's batch; auto: as few as fit into a device's memory, by estimate",
    )
    machine.add_argument(
        "--recompute",
        nargs="+",
        metavar="LEVEL",
        help="levels whose blocks are computed again in the backward pass: less memory, more time",
    )
    machine.add_argument(
        "--devices", type=whole, metavar="N", help="with --dry-run: so many, instead of those here"
    )
    machine.add_argument(
        "--device-memory",
        type=positive,
        metavar="GB",
        help="of a device, for --micro-batches auto and --dry-run; what this machine has",
    )


def add_start(made: argparse.ArgumentParser, what: str = "phase 1 begins with it") -> None:
    """Add the option for a model that was trained before."""
    made.add_argument(
        "--start",
        metavar="MODEL|RUN|CHECKPOINT",
        help=f"model.keras, a run, or a phase or checkpoint of one: {what}",
    )


def positive(text: str) -> float:
    """A finite number above 0, for an option."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, such as 0.5; got {text!r}")
    return value


def whole(text: str) -> int:
    """A whole number above 0, for an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0; got {text!r}")
    return int(text)


def parts(text: str) -> int | str:
    """`auto`, or a whole number above 0."""
    return text if text == "auto" else whole(text)


def share(text: str) -> tuple[str, float] | str:
    """`no`, or a level with a share."""
    level, equals, number = text.partition("=")
    if text == "no":
        return text
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not equals or not level or not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(
            f"must be no, or a level and a share such as 64=0.5; got {text!r}"
        )
    return level, value


def phases(given: Sequence[Mapping[str, Any]], arguments: argparse.Namespace) -> list[mdm.Phase]:
    """Make phases out of keyword arguments, changed as was asked for."""
    if arguments.no_progressive:
        given = given[-1:]
    counts = {"steps": arguments.phase_steps, "batch_size": arguments.phase_batches}
    for option, numbers in (("steps", counts["steps"]), ("batches", counts["batch_size"])):
        if numbers is not None and len(numbers) != len(given):
            raise ValueError(
                f"--phase-{option} must have one number per phase. Received: {numbers}, for "
                f"{len(given)} phases. To fix it: pass {len(given)} numbers"
            )
    made = []
    for n, phase in enumerate(given):
        steps = max(1, round(phase["steps"] * arguments.steps_scale))
        batch = max(1, round(phase["batch_size"] * arguments.batch_scale))
        scaled = {"steps": steps, "batch_size": batch}
        changed = {**phase, **scaled, **{k: v[n] for k, v in counts.items() if v is not None}}
        if changed["batch_size"] < len(phase["levels"]):
            changed["mixed"] = False
        if arguments.highest_only:
            changed["level_weights"] = "highest"
        made.append(changed)
    return [mdm.Phase(**phase) for phase in mixed(made, arguments.mixed)]


def mixed(given: Sequence[dict], asked: Sequence[Sequence] | None) -> list[dict]:
    """Keyword arguments of phases, with the shares that were asked for."""
    levels = [names(phase["levels"]) for phase in given]
    made = [dict(phase) for phase in given]
    for shares in asked or ():
        if "no" in shares:
            if len(shares) > 1 or len(asked) > 1:
                raise ValueError(
                    "--mixed no must stand alone. Received: other shares as well. To fix it: leave "
                    "one of the two out"
                )
            return [{**phase, "mixed": False} for phase in made]
        wanted, known = dict(shares), levels[-1]
        strange = [level for level in wanted if level not in known]
        if strange:
            raise ValueError(
                "--mixed must name levels of the run. Received: "
                f"{', '.join(strange)}, of levels {', '.join(known)}. To fix it: name those"
            )
        highest = max(wanted, key=known.index)
        chosen = [n for n, own in enumerate(levels) if own[-1] == highest and len(own) > 1]
        if not chosen:
            ends = ", ".join(own[-1] for own in levels if len(own) > 1)
            raise ValueError(
                "--mixed must name the highest level of a phase with several levels. Received: "
                f"{highest} as the highest. To fix it: give a share to one of {ends or 'none'}"
            )
        for n in chosen:
            made[n]["mixed"] = wanted
    return made


def names(levels: Sequence[Any]) -> tuple[str, ...]:
    """Names of levels."""
    return mdm.Phase(levels, steps=1, mixed=False).level_names


def sampling(given: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of `generate`, changed as was asked for."""
    asked = {"steps": arguments.sampling_steps, "guidance_scale": arguments.guidance}
    return {**given, **{name: value for name, value in asked.items() if value is not None}}


def start_model(arguments: argparse.Namespace) -> mdm.MatryoshkaDiffusion | None:
    """What the first phase begins with, if anything."""
    path = getattr(arguments, "start", None)
    return None if path is None else mdm.load(path)


def key(phase: mdm.Phase) -> tuple:
    """What the number of micro-batches of a phase depends on."""
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
    """Micro-batches by phase, before a strategy is entered: networks are built to estimate.

    Args:
        arguments: of the recipe.
        made: the phases.
        make_unet: function (phase) -> network.
        devices: replicas.
        default: the number unless asked for, or a function of the phase.
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
    """Levels whose blocks are computed again, of whatever phases have them."""
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


def memory(arguments: argparse.Namespace) -> int:
    """Bytes of a device."""
    asked = arguments.device_memory
    return mdm.costs.device_memory() if asked is None else int(asked * 1e9)


def devices(arguments: argparse.Namespace, strategy: tf.distribute.Strategy | None) -> int:
    """Number of replicas: those of the strategy, or with --dry-run those that are asked about."""
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
    """Make the checks of a training, print what the phases divide into and cost, and raise if that
    does not fit into a device.

    Args:
        arguments: of the recipe.
        made: the phases.
        make_unet: function (phase) -> network.
        make_model: as in `fit_progressively`.
        make_dataset: likewise.
        micro: from `micro_batches`.
        devices: replicas.
        callbacks: as in `fit_progressively`, as is the next.
        validation: see `callbacks`.
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


def is_gpu() -> bool:
    """Whether this machine trains on GPUs."""
    return bool(tf.config.list_logical_devices("GPU"))


def sizes(phase: mdm.Phase, devices: int = 1) -> str:
    """The groups of a phase, or what a replica gets of them, in a few characters."""
    groups = phase.groups.items()
    return ", ".join(f"{level}: {rows // devices}" for level, rows in groups)


def fit_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of `fit_progressively` that were asked for."""
    asked = {
        "extend": arguments.extend,
        "restart_phase": arguments.restart_phase,
        "validate_every": arguments.validate_every,
    }
    return {name: value for name, value in asked.items() if value}
