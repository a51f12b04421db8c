"""Runs the application under uvicorn: addresses, tokens, signals, a clean end."""

import contextlib
import ipaddress
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from keras_mdm import checks
from keras_mdm.serving.app import create_app
from keras_mdm.serving.extra import needed
from keras_mdm.serving.guard import Guard
from keras_mdm.serving.limits import Limits
from keras_mdm.serving.metrics import Metrics
from keras_mdm.serving.painting import Painter
from keras_mdm.serving.queue import SamplingQueue

# Seconds that answers have to reach their clients once sampling has ended.
_LAST_ANSWERS = 5
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def check_address(host: str, token: str | None, *, open_to_all: bool = False) -> None:
    """Raise unless a server may listen at an address.

    Args:
        host: name or number of an address of this machine.
        token: what clients have to send, or `None`.
        open_to_all: whether others may draw without a token.

    Raises:
        ValueError: if others could reach it and no token is asked for.
    """
    if token is not None and (not token or not token.isascii() or not token.isprintable()):
        raise checks.error(
            "a token must be printable ASCII, at least one character",
            fix="pass for example the output of `openssl rand -hex 16`",
            characters=len(token),
        )
    if token is None and not open_to_all and not is_loopback(host):
        raise checks.error(
            "a server that other machines can reach needs a token",
            fix="pass --token TOKEN or set KERAS_MDM_TOKEN, listen on 127.0.0.1, or pass "
            "--no-token to let everybody draw",
            host=host,
        )


def is_loopback(host: str) -> bool:
    """Whether an address is that of this machine for itself.

    Example:

    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, False)
    """
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


def run(
    painter: Painter,
    limits: Limits,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    open_to_all: bool = False,
    warm_up: str = "plain",
    card: str = "",
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> None:
    """Serve until SIGTERM or Ctrl-C: then what waits is refused (503), and the running batch may
    end within the limits' grace period.

    Args:
        painter: what draws.
        limits: of the server.
        host: where to listen.
        port: likewise; 0 for any that is free.
        token: what clients have to send, or `None`.
        open_to_all: let others draw without a token.
        warm_up: see `SamplingQueue.start`.
        card: text about the model.
        say: called with what the operator should know.

    Raises:
        ValueError: if a package is missing, the address must not be used or is in use, or the model
            cannot draw, for example because its text encoder is not on this machine.
    """
    check_address(host, token, open_to_all=open_to_all)
    with needed():
        import uvicorn
    metrics = Metrics(limits.batch)
    queue = SamplingQueue(painter, limits, metrics.observe)
    only_here = token is None and is_loopback(host)
    guarded = Guard(
        create_app(queue, metrics, card=card),
        body=limits.body,
        token=token,
        hosts={*_LOOPBACK, _in_address(host)} if only_here else None,
        answered=metrics.answered,
    )
    listening = _listen(host, port)
    address = f"http://{_in_address(host)}:{listening.getsockname()[1]}"
    config = uvicorn.Config(
        guarded,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=int(limits.grace) + _LAST_ANSWERS,
    )

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            # Not in the handler itself, which may have interrupted a holder of the lock.
            threading.Thread(target=queue.close).start()
            super().handle_exit(sig, frame)

    # uvicorn raises the signals that it has handled once more at its end: by then they are heard.
    before = {sig: signal.signal(sig, lambda *heard: None) for sig in _SIGNALS}
    queue.start(warm_up)
    say(f"serving at {address} (Ctrl-C ends it)")
    server = Server(config)

    def watch() -> None:
        if queue.wait_ready():
            say("ready: the first graphs are traced")
        queue.join()  # a server that cannot draw ends
        server.should_exit = True

    threading.Thread(target=watch, daemon=True).start()
    try:
        server.run(sockets=[listening])
    finally:
        queue.close()
        queue.join(limits.grace + _LAST_ANSWERS)
        listening.close()
        for sig, handler in before.items():
            signal.signal(sig, handler)
        say("stopped")
    if queue.failure is not None:
        raise queue.failure


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens, or one clear error."""
    plain = host.strip("[]")
    family: Any = socket.AF_INET6 if ":" in plain else socket.AF_INET
    try:
        return socket.create_server((plain, port), family=family, backlog=256)
    except (OSError, OverflowError) as problem:
        raise checks.error(
            "the address must be one of this machine, and its port free",
            fix="pass another --port, or 0 for any that is free",
            host=host,
            port=port,
            problem=str(problem),
        ) from problem
