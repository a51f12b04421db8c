"""`keras-mdm export`: a trained model as a SavedModel that runs with TensorFlow alone."""

import argparse

from keras_mdm.cli import models


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `export` command to the subparsers of `keras-mdm`.

    Args:
        subparsers: from `ArgumentParser.add_subparsers`.

    Returns:
        The parser of the command; its defaults set `run`.
    """
    parser = subparsers.add_parser(
        "export",
        help="write a SavedModel with the sampler inside",
        description="Writes a SavedModel with the sampler inside. It needs only TensorFlow to draw "
        "pictures.",
    )
    models.add_argument(parser)
    parser.add_argument("directory", metavar="DIR", help="new or empty directory")
    parser.add_argument(
        "--weights",
        default="ema",
        help="ema (default), raw, or a power-function average of the model such as ema_0.05",
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm export` and print the directory.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        0.

    Raises:
        ValueError: if the model cannot be loaded, it has no such weights, or the directory is not
            empty.
    """
    model = models.load(args.model)
    from keras_mdm.export import export_saved_model

    export_saved_model(model, args.directory, weights=args.weights)
    print(args.directory)
    return 0
