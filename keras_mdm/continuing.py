"""The command that continues a run."""

from collections.abc import Sequence

# Options that begin something anew: repeated, they would do so again.
_ALONE, _WITH_VALUE = "--fresh", "--restart-phase"
# The shortest abbreviations that are none of another option.
_SHORTEST = {_ALONE: len("--fr"), _WITH_VALUE: len("--res")}


def to_continue(words: Sequence[str]) -> list[str]:
    """The words of a command without what makes it begin anew.

    Args:
        words: of the command.

    Example:

    >>> to_continue(["train.py", "--fresh", "--restart-phase", "2", "--seed", "1"])
    ['train.py', '--seed', '1']
    >>> to_continue(["own.py", "--restart", "--seed", "1"])
    ['own.py', '--seed', '1']
    """
    left: list[str] = []
    skip = False
    for word in words:
        option, equals, _ = word.partition("=")
        if skip and word.isdecimal():
            skip = False
        elif _means(option, _WITH_VALUE):
            skip = not equals
        elif not _means(word, _ALONE):
            skip = False
            left.append(word)
    return left


def _means(word: str, option: str) -> bool:
    return len(word) >= _SHORTEST[option] and option.startswith(word)
