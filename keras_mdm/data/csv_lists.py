"""Tables that this package writes beside shards; errors name the damaged line."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from keras_mdm import checks
from keras_mdm.files import write_atomically


def read_csv(
    path: Path, header: Sequence[str], *, what: str, fix: str, text: Sequence[str] = ()
) -> list[list[str]]:
    """Read a table that `write_csv` wrote; names of files need not be UTF-8.

    Args:
        path: the file.
        header: names of its columns.
        what: what to call the table in the error.
        fix: how to repair a damaged table.
        text: columns that people read and that must be UTF-8.

    Returns:
        The rows.

    Raises:
        ValueError: if the table is damaged; names the file and the line.
    """
    rows, wrong = [], "it is empty"
    places = [header.index(name) for name in text]
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        table = csv.reader(file)
        try:
            for row in table:
                if table.line_num == 1:
                    wrong = "" if row == list(header) else f"the columns are {row!r:.80}"
                elif len(row) != len(header):
                    wrong = f"{len(header)} columns are needed, there are {len(row)}"
                elif any(not _is_utf8(row[place]) for place in places):
                    wrong = "it is not UTF-8"
                else:
                    rows.append(row)
                if wrong:
                    break
        except csv.Error as problem:  # such as a quote that is never closed
            wrong = str(problem)
    if wrong:
        raise damaged_table(path, wrong, what=what, fix=fix, line=max(1, table.line_num))
    return rows


def damaged_table(path: Path, problem: str, *, what: str, fix: str, line: int) -> ValueError:
    """The error for a damaged table."""
    return checks.error(
        f"{what} must be whole", fix=fix, file=str(path), line=line, problem=problem
    )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table, completely or not at all."""
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer)
    table.writerow(header)
    table.writerows(rows)
    write_atomically(path, buffer.getvalue().encode("utf-8", "surrogateescape"))
