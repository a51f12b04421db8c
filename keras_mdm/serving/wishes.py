"""What a client asks for: read from JSON, checked, and described for OpenAPI by the same table."""

import base64
import binascii
import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.data.pictures.files import open_picture, to_channels
from keras_mdm.data.pictures.rule import as_pixels
from keras_mdm.data.skipping import Unusable
from keras_mdm.serving.limits import Limits, Refused

# Longest piece of what arrived that an error repeats.
_SHOWN = 80


@dataclasses.dataclass(frozen=True)
class Wish:
    """One picture to draw; names and meanings as in `generate`, `None` for what was not given.

    Args:
        prompt: what to draw.
        negative_prompt: what to guide away from.
        label: the class, by number or name.
        seed: of the noise.
        steps: number of steps.
        sampler: name of the sampler.
        guidance_scale: a number, or one by level.
        level: the highest level to draw.
        init_image: picture to change, uint8 `(H, W, C)`.
        strength: share of the steps that are taken from it.
        mask: where it is redrawn, uint8 `(H, W)`; not 0.
    """

    prompt: str | None = None
    negative_prompt: str | None = None
    label: int | str | None = None
    seed: int | None = None
    steps: int | None = None
    sampler: str | None = None
    guidance_scale: float | dict[str, float] | None = None
    level: str | None = None
    init_image: np.ndarray | None = None
    strength: float | None = None
    mask: np.ndarray | None = None


FIELDS = tuple(field.name for field in dataclasses.fields(Wish))
_PICTURE = {"type": "string", "contentEncoding": "base64"}
# The JSON types of every field, and what it means.
_SCHEMAS: dict[str, dict[str, Any]] = {
    "prompt": {"type": "string", "description": "what to draw"},
    "negative_prompt": {"type": "string", "description": "what to guide away from"},
    "label": {"type": ["integer", "string"], "description": "the class, by number or name"},
    "seed": {"type": "integer", "description": "equal seeds give equal pictures; random if absent"},
    "steps": {"type": "integer", "description": "number of sampling steps"},
    "sampler": {"type": "string", "description": "name of the sampler"},
    "guidance_scale": {
        "type": ["number", "object"],
        "additionalProperties": {"type": "number"},
        "description": "how strongly to follow the prompt; or a number for every level by name",
    },
    "level": {"type": "string", "description": "the highest level to draw"},
    "init_image": {**_PICTURE, "description": "a picture file to change"},
    "strength": {"type": "number", "description": "how much of it changes, from 0 to 1"},
    "mask": {
        **_PICTURE,
        "description": "a picture file of the same form, light where the picture is redrawn",
    },
}
_TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "string": ("a text", lambda value: isinstance(value, str)),
    "integer": ("a whole number", checks.is_int),
    "number": ("a finite number", checks.is_real),
    "object": ("an object", lambda value: isinstance(value, dict)),
}


def schema(fields: Collection[str], defaults: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """JSON schema of a request.

    Args:
        fields: names of the fields that the model takes.
        defaults: what holds for those that are not given, by name.
        limits: of the server.
    """
    found = {}
    for name in FIELDS:
        if name in fields:
            found[name] = dict(_SCHEMAS[name])
            if name in defaults:
                found[name]["default"] = defaults[name]
            if name in ("prompt", "negative_prompt"):
                found[name]["maxLength"] = limits.prompt
    return {"type": "object", "properties": found, "additionalProperties": False}


def read(body: bytes, fields: Collection[str], limits: Limits, channels: int = 3) -> Wish:
    """Read a request.

    Args:
        body: JSON, an object.
        fields: names of the fields that the model takes.
        limits: of the server.
        channels: of the model's pictures.

    Raises:
        Refused: if it is not JSON (400), or not an object of these fields and their types, or a
            text or picture is too large (422).
    """
    given = _object(body)
    try:
        checks.known_keys("request", given, fields)
        for name, value in given.items():
            _check_type(name, value)
        given = {name: value for name, value in given.items() if value is not None}
        for name in ("prompt", "negative_prompt", "label", "sampler", "level"):
            if isinstance(given.get(name), str):
                _check_text(name, given[name], limits.prompt)
        if "seed" in given:
            checks.seed(given["seed"])
        if "init_image" in given:
            given["init_image"] = _picture("init_image", given["init_image"], limits, channels)
        if "mask" in given:
            given["mask"] = _picture("mask", given["mask"], limits, 1)[..., 0] // 128
    except ValueError as problem:
        raise Refused(422, problem) from problem
    return Wish(**given)


def _object(body: bytes) -> dict[str, Any]:
    """The object in a body."""
    try:
        given = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as problem:
        raise Refused(
            400,
            checks.error(
                "a request must be JSON in UTF-8",
                fix="encode it as UTF-8",
                byte=body[problem.start],
                position=problem.start,
            ),
        ) from problem
    except (json.JSONDecodeError, RecursionError) as problem:
        raise Refused(
            400,
            checks.error(
                "a request must be JSON",
                fix='send for example {"seed": 0}',
                body=_short(body.decode("utf-8")),
                problem=str(problem),
            ),
        ) from problem
    if not isinstance(given, dict):
        raise Refused(
            422,
            checks.error(
                "a request must be a JSON object",
                fix='send for example {"seed": 0}',
                body=_short(given),
            ),
        )
    return given


def _check_type(name: str, value: Any) -> None:
    kinds = _SCHEMAS[name]["type"]
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if value is not None and not any(_TYPES[kind][1](value) for kind in kinds):
        raise checks.error(
            f"`{name}` must be {' or '.join(_TYPES[kind][0] for kind in kinds)}",
            fix="send a JSON value of that type, or leave it out",
            **{name: _short(value)},
        )


def _check_text(name: str, text: str, longest: int) -> None:
    if len(text) > longest:
        raise checks.error(
            f"`{name}` must have at most {longest} characters",
            fix="shorten it",
            characters=len(text),
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as problem:
        raise checks.error(
            f"`{name}` must be a text of whole characters",
            fix="send both halves of a surrogate pair, or plain UTF-8",
            position=problem.start,
        ) from problem


def _picture(name: str, value: str, limits: Limits, channels: int) -> np.ndarray:
    """A picture file in base64 as uint8 (H, W, channels)."""
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as problem:
        raise checks.error(
            f"`{name}` must be a picture file in base64",
            fix="encode the bytes of a PNG or JPEG file, without a prefix",
            **{name: _short(value)},
        ) from problem
    try:
        return as_pixels(to_channels(open_picture(data, limits.pixels), channels))
    except Exception as problem:
        if not isinstance(problem, Unusable | OSError | ValueError | SyntaxError):
            raise
        raise checks.error(
            f"`{name}` must be a picture file",
            fix="send a PNG or JPEG file",
            problem=str(problem),
            bytes=len(data),
        ) from problem


def _short(value: Any) -> Any:
    """A value that an error can repeat."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= _SHOWN:
        return value
    return f"{text[:_SHOWN]}..."
