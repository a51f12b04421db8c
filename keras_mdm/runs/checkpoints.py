"""Checkpoints: one directory each, complete or absent, verified before use."""

import hashlib
import json
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from keras_mdm import checks
from keras_mdm.files import TEMPORARY_PREFIX, fsync_path

_NAME = re.compile(r"step-(\d{7,})")
_CHUNK = 1 << 22
# Marks a checkpoint after which no step was finite.
SUSPECT = ".suspect"


def step_of(path: str | Path) -> int:
    """Step of a checkpoint, read from the name of its directory."""
    match = _NAME.fullmatch(Path(path).name)
    if match is None:
        raise checks.error(
            "a checkpoint's directory must be called step-<seven digits or more>",
            fix="pass what `save` or `newest_valid` returned",
            path=str(path),
        )
    return int(match.group(1))


def save(
    directory: str | Path,
    step: int,
    arrays: Mapping[str, Mapping[str, Any]],
    state: Mapping[str, Any],
) -> Path:
    """Write one checkpoint.

    It is written under a temporary name, synced to the disk and then renamed, so a process killed
    at any moment leaves a complete checkpoint or none. Values are converted to arrays and written
    one at a time: variables may be passed as they are, and are never all copied at once.

    Args:
        directory: where the checkpoints of a run or phase are.
        step: number of optimizer steps made.
        arrays: {group: {name: array, variable or number}}; each group becomes `<group>.npz`.
        state: JSON values: phase, seed and any others; "step" is added.

    Returns:
        The checkpoint, `directory/step-0000500`. An older one of the same step is replaced.

    Example:

    ```python
    groups = {"model": {v.path: v for v in network.weights}, "optimizer": optimizer.state()}
    save("runs/x/checkpoints/phase-1", 500, groups, {"phase": 1, "seed": 0})
    ```
    """
    directory = Path(directory)
    # Not the run's own directory, which must not be made again if it was moved.
    for folder in (directory.parent, directory):
        folder.mkdir(exist_ok=True)
    remove_leftovers(directory)
    name = f"step-{checks.integer('step', step, minimum=0):07d}"
    temporary = directory / f"{TEMPORARY_PREFIX}{name}"
    temporary.mkdir()
    files = {f"{group}.npz": _write_npz(temporary, group, arrays[group]) for group in arrays}
    text = json.dumps({**state, "step": int(step)}, indent=2).encode()
    files["state.json"] = _write(temporary / "state.json", text)
    _write(temporary / "manifest.json", json.dumps({"files": files}, indent=2).encode())
    fsync_path(temporary)
    target = directory / name
    if target.exists():
        # A non-empty directory cannot be replaced; its name is free only for an instant.
        os.rename(target, directory / f"{TEMPORARY_PREFIX}replaced-{name}")
    os.rename(temporary, target)
    fsync_path(directory)
    remove_leftovers(directory)
    return target


def load(path: str | Path) -> tuple[dict[str, "ArrayFile"], dict[str, Any]]:
    """Open a checkpoint: return {group: arrays, each read when needed} and the state."""
    path = Path(path)
    state = json.loads((path / "state.json").read_text())
    return {file.stem: ArrayFile(file) for file in sorted(path.glob("*.npz"))}, state


def newest_valid(directory: str | Path) -> Path | None:
    """The newest checkpoint whose files have the sizes and sha256 of its manifest, or `None`.

    Damaged ones (half copied, bad disk) are passed over with a warning that names them.
    """
    for path in reversed(list_checkpoints(directory)):
        problem = find_damage(path)
        if problem is None:
            return path
        warnings.warn(f"Skipping the damaged checkpoint {path}: {problem}", stacklevel=2)
    return None


def list_checkpoints(directory: str | Path) -> list[Path]:
    """All checkpoints of a directory, complete or not, by ascending step."""
    directory = Path(directory)
    found = directory.iterdir() if directory.is_dir() else ()
    return sorted((path for path in found if _NAME.fullmatch(path.name)), key=step_of)


