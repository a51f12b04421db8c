"""What every level of a run is worth, measured at its end as `keras-mdm evaluate` does."""

import argparse
import tempfile
from pathlib import Path

import keras_mdm as mdm
from keras_mdm.cli import evaluate, main
from shared import current

FILE = "worth.json"
_REAL = 2000  # real pictures, which are enough for a distance of the kernel kind


def words(arguments: argparse.Namespace, file: str | None = None) -> list[str] | None:
    """The words of the command that measures the run, or a file in it, with its own data; none for
    a rehearsal, and for animations that no command reads. The run knows how it is drawn from."""
    if getattr(arguments, "rehearse", None) or getattr(arguments, "animated_emoji", None):
        return None
    target = Path(arguments.run_dir) / (file or "")
    found = ["evaluate", str(target), "--reference", arguments.data or "emoji"]
    if arguments.data and "stride" in arguments:
        found += ["--stride", str(arguments.stride)]
    return found


def measure(model: mdm.MatryoshkaDiffusion, arguments: argparse.Namespace, batch_size: int) -> None:
    """Print what every level is worth, if pictures are to be drawn for it.

    A run has reached its end by now: whatever cannot be measured is said, and ends nothing.
    """
    command = words(arguments)
    if command is None or not arguments.worth:
        return
    command += ["--count", str(arguments.worth), "--real", str(_REAL), "--metrics", "kernel"]
    command += ["--batch-size", str(batch_size)]
    run_dir = Path(arguments.run_dir)
    with tempfile.TemporaryDirectory(dir=run_dir) as directory:
        asked = main.make_parser().parse_args([*command, "--out", directory])
        try:
            ((report, path),) = evaluate.reports(asked, model=model)
        except Exception as problem:  # such as no memory left, or no network to fetch from
            said = " ".join(str(problem).split()) or type(problem).__name__
            print(f"\nWhat the levels are worth was not measured: {said}")
            return
        path.replace(run_dir / FILE)
        current.note(FILE, model, run_dir)
    print(f"\n{report.summary}")
