"""What a server lets its clients ask for."""

import dataclasses
from typing import Any

from keras_mdm import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a server.

    Args:
        steps: the most sampling steps of a picture; 100 or the model's own number unless given,
            whichever is more.
        prompt: the most characters of a prompt.
        pixels: the most pixels of a picture that is sent.
        body: the most bytes of a request.
        queue: the most requests that wait; those beyond are refused.
        batch: the most pictures that are drawn together.
        samplers: samplers that clients may choose besides the model's own. Each takes a graph of
            its own, which is traced when it is first used.
        patience: seconds for which nobody may ask for a job before it is given up.
        kept: the most finished jobs whose pictures can be fetched.
        grace: seconds that the running batch has to end when the server is stopped.

    Raises:
        ValueError: if a limit is out of range.

    Example:

    >>> Limits(queue=8).queue
    8
    """

    steps: int | None = None
    prompt: int = 2_000
    pixels: int = 16_000_000
    body: int = 8_000_000
    queue: int = 64
    batch: int = 8
    samplers: tuple[str, ...] = ()
    patience: float = 30.0
    kept: int = 64
    grace: float = 10.0

    def __post_init__(self) -> None:
        for name in ("prompt", "pixels", "body", "queue", "batch", "kept"):
            checks.integer(name, getattr(self, name), minimum=1)
        if self.steps is not None:
            checks.integer("steps", self.steps, minimum=1)
        checks.real("patience", self.patience, minimum=0.0)
        checks.real("grace", self.grace, minimum=0.0)

    def described(self) -> dict[str, Any]:
        """The limits that clients have to know."""
        return {name: getattr(self, name) for name in ("prompt", "pixels", "body", "queue")}


class Refused(Exception):
    """A request that is not carried out.

    Args:
        status: of HTTP.
        sentence: what must hold, what arrived, what to do.
        retry_after: seconds after which to try again, if that may help.
    """

    def __init__(self, status: int, sentence: object, retry_after: float | None = None):
        super().__init__(str(sentence))
        self.status, self.retry_after = status, retry_after
