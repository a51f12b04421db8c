"""Checks and blocks that the measures on sets of features have in common."""

from collections.abc import Iterable, Iterator

import numpy as np

from keras_mdm import checks

# Entries of a block of a distance matrix: 64 MiB in float64.
_ENTRIES = 2**23


def checked(minimum: int, *, one_width: bool = True, **sets: np.ndarray) -> list[np.ndarray]:
    """Return sets of features in float64, or raise one error that shows all of them.

    Args:
        minimum: number of rows that each must have.
        one_width: whether all must have the same number of columns.
        **sets: (rows, width) arrays under the names the caller used.

    Raises:
        ValueError: if one is not a numeric matrix of at least `minimum` rows, the widths differ
            and may not, or a feature is not finite.
    """
    found = {name: np.asarray(value) for name, value in sets.items()}
    shapes = {name: value.shape for name, value in found.items()}
    if any(value.dtype.kind not in "fiu" for value in found.values()):
        raise checks.error(
            "features must be real numbers",
            fix="pass the arrays that a feature network returned",
            **{name: str(value.dtype) for name, value in found.items()},
        )
    matrices = all(len(shape) == 2 and shape[1] > 0 for shape in shapes.values())
    if not matrices or (one_width and len({shape[1] for shape in shapes.values()}) > 1):
        widths = " of one width" if one_width and len(sets) > 1 else ""
        raise checks.error(
            f"{named(sets)} must be of shape (pictures, features){widths}",
            fix="pass the features of one network, a row for each picture",
            **shapes,
        )
    if min(shape[0] for shape in shapes.values()) < minimum:
        raise checks.error(
            f"{named(sets)} must have at least {minimum} rows",
            fix="pass the features of more pictures",
            **shapes,
        )
    arrays = {name: value.astype("float64", copy=False) for name, value in found.items()}
    not_finite = {name: int(np.sum(~np.isfinite(value))) for name, value in arrays.items()}
    if any(not_finite.values()):
        raise checks.error(
            "features must be finite",
            fix="look at the pictures and at the network that made the features",
            **{f"not_finite_in_{name}": count for name, count in not_finite.items() if count},
        )
    return list(arrays.values())


def checked_pairs(minimum: int, *, one_width: bool = True, **sets: np.ndarray) -> list[np.ndarray]:
    """As `checked`, for sets whose rows belong together."""
    arrays = checked(minimum, one_width=one_width, **sets)
    if len({len(value) for value in arrays}) > 1:
        raise checks.error(
            f"{named(sets)} must have the same number of rows",
            fix="pass the pictures and the texts that they were drawn for, in the same order",
            **{name: np.shape(value) for name, value in sets.items()},
        )
    return arrays


def unit(name: str, value: np.ndarray) -> np.ndarray:
    """Return a checked set with rows of length 1, or raise, under its name, if a row is zero."""
    # Divided twice, so that squares neither overflow nor vanish.
    largest = np.max(np.abs(value), axis=1, keepdims=True)
    if zeros := int(np.sum(largest == 0.0)):
        raise checks.error(
            f"no row of `{name}` may be zero: it has no direction",
            fix="look at the network that made the features",
            zero_rows=zeros,
        )
    value = value / largest
    return value / np.linalg.norm(value, axis=1, keepdims=True)


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of the rows of a matrix, each of about 64 MiB in float64."""
    step = max(1, _ENTRIES // max(columns, 1))
    for begin in range(0, rows, step):
        yield slice(begin, min(begin + step, rows))


def named(names: Iterable[str]) -> str:
    """Quote names for an error: `a`, `b` and `c`."""
    quoted = [f"`{name}`" for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
