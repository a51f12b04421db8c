"""Keeps TensorFlow's start-up messages off the terminal."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


@contextlib.contextmanager
def quiet_start(level: str = "3") -> Iterator[None]:
    """Import TensorFlow, and modules that build on it, inside this context.

    It sets `TF_CPP_MIN_LOG_LEVEL`, unless the user has. TensorFlow's C++ code prints some messages
    before it reads the variable, so the stderr of the process is set aside as well, and shown if
    the import fails. Nothing happens if the user set the variable to 0, which asks for all
    messages, or if TensorFlow is already imported.

    Args:
        level: "2" leaves errors, "3" only what ends the process.

    Example:

    >>> with quiet_start():
    ...     import tensorflow as tf
    """
    if os.environ.setdefault(LOG_LEVEL, level) == "0" or "tensorflow" in sys.modules:
        yield
        return
    sys.stderr.flush()
    try:
        stderr = os.dup(2)
    except OSError:  # a process without one
        yield
        return
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(stderr, 2)
            messages.seek(0)
            os.write(2, messages.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
