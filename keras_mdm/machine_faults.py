"""What is no file's fault: memory, descriptors or space that are used up, a disk or a network that
is gone."""

import errno
import os

# What no record can help, by number: no memory, descriptors or space left ...
_USED_UP = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOBUFS)
# ... or a disk or a network that is gone.
_GONE = {
    *(errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN),
    *(errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN),
    *(errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.EPIPE),
}
# The same as TensorFlow's file systems say it; by name, as importing it here would take seconds.
_OF_TENSORFLOW = {
    *("ResourceExhaustedError", "UnavailableError", "DeadlineExceededError", "AbortedError"),
    *("CancelledError", "UnauthenticatedError"),
}


def of_the_machine(problem: BaseException) -> bool:
    """Whether something that was raised while a file was read is not the file's fault.

    Args:
        problem: what was raised.

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
    # Libraries in C++ have words only.
    words = (*map(os.strerror, _USED_UP), "can't start new thread")
    return isinstance(problem, RuntimeError) and any(word in str(problem) for word in words)
