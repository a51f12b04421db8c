"""Unpickles a PyTorch checkpoint without PyTorch and without running anything.

A pickle is a program that may name and call any function of any module. Here names are looked up
only in a small table of harmless stand-ins.
"""

import pickle
from typing import Any, BinaryIO

import numpy as np

from keras_mdm.interop.torch_limits import CopyBudget, Refusal, refusal

# Element types by name of a storage class or dtype. "bfloat16" has no NumPy type; its bits are the
# upper half of a float32's.
STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
    "UntypedStorage": "<u1",
}
DTYPES = {
    "float32": "<f4",
    "float": "<f4",
    "float64": "<f8",
    "double": "<f8",
    "float16": "<f2",
    "half": "<f2",
    "bfloat16": "bfloat16",
    "int64": "<i8",
    "long": "<i8",
    "int32": "<i4",
    "int": "<i4",
    "int16": "<i2",
    "int8": "<i1",
    "uint8": "<u1",
    "bool": "?",
}

# Modules of the official code's classes, in its old and new layout. Their objects hold the
# arguments of a training run, and become `Record`s.
OFFICIAL_MODULES = (
    "ml_mdm",
    "reader",
    "samplers",
    "models",
    "diffusion",
    "language_models",
    "config",
    "distributed",
    "generate_html",
    "helpers",
    "lr_scaler",
    "s3_helpers",
    "trainer",
    "utils",
    "clis",
)
# Files that PyTorch Lightning wrote, such as those of latent diffusion, name its callbacks. These
# become `Record`s as well.
LIGHTNING_MODULES = ("pytorch_lightning",)


# A tuple that holds one tuple twice, which again holds one twice, and so on, is small in the file
# but takes forever to compare or print; a deep one overflows the stack.
_MAX_NESTED, _MAX_DEPTH = 100_000, 64


class Record:
    """A stand-in for an object of an unavailable class: keeps its state and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Record":
        record = super().__new__(cls)
        record.arguments = args
        return record

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        slots = ()
        if isinstance(state, tuple) and len(state) == 2:  # (dict, slots)
            state, slots = state[0] or {}, state[1] or {}
        if isinstance(state, dict):
            self.__dict__.update({str(name): value for name, value in state.items()})
            self.__dict__.update({str(name): value for name, value in dict(slots).items()})
        else:
            self.state = state

    # Containers of unknown classes are filled item by item.
    def append(self, item: Any) -> None:
        self.__dict__.setdefault("items", []).append(item)

    def extend(self, items: Any) -> None:
        self.__dict__.setdefault("items", []).extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__.setdefault("entries", {})[key] = value

    def __repr__(self) -> str:
        # Names only, as a value may contain this object.
        return f"{type(self).__name__}({', '.join(self.__dict__)})"


class _Mapping(dict):
    """Stands in for an ordered dict; a state dict's has a state, the versions of modules."""

    def __setstate__(self, state: Any) -> None:
        pass


class _ScalarType:
    """Stands in for a pickled `numpy.dtype`: its code, and the byte order from its state."""

    def __init__(self, code: str = "f8", *_: Any):
        self.code, self.order = str(code), "="

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "=", "|"):
            self.order = state[1]

    def dtype(self) -> np.dtype:
        code = self.code.lstrip("<>=|")
        if len(code) != 2 or code[0] not in "fiub" or code[1] not in "1248":
            raise _refused(f"numpy.dtype({self.code!r})")
        return np.dtype(code).newbyteorder(self.order)


def _scalar(kind: _ScalarType, content: bytes | str = b"") -> Any:
    data = content.encode("latin1") if isinstance(content, str) else bytes(content)
    return np.frombuffer(data, kind.dtype(), count=1)[0].item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # Protocol 2 writes bytes as text; checkpoints do not use encoders otherwise.
    return text.encode("latin1" if encoding != "utf-8" else "utf-8")


def _rebuild(make_tensor):
    """PyTorch's functions that rebuild tensors, with `make_tensor` in their place."""

    def version_2(storage, offset, size, stride, *_):
        return make_tensor(storage, offset, size, stride)

    def version_3(storage, offset, size, stride, requires_grad, hooks, dtype, *_):
        return make_tensor(storage, offset, size, stride, dtype)

    def parameter(data, *_):
        return data

    return {
        ("torch._utils", "_rebuild_tensor"): version_2,
        ("torch._utils", "_rebuild_tensor_v2"): version_2,
        ("torch._utils", "_rebuild_tensor_v3"): version_3,
        ("torch._utils", "_rebuild_parameter"): parameter,
    }


