"""`keras-mdm data`: what is in a source of pictures, and how a model will see it."""

import argparse
import json
from pathlib import Path

from keras_mdm.quiet import quiet_start

SHOWN = 16


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `data` command to the subparsers of `keras-mdm`.

    Args:
        subparsers: from `ArgumentParser.add_subparsers`.

    Returns:
        The parser of the command; its defaults set `run`.
    """
    parser = subparsers.add_parser(
        "data",
        help="look at a data set: counts, sizes, captions, broken records, a sheet of pictures",
        description="Reads and decodes records spread evenly over a source and prints what it "
        "found: files by kind, number of records, sizes, lengths of captions, classes, "
        "which of several fields it chose, which records are unusable and which files "
        "are not used. Writes a sheet of pictures at every level as the model will see "
        "them.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder of pictures, tar shards, ArrayRecord, TFRecord or Parquet files; a table; "
        "tfds:NAME or tfds:NAME:SPLIT; SOURCE:SPLIT reads the files of another split",
    )
    parser.add_argument(
        "--levels", type=int, nargs="+", default=[64, 256], help="sizes on the sheet (%(default)s)"
    )
    parser.add_argument(
        "--records",
        type=int,
        default=2000,
        help="number of records to read, 0 for all (%(default)s)",
    )
    parser.add_argument("--sheet", default="data.png", help="picture to write (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a page")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm data`: print the overview, write the sheet.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        0.

    Raises:
        ValueError: if there is nothing to look at.
    """
    with quiet_start():
        from PIL import Image

        from keras_mdm import callbacks, data
        from keras_mdm.data import overview

    # Broken records are to be listed, so any share of them is allowed.
    source = data.open_images(args.source, max_skipped=1.0)
    found = overview.look(source, limit=args.records or None)
    if not args.json:
        print(overview.report(found, source.label_names))
    pictures, titles = overview.examples(source, args.levels, SHOWN)
    sheet = callbacks.captioned_grid(pictures, titles, size=max(128, *args.levels))
    Image.fromarray(sheet).save(Path(args.sheet))
    if args.json:
        print(json.dumps({**overview.as_record(found, source.label_names), "sheet": args.sheet}))
    else:
        print(f"\n{len(titles)} pictures at {', '.join(map(str, args.levels))} in {args.sheet}")
    return 0
