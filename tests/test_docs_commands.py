"""Every command in the documentation is one that its parser accepts."""

import argparse
import importlib
import re
import sys
from pathlib import Path

import pytest
from docs_pages import NAMES, ROOT, commands, options, text_of

from keras_mdm.cli import main as cli

# Words that stand for a number of the reader's, and for any program.
NUMBERS = {"N": "128"}
ANY = ("program.py", "recipes/X.py", "X", "NAME")
# What argparse says of a command in a sentence that is about a part of it, or about any name.
PARTLY = "arguments are required|expected (one|at least one) argument|invalid choice: 'NAME'"
# Of argparse, TensorBoard and TensorFlow Serving.
OTHERS = {"--help", "--logdir", "--enable_batching"}


class Accepted(Exception):
    """A parser took its words; what would run next does not."""


@pytest.fixture
def accept(monkeypatch, capsys):
    """Function (words, whole) -> why a command is refused; `None` if it is accepted."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "recipes"), *sys.path])
    monkeypatch.setattr(sys, "argv", ["unset"])

    def accept(words, whole):
        words = [NUMBERS.get(word, word) for word in words]
        try:
            check(words[words[0] == "python" :])
        except SystemExit as end:
            said = capsys.readouterr().err.strip().splitlines()
            if end.code and (whole or not re.search(PARTLY, said[-1])):
                return f"{' '.join(words)}: {said[-1]}"
        except LookupError as unknown:
            return str(unknown)
        return None

    return accept


def check(words):
    """End with argparse's error unless the words are accepted."""
    program, *rest = words
    if program != "keras-mdm":
        return check_recipe(program, rest)
    args = cli.parsed(cli.make_parser(), rest)
    if args.command == "train" and args.recipe:
        return check_recipe(args.recipe, args.arguments)
    if args.command == "launch":
        name, *more = [args.program, *args.arguments]
        name, *more = more if name == "train" else [name, *more]
        return check_recipe(name, more)
    return None


def check_recipe(name, words):
    """Parse as the recipe of a name or a path does, and stop there."""
    path = ROOT / "recipes" / Path(name.removeprefix("recipes/")).with_suffix(".py")
    if name in ANY:
        return
    if not path.is_file():
        raise LookupError(f"no recipe {name!r}")
    module = ".".join(path.relative_to(ROOT / "recipes").with_suffix("").parts)
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, given=None, namespace=None):
        raise Accepted(parse(parser, words, namespace))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        with pytest.raises(Accepted):
            importlib.import_module(module).main()


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_accepted(name, accept):
    refused = [accept(words, whole) for words, whole in commands(text_of(name))]
    assert not [*filter(None, refused)]


@pytest.fixture(scope="module")
def known():
    """The options of all our programs, as they stand in their sources."""
    files = [ROOT / "tests" / "conftest.py"]
    for folder in ("keras_mdm/cli", "recipes", "benchmarks"):
        files += (ROOT / folder).rglob("*.py")
    return OTHERS.union(*(re.findall(r'"(--[a-z][\w-]*)"', file.read_text()) for file in files))


@pytest.mark.parametrize("name", NAMES)
def test_options_in_sentences_exist(name, known):
    unknown = set(options(text_of(name))) - known
    assert not unknown


def test_commands_are_found_and_wrong_ones_are_refused(accept):
    assert len(list(commands(text_of("recipes/README.md")))) > 40
    block = "```\nkeras-mdm cut RUN 16 OUT.keras   # why\n```\n`keras-mdm data` or `folder.py --x`"
    expected = [("keras-mdm cut RUN 16 OUT.keras", True), ("folder.py --x", False)]
    assert [(" ".join(words), whole) for words, whole in commands(block)] == [
        expected[0],
        ("keras-mdm data", False),
        expected[1],
    ]
    assert accept(["keras-mdm", "data"], False) is None
    for line in (
        "keras-mdm data",
        "keras-mdm sample RUN --stepz 3",
        "keras-mdm train folder --data D --stepz 3",
        "keras-mdm launch -n 2 train folder --stepz 3",
        "python recipes/latent.py --factor 5",
        "python recipes/none.py",
    ):
        assert accept(line.split(), True)