def _harmless() -> dict[tuple[str, str], Any]:
    table = {
        ("collections", "OrderedDict"): _Mapping,
        ("argparse", "Namespace"): type("Namespace", (Record,), {}),
        ("_codecs", "encode"): _encode,
        ("numpy", "dtype"): _ScalarType,
        ("torch", "Size"): tuple,
        ("torch", "device"): type("device", (Record,), {}),
    }
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        table[module, "scalar"] = _scalar
    for name, code in STORAGES.items():
        table["torch", name] = table["torch.storage", name] = code
    table.update({("torch", name): ("dtype", code) for name, code in DTYPES.items()})
    for module in ("builtins", "__builtin__"):
        table.update(
            {(module, kind.__name__): kind for kind in (set, frozenset, list, dict, tuple, complex)}
        )
    return table


def _refused(name: str) -> Refusal:
    return refusal(
        "a checkpoint may only name tensors, plain values and the official code's own classes",
        fix="do not use this file unless you trust its author; nothing in it was run",
        name=name,
    )


class SafeUnpickler(pickle._Unpickler):
    """Unpickles with stand-ins only.

    It uses the pure-Python class, whose lookup cannot be bypassed through the extension registry. A
    checkpoint's pickle is small, as it does not contain the tensors.

    Args:
        file: the pickle.
        make_tensor: function (storage, offset, size, stride[, dtype]) -> tensor.
        make_storage: function (persistent id) -> storage.
    """

    def __init__(self, file: BinaryIO, make_tensor: Any, make_storage: Any):
        super().__init__(file, encoding="latin1")
        self._table = {**_harmless(), **_rebuild(make_tensor)}
        budget = CopyBudget()
        for names, made in self._table.items():
            if made in (set, frozenset, list, dict, _encode):
                self._table[names] = budget.counted(made)
            elif made is tuple:
                self._table[names] = budget.counted(lambda items=(): self._weighed(tuple(items)))
        self._make_storage = make_storage
        # By address of a tuple with tuples inside: the tuple itself, so that its address is not
        # reused, how many things it holds at any depth, and how deep it is.
        self._tuples: dict[int, tuple[tuple, int, int]] = {}

    def load(self) -> Any:
        """Unpickle.

        Returns:
            The object.

        Raises:
            Refusal: if the pickle is hostile.
            pickle.UnpicklingError: if it is damaged; it may raise other errors as well.
        """
        try:
            return super().load()
        except Refusal:
            raise
        except ValueError as problem:  # of numbers and versions
            raise pickle.UnpicklingError(str(problem)) from problem

    def find_class(self, module: str, name: str) -> Any:
        """Look up a name in the table; official classes and those of Lightning become `Record`s,
        others are refused."""
        if (module, name) in self._table:
            return self._table[module, name]
        known = (*OFFICIAL_MODULES, *LIGHTNING_MODULES)
        if module.split(".")[0] in known and name.isidentifier():
            return self._table.setdefault((module, name), type(name, (Record,), {}))
        raise _refused(f"{module}.{name}")

    def _weighed(self, made: tuple) -> tuple:
        inside = [self._tuples[id(item)] for item in made if id(item) in self._tuples]
        count = len(made) + sum(count for _, count, _ in inside)
        depth = 1 + max((depth for _, _, depth in inside), default=0)
        if count > _MAX_NESTED or depth > _MAX_DEPTH:
            raise refusal(
                "tuples of a checkpoint must be small",
                fix="do not use this file unless you trust its author; nothing in it was run",
                entries=count,
                depth=depth,
            )
        self._tuples[id(made)] = made, count, depth
        return made

    def _weigh_last(self, load: Any) -> None:
        load(self)
        self._weighed(self.stack[-1])

    # Opcodes that make tuples are followed by a check of the result.
    dispatch = dict(pickle._Unpickler.dispatch)
    for _code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3):
        dispatch[_code[0]] = lambda self, load=dispatch[_code[0]]: self._weigh_last(load)
    del _code

    def _refuse_bytearray(self) -> None:
        # It would be allocated before it is read, with any size.
        raise _refused("bytearray")

    dispatch[pickle.BYTEARRAY8[0]] = _refuse_bytearray

    def get_extension(self, code: int) -> None:
        """Refuse the extension registry."""
        raise _refused(f"extension {code}")

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage that a persistent id names."""
        return self._make_storage(pid)
