"""Argument checks: the one place where errors are worded.

Every error has three parts: what must hold, what was received (`name=value`), and how to fix it.
"""

import math
import numbers
from collections.abc import Collection, Iterable
from typing import Any


def error(must: str, *, fix: str, **received: Any) -> ValueError:
    """Build the `ValueError` that the whole package raises.

    Args:
        must: what has to hold, a clause without its final full stop.
        fix: what the caller can do, a clause without its final full stop.
        **received: the offending arguments under the names the caller used.

    Returns:
        The exception; the caller raises it, so that the traceback ends there.

    Example:

    >>> raise error("`steps` must be at least 1", fix="pass a positive integer", steps=0)
    Traceback (most recent call last):
    ValueError: `steps` must be at least 1. Received: steps=0. To fix it: pass a positive integer.
    """
    arrived = ", ".join(f"{name}={value!r}" for name, value in received.items())
    return ValueError(f"{must}. Received: {arrived}. To fix it: {fix}.")


def is_int(value: Any) -> bool:
    """True for Python and NumPy integers, False for booleans."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """True for finite Python and NumPy numbers, False for booleans."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of more digits than any float has
        return False


def integer(name: str, value: Any, *, minimum: int, fix: str | None = None) -> int:
    """Return `value` as an int, or raise unless it is an integer of at least `minimum`."""
    if not is_int(value) or value < minimum:
        raise error(
            f"`{name}` must be an integer of at least {minimum}",
            fix=fix or f"pass {name}={minimum} or more, without a fraction",
            **{name: value},
        )
    return int(value)


def real(name: str, value: Any, *, minimum: float, maximum: float = math.inf) -> float:
    """Return `value` as a float, or raise unless it is finite and inside [minimum, maximum]."""
    if not is_real(value) or not minimum <= value <= maximum:
        bound = (
            f"of at least {minimum}" if maximum == math.inf else f"inside [{minimum}, {maximum}]"
        )
        raise error(
            f"`{name}` must be a finite number {bound}", fix=f"pass {name} {bound}", **{name: value}
        )
    return float(value)


def seed(value: Any) -> int:
    """Return `value` as an int, or raise unless it is a non-negative integer below 2**63."""
    if not is_int(value) or not 0 <= value < 2**63:
        raise error(
            "`seed` must be a non-negative integer", fix="pass for example seed=0", seed=value
        )
    return int(value)


def one_of(name: str, value: Any, allowed: Collection[Any]) -> Any:
    """Return `value`, or raise unless it is one of `allowed`."""
    if not isinstance(value, str | int | float | type(None)) or value not in allowed:
        choices = ", ".join(repr(choice) for choice in allowed)
        raise error(
            f"`{name}` must be one of {choices}", fix="choose one of these", **{name: value}
        )
    return value


def known_keys(name: str, keys: Iterable[str], allowed: Collection[str]) -> None:
    """Raise if `keys` has any that `allowed` lacks, naming all of them."""
    strangers = sorted(set(keys) - set(allowed))
    if strangers:
        raise error(
            f"`{name}` may only hold the keys {sorted(allowed)}",
            fix="remove or rename the keys listed",
            unknown_keys=strangers,
        )


def required_keys(name: str, keys: Collection[str], required: Iterable[str]) -> None:
    """Raise if one of `required` is missing from `keys`, naming all that are missing."""
    missing = sorted(set(required) - set(keys))
    if missing:
        raise error(
            f"`{name}` must hold the keys {sorted(set(required))}",
            fix=f"add {missing}",
            keys=sorted(keys),
        )
