"""Reads PyTorch checkpoints (zip archives) without PyTorch, memory-mapped."""

import io
import mmap
import os
import reprlib
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.interop.torch_limits import Refusal, refusal, too_large
from keras_mdm.interop.torch_pickle import SafeUnpickler
from keras_mdm.machine_faults import of_the_machine

_PART = 2**26  # bytes read at a time for the checksum
_MAX_PICKLE = 2**29
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, length of the name and of the extra field


class TorchFile:
    """The contents of a `torch.save` file.

    Tensors are views of the mapped file until they are copied. Opening a file takes no memory, and
    `release` frees the memory that reading took.

    Args:
        path: the file.

    Raises:
        ValueError: if the file does not exist, is not a zip archive (PyTorch before 1.6 wrote other
            files), is cut off, does not match its checksums, or its pickle names anything but
            tensors, plain values and the official code's own classes. Nothing in the file is run.

    Example:

    >>> items = TorchFile("vis_model_64x64.pth").items()
    >>> items["state_dict"]["conv_in.weight"].shape
    (256, 3, 3, 3)
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_file():
            raise checks.error(
                "the weights must be a file", fix="check the path", weights=str(path)
            )
        try:
            self._archive = zipfile.ZipFile(self.path)
            names = self._archive.namelist()
        except Exception as problem:
            raise self._fault(problem, "is not a whole zip archive") from None
        pickles = [name for name in names if name.split("/")[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise self._broken(f"holds {len(pickles)} entries data.pkl", "expected one")
        self._prefix = pickles[0].removesuffix("data.pkl")
        order = f"{self._prefix}byteorder"
        if order in names and self._entry(order) != b"little":
            raise self._broken("was written on a big-endian machine", "expected little-endian")
        with open(self.path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._storages: dict[str, np.ndarray] = {}
        self._converted: dict[int, np.ndarray] = {}

    def items(self) -> Any:
        """Return the saved object; tensors are read-only float or integer arrays."""
        try:
            # Read completely, or its checksum would not be compared.
            name = f"{self._prefix}data.pkl"
            if self._archive.getinfo(name).file_size > _MAX_PICKLE:
                raise self._broken("has a pickle of gigabytes", "tensors are not part of it")
            file = io.BytesIO(self._entry(name))
            return SafeUnpickler(file, self._tensor, self._storage).load()
        except Refusal:
            raise
        except Exception as problem:  # parsers of pickles and archives raise errors of all kinds
            raise self._fault(problem, "cannot be read") from None

    def release(self) -> None:
        """Tell the operating system that the pages read so far are no longer needed."""
        if hasattr(self._map, "madvise"):  # not on Windows
            self._map.madvise(mmap.MADV_DONTNEED)

    def _entry(self, name: str) -> bytes:
        """A whole entry of the archive, compared with its checksum."""
        try:
            return self._archive.read(name)
        except Exception as problem:
            raise self._fault(problem, "is damaged") from None

    def _fault(self, problem: Exception, what: str) -> Exception:
        """The error to raise for an error of a parser: the same if the machine is at fault."""
        if of_the_machine(problem):
            return problem
        return self._broken(what, f"{type(problem).__name__}: {problem}")

    def _broken(self, what: str, problem: Any) -> Refusal:
        return refusal(
            f"the weights must be a checkpoint of PyTorch 1.6 or later; this file {what}",
            fix="fetch the file again, or rewrite it with torch.save",
            weights=str(self.path),
            problem=str(problem),
        )

    def _storage(self, pid: Any) -> tuple[np.ndarray, str]:
        """(bytes, element type) of the storage that a persistent id names.

        The id also names the storage's original device; here all storages are read into main
        memory.
        """
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise self._broken("names an object that is not a storage", reprlib.repr(pid))
        code, key = pid[1], pid[2]
        if not isinstance(code, str) or not isinstance(key, str | int):
            raise self._broken("names a storage of an unknown type", reprlib.repr(pid))
        key = str(key)
        if key not in self._storages:
            self._storages[key] = self._bytes(f"{self._prefix}data/{key}")
        return self._storages[key], code

    def _bytes(self, name: str) -> np.ndarray:
        try:
            info = self._archive.getinfo(name)
        except KeyError:
            raise self._broken("lacks a storage", name) from None
        if info.compress_type != zipfile.ZIP_STORED:
            return np.frombuffer(self._entry(name), np.uint8)
        header = self._map[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
        if len(header) < _LOCAL_HEADER.size:
            raise self._broken("ends early", name)
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        if signature != b"PK\x03\x04" or start + info.file_size > len(self._map):
            raise self._broken("ends early", name)
        data = np.frombuffer(self._map, np.uint8, info.file_size, start)
        checksum = 0
        for begin in range(0, len(data), _PART):
            checksum = zlib.crc32(data[begin : begin + _PART], checksum)
            self.release()
        if checksum != info.CRC:
            raise self._broken(
                "holds a tensor that is damaged, or was written without checksums", name
            )
        return data

    def _tensor(self, storage, offset, size, stride, dtype=None) -> np.ndarray:
        data, code = storage
        code = dtype[1] if dtype is not None else code
        width = 2 if code == "bfloat16" else np.dtype(code).itemsize
        size, stride = tuple(size), tuple(stride)
        numbers = (*size, *stride, offset)
        if len(size) != len(stride) or any(not checks.is_int(n) or n < 0 for n in numbers):
            shown = f"{reprlib.repr(size)}, {reprlib.repr(stride)}"
            raise self._broken("holds a tensor of an impossible shape", shown)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if too_large(size, data.nbytes // width):
            raise self._broken("holds a tensor far larger than its storage", f"{size}, {stride}")
        if 0 not in size and (last + 1) * width > data.nbytes:
            raise self._broken(
                "holds a tensor that reaches beyond its storage", f"{size}, {stride}"
            )
        whole = self._values(data, code, width)
        if 0 in size:
            return np.zeros(size, whole.dtype)
        steps = [step * whole.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(whole[offset:], size, steps, writeable=False)

    def _values(self, data: np.ndarray, code: str, width: int) -> np.ndarray:
        data = data[: data.nbytes // width * width]
        if code != "bfloat16":
            return data.view(code)
        # Once per storage: thousands of tensors may show the same values.
        place = data.ctypes.data
        if place not in self._converted:
            self._converted[place] = (data.view("<u2").astype("<u4") << 16).view("<f4")
        return self._converted[place]
