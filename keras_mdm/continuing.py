"""The command that continues a run."""

from collections.abc import Sequence

# Options that begin something anew: repeated, they would do so again.
_ALONE, _WITH_VALUE = "--fresh", "--restart-phase"
_SHORTEST = 6  # letters of an abbreviation of them that is none of another option


def to_continue(words: Sequence[str]) -> list[str]:
    """The words of a command without what makes it begin anew.

    Args:
        words: of the command.

    Example:

    >>> to_continue(["train.py", "--fresh", "--restart-phase", "2", "--seed", "1"])
    ['train.py', '--seed', '1']
    """
    left, skip = [], False
    for word in words:
        option, equals, _ = word.partition("=")
        if skip:
            skip = False
        elif len(option) >= _SHORTEST and _WITH_VALUE.startswith(option):
            skip = not equals
        elif not (len(option) >= _SHORTEST and _ALONE.startswith(option)):
            left.append(word)
    return left
