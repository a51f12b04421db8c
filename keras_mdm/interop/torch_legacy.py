"""Reads files of PyTorch before 1.6: several pickles, then the bytes of the tensors."""

import io
import os
import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm.interop.torch_limits import Refusal, refusal, too_large
from keras_mdm.interop.torch_pickle import SafeUnpickler
from keras_mdm.machine_faults import of_the_machine

_MAGIC = 0x1950A86A20F9469CFC6C


def read_legacy(path: str | os.PathLike) -> Any:
    """Return the contents of an old `torch.save` file, tensors as arrays. Nothing in it is run.

    Args:
        path: the file.

    Raises:
        ValueError: if the file is incomplete or of another kind, or its pickles name anything but
            tensors and plain values.

    Example:

    >>> state = read_legacy("efficientnet-lite0-57934424.pth")
    >>> state["_fc.weight"].shape
    (1000, 1280)
    """
    if not Path(path).is_file():
        raise _broken(path, "there is no such file")
    content = Path(path).read_bytes()
    storages: dict[str, np.ndarray | None] = {}

    def storage(pid: Any) -> tuple[str, str]:
        kind, code, key, *_ = pid
        known = isinstance(code, str) and code != "bfloat16" and isinstance(key, str | int)
        if kind != "storage" or not known:
            raise _broken(path, f"a storage of an unknown type, {reprlib.repr(pid)}")
        storages.setdefault(str(key), None)
        return str(key), code

    def tensor(held: tuple[str, str], offset: int, size: Any, stride: Any, *_: Any) -> Any:
        key, code = held
        data = storages[key]
        if data is None:  # in the first pass: the bytes come after the pickles
            return None
        values, size, stride = data.view(code), tuple(size), tuple(stride)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        beyond = min((offset, *size, *stride)) < 0 or (0 not in size and last >= values.size)
        if beyond or too_large(size, values.size):
            raise _broken(path, f"a tensor that reaches beyond its storage, {size}, {stride}")
        width = values.itemsize
        # Not copied: thousands of tensors may show the same few bytes.
        return np.lib.stride_tricks.as_strided(
            values[offset:], size, [step * width for step in stride], writeable=False
        )

    file = io.BytesIO(content)

    def load() -> Any:
        return SafeUnpickler(file, tensor, storage).load()

    try:
        if load() != _MAGIC:
            raise _broken(path, "another number at its start")
        load(), load()  # format version, sizes of the writer's number types
        begin = file.tell()
        load()  # to find the end of the pickle, and the storages
        keys = [str(key) for key in load()]
        codes = _codes(content[begin:])
        for key in keys:
            count = int(np.frombuffer(file.read(8), "<i8", 1)[0])
            width = np.dtype(codes[key]).itemsize
            data = file.read(count * width)
            if len(data) != count * width:
                raise _broken(path, "its end before the last tensor")
            storages[key] = np.frombuffer(data, np.uint8)
        file.seek(begin)
        return load()
    except Refusal:
        raise
    except Exception as problem:  # pickles raise errors of all kinds
        if of_the_machine(problem):
            raise
        raise _broken(path, f"{type(problem).__name__}: {problem}") from None


def _codes(pickled: bytes) -> dict[str, str]:
    """Element type by key of the storage."""
    found: dict[str, str] = {}

    def storage(pid: Any) -> None:
        found[str(pid[2])] = pid[1]

    SafeUnpickler(io.BytesIO(pickled), lambda *_: None, storage).load()
    return found


def _broken(path: str | os.PathLike, problem: str) -> Refusal:
    return refusal(
        "the file must be a whole checkpoint of PyTorch before 1.6",
        fix="fetch it again",
        file=str(path),
        problem=problem,
    )
