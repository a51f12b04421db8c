"""The card of a model: what it is, how to use it, what it was trained on, under which licence."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from keras_mdm import checks
from keras_mdm.conditioning.low_res import low_res_channels
from keras_mdm.levels import LevelShape
from keras_mdm.stages import levels_of, stages_of

CARD = "README.md"
LIBRARY = "keras-mdm"
# Identifiers of licences that Hugging Face knows, out of its list; all others are "other".
LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"}
LICENCES |= {"cc0-1.0", "cc-by-3.0", "cc-by-sa-3.0", "bsd-3-clause", "gpl-3.0", "openrail"}
# Notes that have a place of their own in the card.
PLACED = ("title", "description", "prompts", "licence")
# Where text encoders come from, by their name.
ENCODERS = {
    "minilm": "all-MiniLM-L6-v2; fetch it once by `keras-mdm assets fetch minilm`",
    "flan_t5": 'a FLAN-T5; assign `model.text_encoder = mdm.text.FlanT5("FOLDER")`, or pass '
    "`--text-encoder FOLDER`, once on each machine",
    "clip": "CLIP's, by keras-hub; assign `model.text_encoder = mdm.text.ClipText(...)`",
}
_SHOWN_CLASSES = 20


def card(model: Any, pictures: Sequence[str], metrics: Mapping[str, Any] | None = None) -> str:
    """Return the text of a model card, Markdown with the front matter of Hugging Face.

    Args:
        model: a `MatryoshkaDiffusion`, a `Cascade` or a `LatentDiffusion`.
        pictures: files to show, relative to the card.
        metrics: a report of `evaluate` as read from its JSON.

    Raises:
        ValueError: if `metrics` is no such report.
    """
    notes, rows = notes_of(model), _rows(metrics)
    parts = [
        _front_matter(model, notes, rows),
        f"# {title(model)}\n",
        f"{notes.get('description') or _description(model)}\n",
        *(f"![Drawn by this model]({quote(file)})\n" for file in pictures),
        _use(model, notes),
        facts(model),
        about(notes),
        _results(rows),
    ]
    return "\n".join(part for part in parts if part)


def notes_of(model: Any) -> dict[str, Any]:
    """The notes of a model of several stages: those of the later stages take precedence."""
    found: dict[str, Any] = {}
    for stage in stages_of(model):
        found |= stage.notes
    return found


def _front_matter(model: Any, notes: Mapping[str, Any], rows: Sequence[Mapping]) -> str:
    task = _task(model)
    found: dict[str, Any] = {}
    licence = notes.get("licence")
    if licence:
        name = "-".join(str(licence).lower().split())
        found["license"] = name if name in LICENCES else "other"
        if name not in LICENCES:
            found["license_name"] = str(licence)
    found["library_name"] = LIBRARY
    found["pipeline_tag"] = task
    found["tags"] = ["matryoshka-diffusion", "diffusion", "keras", "tensorflow", task]
    top = levels_of(model)[-1]
    measured = [row for row in rows if row["subject"] == top]
    if measured:
        values = [
            {"type": row["measure"], "name": row["measure"], "value": row["value"]}
            for row in measured
        ]
        data = {"name": _line(notes.get("data") or "not noted"), "type": "other"}
        result = {"task": {"type": task}, "dataset": data, "metrics": values}
        found["model-index"] = [{"name": title(model), "results": [result]}]
    # JSON is YAML.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in found.items()]
    return "\n".join(["---", *lines, "---", ""])


def _task(model: Any) -> str:
    spec = stages_of(model)[0].unet.spec
    kind = "video" if LevelShape.parse(levels_of(model)[-1]).frames else "image"
    if spec.text_width or spec.pooled_width:
        return f"text-to-{kind}"
    if low_res_channels(spec):
        return f"image-to-{kind}"
    return "unconditional-image-generation" if kind == "image" else "other"


def title(model: Any) -> str:
    """What the model is called."""
    notes = notes_of(model)
    return _line(notes.get("title") or f"Matryoshka diffusion, {_sizes(model)}")


def _sizes(model: Any) -> str:
    names = levels_of(model)
    return f"{', '.join(names[:-1])} and {names[-1]} pixels" if names[1:] else f"{names[0]} pixels"


def _description(model: Any) -> str:
    spec = stages_of(model)[0].unet.spec
    of = "clips" if LevelShape.parse(levels_of(model)[-1]).frames else "pictures"
    by = [] if not (spec.text_width or spec.pooled_width) else ["text"]
    by += [f"{spec.num_classes} classes"] if spec.num_classes else []
    by += ["a smaller picture"] if low_res_channels(spec) else []
    return (
        f"Draws {of} of {_sizes(model)} together"
        + (f", conditioned on {' and '.join(by)}" if by else "")
        + ": a Matryoshka diffusion model ([arXiv 2310.15111](https://arxiv.org/abs/2310.15111))."
    )


def _use(model: Any, notes: Mapping[str, Any]) -> str:
    (given, word), top = _example(model, notes), levels_of(model)[-1]
    kind, stage = type(model).__name__, stages_of(model)[0]
    made = f"mdm.{kind}" if kind != "LatentDiffusion" else "mdm.latents.LatentDiffusion"
    found = (
        "## How to use it\n\nPATH is this directory, or `hf://USER/NAME` once it is published.\n\n"
        f'```python\nimport keras_mdm as mdm\n\nmodel = {made}.from_preset("PATH")\n'
        f'images = model.generate({given}, seed=0)["{top}"]  # uint8\n```\n\n'
        f"```\nkeras-mdm sample PATH{word}\n"
        "keras-mdm export PATH exported     # for TensorFlow Serving\n```\n"
    )
    identity = stage.text_encoder_identity
    if identity:
        place = ENCODERS.get(identity.get("name"), "not of keras-mdm; assign `model.text_encoder`")
        found += f"\nPrompts need the text encoder that the model was trained with: {place}.\n"
    return found


def _example(model: Any, notes: Mapping[str, Any]) -> tuple[str, str]:
    """Arguments of `generate`, and words of `keras-mdm sample`."""
    spec = stages_of(model)[0].unet.spec
    low = ", low_res=small_pictures" if low_res_channels(spec) else ""
    also = " --low-res SMALL.png" if low else ""
    if spec.text_width or spec.pooled_width:
        listed = notes.get("prompts")
        prompt = _line(listed[0]) if isinstance(listed, list) and listed else "a red apple"
        return f"[{json.dumps(prompt, ensure_ascii=False)}]{low}", f" {shlex.quote(prompt)}{also}"
    if spec.num_classes:
        names = stages_of(model)[0].class_names
        label = names[0] if names else 0
        return f"labels=[{label!r}]{low}", f" --label {shlex.quote(str(label))}{also}"
    return ("low_res=small_pictures", also) if low else ("num_images=4", "")


def facts(model: Any) -> str:
    """A section on levels, parameters, process and sampling."""
    stages = stages_of(model)
    weights = sum(stage.unet.count_params() for stage in stages)
    codec = getattr(model, "codec", None)
    weights += sum(math.prod(each.shape) for each in getattr(codec, "weights", []))
    rows = {"levels": ", ".join(levels_of(model)), "parameters": f"{weights:,}"}
    for number, stage in enumerate(stages, start=1):
        of = f", model {number}" if stages[1:] else ""
        process = stage.process
        schedules = {name: made.name for name, made in process.schedules.items()}
        rows |= {
            f"steps of training{of}": f"{stage.averages.age:,}",
            f"predicts{of}": process.prediction,
            f"schedule{of}": ", ".join(f"{k}: {v}" for k, v in schedules.items()),
            f"drawn with{of}": _pairs(stage.sampling) or "the defaults of keras-mdm",
        }
    first = stages[0]
    if first.text_encoder_identity:
        rows["text encoder"] = _pairs(first.text_encoder_identity)
    if first.class_names:
        listed = ", ".join(first.class_names[:_SHOWN_CLASSES])
        more = len(first.class_names) - _SHOWN_CLASSES
        rows["classes"] = listed + (f", and {more} more" if more > 0 else "")
    return (
        "\n".join(
            [
                "## The model\n",
                "|  |  |",
                "|---|---|",
                *(f"| {k} | {_cell(v)} |" for k, v in rows.items()),
            ]
        )
        + "\n"
    )


def about(notes: Mapping[str, Any]) -> str:
    """A section on data and licence."""
    found = ["## Data and licence\n"]
    found.append(f"- licence: {_line(notes.get('licence') or 'not noted')}")
    if "data" not in notes:
        found.append("- data: not noted")
    for name, value in notes.items():
        if name not in PLACED:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found.append(f"- {name}: {_line(text)}")
    return "\n".join(found) + "\n"


def _rows(metrics: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    rows = [] if metrics is None else metrics.get("rows") if isinstance(metrics, Mapping) else None
    keys = {"subject", "measure", "value"}
    if not isinstance(rows, list) or not all(isinstance(r, dict) and keys <= set(r) for r in rows):
        raise checks.error(
            "`metrics` must be a report of `evaluate`, read from its JSON",
            fix='pass json.loads(Path("report.json").read_text())',
            metrics=type(metrics).__name__,
        )
    return [row for row in rows if isinstance(row["value"], int | float)]


def _results(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    lines = [
        "## Results\n",
        "Measured by `keras-mdm evaluate`; the floor is the same measure of one half of the real "
        "pictures against the other.\n",
        "| of | measure | value | error | floor | drawn | real |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = (_number(row.get(name)) for name in ("value", "error", "floor", "drawn", "real"))
        lines.append(
            "| " + " | ".join([_cell(row["subject"]), _cell(row["measure"]), *numbers]) + " |"
        )
    return "\n".join(lines) + "\n"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) and math.isfinite(value) else ""


def _pairs(values: Mapping[str, Any]) -> str:
    shown = []
    for key, value in values.items():
        if isinstance(value, Mapping):  # by level
            value = " and ".join(f"{each} at {level}" for level, each in value.items())
        shown.append(f"{key} {value}")
    return ", ".join(shown)


def _line(text: Any) -> str:
    return " ".join(str(text).split())


def _cell(text: Any) -> str:
    return _line(text).replace("|", "\\|")
