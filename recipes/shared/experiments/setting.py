"""The setting of a directory of experiments: what all its numbers have in common."""

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared import options
from shared.experiments.ledger import write

FILE, PICTURES = "setting.json", "pictures_sha256"
SCALES = ("small", "quick", "paper")
# Of the quickstart's steps: at a quarter no variant has learned its pictures, and all are alike.
STEPS_SCALE = 2 / 3


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is the same for every number in a directory.

    Args:
        scale: "small", "quick", or "paper" for a rehearsal.
        data: where the pictures come from.
        steps_scale: multiplies the steps, and so the budget.
        pictures: drawn at every checkpoint.
        sampling_steps: steps of drawing.
        guidance: guidance scale of drawing, where an experiment does not vary it.
        dtype: policy of the networks.
    """

    scale: str
    data: str
    steps_scale: float
    pictures: int
    sampling_steps: int
    guidance: float
    dtype: str

    def compare(self, directory: Path) -> None:
        """Compare the setting with the stored one, if there is one.

        Raises:
            ValueError: if the directory has another setting, or is something else.
        """
        if directory.exists():
            self._settle(directory, dataclasses.asdict(self), store=False)

    def claim(self, directory: Path, digest: str) -> None:
        """Store the setting in a new directory, or compare it with the stored one.

        Args:
            directory: of the experiments.
            digest: of the pictures, whose path alone says little.

        Raises:
            ValueError: if the directory has another setting, or is something else.
        """
        self._settle(directory, {**dataclasses.asdict(self), PICTURES: digest}, store=True)

    @staticmethod
    def _settle(directory: Path, wanted: dict[str, Any], *, store: bool) -> None:
        file = directory / FILE
        if not file.exists():
            others = [each.name for each in directory.iterdir()] if directory.exists() else []
            others = [name for name in others if not name.startswith(".")]
            if others:
                raise ValueError(
                    f"--run-dir must be new or hold experiments. Received: {directory} with "
                    f"{', '.join(sorted(others)[:3])}, and no {FILE}. To fix it: pass another "
                    "--run-dir"
                )
            if store:
                write(file, f"{json.dumps(wanted, indent=1)}\n")
            return
        try:
            found = dict(json.loads(file.read_text()))
        except ValueError as problem:
            raise ValueError(
                f"{file} must hold the setting as JSON. Received: {problem}. To fix it: pass "
                "another --run-dir"
            ) from problem
        if store and PICTURES not in found:  # of an earlier version
            found[PICTURES] = wanted[PICTURES]
            write(file, f"{json.dumps(found, indent=1)}\n")
        if not store:
            found.pop(PICTURES, None)
        different = [
            f"{name} {found.get(name)!r} there, {wanted.get(name)!r} asked for"
            for name in sorted(found.keys() | wanted.keys())
            if found.get(name) != wanted.get(name)
        ]
        if different:
            raise ValueError(
                f"a directory of experiments must keep its setting. Received: {directory} with "
                f"{'; '.join(different)}. To fix it: pass the same options, or another --run-dir"
            )


def parser(description: str) -> argparse.ArgumentParser:
    """Make the parser of an experiment."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--run-dir",
        type=Path,
        help="directory of all experiments of one setting (runs/experiments, with -quick or "
        "-paper for these scales)",
    )
    made.add_argument(
        "--scale",
        choices=SCALES,
        default="small",
        help="small: 16 to 64 pixels on emoji; quick: seconds, on generated shapes, to see that "
        "everything runs; paper: print the full setting, or with --rehearse run it in miniature "
        "(%(default)s)",
    )
    made.add_argument("--data", metavar="DIR", help="your own pictures instead of emoji")
    made.add_argument(
        "--styles",
        nargs="+",
        metavar="STYLE",
        help="all drawings of several styles, such as twemoji openmoji fluent (5,244 of them), "
        "instead of the quickstart's 251; captions name the style, and concepts are held out in "
        "one",
    )
    made.add_argument(
        "--seeds", type=options.whole, default=3, metavar="N", help="trainings of a variant (3)"
    )
    made.add_argument(
        "--variants", nargs="+", metavar="NAME", help="train and measure these only (all)"
    )
    made.add_argument(
        "--steps-scale",
        type=options.positive,
        metavar="X",
        help="multiplies all steps, and so the budget; 1 is the quickstart's (2/3)",
    )
    made.add_argument(
        "--minutes",
        type=options.positive,
        metavar="M",
        help="end after M minutes with a checkpoint and the figures so far; the same command "
        "continues",
    )
    made.add_argument(
        "--pictures",
        type=enough,
        default=128,
        metavar="N",
        help="pictures drawn at every checkpoint, at least 100 (%(default)s)",
    )
    made.add_argument(
        "--sampling-steps", type=options.whole, default=10, metavar="N", help="(%(default)s)"
    )
    made.add_argument(
        "--guidance",
        type=options.positive,
        default=1.0,
        metavar="W",
        help="guidance scale of drawing; 1, as in figure 4, for none (%(default)s)",
    )
    made.add_argument("--dtype", choices=("float32", "mixed_bfloat16"), default="mixed_bfloat16")
    made.add_argument(
        "--rehearse",
        type=options.whole,
        metavar="N",
        help="with --scale paper: everything in miniature, on N logical CPU devices and "
        "generated pictures",
    )
    made.add_argument(
        "--report", action="store_true", help="train nothing: write tables and figures again"
    )
    return made


def enough(text: str) -> int:
    """The pictures of a distance."""
    if not text.isdecimal() or int(text) < 100:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from 100, which a kernel distance needs; got {text!r}"
        )
    return int(text)


def parse(made: argparse.ArgumentParser, words: Sequence[str] | None = None) -> Any:
    """Parse, and refuse what does not go together."""
    arguments = made.parse_args(words)
    if arguments.rehearse and arguments.scale != "paper":
        made.error(f"--rehearse belongs to --scale paper (got --scale {arguments.scale})")
    if arguments.scale != "small":
        for name in ("data", "styles", "steps_scale"):
            if getattr(arguments, name) is not None:
                made.error(f"--{name.replace('_', '-')} belongs to --scale small")
    if arguments.data and arguments.styles:
        made.error("--data and --styles exclude each other")
    if arguments.run_dir is None:
        end = "" if arguments.scale == "small" else f"-{arguments.scale}"
        arguments.run_dir = Path(f"runs/experiments{end}")
    return arguments


def of(arguments: argparse.Namespace) -> Setting:
    """The setting that arguments ask for."""
    small = arguments.scale == "small"
    given = arguments.steps_scale
    drawings = " ".join(arguments.styles or ("twemoji", "simple"))
    return Setting(
        scale=arguments.scale,
        data=(arguments.data or drawings) if small else "generated",
        steps_scale=round(given or (STEPS_SCALE if small else 1.0), 6),
        pictures=arguments.pictures,
        sampling_steps=arguments.sampling_steps if small else 2,
        guidance=arguments.guidance,
        dtype=arguments.dtype,
    )


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and its standard error over the values; NaN for a single one."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
