"""The training of a recipe, from its numbers and data to pictures and an export."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import keras
import tensorflow as tf

import keras_mdm as mdm
from shared import (
    current,
    drawing,
    forecast,
    machine,
    notes,
    options,
    plan,
    rehearsal,
    texts,
    validating,
    worth,
)
from shared.scale import Scale, with_paper_levels


class Data(Protocol):
    """The data of a run: `Pictures`, `Clips` or `Drawings`."""

    condition: str  # "text", "class" or "none"

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must find unchanged."""

    @property
    def conditions(self) -> dict[str, Any]:
        """Options of the network."""

    @property
    def notes(self) -> dict[str, Any]:
        """What the card of the model says of it."""

    def datasets(self) -> Callable[[mdm.Phase, int], tf.data.Dataset]:
        """Make the function that returns the batches of a phase from a step on."""

    def validation(self, phase: mdm.Phase) -> tf.data.Dataset:
        """The data on which --validate-every computes losses."""

    def grids(self, every: int, sampling: Mapping[str, Any]) -> drawing.SampleGrids:
        """Return the maker of the callback that draws every n steps."""

    def show(
        self, model: mdm.MatryoshkaDiffusion, run_dir: Path, sampling: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Draw at the end; return names and places of the results."""

    def report(self) -> None:
        """Name the records that could not be used."""


def train(
    arguments: argparse.Namespace,
    scale: Scale,
    data: Callable[..., Data],
    *,
    load: Callable[[mdm.Phase], mdm.MatryoshkaDiffusion] | None = None,
    skip_trained: bool = False,
    as_drawn: Callable[[Data, mdm.MatryoshkaDiffusion, Path], Any] | None = None,
    finished: str | None = None,
    noted: Mapping[str, Any] | None = None,
    encoder: mdm.text.TextEncoder | None = None,
) -> mdm.MatryoshkaDiffusion | None:
    """Train, draw and export; or with --dry-run print what would be done.

    Args:
        arguments: of the recipe.
        scale: its numbers.
        data: function (arguments, names of all levels, text encoder, process) -> the data:
            `Pictures`, `Clips`, `Drawings`, or a `partial` of one with its options. Not the data
            itself, since several workers have to connect before anything touches TensorFlow.
        load: makes the model of a phase instead of building it.
        skip_trained: leave out the phases whose levels the model of --start has.
        as_drawn: function (data, model, run directory) that makes of a model of codes what draws
            pictures.
        finished: the file in the run directory that holds it.
        noted: notes on the data, if `data` cannot tell where its files come from.
        encoder: text encoder of a model that is loaded; that of the options unless given.

    Returns:
        The trained model; none with --dry-run.
    """
    keras.config.set_dtype_policy(arguments.dtype)
    began = time.perf_counter()
    strategy = machine.strategy(arguments)
    start = options.start_model(arguments)
    if skip_trained and start is not None:
        scale = plan.left_after(scale, start.unet.levels)
    if arguments.highest_only and start is None:
        scale = with_paper_levels(scale)
    phases = plan.phases(scale.phases, arguments)
    sampling = plan.sampling(scale.sampling, arguments)
    if encoder is None or getattr(arguments, "rehearse", None):
        encoder = texts.encoder(arguments, scale.tokens)
    opened = data(arguments, phases[-1].level_names, encoder, scale.process)
    drawn = sampling if guides(arguments, scale, opened) else {**sampling, "guidance_scale": 1.0}
    watched = rehearsal.Watched(opened.grids(scale.sample_every, drawn))

    def make_unet(phase: mdm.Phase) -> mdm.NestedUNet:
        conditions = {**opened.conditions, **scale.network}
        return mdm.build_nested_unet(phase.levels, seed=arguments.seed, **conditions)

    def make_model(phase: mdm.Phase) -> mdm.MatryoshkaDiffusion:
        if load is None:
            model = built(make_unet(phase), phase, scale, encoder, arguments.seed)
        else:
            model = load(phase)
        names = opened.label_names if opened.condition == "class" else None
        notes.add(model, said, names)
        parts = micro[machine.key(phase)]
        return compiled(model, phase, scale, micro_batches=parts, recompute=recompute)

    said = {**(opened.notes if noted is None else noted), **notes.of_training(phases)}
    recompute = machine.recompute(arguments, phases, scale.recompute)
    estimated = {
        "text_tokens": scale.tokens or 32,
        "devices": machine.devices(arguments, strategy),
        "averages": 1 + len(scale.process.get("power_emas", ())),
        "recompute": recompute,
    }
    micro = machine.micro_batches(
        arguments, phases, make_unet, default=scale.micro_batches, **estimated
    )

    def rows(phase: mdm.Phase) -> float:
        """Of the highest level, that a device trains at a time."""
        parts = estimated["devices"] * micro[machine.key(phase)]
        return phase.groups[phase.level_names[-1]] / parts

    watching = validating.fit_options(scale, arguments, watched, opened.validation, rows)
    checkpointing = {"checkpoint_every": scale.checkpoint_every, "keep_every": scale.keep_every}
    if arguments.dry_run:
        machine.print_run(
            arguments,
            phases,
            data=opened.identity,
            condition=opened.condition,
            text_encoder=encoder and encoder.identity,
            process=scale.process,
            training={"micro_batches": list(micro.values()), "recompute": recompute},
            checkpointing=checkpointing,
            sampling=sampling,
        )
        if load is None:
            made = opened.datasets()
            checked = {"callbacks": watched, "validation": None}
            estimated |= {name: watching.get(name, value) for name, value in checked.items()}
            machine.dry_run(arguments, phases, make_unet, make_model, made, micro, **estimated)
        return None
    if load is None and not getattr(arguments, "rehearse", None):
        tokens, devices = estimated["text_tokens"], estimated["devices"]
        forecast.say(arguments, phases, make_unet, tokens=tokens, devices=devices)
    model = mdm.fit_progressively(
        phases,
        make_model,
        opened.datasets(),
        run_dir=arguments.run_dir,
        fresh=arguments.fresh,
        start=start,
        data=opened.identity,
        strategy=strategy,
        arguments=vars(arguments),
        sampling={**{k: v for k, v in drawn.items() if k != "batch_size"}, **scale.noted},
        **checkpointing,
        **watching,
        **plan.fit_options(arguments),
    )
    if mdm.distribute.is_chief():
        if as_drawn is not None:
            model = as_drawn(opened, model, Path(arguments.run_dir))
        shown = []
        if not arguments.no_samples:
            shown = finish(model, opened, arguments, drawn, finished)
        notes.preset(model, arguments, shown)
    opened.report()
    if getattr(arguments, "rehearse", None) and mdm.distribute.is_chief():
        rehearsal.report(arguments, phases, micro, watched.watches, began)
    return model


def guides(arguments: argparse.Namespace, scale: Scale, data: Data) -> bool:
    """Whether to draw with guidance. If no training sample lost its condition, there is nothing to
    guide away from."""
    dropped = data.condition != "none" and scale.process.get("cond_dropout") != 0.0
    return arguments.guidance is not None or dropped


def built(
    unet: mdm.NestedUNet,
    phase: mdm.Phase,
    scale: Scale,
    encoder: mdm.text.TextEncoder | None,
    seed: int,
) -> mdm.MatryoshkaDiffusion:
    """Make the model of a phase, not yet compiled."""
    shares = dict.fromkeys(phase.level_names[scale.guided_levels :], 0.0)
    return mdm.MatryoshkaDiffusion(
        unet,
        text_encoder=encoder,
        guidance_shares=shares,
        buckets=scale.buckets_of(phase),
        seed=seed,
        **scale.process,
    )


def compiled(
    model: mdm.MatryoshkaDiffusion,
    phase: mdm.Phase,
    scale: Scale,
    *,
    micro_batches: int,
    recompute: Sequence[str],
) -> mdm.MatryoshkaDiffusion:
    """Compile a model, with the clipping of appendix B; `recompute` may name levels of later
    phases."""
    optimizer = scale.optimizer(phase.learning_rate_schedule(), clip_norm=2.0)
    again = [name for name in recompute if name in phase.level_names]
    model.compile(optimizer, micro_batches=micro_batches, recompute=again)
    return model


def finish(
    model: Any,
    data: Data,
    arguments: argparse.Namespace,
    sampling: Mapping[str, Any],
    finished: str | None,
) -> list[Any]:
    """Draw, export, measure, and say where everything is; return what was drawn."""
    run_dir = Path(arguments.run_dir)
    shown = data.show(model, run_dir, sampling)
    drawn = list(shown.values())
    export = run_dir / "saved_model"
    if not current.is_of(export.name, model, run_dir):
        mdm.export_saved_model(model, export)  # the next version, if there are earlier ones
        current.note(export.name, model, run_dir)
    shown |= {
        "TensorBoard": f"tensorboard --logdir {run_dir / 'logs'}",
        "Model": run_dir / (finished or "model.keras"),
        "SavedModel": export,
    }
    command = worth.words(arguments, finished)
    if command:
        shown["Evaluation"] = " ".join(["keras-mdm", *command])
    print()
    for title, where in shown.items():
        print(f"{title:<12} {where}")
    worth.measure(model, arguments, sampling["batch_size"])
    return drawn


def run(main: Callable[[], None]) -> None:
    """Run a recipe; a wrong argument gives one line, not a traceback."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be any bytes
    try:
        main()
    except ValueError as problem:
        sys.exit(f"error: {problem}")
    except tf.errors.OpError as problem:
        # An error inside a pipeline comes wrapped, with the original error in one of its lines.
        told = [line for line in str(problem).splitlines() if "ValueError: " in line]
        if not told:
            raise
        sys.exit(f"error: {told[0].partition('ValueError: ')[2]}")
