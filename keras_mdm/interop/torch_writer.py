"""Writes tensors in the layout of `torch.save`, without PyTorch."""

import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_mdm.files import write_atomically

# torch aligns storages in the file to this, so that it can map them.
_ALIGNMENT = 64


class _Global:
    """A name for the pickle to look up when it is read; it is not imported here."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class _Storage:
    def __init__(self, key: str, size: int):
        self.key, self.size = key, size


class _Tensor:
    def __init__(self, storage: _Storage, shape: tuple[int, ...]):
        self.storage, self.shape = storage, shape


class _OrderedDict:
    """An empty ordered dict: the hooks of a tensor."""


_FLOAT_STORAGE = _Global("torch", "FloatStorage")
_REBUILD = _Global("torch._utils", "_rebuild_tensor_v2")
_ORDERED_DICT = _Global("collections", "OrderedDict")


class _Pickler(pickle._Pickler):
    """Writes the few stand-ins above as what PyTorch looks for."""

    dispatch = dict(pickle._Pickler.dispatch)

    def persistent_id(self, value):
        if isinstance(value, _Storage):
            return ("storage", _FLOAT_STORAGE, value.key, "cpu", value.size)
        return None

    def save_name(self, value: _Global):
        line = f"{value.module}\n{value.name}\n"
        self.write(pickle.GLOBAL + line.encode("ascii"))
        self.memoize(value)

    def save_hooks(self, value: _OrderedDict):
        self.save(_ORDERED_DICT)
        self.save(())
        self.write(pickle.REDUCE)

    def save_tensor(self, value: _Tensor):
        strides, step = [], 1
        for size in reversed(value.shape):
            strides.insert(0, step)
            step *= size
        self.save(_REBUILD)
        self.save((value.storage, 0, value.shape, tuple(strides), False, _OrderedDict()))
        self.write(pickle.REDUCE)

    dispatch[_Global] = save_name
    dispatch[_OrderedDict] = save_hooks
    dispatch[_Tensor] = save_tensor


def write_state_dict(state: Mapping[str, np.ndarray], path: str | os.PathLike) -> Path:
    """Write `{"state_dict": state}` as a checkpoint that PyTorch, and the official code, load.

    Args:
        state: arrays by key; kept in this order, as float32.
        path: the file; an old one is replaced only once the new one is whole.

    Returns:
        The path.

    Example:

    >>> write_state_dict({"conv_in.bias": np.zeros(32, "float32")}, "weights.pth")
    PosixPath('weights.pth')
    """
    tensors = {}
    for key, (name, value) in enumerate(state.items()):
        size = int(np.prod(np.shape(value)))
        tensors[name] = _Tensor(_Storage(str(key), size), tuple(int(n) for n in np.shape(value)))
    content = io.BytesIO()
    _Pickler(content, protocol=2).dump({"state_dict": tensors})

    def write(target: Path) -> None:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            archive.writestr(_member("data.pkl"), content.getvalue())
            archive.writestr(_member("byteorder"), b"little")
            for key, value in enumerate(state.values()):
                data = np.ascontiguousarray(value, "<f4")
                info = _member(f"data/{key}")
                info.extra = _padding(archive.fp.tell() + 30 + len(info.filename))
                info.file_size = data.nbytes
                with archive.open(info, "w") as file:
                    file.write(memoryview(data).cast("B") if data.size else b"")
            archive.writestr(_member("version"), b"3\n")

    return write_atomically(path, write)


def _member(name: str) -> zipfile.ZipInfo:
    # A fixed date: equal weights give equal files.
    return zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0))


def _padding(start: int) -> bytes:
    """An extra field after which the content begins at a multiple of the alignment."""
    length = -(start + 4) % _ALIGNMENT
    return b"FB" + length.to_bytes(2, "little") + b"Z" * length
