"""Who may send what, before any of it is read: hosts, tokens, sizes. An ASGI middleware."""

import hmac
import json
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from keras_mdm import checks

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# What anyone may see: the page holds nothing, and machines ask whether the server is well.
OPEN = frozenset({"/", "/page.css", "/page.js", "/canvas.js", "/health"})

# Times the limit that are read and thrown away before the answer to a request that is too large.
_DRAINED = 8


class Guard:
    """Refuses requests to other hosts (421), without the token (401) and too large ones (413).

    Bodies are read whole before they are passed on, so they are never larger than the limit.

    Args:
        app: the application behind it.
        body: the most bytes of a request.
        token: what clients have to send as `Authorization: Bearer TOKEN`; `None` for none.
        hosts: names under which the server answers; any unless given. On a loopback address
            without a token, this keeps pages of other sites out, which may have a name that points
            here.
        answered: called with the status of every answer.
    """

    def __init__(
        self,
        app: Application,
        *,
        body: int,
        token: str | None = None,
        hosts: Collection[str] | None = None,
        answered: Callable[[int], None] = lambda status: None,
    ):
        self._app, self._body, self._hosts, self._answered = app, body, hosts, answered
        self._token = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answered(message["status"])
            await send(message)

        headers = {name.lower(): value for name, value in scope["headers"]}
        host = _name(headers.get(b"host", b"").decode("latin-1"))
        if self._hosts is not None and host not in self._hosts:
            await _refuse(
                counted,
                421,
                checks.error(
                    "a server without a token answers to names of this machine only",
                    fix=f"open it as {sorted(self._hosts)[0]}, or start it with --token",
                    host=host[:80],
                ),
            )
            return
        given = headers.get(b"authorization", b"")
        if self._token is not None and scope["path"] not in OPEN:
            if not hmac.compare_digest(given, self._token):
                await _refuse(
                    counted,
                    401,
                    checks.error(
                        "this server wants a token",
                        fix="send the header `Authorization: Bearer TOKEN`",
                        authorization="another one" if given else None,
                    ),
                    (b"www-authenticate", b"Bearer"),
                )
                return
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
            if size <= self._body:
                parts.append(message.get("body", b""))
            elif size > _DRAINED * self._body:  # a client that has not heard of limits
                break
        if size > self._body:
            # Only now: a client that is still sending would not read the answer.
            problem = checks.error(
                f"a request must have at most {self._body} bytes",
                fix="send less, or smaller pictures",
                bytes=f"{size} or more" if more else size,
            )
            await _refuse(counted, 413, problem, (b"connection", b"close"))
            return
        whole: list[Message] = [{"type": "http.request", "body": b"".join(parts)}]

        async def replayed() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, replayed, counted)


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()


async def _refuse(send: Send, status: int, sentence: object, *headers: tuple[bytes, bytes]) -> None:
    content = json.dumps({"detail": str(sentence)}).encode()
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": [*fields, *headers]})
    await send({"type": "http.response.body", "body": content})
