"""A run's directory: where its files are, and what it was started with."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from keras_mdm import checks
from keras_mdm.files import write_atomically

LOCK = ".lock"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide about the numbers."""
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

    @property
    def file(self) -> Path:
        """`run.json`."""
        return self.path / "run.json"

    @property
    def logs(self) -> Path:
        """Directory of the TensorBoard events."""
        return self.path / "logs"

    @property
    def samples(self) -> Path:
        """Directory of the pictures drawn during training."""
        return self.path / "samples"

    @property
    def model(self) -> Path:
        """The finished model, `model.keras`."""
        return self.path / "model.keras"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out while the body of the `with` statement runs.

        The lock belongs to the process: one that is killed releases it. Where the platform has no
        such locks nothing is kept out.

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
        """Raise if the directory was removed since it was locked: what is written now would look
        like a run of its own, or fall into a new one of the same name.

        Raises:
            ValueError: if it was.
        """
        if self._lock is not None and not os.fstat(self._lock.fileno()).st_nlink:
            raise checks.error(
                "the directory of a run must stay while it is trained",
                fix="end the process before its directory is removed, and start the run again",
                run_dir=str(self.path),
            )

    def checkpoints(self, phase: int) -> Path:
        """Directory of the checkpoints of a phase; phases count from 1."""
        return self.path / "checkpoints" / f"phase-{checks.integer('phase', phase, minimum=1)}"

    def read(self) -> dict[str, Any] | None:
        """Content of `run.json`, or `None` if the run has not been started."""
        return json.loads(self.file.read_text()) if self.file.exists() else None

    def set_aside(self) -> Path | None:
        """Move an earlier run out of the way, to the first free name such as `runs/x.1`.

        Returns:
            Where it is now; `None` if there was none.

        Raises:
            ValueError: if another process is training here.
        """
        if not self.file.exists():
            return None
        number = 1
        while (target := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        with self.locked():  # not from under another process
            self.path.rename(target)
        return target

    def start(
        self,
        arguments: Mapping[str, Any],
        phases: Sequence[Mapping[str, Any]],
        data: Mapping[str, Any] | None = None,
    ) -> "RunDirectory":
        """Begin the run, or continue it if phases and data are still the same.

        `run.json` keeps the first start under "arguments" and "versions", and every later one in
        the list "continued".

        Args:
            arguments: what the command was given; what is not JSON is stored as its text.
            phases: one record per phase. Phases that have been trained cannot change under a run.
            data: what tells the data from others; not compared if it is not said.

        Returns:
            The directory itself.

        Raises:
            ValueError: the directory belongs to a run with other phases or data.
        """
        record = _as_json({"arguments": dict(arguments), "versions": versions()})
        phases = _as_json(list(phases))
        content = self.read()
        if content is None:
            content = {**record, "phases": phases, "made_of": {}, "continued": []}
        else:
            before = _as_now(content["phases"], phases)
            self._refuse("phases", _numbered(before), _numbered(phases))
            content["continued"].append(record)
        if data is not None:
            self._compare(content, "data", data)
        self._write(content)
        return self

    def require_same(self, kind: str, description: Mapping[str, Any]) -> None:
        """Note what the run is made of, or compare it with what was noted before.

        Args:
            kind: what is described, such as "level 64".
            description: what tells it from others; what is not JSON is compared as its text.

        Raises:
            ValueError: naming every difference.
        """
        content = self.read()
        if self._compare(content, kind, description):
            self._write(content)

    def _compare(self, content: dict[str, Any], kind: str, description: Mapping[str, Any]) -> bool:
        """Whether something new was noted in the content."""
        known, now = content.setdefault("made_of", {}), _as_json(description)
        if kind in known:
            self._refuse(kind, known[kind], now)
            return False
        known[kind] = now
        return True

    def _refuse(self, kind: str, before: Any, now: Any) -> None:
        """Raise if there are differences, naming all."""
        before, now = _flat(before), _flat(now)
        differences = [
            f"{key}: {before.get(key)!r} before, {now.get(key)!r} now"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]
        if differences:
            raise checks.error(
                f"a run must be continued with the {kind} it was started with",
                fix="restore what differs, choose another directory, or begin anew with fresh=True "
                "(--fresh of a recipe), which moves the earlier run aside",
                run_dir=str(self.path),
                differences=differences,
            )

    def _write(self, content: Mapping[str, Any]) -> None:
        write_atomically(self.file, json.dumps(content, indent=2) + "\n")


def _numbered(phases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Phases by their name for the reader, and how many there are."""
    return {"phases": len(phases)} | {f"phase {n}": row for n, row in enumerate(phases, start=1)}


def _as_now(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[dict]:
    """Phases of a run without what is not said of them any more: in earlier versions they always
    named how data is downsampled, which is the model's to say."""
    left_out = {n for n, phase in enumerate(now) if phase.get("downsample", "") is None}
    return [
        {**phase, "downsample": None} if n in left_out else phase for n, phase in enumerate(before)
    ]


def _as_json(content: Any) -> Any:
    """What a reader would see: tuples become lists, paths become text."""
    return json.loads(json.dumps(content, default=str))


def _flat(content: Any, path: str = "") -> dict[str, Any]:
    """Nested JSON as {path: value}."""
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    else:
        return {path: content}
    found: dict[str, Any] = {}
    for key, value in items:
        found |= _flat(value, f"{path}.{key}" if path else str(key))
    return found or {path: content}
