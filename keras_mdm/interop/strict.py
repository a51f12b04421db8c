"""Foreign weights into our variables: all of them or none, and nothing left over."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.interop.key_map import TO_OURS, Entry


def assign_entries(
    table: Sequence[Entry],
    weights: Mapping[str, Any],
    *,
    what: str,
    fix: str,
    after_each: Callable[[], None] | None = None,
) -> None:
    """Fill variables with foreign weights; nothing is changed unless everything fits.

    Args:
        table: one entry for every tensor.
        weights: `{foreign key: array}`, exactly the keys of the table.
        what: whose weights they must be, for errors.
        fix: what to do about weights of something else.
        after_each: called after each tensor, to free the memory that reading it took.

    Raises:
        ValueError: listing all missing keys, surplus keys and differing shapes at once, or all
            tensors with a NaN or an infinity.
    """
    expected = {entry.key: entry.shape for entry in table}
    arrived = {key: tuple(np.shape(value)) for key, value in weights.items()}
    missing = [key for key in expected if key not in arrived]
    unexpected = [key for key in arrived if key not in expected]
    differing = [
        f"{key}: {arrived[key]} instead of {shape}"
        for key, shape in expected.items()
        if key in arrived and arrived[key] != shape
    ]
    if missing or unexpected or differing:
        raise checks.error(
            f"the weights must be exactly those of {what}",
            fix=fix,
            missing=missing,
            unexpected=unexpected,
            shapes=differing,
        )
    done = after_each or (lambda: None)
    broken = []
    for key in expected:
        if not np.isfinite(np.asarray(weights[key])).all():
            broken.append(key)
        done()
    if broken:
        raise checks.error(
            "the weights must be finite",
            fix="use another checkpoint: this one went wrong in training, or was damaged",
            keys_with_nan_or_infinity=broken,
        )
    changed = [
        entry.key
        for entry in table
        if entry.constant is not None
        and not np.allclose(np.asarray(weights[entry.key]), entry.constant, rtol=1e-5)
    ]
    if changed:
        raise checks.error(
            "rotary frequencies must be the official constants",
            fix="networks with other frequencies are not supported",
            keys=changed,
        )
    for entry in table:
        if entry.constant is None:
            value = np.asarray(weights[entry.key], np.float32)
            entry.variable.assign(TO_OURS[entry.layout](value))
            done()
