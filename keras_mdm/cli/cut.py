"""`keras-mdm cut`: the inner levels of a trained model as a smaller model."""

import argparse
from pathlib import Path

from keras_mdm import checks
from keras_mdm.cli import models


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `cut` command to the subparsers of `keras-mdm`.

    Args:
        subparsers: from `ArgumentParser.add_subparsers`.

    Returns:
        The parser of the command; its defaults set `run`.
    """
    parser = subparsers.add_parser(
        "cut",
        help="make a smaller model from the inner levels of a trained one",
        description="Writes the levels up to LEVEL as a model of its own, averages included. One "
        "checkpoint of a model trained with mixed resolutions therefore gives several "
        "models. If it was trained without them, a warning says that the inner levels "
        "never ran alone.",
    )
    models.add_argument(parser)
    parser.add_argument(
        "level", metavar="LEVEL", help="the level that becomes the highest, such as 64"
    )
    parser.add_argument("out", metavar="OUT.keras", help="must not exist")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm cut` and print the path of the file.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        0.

    Raises:
        ValueError: if the model cannot be loaded or has no such level, or the file exists.
    """
    out = Path(args.out)
    if out.suffix != ".keras" or out.exists():
        raise checks.error(
            "OUT must be a new file that ends in .keras", fix="choose another name", out=args.out
        )
    model = models.load(args.model)
    from keras_mdm.files import write_atomically
    from keras_mdm.stages import stages_of

    if len(stages_of(model)) > 1:
        raise checks.error(
            "levels are taken from one network, and a cascade holds two",
            fix="save `cascade.low` or `cascade.high` to a file of its own",
            model=args.model,
        )
    if hasattr(model, "codec"):
        raise checks.error(
            "levels are taken from one network, and this model also holds an autoencoder",
            fix="save `model.diffusion` to a file of its own",
            model=args.model,
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, model.cut(args.level).save)
    print(out)
    return 0
