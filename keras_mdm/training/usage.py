"""What whoever uses a model has to know of it: how to draw, names of classes, data and licence.

None of it is a weight. It is part of the configuration, and so of files, checkpoints and presets.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from keras_mdm import checks
from keras_mdm.sampling import defaults

# The options of a `MatryoshkaDiffusion` that this module keeps.
OPTIONS = ("sampling", "class_names", "notes")
# Options of `generate` that a model may have defaults of.
SAMPLING = defaults.NAMES


def sampling(model: Any) -> dict[str, Any]:
    """Defaults of `generate` that this model has of its own: options by name, empty for none.

    They may be `sampling`, `steps`, `outer_steps`, `sampler`, `eta`, `grid`, `threshold`,
    `guidance_scale`, `guidance_interval` and `guidance_rescale`. Assign a mapping to replace them.

    Example:

    >>> model.sampling = {"steps": 25, "guidance_scale": {"16": 3.0, "64": 1.0}}
    """
    own = model._usage.get("sampling", {})
    return {name: dict(v) if isinstance(v, dict) else v for name, v in own.items()}


def set_sampling(model: Any, given: Mapping[str, Any] | None) -> None:
    """Replace the defaults, checked."""
    model._usage["sampling"] = defaults.check(given, model)


def class_names(model: Any) -> tuple[str, ...] | None:
    """Names of the classes in the order of their numbers, or `None`; `generate` takes them as
    labels."""
    return model._usage.get("class_names")


def set_class_names(model: Any, names: Sequence[str] | None) -> None:
    """Replace the names, checked."""
    model._usage["class_names"] = _check_names(names, model.unet.spec.num_classes)


def notes(model: Any) -> dict[str, Any]:
    """What else there is to say, such as `data`, `licence`, `attribution` and `training`: plain
    values by name, for the model card. Assign a mapping to replace them."""
    return dict(model._usage.get("notes", {}))


def set_notes(model: Any, given: Mapping[str, Any] | None) -> None:
    """Replace the notes, checked."""
    model._usage["notes"] = _check_notes(given)


def config(model: Any) -> dict[str, Any]:
    """The options as files hold them; those without content are left out, as in earlier files."""
    names = class_names(model)
    found = {
        "sampling": sampling(model),
        "class_names": None if names is None else list(names),
        "notes": notes(model),
    }
    return {name: value for name, value in found.items() if value}


def of_levels(found: Mapping[str, Any], levels: Mapping[str, str]) -> dict[str, Any]:
    """What is left of a configuration in a model of some of the levels.

    Args:
        found: from `config`.
        levels: new name of every level that stays, ascending.
    """
    left = dict(found)
    if "sampling" in left:
        left["sampling"] = defaults.of_levels(left["sampling"], levels)
    return left


def fitting(model: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of some defaults of sampling for the levels of a model.

    Args:
        model: the model.
        given: the defaults.
    """
    return defaults.of_levels(given, {level: level for level in model.unet.levels})


def take_over(
    model: Any, found: Mapping[str, Any], *, classes: bool = True, strict: bool = False
) -> None:
    """Give a model what another one knew and it does not say itself.

    Args:
        model: the model.
        found: from `config` of the other, whose levels the model has.
        classes: whether the classes are the same.
        strict: raise where defaults of sampling do not suit the model, instead of leaving them
            behind with a warning.
    """
    own = config(model)
    if "sampling" in found and "sampling" not in own:
        try:
            model.sampling = fitting(model, found["sampling"])
        except ValueError as problem:  # such as guidance for a model without conditions
            if strict:
                raise
            warnings.warn(f"the defaults of sampling are left behind: {problem}", stacklevel=3)
    names = found.get("class_names")
    if classes and names and "class_names" not in own:
        if len(names) == model.unet.spec.num_classes:
            model.class_names = names
    if "notes" in found and "notes" not in own:
        model.notes = found["notes"]


def _check_names(names: Any, classes: int | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    listed = isinstance(names, Sequence) and not isinstance(names, str)
    texts = listed and all(isinstance(name, str) and name.strip() for name in names)
    if not texts or len(names) != classes:  # two classes may have one name, as in ImageNet
        raise checks.error(
            "`class_names` must be one text for each class"
            if classes
            else "`class_names` need a class-conditional network",
            fix=f"pass {classes} names, in the order of the classes"
            if classes
            else "leave them out",
            class_names=list(names)[:8] if listed else names,
            num_classes=classes,
        )
    return tuple(map(str, names))


def _check_notes(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    named = isinstance(given, Mapping) and all(isinstance(name, str) for name in given)
    try:
        found = json.loads(json.dumps(dict(given), allow_nan=False)) if named else None
    except (TypeError, ValueError):
        found = None
    if found is None:
        raise checks.error(
            "`notes` must be a mapping from names to texts, numbers, lists and mappings",
            fix='pass for example {"data": "...", "licence": "CC BY 4.0"}',
            notes=given,
        )
    return found
