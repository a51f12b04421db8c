"""Python functions inside a tf.data pipeline that do not keep the process from ending.

A pipeline reads ahead in its own threads. A thread that waits for the interpreter during shutdown
waits for ever, and the shutdown waits for the thread. So at exit no new calls are admitted, and
running ones are waited for before the interpreter shuts down. Calls that do not end are left alone
together with their pipelines: the destructor of an iterator would wait for the call.
"""

import atexit
import ctypes
import gc
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

# Seconds without a call after which the pipelines count as quiet, and seconds after which to give
# up: well before a process that was told to end is commonly killed, after 30 seconds.
_QUIET, _PATIENCE = 0.2, 10.0


class _Gate:
    """Counts the running calls, and can be closed to new ones."""

    def __init__(self) -> None:
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
        """Admit no more calls, and wait for the running ones."""
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


def _leave() -> None:
    """At exit: keep pipelines and the interpreter from waiting for each other."""
    _gate.close()
    # Any other thread runs Python for a dataset, possibly one made elsewhere (`from_generator`).
    ours = {thread.ident for thread in threading.enumerate() if _is_ours(thread)}
    if not sys._current_frames().keys() - ours:
        return
    for found in gc.get_objects():
        if isinstance(found, tf.data.Iterator) or type(found).__name__ in _ITERATORS:
            # Never freed, so that its destructor never runs.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(found))


# Iterators of strategies that are not `tf.data.Iterator`.
_ITERATORS = ("OwnedMultiDeviceIterator",)


def _is_ours(thread: threading.Thread) -> bool:
    """Whether Python, rather than TensorFlow, started a thread."""
    return not isinstance(thread, threading._DummyThread)


_gate = _Gate()
atexit.register(_leave)


def call_python(
    function: Callable[..., Any], arguments: Sequence[tf.Tensor], dtypes: Any
) -> list[tf.Tensor]:
    """Call a Python function on tensors inside a pipeline, as `tf.numpy_function` does.

    Args:
        function: takes and returns NumPy values.
        arguments: its arguments.
        dtypes: the dtypes of its results.
    """
    return tf.numpy_function(lambda *args: _gate.call(function, *args), arguments, dtypes)
