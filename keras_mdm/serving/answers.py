"""What the answers of the API look like, for its OpenAPI description."""

from typing import Any

# Files of the page besides index.html.
PAGE_FILES = ("page.css", "page.js", "canvas.js")
_TEXT = {"type": "string"}
_PNG = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
_DETAIL = {"type": "object", "properties": {"detail": _TEXT}, "required": ["detail"]}
_FINISHED = {
    "images": {
        "type": "object",
        "additionalProperties": _PNG,
        "description": "pictures by level, ascending; clips as animated PNG",
    },
    "parameters": {"type": "object", "description": "what draws the same picture again"},
    "notes": {"type": "array", "items": _TEXT, "description": "such as that a prompt was cut"},
    "seconds": {
        "type": "object",
        "properties": {"waiting": {"type": "number"}, "drawing": {"type": "number"}},
    },
}
_STATE = {
    "id": _TEXT,
    "state": {"enum": ["waiting", "drawing", "done", "failed", "cancelled"]},
    "position": {"type": "integer", "description": "pictures before it, while it waits"},
    "progress": {
        "type": "object",
        "properties": {"done": {"type": "integer"}, "steps": {"type": "integer"}},
    },
    "preview": {"type": "object", "properties": {"level": _TEXT, "image": _PNG}},
    "detail": {**_TEXT, "description": "why there is no picture"},
    "status": {"type": "integer", "description": "HTTP status that says why"},
}

Responses = dict[int | str, dict[str, Any]]


def _json(description: str, properties: dict[str, Any] | None = None) -> dict[str, Any]:
    schema = {"type": "object", **({"properties": properties} if properties else {})}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _DETAIL}}}


_REFUSED: Responses = {
    400: _problem("not JSON in UTF-8"),
    401: _problem("no token, or another one"),
    413: _problem("too large"),
    415: _problem("not JSON"),
    422: _problem("something that this model or server does not do; one sentence says what"),
    429: _problem("too many wait; `Retry-After` says for how long"),
    503: _problem("the server is stopping"),
}
_DRAWN = _json("the picture", {"id": _TEXT, **_FINISHED})
_DRAWN["content"]["image/png"] = {"schema": {"type": "string", "format": "binary"}}
_GONE: Responses = {404: _problem("no such job, or forgotten")}

GENERATE: Responses = {200: _DRAWN, **_REFUSED, 500: _problem("the sampling failed")}
JOBS: Responses = {202: _json("the job", {k: _STATE[k] for k in ("id", "state", "position")})}
JOBS |= _REFUSED
JOB: Responses = {200: _json("the job", {**_STATE, **_FINISHED}), **_GONE}
CANCEL: Responses = {204: {"description": "cancelled"}, **_GONE}
MODEL: Responses = {200: _json("the model")}
_HEALTH = {"status": _TEXT, "waiting": {"type": "integer"}, "drawing": {"type": "integer"}}
HEALTH: Responses = {200: _json("well", _HEALTH), 503: _json("starting, or ended", _HEALTH)}
METRICS: Responses = {200: {"description": "Prometheus text", "content": {"text/plain": {}}}}
