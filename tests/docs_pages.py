"""Pages of the documentation: their blocks of code, run one after the other, and their commands."""

import ast
import re
import shlex
from pathlib import Path

import keras_mdm

ROOT = Path(__file__).parents[1]
NAMES = [
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "recipes/README.md")
]
NOT_RUN = "# Not run:"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"keras-mdm |python recipes/|(\w+\.py)( |$)")


def text_of(name):
    return (ROOT / name).read_text()


def python_blocks(text):
    """(line, source) of every block of Python."""
    found = (match for match in FENCED.finditer(text) if match[1] == "python")
    return [(text[: match.start(2)].count("\n") + 1, match[2]) for match in found]


def reason(source):
    """Why a block is not run, as its first line says; `None` for one that is."""
    first = source.partition("\n")[0]
    return first.removeprefix(NOT_RUN).strip() if first.startswith(NOT_RUN) else None


class Page:
    """A page whose blocks are run in order, with the names of the blocks before.

    Args:
        name: path of the page in the repository.
        patch: pytest's `monkeypatch`, for what a page takes for granted.
        vocabulary: bytes of a small vocabulary of T5.
    """

    def __init__(self, name, patch, vocabulary=b""):
        self.name, self.patch, self.vocabulary = name, patch, vocabulary
        blocks = python_blocks(text_of(name))
        self.left = [(line, source) for line, source in blocks if reason(source) is None]
        self.names = {"__name__": "page", "mdm": keras_mdm}

    def next(self, replace=None):
        """Source of the next block, with every text of `replace` in place of another."""
        line, source = self.left.pop(0)
        for old, new in (replace or {}).items():
            assert old in source, f"{self.name}:{line} does not hold {old!r}"
            source = source.replace(old, new)
        return "\n" * (line - 1) + source  # lines of errors are those of the page

    def run(self, replace=None, **given):
        """Run the next block; `given` are names that it takes for granted.

        Returns what its last line is, if that is an expression.
        """
        tree = ast.parse(self.next(replace), self.name)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        self.names.update(given)
        exec(compile(tree, self.name, "exec"), self.names)
        if last is not None:
            return eval(compile(ast.Expression(last.value), self.name, "eval"), self.names)
        return None

    def __getitem__(self, name):
        """What a block has made of a name."""
        return self.names[name]


def commands(text):
    """(words, whole) of every command of keras-mdm and of recipes in a page.

    Whole are those in blocks; what stands in a sentence may be the beginning of one.
    """
    prose = FENCED.sub("", text)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    lines = [match[2].replace("\\\n", " ") for match in FENCED.finditer(text)]
    lines = [part for text in lines for line in text.splitlines() for part in line.split("; ")]
    for written, whole in [*((line, True) for line in lines), *((span, False) for span in spans)]:
        match = COMMAND.match(written)
        if match and (match[1] is None or (ROOT / "recipes" / match[1]).is_file()):
            yield shlex.split(written, comments=True), whole


def options(text):
    """Every option that stands in a sentence, with or without its command, such as --seed."""
    for span in re.findall(r"`([^`]+)`", FENCED.sub("", text)):
        yield from re.findall(r"(?<!\S)--[a-z][\w-]*", span)
