"""How much a small PyTorch checkpoint may claim, and the errors for files that claim more."""

import math
from collections.abc import Callable
from typing import Any

from keras_mdm import checks

# A tensor, such as an expanded one, may show values of its storage more than once.
_MORE_VALUES = 2**20
# Bytes that all containers and texts may have that a pickle makes as copies of others: a few words
# in the file can copy a list of millions, again and again.
_MAX_COPIED = 2**28
# An entry of a list takes 8 bytes; one of a set or a dictionary several times as much.
_PER_ENTRY = 64


class Refusal(ValueError):
    """An error that says what is wrong with a file and what to do, unlike those of parsers."""


def refusal(must: str, *, fix: str, **received: Any) -> Refusal:
    """Build the error for a refused file; for the arguments, see `checks.error`."""
    return Refusal(*checks.error(must, fix=fix, **received).args)


def too_large(size: tuple[int, ...], values: int) -> bool:
    """Whether a tensor claims far more values than its storage holds, as strides of 0 allow.

    Args:
        size: its shape.
        values: number of values of the storage.
    """
    return len(size) > 32 or math.prod(max(side, 1) for side in size) > values + _MORE_VALUES


class CopyBudget:
    """What is left of the bytes that a pickle may copy."""

    def __init__(self) -> None:
        self._left = _MAX_COPIED

    def counted(self, copy: Callable[..., Any]) -> Callable[..., Any]:
        """A function that copies its first argument, as one that counts what it copies.

        Args:
            copy: the function; its first argument has a length, or may be missing.

        Returns:
            The same function, which raises `Refusal` when too much was copied.
        """

        def counting(*args: Any) -> Any:
            sized = args and hasattr(args[0], "__len__")
            each = 1 if sized and isinstance(args[0], str | bytes) else _PER_ENTRY
            self._left -= len(args[0]) * each if sized else 0
            if self._left < 0:
                raise refusal(
                    "the plain values of a checkpoint must be small",
                    fix="do not use this file unless you trust its author; nothing in it was run",
                    bytes=f"more than {_MAX_COPIED}",
                )
            return copy(*args)

        return counting
