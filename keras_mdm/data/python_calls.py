"""Python functions inside of a tf.data pipeline, which let the process end.

A pipeline reads ahead in threads of its own. One that waits for the interpreter while it shuts down
waits for ever, and the shutdown waits for the thread. So at exit no new call is let in, and those
under way are waited for; then the interpreter goes.
"""

import atexit
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

# How long no call must have come before the pipelines count as quiet, and when to give up.
_QUIET, _PATIENCE = 0.2, 30.0


class _Gate:
    """Counts the calls that are under way, and can be closed."""

    def __init__(self):
        self._lock = threading.Lock()
        self._running, self._last, self._closed = 0, 0.0, False

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        with self._lock:
            self._last = time.monotonic()
            if self._closed:
                raise RuntimeError("the process is ending")
            self._running += 1
        try:
            return function(*args)
        finally:
            with self._lock:
                self._running -= 1

    def close(self) -> None:
        with self._lock:
            if not self._last:
                return  # no pipeline ever called
            self._closed = True
        give_up = time.monotonic() + _PATIENCE
        while time.monotonic() < give_up:
            time.sleep(_QUIET / 4)
            with self._lock:
                if not self._running and time.monotonic() - self._last > _QUIET:
                    return


_gate = _Gate()
atexit.register(_gate.close)


def call_python(
    function: Callable[..., Any], arguments: Sequence[tf.Tensor], dtypes: Any
) -> list[tf.Tensor]:
    """Call a Python function on tensors inside of a pipeline, as `tf.numpy_function` does.

    Args:
        function: takes and returns NumPy values.
        arguments: its arguments.
        dtypes: of what it returns.
    """
    return tf.numpy_function(lambda *args: _gate.call(function, *args), arguments, dtypes)
