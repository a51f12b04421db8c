"""Options of the recipes."""

import argparse
import math

import keras_mdm as mdm

SOURCES = "folder, shards, table or tfds:NAME, see keras-mdm data; without it, a small run"


def base(description: str, *, run_dir: str, data: str) -> argparse.ArgumentParser:
    """Make an argument parser with the options of every training."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--data", help=data)
    made.add_argument("--run-dir", default=run_dir, help="directory of the run (%(default)s)")
    made.add_argument("--seed", type=int, default=0)
    policies = ("float32", "mixed_bfloat16", "mixed_float16")
    made.add_argument(
        "--dtype", choices=policies, default="mixed_bfloat16", help="dtype policy (%(default)s)"
    )
    made.add_argument(
        "--fresh", action="store_true", help="start over; an earlier run is moved aside, not lost"
    )
    made.add_argument(
        "--strategy",
        choices=("auto", "one"),
        default="auto",
        help="auto: all devices, and all workers of keras-mdm launch; one: a single device "
        "(%(default)s)",
    )
    made.add_argument("--dry-run", action="store_true", help="print the run, check the data, stop")
    made.add_argument(
        "--yes", action="store_true", help="start even if the run takes days on this machine"
    )
    return made


def parser(
    description: str,
    *,
    run_dir: str,
    data: str = "directory of your own pictures instead of emoji",
) -> argparse.ArgumentParser:
    """Make the argument parser with the options that all recipes of diffusion models have."""
    made = base(description, run_dir=run_dir, data=data)
    made.add_argument(
        "--no-samples", action="store_true", help="neither draw nor export at the end"
    )
    made.add_argument(
        "--worth",
        type=enough,
        default=128,
        metavar="N",
        help="pictures drawn at the end to measure what every level is worth, at least 100; "
        "0 for none (%(default)s)",
    )
    _add_phases(made)
    _add_run(made)
    _add_machine(made)
    return made


def enough(text: str) -> int:
    """The pictures of --worth: none, or as many as a distance needs."""
    if not text.isdecimal() or 0 < int(text) < 100:
        raise argparse.ArgumentTypeError(f"must be 0, or a whole number from 100, not {text}")
    return int(text)


def _add_phases(made: argparse.ArgumentParser) -> None:
    """Add the options that change phases, among them the paper's ablations."""
    phases = made.add_argument_group("phases")
    phases.add_argument(
        "--steps-scale", type=positive, default=1.0, help="multiplies the steps of all phases"
    )
    phases.add_argument(
        "--batch-scale",
        type=positive,
        default=1.0,
        help="multiplies the batches of all phases; a batch with fewer samples than levels "
        "is not mixed",
    )
    phases.add_argument(
        "--phase-steps", type=whole, nargs="+", metavar="N", help="steps, one number per phase"
    )
    phases.add_argument(
        "--phase-batches",
        type=whole,
        nargs="+",
        metavar="N",
        help="batch sizes, one number per phase",
    )
    phases.add_argument(
        "--mixed",
        type=share,
        nargs="+",
        action="append",
        metavar="LEVEL=SHARE",
        help="shares of a batch by highest level, for the phases that end at the highest "
        "level named, such as 64=0.5 256=0.5; repeat it for other phases; or no",
    )
    phases.add_argument(
        "--no-progressive",
        action="store_true",
        help="the last phase alone: all levels from the start, as in figure 4",
    )
    phases.add_argument(
        "--highest-only",
        action="store_true",
        help="train on the highest level's loss only; batches are not mixed, and without --start "
        "outer levels have the paper's output, which is not relative to the level below",
    )


def _add_run(made: argparse.ArgumentParser) -> None:
    """Add the options of a run and of what it draws."""
    run = made.add_argument_group("run")
    run.add_argument(
        "--extend",
        action="store_true",
        help="let the current phase change its steps, batch or rate",
    )
    run.add_argument(
        "--restart-phase", type=whole, metavar="N", help="train phase N again from its beginning"
    )
    run.add_argument(
        "--validate-every",
        type=none_or_whole,
        metavar="N",
        help="steps between validation losses, by level and by noise, on one held-out pair in a "
        "thousand; small sets hold none out and use their first 64; 0 for none (5000 at the "
        "paper's scale, 1000 with a folder of your own, else none)",
    )
    drawing = made.add_argument_group("drawing")
    drawing.add_argument("--sampling-steps", type=whole, metavar="N", help="steps of drawing")
    drawing.add_argument("--guidance", type=positive, metavar="W", help="guidance scale")


