"""`keras-mdm describe`: parameters and arithmetic of a network, without building its weights."""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from keras_mdm import checks
from keras_mdm.quiet import quiet_start

# Options that mean nothing without --phases, and their defaults.
FOR_PHASES = {
    "devices": 1,
    "micro_batches": 1,
    "recompute": (),
    "dtype": "float32",
    "tflops": None,
}


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `describe` command to the subparsers of `keras-mdm`.

    Args:
        subparsers: from `ArgumentParser.add_subparsers`.

    Returns:
        The parser of the command; its defaults set `run`.
    """
    parser = subparsers.add_parser(
        "describe",
        help="parameters and arithmetic of a network, level by level",
        description="Builds the layers of a network without their weights and counts its "
        "parameters and the arithmetic of one forward pass per sample (twice the "
        "multiply-adds of convolutions and matrix products, with 32 text tokens). With "
        "--phases, also estimates what training costs: arithmetic, memory per device, "
        "time.",
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
    parser.add_argument(
        "--width", type=float, default=1.0, help="multiplies the number of channels"
    )
    parser.add_argument(
        "--phases",
        nargs="+",
        metavar="LEVEL:STEPSxBATCH",
        help="training phases by their highest level, such as 64:500000x2048 256:500000x1026: adds "
        "arithmetic, memory per device and time",
    )
    parser.add_argument("--devices", type=int, help="devices that share a batch (default: 1)")
    parser.add_argument("--micro-batches", type=int, help="parts of a device's batch (1)")
    parser.add_argument("--recompute", nargs="+", metavar="LEVEL", help="levels computed again")
    policies = ("float32", "mixed_bfloat16", "mixed_float16")
    parser.add_argument("--dtype", choices=policies, help="dtype policy (float32)")
    parser.add_argument(
        "--tflops",
        type=float,
        help="TFLOP/s that a device computes in large matrix products (default: measured here)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run, **FOR_PHASES)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm describe`.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        0.

    Raises:
        ValueError: if the network cannot be built, or the phases do not fit it.
    """
    with quiet_start():
        from keras_mdm.costs.describe import describe
        from keras_mdm.models import presets

    given = {name: getattr(args, name) for name in FOR_PHASES}
    given = {name: value for name, value in given.items() if value != FOR_PHASES[name]}
    if given and args.phases is None:
        raise checks.error(
            "these options describe phases and need --phases",
            fix="add --phases, for example --phases 64:500000x2048, or leave them out",
            **given,
        )
    text_width = args.text_width
    if text_width is None and args.classes is None:
        text_width = presets.PAPER_TEXT_WIDTH
    found = describe(
        _network(args.network, presets.NAMES),
        text_width=text_width,
        num_classes=args.classes,
        width=args.width,
    )
    rows = None if args.phases is None else _phases(args, text_width)
    if args.json:
        print(json.dumps(found if rows is None else {**found, "phases": rows}, indent=2))
        return 0
    print(table(found))
    if rows is not None:
        from keras_mdm.costs.estimate import EFFICIENCY
        from keras_mdm.costs.estimate import table as phase_table

        print(f"\n{phase_table(rows)}\n")
        speed = f"{args.tflops:g} TFLOP/s" if args.tflops else "a matrix product measured here"
        print(
            f"TFLOP and GB per device ({args.devices} of them, {args.micro_batches} micro-batches, "
            f"{args.dtype}), gradients and Adam included. Hours: {EFFICIENCY:g} of {speed}. What "
            "libraries take beyond the tensors is not counted."
        )
    return 0


def _phases(args: argparse.Namespace, text_width: int | None) -> list[dict[str, Any]]:
    """The estimate for `--phases`; each grows the network up to its level."""
    from keras_mdm.costs.estimate import estimate_training
    from keras_mdm.costs.unallocated import unallocated
    from keras_mdm.models import build_nested_unet, cut, presets
    from keras_mdm.training.phases import Phase

    network = _network(args.network, presets.NAMES)
    options = {
        "text_width": text_width,
        "num_classes": args.classes,
        "width": args.width,
        "dtype": args.dtype,
    }
    build = presets.build if isinstance(network, str) else build_nested_unet
    with unallocated():
        whole = build(network, **options)
    phases = []
    for word in args.phases:
        match = re.fullmatch(r"(\w+):(\d+)x(\d+)", word)
        if match is None or match[1] not in whole.levels:
            raise checks.error(
                "a phase must be written as LEVEL:STEPSxBATCH, with a level of the network",
                fix="write for example 64:500000x2048",
                phase=word,
                levels=whole.levels,
            )
        count = whole.levels.index(match[1]) + 1
        levels = whole.spec.levels[:count]
        phases.append(Phase(levels, steps=int(match[2]), batch_size=int(match[3])))
    return estimate_training(
        phases,
        lambda phase: cut(whole, phase.level_names[-1]),
        devices=args.devices,
        micro_batches=args.micro_batches,
        recompute=args.recompute,
        flop_per_second=None if args.tflops is None else 1e12 * args.tflops,
    )


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
