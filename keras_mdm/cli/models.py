"""Loading of a trained model, for the commands that need one."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from keras_mdm.quiet import quiet_start

if TYPE_CHECKING:
    from keras_mdm.cascade import Cascade
    from keras_mdm.latents import LatentDiffusion
    from keras_mdm.training import MatryoshkaDiffusion


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument MODEL to the parser of a command.

    Args:
        parser: the parser.
    """
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a .keras file; a preset, or its address such as hf://USER/NAME; a run, even one in "
        "training, for its newest state; one of its phases, RUN/checkpoints/phase-N; or a "
        "checkpoint, RUN/checkpoints/phase-N/step-NNNNNNN",
    )


def load(path: str) -> "MatryoshkaDiffusion | Cascade | LatentDiffusion":
    """Load a model for a command, and say on stderr which one it is unless the path is a file.

    A model from a run draws as the run has noted last.

    Args:
        path: as in `keras_mdm.load`.

    Returns:
        The model.

    Raises:
        ValueError: as in `keras_mdm.load`.
    """
    with quiet_start():
        from keras_mdm.runs.loading import load_found, recorded_sampling
        from keras_mdm.stages import stages_of
        from keras_mdm.training import usage
    found, model = load_found(path)
    stages, noted = stages_of(model), recorded_sampling(found.path)
    if noted and len(stages) == 1:
        stages[0].sampling = usage.fitting(stages[0], noted)
    if not Path(path).is_file():
        print(f"model: {found}", file=sys.stderr, flush=True)
    return model


def say_sampling(model: "MatryoshkaDiffusion | Cascade | LatentDiffusion") -> None:
    """Say on stderr how a model draws by itself.

    Args:
        model: the model.
    """
    from keras_mdm.stages import stages_of

    said = ["; ".join(f"{k} {v}" for k, v in each.sampling.items()) for each in stages_of(model)]
    if any(said):
        print(
            f"drawn as the model draws, unless options say otherwise: {' | '.join(said)}",
            file=sys.stderr,
            flush=True,
        )
