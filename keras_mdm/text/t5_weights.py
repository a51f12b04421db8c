"""A folder of Hugging Face files with a T5 model: checked as a whole, read tensor by tensor."""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from keras_mdm import checks
from keras_mdm.text import safetensors_header
from keras_mdm.text.t5_network import T5Config, tensor_shapes

CONFIG, VOCABULARY = "config.json", "spiece.model"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

# Types as the files name them, and as they are read. NumPy has no bfloat16.
TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}

# Bytes of every tensor that go into the fingerprint of a folder's weights.
FINGERPRINT_BYTES = 4096

# Elements that are read at a time: the memory that reading needs besides the weights themselves.
PART = 2**21


class T5Folder:
    """The files of a T5 model, with all their faults in one error.

    Only headers are read before `parts` is called. PyTorch is not needed.

    Args:
        folder: folder with config.json, spiece.model and model.safetensors, or the shards that
            model.safetensors.index.json names.

    Raises:
        ValueError: if anything is missing, cut off, or of another shape; lists all of it.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise checks.error(
                "the text encoder must be a folder of Hugging Face files",
                fix="download for example google/flan-t5-xl, and pass its folder",
                folder=str(folder),
            )
        problems: list[str] = []
        self.config = self._read_config(problems)
        if not (self.folder / VOCABULARY).is_file():
            problems.append(f"{VOCABULARY} is missing")
        self._places: dict[str, safetensors_header.Place] = {}
        for file in self._weight_files(problems):
            self._read_header(file, problems)
        if self.config is not None and self._places:
            problems += self._wrong_tensors()
        if problems:
            raise checks.error(
                "the folder must hold a whole T5 model",
                fix=f"download {CONFIG}, {VOCABULARY} and all *.safetensors again",
                folder=str(folder),
                problems=problems,
            )

    def _read_config(self, problems: list[str]) -> T5Config | None:
        file = self.folder / CONFIG
        if not file.is_file():
            problems.append(f"{CONFIG} is missing")
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(content, Mapping):
                return T5Config.from_json(content)
            problems.append(f"{CONFIG} holds no fields")
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            problems.append(f"{CONFIG} is not JSON")
        except ValueError as wrong:
            problems.append(str(wrong))
        return None

    def _weight_files(self, problems: list[str]) -> list[Path]:
        index = self.folder / INDEX
        if (self.folder / SINGLE).is_file() or not index.is_file():
            files = [self.folder / SINGLE]
        else:
            try:
                names = json.loads(index.read_text())["weight_map"].values()
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
                problems.append(f"{INDEX} has no weight_map")
                return []
            names = sorted(set(map(str, names)))
            outside = [name for name in names if Path(name).name != name]
            if outside:
                problems.append(f"{INDEX} names files of other folders: {outside[:3]}")
                return []
            files = [self.folder / name for name in names]
        missing = [file.name for file in files if not file.is_file()]
        problems += [f"{name} is missing" for name in missing]
        if missing and any(self.folder.glob("*.bin")):
            problems.append("*.bin files are not read, only *.safetensors")
        return [file for file in files if file.name not in missing]

    def _read_header(self, file: Path, problems: list[str]) -> None:
        places, wrong = safetensors_header.read_header(file)
        twice = sorted(places.keys() & self._places.keys())
        problems += [*wrong, *(f"tensor {name} is in several files" for name in twice)]
        self._places |= places

    def _wrong_tensors(self) -> Iterator[str]:
        """Tensors that are missing or have another shape. Files that hold only an encoder may name
        its embedding after the encoder."""
        layers = self.config.num_layers
        if layers > len(self._places):  # names of 10 million layers would take minutes
            yield f"{CONFIG} has {layers:,} layers, the files {len(self._places):,} tensors"
            return
        alias = "encoder.embed_tokens.weight"
        if alias in self._places:
            self._places.setdefault("shared.weight", self._places[alias])
        for name, shape in tensor_shapes(self.config).items():
            if name not in self._places:
                yield f"tensor {name} is missing"
                continue
            place = self._places[name]
            if place.shape != shape:
                yield f"tensor {name} has shape {place.shape} instead of {shape}"
            if place.kind not in TYPES:
                yield f"tensor {name} is of type {place.kind}, not one of {', '.join(TYPES)}"

    @property
    def vocabulary(self) -> bytes:
        """The content of spiece.model."""
        return (self.folder / VOCABULARY).read_bytes()

    def parts(self, name: str) -> Iterator[np.ndarray]:
        """Read a tensor piece by piece, as flat float32 arrays.

        It is read, not mapped: pages of a mapping would count as memory until they are dropped.

        Raises:
            ValueError: if a number is not finite.
        """
        place = self._places[name]
        kind, size, width = place.kind, math.prod(place.shape), np.dtype(TYPES[place.kind]).itemsize
        for begin in range(0, size, PART):
            count = min(PART, size - begin)
            first = place.offset + begin * width
            value = np.fromfile(place.file, TYPES[kind], count, offset=first)
            if kind == "BF16":
                value = (value.astype("<u4") << 16).view("<f4")
            with np.errstate(over="ignore"):
                value = value.astype("float32", copy=False)
            if not np.isfinite(value).all():
                raise checks.error(
                    "the text encoder's weights must be finite",
                    fix=f"download {place.file.name} again",
                    tensor=name,
                    file=str(place.file),
                )
            yield value

    def fingerprint(self) -> str:
        """Return a SHA-256 of the vocabulary, the configuration, and the beginning of every tensor.

        Hashing all 5 GB of flan-t5-xl would take longer than encoding a prompt, and two trainings
        of one architecture differ in every tensor.
        """
        found = hashlib.sha256(self.vocabulary)
        found.update(repr(self.config).encode())
        for name in tensor_shapes(self.config):
            place = self._places[name]
            found.update(f"{name} {place.kind} {place.shape}".encode())
            with open(place.file, "rb") as stream:
                stream.seek(place.offset)
                size = math.prod(place.shape) * np.dtype(TYPES[place.kind]).itemsize
                found.update(stream.read(min(size, FINGERPRINT_BYTES)))
        return found.hexdigest()
