"""Python functions inside of a tf.data pipeline, which let the process end.

A pipeline reads ahead in threads of its own. One that waits for the interpreter while it shuts down
waits for ever, and the shutdown waits for the thread. So at exit no new call is let in, and those
under way are waited for; then the interpreter goes. Calls that do not end are left alone, and their
pipelines with them: the destructor of an iterator would wait for the call.
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

# How long no call must have come before the pipelines count as quiet, and when to give up: early
# enough for those who kill what has not ended 30 seconds after a signal.
_QUIET, _PATIENCE = 0.2, 10.0


class _Gate:
    """Counts the calls that are under way, and can be closed."""

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
        """Let nobody in any more, and wait for those who are."""
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
    """At exit: have no pipeline wait for Python, or the interpreter for a pipeline."""
    _gate.close()
    # Also those of datasets that were made elsewhere, such as by `from_generator`.
    ours = {thread.ident for thread in threading.enumerate() if _is_ours(thread)}
    if not sys._current_frames().keys() - ours:
        return
    for found in gc.get_objects():
        if isinstance(found, tf.data.Iterator) or type(found).__name__ in _ITERATORS:
            # Never freed, so that its destructor is not run.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(found))


# What a strategy iterates with; not all are `tf.data.Iterator`.
_ITERATORS = ("OwnedMultiDeviceIterator",)


def _is_ours(thread: threading.Thread) -> bool:
    """Whether Python has started a thread, rather than TensorFlow."""
    return not isinstance(thread, threading._DummyThread)


_gate = _Gate()
atexit.register(_leave)


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
