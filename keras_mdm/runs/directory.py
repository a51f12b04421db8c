"""A run's directory: where its files are, and with which arguments and data it was started."""

import hashlib
import importlib.metadata
import json
import os
import platform
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from keras_mdm import checks
from keras_mdm.files import read_json, write_atomically

LOCK = ".lock"
# What `run.json` has to hold.
_KEYS = {"phases": list}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect the numbers."""
    found = {"python": platform.python_version()}
    for name in ("keras-mdm", "tensorflow", "keras", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


class RunDirectory:
    """Paths inside the directory of one run, and its `run.json`.

    Args:
        path: the directory; nothing is created before `start`.

    Example:

    ```python
    run = RunDirectory("runs/emoji").start(vars(arguments), phases=[{"levels": ["64"], ...}])
    run.checkpoints(1)  # runs/emoji/checkpoints/phase-1
    ```
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock: IO | None = None
        self._writing = threading.RLock()

    @property
    def file(self) -> Path:
        """`run.json`."""
        return self.path / "run.json"

    @property
    def logs(self) -> Path:
        """Directory of the TensorBoard events, which TensorBoard shows as a run of this name."""
        return self.path / "logs" / self.path.resolve().name

    @property
    def samples(self) -> Path:
        """Directory of the pictures drawn during training."""
        return self.path / "samples"

    @property
    def model(self) -> Path:
        """The finished model, `model.keras`."""
        return self.path / "model.keras"

    def phase_model(self, phase: int) -> Path:
        """The model at the end of a phase, such as `phase-1.keras`; phases count from 1."""
        return self.path / f"phase-{checks.integer('phase', phase, minimum=1)}.keras"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out while the body of the `with` statement runs.

        The lock belongs to the process and is released if that is killed. On platforms without such
        locks, no process is kept out.

        Raises:
            ValueError: if another process is training here.
        """
        try:
            import fcntl
        except ImportError:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / LOCK, "a+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                stream.seek(0)
                raise checks.error(
                    "only one process may train in a run directory",
                    fix="wait for the other one, or pass another directory",
                    run_dir=str(self.path),
                    process=stream.read().strip() or "unknown",
                ) from None
            stream.truncate(0)
            stream.write(str(os.getpid()))
            stream.flush()
            self._lock = stream
            try:
                yield
            finally:
                self._lock = None

    def require_present(self) -> None:
        """Raise if the directory was moved or removed since it was locked: files written now would
        look like a separate run, or end up in a new run of the same name.

        Raises:
            ValueError: if it was moved or removed.
        """
        if self._lock is None:
            return
        held = os.fstat(self._lock.fileno())
        try:
            here = os.stat(self.path / LOCK)
        except OSError:
            here = None
        if here is not None and (here.st_dev, here.st_ino) == (held.st_dev, held.st_ino):
            return
        now = _path_of(self._lock)
        if held.st_nlink and now is not None:
            raise checks.error(
                "the directory of a run must not be moved during training",
                fix=f"start the run again with run_dir={str(now.parent)!r}: it continues from its "
                "newest checkpoint",
                run_dir=str(self.path),
                moved_to=str(now.parent),
            )
        raise checks.error(
            "the directory of a run must not be removed during training",
            fix="end the process before removing its directory, and start the run again",
            run_dir=str(self.path),
        )

    def checkpoints(self, phase: int) -> Path:
        """Directory of the checkpoints of a phase; phases count from 1."""
        return self.path / "checkpoints" / f"phase-{checks.integer('phase', phase, minimum=1)}"

    def read(self) -> dict[str, Any] | None:
        """Content of `run.json`, or `None` if the run has not been started."""
        if not self.file.exists():
            return None
        fix = (
            "copy it back from a backup, or start over with fresh=True (--fresh), which "
            "moves the run aside: its checkpoints can still be loaded with keras_mdm.load"
        )
        return read_json(self.file, what="the record of a run", fix=fix, keys=_KEYS)

    def set_aside(self) -> Path | None:
        """Move an earlier run out of the way, to the first free name such as `runs/x.1`.

        Returns:
            Where it is now; `None` if there was none.

        Raises:
            ValueError: if another process is training here.
        """
        if not self._holds_a_run():
            return None
        path = self.path.resolve()  # the target of a link
        number = 1
        while (target := path.with_name(f"{path.name}.{number}")).exists():
            number += 1
        with self.locked():  # another process may be training in it
            path.rename(target)
        path.mkdir()  # links still point to it
        return target

    def _holds_a_run(self) -> bool:
        """Whether anything of a run is here, `run.json` or not."""
        names = ("run.json", "checkpoints", "logs", "samples")
        if any((self.path / name).exists() for name in names):
            return True
        return self.path.is_dir() and any(self.path.glob("*.keras"))

    def start(
        self,
        arguments: Mapping[str, Any],
        phases: Sequence[Mapping[str, Any]],
        data: Mapping[str, Any] | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> "RunDirectory":
        """Begin the run, or continue it if the data is still the same; `keras_mdm.runs.ledger.plan`
        checks the phases.

        `run.json` keeps the first start under "arguments" and "versions", and every later one in
        the list "continued".

        Args:
            arguments: arguments of the command; those that are not JSON are stored as text.
            phases: one record per phase.
            data: what identifies the data; not compared if `None`.
            sampling: how to draw from the run; of the latest start that said so.

        Returns:
            The directory itself.

        Raises:
            ValueError: if the directory belongs to a run with other data.
        """
        record = as_json({"arguments": dict(arguments), "versions": versions()})
        phases = as_json(list(phases))
        content = self.read()
        if content is None:
            content = {**record, "phases": phases, "made_of": {}, "continued": []}
        else:
            content["phases"] = phases
            content.setdefault("continued", []).append(record)
        if data is not None:
            self._compare(content, "data", data)
        if sampling is not None:
            content["sampling"] = as_json(dict(sampling))
        self._write(content)
        return self

    def require_data(self, data: Mapping[str, Any] | None) -> None:
        """Raise if the run was started with other data; writes nothing.

        Args:
            data: as in `start`.
        """
        if data is not None:
            self.require_known("data", data)

    def forget_from(self, number: int) -> None:
        """Move the checkpoints of a phase and of those after it aside, to begin it again.

        Args:
            number: number of the phase.
        """
        content = self.read()
        if content is None:  # nothing has begun
            return
        for later in range(number, len(content.get("phases", ())) + 1):
            directory, place = self.checkpoints(later), 1
            if not directory.exists():
                continue
            while (target := directory.with_name(f"old-{directory.name}.{place}")).exists():
                place += 1
            directory.rename(target)
        with self._writing:
            content["ledger"] = {
                k: v for k, v in content.get("ledger", {}).items() if int(k) < number
            }
            self._outdate(content, number)
            self._write(content)

    def require_known(self, kind: str, description: Mapping[str, Any]) -> None:
        """Compare like `require_same`, with the same arguments, but write nothing."""
        content = self.read()
        if content is not None:
            self._compare(content, kind, description)

    # The ledger, see `keras_mdm.runs.ledger`. The thread that writes checkpoints notes them.

    def phase_record(self, number: int) -> dict[str, Any] | None:
        """The ledger's record of a phase."""
        return (self.read() or {}).get("ledger", {}).get(str(number))

    def note_phase(self, number: int, record: Mapping[str, Any]) -> None:
        """Put the record of a phase into the ledger, and remove those of later phases."""
        with self._writing:
            content = self.read()
            ledger = content.get("ledger", {})
            known = {k: v for k, v in ledger.items() if int(k) <= number}
            self._write({**content, "ledger": {**known, str(number): as_json(dict(record))}})

    def note_checkpoint(self, number: int, step: int, *, done: bool) -> None:
        """Note that a checkpoint of a phase was written, and whether the phase ends with it."""
        with self._writing:
            record = {**(self.phase_record(number) or {}), "steps": step}
            self.note_phase(number, {**record, "state": "done" if done else "running"})

    def note(self, name: str, record: Mapping[str, Any]) -> None:
        """Append to one of the lists of `run.json`, such as "changes" or "validation"."""
        with self._writing:
            content = self.read()
            content.setdefault(name, []).append(as_json(dict(record)))
            self._write(content)

    def note_model(self, file: Path) -> None:
        """Note size and SHA-256 of a model that was written here."""
        record = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        with self._writing:
            content = self.read()
            content.setdefault("models", {})[file.name] = record
            self._write(content)

    def outdate_models(self, number: int) -> None:
        """Note that training goes on from a phase: `model.keras`, and the models of that phase and
        of those after it, are older than what comes until they are written again.

        Args:
            number: number of the phase.
        """
        with self._writing:
            content = self.read()
            self._outdate(content, number)
            self._write(content)

    def _outdate(self, content: dict[str, Any], number: int) -> None:
        models = content.setdefault("models", {})
        for file in (self.model, *self.path.glob("phase-*.keras")):
            found = file.stem.removeprefix("phase-")
            later = file == self.model or (found.isdecimal() and int(found) >= number)
            if later and file.is_file():  # a list that was shortened left some behind
                models[file.name] = {"outdated": True}

    def is_outdated(self, file: Path) -> bool:
        """Whether a model here is older than the newest checkpoints, see `outdate_models`."""
        known = (self.read() or {}).get("models", {}).get(file.name)
        return bool(known and known.get("outdated"))

    def holds(self, file: Path) -> bool:
        """Whether a model is here, and not outdated."""
        return file.is_file() and not self.is_outdated(file)

    def model_is_whole(self, file: Path | None = None) -> bool:
        """Whether a model here, `model.keras` unless given, is that of the end, and unchanged; for
        runs of earlier versions, whether it is a zip archive."""
        file = self.model if file is None else file
        if not self.holds(file):
            return False
        known = (self.read() or {}).get("models", {}).get(file.name)
        if known is None:
            return zipfile.is_zipfile(file)
        if file.stat().st_size != known["bytes"]:
            return False
        return _sha256(file) == known["sha256"]

    def require_same(self, kind: str, description: Mapping[str, Any]) -> None:
        """Note a part of the run, or compare it with what was noted before.

        Args:
            kind: the part described, such as "level 64".
            description: what identifies it; values that are not JSON are compared as text.

        Raises:
            ValueError: naming every difference.
        """
        content = self.read()
        if self._compare(content, kind, description):
            self._write(content)

    def _compare(self, content: dict[str, Any], kind: str, description: Mapping[str, Any]) -> bool:
        """Compare with the content, or note in it what is new; return whether it changed."""
        known, now = content.setdefault("made_of", {}), as_json(description)
        if kind in known:
            self._refuse(kind, known[kind], now)
            return False
        known[kind] = now
        return True

    def _refuse(self, kind: str, before: Any, now: Any) -> None:
        """Raise if there are differences, naming all."""
        before, now = flat(before), flat(now)
        differences = [
            f"{key}: {before.get(key)!r} before, {now.get(key)!r} now"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]
        if differences:
            raise checks.error(
                f"a run must be continued with the {kind} it was started with",
                fix="restore what differs, choose another directory, or start over with fresh=True "
                "(--fresh of a recipe), which moves the earlier run aside",
                run_dir=str(self.path),
                differences=differences,
            )

    def _write(self, content: Mapping[str, Any]) -> None:
        try:
            # A directory that was moved a moment ago must not be made again.
            write_atomically(self.file, json.dumps(content, indent=2) + "\n", make_directory=False)
        except FileNotFoundError:
            self.require_present()
            raise


def _path_of(file: IO) -> Path | None:
    """Where an open file is now, if the system tells."""
    try:
        return Path(os.readlink(f"/proc/self/fd/{file.fileno()}"))
    except OSError:
        return None


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def as_json(content: Any) -> Any:
    """The content as read back from JSON: tuples become lists, paths become text."""
    return json.loads(json.dumps(content, default=str))


def flat(content: Any, path: str = "") -> dict[str, Any]:
    """Nested JSON as {path: value}."""
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    else:
        return {path: content}
    found: dict[str, Any] = {}
    for key, value in items:
        found |= flat(value, f"{path}.{key}" if path else str(key))
    return found or {path: content}