def _add_machine(made: argparse.ArgumentParser) -> None:
    """Add the options that fit a training into a machine."""
    machine = made.add_argument_group("machine")
    machine.add_argument(
        "--micro-batches",
        type=parts,
        metavar="N|auto",
        help="parts of a replica's batch; auto: the fewest that fit into a device's memory, "
        "by estimate",
    )
    machine.add_argument(
        "--recompute",
        nargs="+",
        metavar="LEVEL",
        help="levels whose blocks are recomputed in the backward pass: less memory, more time",
    )
    machine.add_argument(
        "--devices",
        type=whole,
        metavar="N",
        help="with --dry-run: number of devices, instead of those here",
    )
    machine.add_argument(
        "--device-memory",
        type=positive,
        metavar="GB",
        help="memory of a device, for --micro-batches auto and --dry-run (default: this machine's)",
    )


def picture_parser(description: str, *, run_dir: str) -> argparse.ArgumentParser:
    """Make the parser of the image recipes."""
    made = parser(description, run_dir=run_dir, data=SOURCES)
    _add_pictures(made)
    return made


def autoencoder_parser(description: str, *, run_dir: str) -> argparse.ArgumentParser:
    """Make the parser of the recipe of autoencoders."""
    made = base(description, run_dir=run_dir, data=SOURCES)
    _add_pictures(made)
    made.add_argument("--steps", type=whole, metavar="N", help="steps of the training")
    made.add_argument("--batch", type=whole, metavar="N", help="pictures per step")
    made.add_argument("--size", type=whole, metavar="N", help="side of the pictures")
    return made


def _add_pictures(made: argparse.ArgumentParser) -> None:
    """Add the options of a source of pictures."""
    add_max_skipped(made)
    made.add_argument("--flip", action="store_true", help="mirror half of the pictures")
    made.add_argument("--scale", choices=("small", "paper"), help="paper with --data, else small")


def add_max_skipped(made: argparse.ArgumentParser, what: str = "records") -> None:
    """Add the option for the share of records that may be unusable."""
    made.add_argument(
        "--max-skipped",
        type=float,
        default=0.01,
        help=f"share of unusable {what} above which the run stops (%(default)s)",
    )


def add_text(made: argparse.ArgumentParser) -> None:
    """Add the options of recipes with text."""
    made.add_argument("--text-encoder", metavar="DIR", help="folder of a FLAN-T5 encoder")
    made.add_argument("--embeddings", metavar="DIR", help="states written by keras-mdm embed")


def add_start(made: argparse.ArgumentParser, what: str = "phase 1 starts from it") -> None:
    """Add the option for a trained model to start from."""
    made.add_argument(
        "--start",
        metavar="MODEL|RUN|CHECKPOINT",
        help=f"model.keras, a run, or a phase or checkpoint of one: {what}",
    )


def require_files(made: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End with an error if a run on drawings in memory is given options for data in files.

    Args:
        made: the parser.
        arguments: the parsed arguments.
    """
    for option in ("embeddings", "flip", "max_skipped", "captions", "stride", "clips", "short"):
        value, default = getattr(arguments, option, None), made.get_default(option)
        if value != default:
            word = f"--{option.replace('_', '-')}"
            made.error(
                f"{word} is for data in files, but the small run has drawings in memory (got "
                f"{value}): pass --data as well, or leave {word} out"
            )


def start_model(arguments: argparse.Namespace) -> mdm.MatryoshkaDiffusion | None:
    """The model with which the first phase begins, if any."""
    path = getattr(arguments, "start", None)
    if path is None:
        return None
    found = mdm.load(path)
    found = getattr(found, "diffusion", found)  # of a model of codes
    if not isinstance(found, mdm.MatryoshkaDiffusion):
        raise ValueError(
            "a training starts from one diffusion model. Received: "
            f"start={path}, a {type(found).__name__}. To fix it: pass one of its models"
        )
    return found


def positive(text: str) -> float:
    """Parse a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, such as 0.5; got {text!r}")
    return value


def whole(text: str) -> int:
    """Parse a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0; got {text!r}")
    return int(text)


def none_or_whole(text: str) -> int:
    """A number of steps, or 0."""
    return 0 if text == "0" else whole(text)


def parts(text: str) -> int | str:
    """Parse `auto`, or a whole number above 0."""
    return text if text == "auto" else whole(text)


def share(text: str) -> tuple[str, float] | str:
    """Parse `no`, or a level with a share."""
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
