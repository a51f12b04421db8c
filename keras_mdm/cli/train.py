"""`keras-mdm train`: the recipes by their names."""

import argparse
import ast
import importlib.util
import sys
from pathlib import Path

from keras_mdm import checks
from keras_mdm.quiet import quiet_start


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `train` command to the subparsers of `keras-mdm`.

    Args:
        subparsers: from `ArgumentParser.add_subparsers`.

    Returns:
        The parser of the command; its defaults set `run`.
    """
    parser = subparsers.add_parser(
        "train",
        help="run a recipe; without a name, list them",
        description="Runs a recipe as `python recipes/NAME.py` does in the repository. Without a "
        "name, lists the recipes. `keras-mdm train NAME --help` shows the options of "
        "one.",
    )
    parser.add_argument("recipe", metavar="NAME", nargs="?", help="such as folder")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="options of the recipe")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm train`.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        0; a recipe that fails exits by itself.

    Raises:
        ValueError: if there is no recipe of that name.
    """
    if args.recipe is None:
        found = recipes()
        width = max(map(len, found), default=0)
        for name, path in found.items():
            summary = ast.get_docstring(ast.parse(path.read_text())).partition("\n")[0]
            print(f"{name:<{width}}  {summary}")
        return 0
    path = path_of(args.recipe)
    with quiet_start():
        import keras_mdm

        # The command line imports little; a recipe expects the package fully imported.
        for name in keras_mdm.__all__:
            getattr(keras_mdm, name)
    before = sys.argv, sys.path
    sys.argv = [f"keras-mdm train {args.recipe}", *args.arguments]  # what --help calls it
    sys.path = [str(path.parent), *sys.path]  # as for `python PATH`
    try:
        spec = importlib.util.spec_from_file_location(args.recipe, path)
        recipe = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(recipe)
        recipe.run(recipe.main)
    finally:
        sys.argv, sys.path = before
    return 0


def recipes() -> dict[str, Path]:
    """Files of the recipes by name: inside the installed package, in the repository beside it."""
    package = Path(__file__).parents[1]
    inside = package / "recipes"
    folder = inside if inside.is_dir() else package.with_name("recipes")
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def path_of(name: str) -> Path:
    """The file of a recipe.

    Raises:
        ValueError: if there is none of that name.
    """
    found = recipes()
    checks.one_of("recipe", name, tuple(found))
    return found[name]
