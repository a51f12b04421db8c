"""`keras-mdm serve`: a page and an API that draw with a model."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from keras_mdm import checks
from keras_mdm.cli import models
from keras_mdm.cli.kinds import kind_of
from keras_mdm.quiet import quiet_start

if TYPE_CHECKING:
    from keras_mdm.serving import Limits, Painter

TOKEN = "KERAS_MDM_TOKEN"  # name of the environment variable


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `serve` command to the subparsers of `keras-mdm`.

    Args:
        subparsers: from `ArgumentParser.add_subparsers`.

    Returns:
        The parser of the command; its defaults set `run`.
    """
    parser = subparsers.add_parser(
        "serve",
        help="draw pictures in a browser, or over a JSON API",
        description="Serves a page and a JSON API that draw with a model: http://127.0.0.1:8000 "
        "unless told otherwise, /openapi.json describes the API. SIGTERM and Ctrl-C end it.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="as for `keras-mdm sample`; or the directory of an exported model, or of one of its "
        "versions",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s)")
    parser.add_argument(
        "--port", type=int, default=8000, help="port, 0 for any that is free (%(default)s)"
    )
    access = parser.add_mutually_exclusive_group()
    access.add_argument(
        "--token",
        help=f"what clients must send; also read from {TOKEN}, which other users of this machine "
        "cannot see. Needed if --host is not this machine's own (loopback)",
    )
    access.add_argument(
        "--no-token", action="store_true", help="let everybody who reaches the server draw"
    )
    parser.add_argument("--max-steps", type=int, metavar="N", help="default: 100, or the model's")
    parser.add_argument(
        "--max-prompt", type=int, default=2000, metavar="N", help="characters (%(default)s)"
    )
    parser.add_argument(
        "--queue",
        type=int,
        default=64,
        metavar="N",
        help="requests that may wait; others are refused with 429 (%(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=8,
        metavar="N",
        help="the most pictures drawn together (%(default)s)",
    )
    parser.add_argument(
        "--samplers",
        nargs="+",
        default=[],
        metavar="NAME",
        help="samplers that may be chosen besides the model's own",
    )
    parser.add_argument(
        "--warm-up",
        choices=("none", "plain", "all"),
        default="plain",
        help="graphs to trace before the first request (%(default)s); all: also those of start "
        "pictures, masks and no guidance",
    )
    parser.add_argument("--weights", default="ema", help="as for `keras-mdm sample`")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm serve`, until it is stopped.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        0.

    Raises:
        ValueError: if the model cannot be loaded or served, an option is out of range, a package
            is missing, or the address must not be used.
    """
    token = None if args.no_token else (args.token or os.environ.get(TOKEN) or None)
    with quiet_start():
        from keras_mdm import serving
        from keras_mdm.serving.extra import check_installed
        from keras_mdm.serving.server import check_address

    check_address(args.host, token, open_to_all=args.no_token)  # before minutes of loading
    check_installed()
    limits = serving.Limits(
        steps=args.max_steps,
        prompt=args.max_prompt,
        queue=args.queue,
        batch=args.batch_size,
        samplers=tuple(args.samplers),
    )
    painter, card = _painter(args, limits)
    serving.run(
        painter,
        limits,
        host=args.host,
        port=args.port,
        token=token,
        open_to_all=args.no_token,
        warm_up=args.warm_up,
        card=card,
    )
    return 0


def _painter(args: argparse.Namespace, limits: "Limits") -> tuple["Painter", str]:
    """What draws, and the text of its card."""
    from keras_mdm import serving

    if exported := serving.find_export(args.model):
        if args.weights != "ema":
            raise checks.error(
                "--weights of an exported model were chosen when it was exported",
                fix="leave it out, or export the model with them",
                weights=args.weights,
            )
        page = exported.parent / "README.md"
        painter: Painter = serving.ExportPainter(exported, limits=limits)
        return painter, page.read_text("utf-8") if page.is_file() else ""
    model = models.load(args.model)
    if kind_of(model, run=args.model) == "codes":
        raise checks.error(
            "a model of codes cannot be served",
            fix="serve a LatentDiffusion of it and its codec, see docs/extending.md",
            model=args.model,
        )
    from keras_mdm.release.card import card

    beside = Path(args.model) / "README.md"
    text = beside.read_text("utf-8") if beside.is_file() else card(model, ())
    return serving.painter_of(model, limits=limits, weights=args.weights), text
