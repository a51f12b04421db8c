"""The packages of the extra `serve`."""

import contextlib
from collections.abc import Iterator

from keras_mdm import checks


@contextlib.contextmanager
def needed() -> Iterator[None]:
    """Import packages of the extra inside this context.

    Raises:
        ValueError: if one is missing, with the command that installs it.
    """
    try:
        yield
    except ImportError as missing:
        raise checks.error(
            "serving needs the packages fastapi, uvicorn and prometheus-client",
            fix="run `pip install fastapi uvicorn prometheus-client`, which is what the extra "
            "`serve` of keras-mdm installs",
            missing=missing.name,
        ) from missing


def check_installed() -> None:
    """Raise unless the packages are installed."""
    with needed():
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
