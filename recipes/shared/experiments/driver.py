"""An experiment from the command line: its data and its loop, then tables and figures."""

import argparse
from collections.abc import Sequence
from typing import Any

import keras

import keras_mdm as mdm
from shared import rehearsal
from shared.experiments import output, setting, study
from shared.experiments.ledger import Ledger
from shared.experiments.loop import Experiment, Loop, Variant
from shared.experiments.trainings import shortened
from shared.scale import Scale

__all__ = ["Experiment", "Loop", "Variant", "run"]

LEDGER = "results.jsonl"


def run(experiment: Experiment, description: str, words: Sequence[str] | None = None) -> None:
    """Run an experiment from the command line."""
    made = setting.parser(description)
    arguments = setting.parse(made, words)
    if arguments.scale == "paper" and not arguments.rehearse:
        output.print_paper(experiment)
        return
    strategy = devices(arguments)
    asked = setting.of(arguments)
    base = scale_of(experiment, asked, arguments.rehearse or 1)
    variants = chosen(experiment.variants(base), arguments.variants)
    keras.config.set_dtype_policy(asked.dtype)
    directory = arguments.run_dir
    data = None
    if not arguments.report:
        asked.compare(directory)
        data = study_of(arguments, base, variants)  # before a mistake in --data is stored
        asked.claim(directory, data.pictures_digest())
    elif not (directory / LEDGER).is_file():
        raise ValueError(
            f"--report needs results. Received: {directory}, which has no {LEDGER}. To fix it: run "
            "the experiment without --report first"
        )
    with mdm.runs.directory.RunDirectory(directory).locked():
        ledger = Ledger(directory / LEDGER)
        try:
            if data is not None:
                loop = Loop(experiment, asked, base, data, directory, ledger, arguments, strategy)
                loop.make(variants)
                if experiment.then is not None:
                    experiment.then(loop, variants)
        finally:
            output.write_all(experiment, variants, ledger, directory)
            if experiment.report is not None:
                experiment.report(ledger, directory)


def devices(arguments: argparse.Namespace) -> Any:
    """The strategy; in a rehearsal logical devices, made before anything uses TensorFlow."""
    if not arguments.rehearse:
        return None
    rehearsal.make_devices(arguments.rehearse)
    return mdm.distribute.strategy()


def scale_of(experiment: Experiment, asked: setting.Setting, replicas: int) -> Scale:
    """The base scale of a setting; all but the small one in miniature."""
    if asked.scale == "small":
        base = experiment.base
        return shortened(base, asked.steps_scale)
    whole = experiment.base if asked.scale == "quick" else experiment.paper
    return rehearsal.miniature(whole, replicas)


def chosen(variants: Sequence[Variant], names: Sequence[str] | None) -> list[Variant]:
    """The variants with these names, in their order; all of them without names."""
    known = [variant.name for variant in variants]
    strange = [name for name in names or () if name not in known]
    if strange:
        raise ValueError(
            f"--variants must name variants of the experiment. Received: {', '.join(strange)}. "
            f"To fix it: choose of {', '.join(known)}"
        )
    return [variant for variant in variants if not names or variant.name in names]


def study_of(
    arguments: argparse.Namespace, base: Scale, variants: Sequence[Variant]
) -> study.Study:
    """The pictures, at the sizes of all levels."""
    sizes = sorted(
        {
            stage.picture_size(level)
            for variant in variants
            for stage in variant.training.stages
            for phase in stage.scale.phases
            for level in phase.level_names
        }
    )
    downsample = base.process.get("downsample", "area")
    if arguments.scale != "small":
        return study.generated(sizes, base.tokens)
    if arguments.data:
        return study.folder(arguments.data, sizes, downsample, base.tokens)
    if arguments.styles:
        return study.styles(arguments.styles, sizes, downsample, base.tokens)
    return study.emoji(sizes, downsample, base.tokens)
