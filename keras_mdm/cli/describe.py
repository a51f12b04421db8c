"""`keras-mdm describe`: parameters and arithmetic of a network, without building its weights."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from keras_mdm import checks
from keras_mdm.cli.quiet import quiet_start


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `describe` command to the subparsers of `keras-mdm`.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` returned.

    Returns:
        The parser of the command; its defaults set `run`.
    """
    parser = subparsers.add_parser(
        "describe",
        help="parameters and arithmetic of a network, level by level",
        description="Builds the layers of a network without their weights and counts parameters "
        "and the arithmetic of one forward pass per sample (twice the multiply-adds of "
        "convolutions and matrix products, with 32 text tokens).",
    )
    parser.add_argument(
        "network",
        nargs="+",
        metavar="LEVEL",
        help="levels in ascending order, such as `64 256 1024` or, for clips of 16 frames, "
        "`64 16x64 16x256`; or one preset, such as mdm_s64s256 or released_256",
    )
    parser.add_argument(
        "--text-width",
        type=int,
        help="width of the text encoder's states (default: 2048, none with --classes)",
    )
    parser.add_argument("--classes", type=int, help="classes of a class-conditional network")
    parser.add_argument("--width", type=float, default=1.0, help="factor on the channels")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm describe`.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        0.

    Raises:
        ValueError: if the network cannot be built.
    """
    with quiet_start():
        from keras_mdm.describe import describe
        from keras_mdm.models import presets

    text_width = args.text_width
    if text_width is None and args.classes is None:
        text_width = presets.PAPER_TEXT_WIDTH
    found = describe(
        _network(args.network, presets.NAMES),
        text_width=text_width,
        num_classes=args.classes,
        width=args.width,
    )
    print(json.dumps(found, indent=2) if args.json else table(found))
    return 0


def _network(words: Sequence[str], presets: Sequence[str]) -> str | list[str]:
    """The name of a preset, or a list of levels."""
    named = [word for word in words if not word[:1].isdecimal()]
    if not named:
        return list(words)
    if len(words) > 1 or words[0] not in presets:
        raise checks.error(
            "the network must be given as levels or as one preset",
            fix=f"write for example `64 256`, or one of {', '.join(presets)}",
            network=" ".join(words),
        )
    return words[0]


def table(found: Mapping[str, Any]) -> str:
    """Lay out the result of `keras_mdm.describe.describe` in aligned columns.

    Args:
        found: that result.

    Returns:
        Lines for the levels, highest first as data flows, and for their sum.
    """
    rows = [("level", "resolutions", "channels", "parameters", "GFLOP")]
    for level in reversed(found["levels"]):
        shape = [" ".join(map(str, level[key])) for key in ("resolutions", "channels")]
        rows.append((level["name"], *shape, f"{level['parameters']:,}", f"{level['gflop']:,.1f}"))
    rows.append(("total", "", "", f"{found['parameters']:,}", f"{found['gflop']:,.1f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index < 3 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([f"{found['name']}, per sample and forward pass", *lines])
