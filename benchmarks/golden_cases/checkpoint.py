"""The file format of the released checkpoints."""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from golden_cases.case import Case, Check
from keras_mdm.interop.torch_reader import TorchFile


def check(case: Case) -> Iterator[Check]:
    """Compare the contents of a checkpoint: its numbers, and its weights if stored beside it."""
    items = TorchFile(case.folder / case.settings["file"]).items()
    for name, value in case.settings["items"].items():
        same = name in items and float(items[name]) == value
        yield Check("checkpoint", name, 0.0 if same else np.inf, 0.0)
    name = case.settings["weights_equal_to"].rsplit(" of ", 1)[1].removesuffix(".npz")
    other, state = Case(case.folder, name), items["state_dict"]
    if "state_sha256" in other.settings:  # stored as a hash only
        same = state_hash(state) == other.settings["state_sha256"]
        yield Check("checkpoint", "weights", 0.0 if same else np.inf, 0.0)
        return
    same = list(state) == list(other.state)
    yield Check("checkpoint", "keys", 0.0 if same else np.inf, 0.0)
    for key, value in other.state.items():
        same = key in state and np.array_equal(state[key], value)
        yield Check("checkpoint", key, 0.0 if same else np.inf, 0.0)


def state_hash(state: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over key and little-endian float32 of every tensor, in order."""
    found = hashlib.sha256()
    for key, value in state.items():
        found.update(f"state/{key}".encode() + value.astype("<f4").tobytes())
    return found.hexdigest()
