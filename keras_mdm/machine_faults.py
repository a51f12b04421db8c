"""Faults of the machine, not of a file: memory, descriptors or space used up, disk or network
gone."""

import errno
import os

# By number: no memory, descriptors or space left ...
_USED_UP = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOBUFS)
# ... or a disk or a network that is gone.
_GONE = {
    *(errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN),
    *(errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN),
    *(errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.EPIPE),
}
# The same from TensorFlow's file systems; by name, as importing it here would take seconds.
_OF_TENSORFLOW = {
    *("ResourceExhaustedError", "UnavailableError", "DeadlineExceededError", "AbortedError"),
    *("CancelledError", "UnauthenticatedError"),
}


def of_the_machine(problem: BaseException) -> bool:
    """Whether an exception raised while reading a file is the machine's fault, not the file's.

    Args:
        problem: the exception.

    Example:

    >>> of_the_machine(OSError(errno.EMFILE, "too many")), of_the_machine(ValueError("no JPEG"))
    (True, False)
    """
    if isinstance(problem, MemoryError | ImportError) or not isinstance(problem, Exception):
        return True
    if isinstance(problem, OSError) and problem.errno is not None:
        return problem.errno in _GONE or problem.errno in _USED_UP
    if type(problem).__name__ in _OF_TENSORFLOW:
        return True
    # C++ libraries report words only.
    words = (*map(os.strerror, _USED_UP), "can't start new thread")
    return isinstance(problem, RuntimeError) and any(word in str(problem) for word in words)
