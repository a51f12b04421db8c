"""What a program has to know of an exported model that its signatures do not say."""

import json
from pathlib import Path
from typing import Any

from keras_mdm import checks
from keras_mdm.export.inputs import steps_limit
from keras_mdm.files import read_json
from keras_mdm.release.card import notes_of
from keras_mdm.stages import levels_of, stages_of

PLACE = Path("assets.extra") / "keras_mdm.json"
FORMAT = 1
_KEYS = {"format": int, "levels": list, "defaults": dict, "most_steps": int, "notes": dict}


def write(directory: Path, model: Any, module: Any) -> Path:
    """Write it into an exported model.

    Args:
        directory: the exported model.
        model: the model, a cascade or a model of codes.
        module: what was exported.

    Returns:
        The file.
    """
    stages = stages_of(model)
    names = stages[0].class_names
    found = {
        "format": FORMAT,
        "levels": list(levels_of(model)),
        "defaults": dict(module.defaults),
        "least_steps": module.least_steps,
        "most_steps": min(steps_limit(stage) for stage in stages),
        "classes": stages[0].unet.spec.num_classes,
        "class_names": None if names is None else list(names),
        "notes": notes_of(model),
    }
    file = directory / PLACE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return file


def read(directory: Path) -> dict[str, Any]:
    """Read it from an exported model.

    Args:
        directory: a version.

    Raises:
        ValueError: if it is missing or damaged.
    """
    if not (directory / PLACE).is_file():
        raise checks.error(
            f"an exported model must hold {PLACE}",
            fix="export the model again with this version of keras-mdm",
            directory=str(directory),
        )
    return read_json(
        directory / PLACE,
        what="the description inside an exported model",
        fix="export the model again with this version of keras-mdm",
        keys=_KEYS,
    )
