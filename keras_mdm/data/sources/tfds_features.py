"""Which features of a data set of TFDS are the picture, its class and its captions."""

from collections.abc import Collection, Iterator
from typing import Any

from keras_mdm.data.sources.examples import CAPTION, IMAGE, LABEL


def candidates_of(features: Any) -> dict[str, dict[str, tuple[str, ...]]]:
    """Names of the features that may be the picture, the class and the caption of a record.

    Args:
        features: features of a data set of TFDS, in no particular order.

    Returns:
        For "image", "label" and "caption", names of features, each with the names of its classes,
        if any.
    """
    import tensorflow_datasets as tfds

    found: dict[str, dict[str, tuple[str, ...]]] = {"image": {}, "label": {}, "caption": {}}
    masks = {}
    for name, feature in _flat(features):
        if isinstance(feature, tfds.features.LabeledImage):
            masks[name] = ()
        elif isinstance(feature, tfds.features.Image):
            found["image"][name] = ()
        elif isinstance(feature, tfds.features.ClassLabel):
            # Without the number of classes there are no names either.
            found["label"][name] = tuple(feature.names) if feature.num_classes else ()
        elif isinstance(feature, tfds.features.Text):
            found["caption"][name] = ()
    found["image"] = found["image"] or masks
    return found


def choose(part: str, names: Collection[str], supervised: Any) -> str | None:
    """Which of several features is read as the picture or the class.

    Args:
        part: "image" or "label".
        names: names of these features.
        supervised: the `supervised_keys` of the data set: names, in any nesting.

    Returns:
        The name; `None` if there is none.

    Example:

    >>> choose("label", ["coarse", "fine"], ("image", "fine"))
    'fine'
    """
    usual = {"image": IMAGE, "label": LABEL}[part]
    known = (name for name in (*usual, *_keys(supervised)) if name in names)
    return next(known, min(names, default=None))


def captions_of(names: Collection[str], supervised: Any) -> tuple[str, ...]:
    """Names of captions in a data set; the first one present counts. A text of any other name is
    not a caption: it may be a file's name, or an answer.

    Args:
        names: names of the features that are texts.
        supervised: as for `choose`.
    """
    more = (*_keys(supervised), "description", "input")
    return (*CAPTION, *(name for name in more if name in names))


def names_of(features: Any) -> set[str]:
    """Names of all features of a data set, those of groups and lists as `group/name`.

    Args:
        features: as for `candidates_of`.
    """
    import tensorflow_datasets as tfds

    def walk(found: Any, before: str) -> Iterator[str]:
        found = found.feature if isinstance(found, tfds.features.Sequence) else found
        if not hasattr(found, "items"):
            yield before
            return
        for name, feature in found.items():
            yield from walk(feature, f"{before}/{name}" if before else name)

    return set(walk(features, ""))


def _flat(features: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Features by their names in records: those of a group are called `group/name`."""
    import tensorflow_datasets as tfds

    if isinstance(features, tfds.features.Sequence) and before:
        # If a record holds a list of things, only texts can be read.
        inner = features.feature
        yield from (
            (name, feature)
            for name, feature in _flat(inner, before)
            if isinstance(feature, tfds.features.Text)
        )
    elif hasattr(features, "items"):
        for name, feature in features.items():
            yield from _flat(feature, f"{before}/{name}" if before else name)
    else:
        yield before, features


def _keys(supervised: Any) -> Iterator[str]:
    if isinstance(supervised, str):
        yield supervised
    elif isinstance(supervised, dict):
        for value in supervised.values():
            yield from _keys(value)
    elif isinstance(supervised, list | tuple):
        for value in supervised:
            yield from _keys(value)
