"""Entry point of `keras-mdm`: parses the arguments, runs one command, prints its errors."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata

from keras_mdm.cli import (
    assets,
    cut,
    data,
    describe,
    doctor,
    embed,
    evaluate,
    export,
    import_,
    launch,
    prepare,
    sample,
    serve,
    train,
)
from keras_mdm.cli.examples import add_examples

COMMANDS = (
    describe,
    doctor,
    import_,
    sample,
    serve,
    evaluate,
    cut,
    export,
    assets,
    data,
    prepare,
    embed,
    train,
    launch,
)
# Exit codes; the last two are those of a shell for SIGINT and SIGPIPE.
ERROR, INTERRUPTED, PIPE_CLOSED = 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words after the program's name; those of the process unless given.

    Returns:
        The exit status: 0, or 2 after an error, which is one line on stderr.

    Example:

    >>> main(["describe", "8", "--width", "0.125"])
    8, per sample and forward pass
    ...
    0
    """
    parser = make_parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what the words may go on with
        import argcomplete

        argcomplete.autocomplete(parser)
    args = parsed(parser, arguments)
    try:
        return args.run(args) or 0
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        print("keras-mdm: stopped", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError) as problem:
        # One line, even if Keras wraps a message over several.
        print(f"keras-mdm: error: {' '.join(str(problem).split())}", file=sys.stderr)
        return ERROR


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse, with options between the last words, which argparse alone does not take."""
    args, rest = parser.parse_known_args(arguments)
    name = getattr(args, "more_words", None)
    if name is None or any(word.startswith("-") for word in rest):
        return parser.parse_args(arguments)  # reports what is left over
    getattr(args, name).extend(rest)
    return args


def make_parser() -> argparse.ArgumentParser:
    """Build the parser. TensorFlow is imported later, by the commands that need it."""
    parser = argparse.ArgumentParser(
        prog="keras-mdm", description="Matryoshka Diffusion Models in TensorFlow and Keras."
    )
    parser.add_argument("--version", action="version", version=_versions())
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        add_examples(command.add_parser(subparsers))
    return parser


def _versions() -> str:
    return ", ".join(f"{name} {_version(name)}" for name in ("keras-mdm", "tensorflow", "keras"))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a source tree that was never installed
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
