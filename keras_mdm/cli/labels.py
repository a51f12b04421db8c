"""The classes of `--label`, by number or name."""

import re
from collections.abc import Sequence
from typing import Any


def class_of(word: str) -> int | str:
    """A class of --label: a whole number, or else a name.

    Example:

    >>> class_of("3"), class_of("cat")
    (3, 'cat')
    """
    return int(word) if re.fullmatch(r"-?\d+", word) else word


def titles(labels: Sequence[int | str], model: Any) -> list[str]:
    """What pictures of classes are called: names where they are known.

    Args:
        labels: from `class_of`.
        model: the model that draws them.
    """
    from keras_mdm.stages import stages_of

    names = stages_of(model)[0].class_names or ()
    found = []
    for label in labels:
        if isinstance(label, int):
            label = names[label] if 0 <= label < len(names) else f"label {label}"
        found.append(label)
    return found
