"""Names for saved arrays, and the strict comparison before any of them is restored."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_mdm import checks


def unique_names(variables: Sequence[Any], names: Sequence[str] | None) -> list[str]:
    """Return one name per variable: the checked `names`, or the variables' paths."""
    names = [variable.path for variable in variables] if names is None else list(names)
    if len(names) != len(variables) or len(set(names)) != len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise checks.error(
            f"`names` must hold {len(variables)} different names",
            fix="give every variable a name of its own",
            count=len(names),
            repeated=repeated,
        )
    return names


def require_match(
    expected: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, what: str, fix: str
) -> None:
    """Raise unless `arrays` holds exactly the keys of `expected`, with their shapes.

    Args:
        expected: {key: variable or array}.
        arrays: {key: array}; if it has a method `shape_of(key)`, no array is read.
        what: what is being restored, for the error.
        fix: what to do about a mismatch.

    Raises:
        ValueError: naming all keys that are missing or unexpected and all shapes that differ.
    """
    shape_of = getattr(arrays, "shape_of", lambda key: np.shape(arrays[key]))
    missing = sorted(set(expected) - set(arrays))
    unexpected = sorted(set(arrays) - set(expected))
    shapes = [
        f"{key}: {shape_of(key)} for {tuple(value.shape)}"
        for key, value in expected.items()
        if key in arrays and shape_of(key) != tuple(value.shape)
    ]
    if missing or unexpected or shapes:
        raise checks.error(
            f"the saved arrays must match the {what} one to one",
            fix=fix,
            missing=missing,
            unexpected=unexpected,
            shapes=shapes,
        )


def assign(
    variables_by_path: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, what: str
) -> None:
    """Assign arrays to variables: either all match and are assigned, or an error is raised.

    Args:
        variables_by_path: {path: variable}.
        arrays: {path: array}, for example a group of a loaded checkpoint.
        what: what is being restored, for the error.

    Raises:
        ValueError: naming all paths that are missing or unexpected and all shapes that differ.
    """
    require_match(
        variables_by_path,
        arrays,
        what=what,
        fix="build it as it was when the checkpoint was written, or choose a matching checkpoint",
    )
    for path, variable in variables_by_path.items():
        variable.assign(arrays[path])
