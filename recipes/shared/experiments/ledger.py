"""The results of experiments: a record for each (experiment, variant, seed, checkpoint)."""

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

KEY = ("experiment", "variant", "seed", "checkpoint")


class Ledger:
    """JSON lines in one file, replaced as a whole by every new record.

    Args:
        path: the file, which need not exist.

    Raises:
        ValueError: if a line is not a record.
    """

    def __init__(self, path: Path):
        self.path = path
        self._records: dict[tuple, dict[str, Any]] = {}
        lines = path.read_text().splitlines() if path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                self._records[_key(record)] = record
            except (ValueError, KeyError, TypeError) as problem:
                raise ValueError(
                    f"every line of {path} must be a record with {', '.join(KEY)}. Received: line "
                    f"{number}, {line[:60]!r}. To fix it: remove the line; it is measured again"
                ) from problem

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._records.values())

    def __contains__(self, key: tuple) -> bool:
        return key in self._records

    def of(self, experiment: str) -> list[dict[str, Any]]:
        """The records of an experiment, in the order in which they were made."""
        return [record for record in self if record["experiment"] == experiment]

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a record, on disk when this returns; one with the same key is kept as it is."""
        if _key(record) in self._records:
            return
        self._records[_key(record)] = dict(record)
        lines = "".join(f"{json.dumps(each, sort_keys=True)}\n" for each in self)
        write(self.path, lines)


def _key(record: Mapping[str, Any]) -> tuple:
    return tuple(record[name] for name in KEY)


def write(path: Path, text: str) -> None:
    """Write a file that is either the old or the new one, whenever the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        with open(temporary, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
