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
        description="Writes a SavedModel with the sampler inside, and the text encoder if it can "
        "be: the next version in DIR, beside a page that describes it. It needs only TensorFlow to "
        "draw pictures, and tensorflow_text for prompts.",
    )
    models.add_argument(parser)
    parser.add_argument("directory", metavar="DIR", help="new, empty, or of earlier versions")
    parser.add_argument(
        "--weights",
        default="ema",
        help="ema (default), raw, or a power-function average of the model such as ema_0.05",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="what the network computes in (default: as the model does)",
    )
    parser.add_argument(
        "--no-text-encoder",
        action="store_true",
        help="leave the text encoder out; embeddings are sent instead of prompts",
    )
    parser.add_argument(
        "--denoiser", action="store_true", help="add a signature with the network alone"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm export` and print the directory of the version.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        0.

    Raises:
        ValueError: if the model cannot be loaded, it has no such weights, or the directory holds
            something else.
    """
    model = models.load(args.model)
    from keras_mdm.export import export_saved_model

    print(
        export_saved_model(
            model,
            args.directory,
            weights=args.weights,
            dtype=args.dtype,
            denoiser=args.denoiser,
            prompt_input=False if args.no_text_encoder else None,
        )
    )
    return 0