def find_damage(path: str | Path, *, contents: bool = True) -> str | None:
    """What is wrong with a checkpoint, or `None`; without `contents` only sizes are compared."""
    path = Path(path)
    try:
        if list(path.glob(SUSPECT)):
            return "the steps after it were not finite"
        files = json.loads((path / "manifest.json").read_text())["files"]
        for name, record in files.items():
            size = (path / name).stat().st_size
            if size != record["bytes"]:
                return f"{name} has {size} bytes instead of {record['bytes']}"
            if contents and _sha256(path / name) != record["sha256"]:
                return f"{name} does not have the sha256 of the manifest"
        step = json.loads((path / "state.json").read_text())["step"]
        if step != step_of(path):
            return f"it holds step {step}, its name says {step_of(path)}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        return f"{type(problem).__name__}: {problem}"
    return None


def mark_suspect(path: str | Path) -> None:
    """Mark a checkpoint whose weights gave no finite step, to be passed over like damaged ones.

    Args:
        path: the checkpoint.
    """
    (Path(path) / SUSPECT).touch()
    fsync_path(path)


def prune(
    directory: str | Path,
    keep_last: int,
    keep_every: int | None = None,
    *,
    keep: Collection[int] = (),
) -> list[Path]:
    """Delete old checkpoints.

    Args:
        directory: where the checkpoints are.
        keep_last: number of the newest complete ones to keep. Damaged ones are neither counted nor
            deleted, in case somebody wants to look at them.
        keep_every: also keep those whose step is a multiple of this.
        keep: also keep those of these steps.

    Returns:
        The deleted checkpoints.
    """
    checks.integer("keep_last", keep_last, minimum=1)
    if keep_every is not None:
        checks.integer("keep_every", keep_every, minimum=1)
    whole = [p for p in list_checkpoints(directory) if find_damage(p, contents=False) is None]
    deleted = [
        path
        for path in whole[:-keep_last]
        if (keep_every is None or step_of(path) % keep_every != 0) and step_of(path) not in keep
    ]
    for path in deleted:
        # Renamed first: a process killed meanwhile must not leave half a checkpoint.
        doomed = path.with_name(f"{TEMPORARY_PREFIX}deleted-{path.name}")
        os.rename(path, doomed)
        shutil.rmtree(doomed)
    return deleted


def remove_leftovers(directory: str | Path) -> None:
    """Delete what interrupted calls of `save` and `prune` left behind."""
    for path in Path(directory).glob(f"{TEMPORARY_PREFIX}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


class ArrayFile(Mapping):
    """A read-only view of an `.npz` file that reads one array at a time.

    Args:
        path: the file.
    """

    def __init__(self, path: str | Path):
        # Kept open: reading the directory of names for every array would be quadratic.
        self._archive = zipfile.ZipFile(path)
        names = self._archive.namelist()
        self._names = {name.removesuffix(".npy"): name for name in names}

    def __getitem__(self, name: str) -> np.ndarray:
        with self._archive.open(self._names[name]) as member:
            return np.lib.format.read_array(member, allow_pickle=False)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Shape of an array, from its header."""
        with self._archive.open(self._names[name]) as member:
            version = np.lib.format.read_magic(member)
            header = np.lib.format.read_array_header_1_0
            if version > (1, 0):
                header = np.lib.format.read_array_header_2_0
            return header(member)[0]


class _HashingFile:
    """The few methods of a file that `zipfile` needs to write a stream; hashes the bytes."""

    def __init__(self, file: BinaryIO):
        self._file, self.sha256, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.bytes += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _write_npz(directory: Path, group: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    with open(directory / f"{group}.npz", "wb") as file:
        stream = _HashingFile(file)
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for name, value in arrays.items():
                array = np.asarray(value)
                if array.dtype.kind not in "biuf":
                    raise checks.error(
                        "checkpoints hold arrays of booleans, integers and floats only",
                        fix="convert it first",
                        **{"array": f"{group}/{name}", "dtype": array.dtype},
                    )
                # A fixed date: equal arrays give equal files.
                entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                with archive.open(entry, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": stream.bytes, "sha256": stream.sha256.hexdigest()}


def _write(path: Path, content: bytes) -> dict[str, Any]:
    path.write_bytes(content)
    fsync_path(path)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
