"""How unusable records are replaced, and how many there may be."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.machine_faults import of_the_machine

Made = TypeVar("Made")

# Share of unusable records above which a data set counts as broken.
MAX_SKIPPED = 0.01
# The share is taken of at least this many records, or one unusable in ten would be too many.
LEAST = 1000
# How many records in a row are tried in place of an unusable one.
_TRIES = 64
# Longer reasons are cut: some parsers quote what they could not read.
_REASON = 300


class Unusable(ValueError):
    """A record that gives nothing to train on; the message says why."""


def reason_of(problem: Exception) -> str:
    """Why a record cannot be used, given what was raised while it was read.

    Files may hold anything, and third-party parsers may raise anything: this is the record's fault
    and does not end a job. Faults of the machine are raised again: memory, descriptors or space
    used up, a disk or a network gone, a package missing. A broken record that asks for more memory
    than there is cannot be told from these.

    Args:
        problem: what was raised.

    Returns:
        One line.

    Example:

    >>> reason_of(OverflowError("cannot convert infinity")), reason_of(Unusable("is empty"))
    ('cannot be read: OverflowError: cannot convert infinity', 'is empty')
    """
    cause: BaseException | None = problem
    while cause is not None:
        if of_the_machine(cause):
            # It was called `Unusable` too hastily: raise the cause.
            while isinstance(problem, Unusable) and problem.__cause__ is not None:
                problem = problem.__cause__
            raise problem
        cause = cause.__cause__
    text = " ".join((getattr(problem, "strerror", None) or str(problem)).split())
    text = text if len(text) <= _REASON else f"{text[:_REASON]} ..."
    # Some messages contain names of files, which need not be valid text.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(problem, Unusable):
        return text or "cannot be used"
    # What readers raise on purpose speaks for itself.
    plain = text and isinstance(problem, OSError | ValueError | SyntaxError)
    kind = type(problem).__name__
    return f"cannot be read: {text if plain else f'{kind}: {text}' if text else kind}"


def share_error(
    count: int, of: int, max_skipped: float, *, what: str, fix: str, first: Sequence[Skipped]
) -> ValueError:
    """The error for too large a share of unusable records.

    Args:
        count: number of unusable records.
        of: number of records among which they were found.
        max_skipped: the largest share allowed.
        what: what the records are called.
        fix: what can be done.
        first: some of the unusable records; three are named.
    """
    return checks.error(
        f"at most {max_skipped:.2%} of the {what} may be unusable",
        fix=fix,
        unusable=f"{count} of {of}",
        first=[f"{file}: {reason}" for file, reason in first[:3]],
    )


class Skipping:
    """Records, some possibly unusable: what sources of pictures and of clips have in common.

    Attributes:
        max_skipped: share of unusable records, among those seen, above which reading stops.
        unused: files in the source that are not meant to be its records (another split, checksums,
            tables beside shards), and why; nothing is wrong with them.
        choices: what was chosen among several options, by kind ("split", "image", "label").

    Args:
        left_out: records found unusable before.

    Raises:
        ValueError: if `max_skipped` is not in [0, 1].
    """

    # For errors: what a record is called, and what to do about unusable ones.
    what = "records"
    advice = "look at the data with `keras-mdm data`"

    def __init__(self, left_out: Sequence[Skipped] = (), max_skipped: float = MAX_SKIPPED):
        self.max_skipped = checks.real("max_skipped", max_skipped, minimum=0.0, maximum=1.0)
        self._left_out = tuple(left_out)
        self.unused: Sequence[Skipped] = ()
        self.choices: dict[str, str] = {}
        self._unusable: dict[int, str] = {}
        self._reads = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, row: int) -> str:
        """What a record is called in lists of skipped records."""
        return f"record {row}"

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What was left out from the start, and what turned out to be unusable so far."""
        with self._lock:
            found = sorted(self._unusable.items())
        return self._left_out + tuple(Skipped(self.name(row), why) for row, why in found)

    def usable(
        self, row: int, make: Callable[[int], Made], among: Sequence[int] | None = None
    ) -> tuple[Made, int]:
        """Make something from a record, or from the next usable one after it.

        So one broken file does not stop a run, and its replacement is always the same. The file is
        listed in `skipped` and not opened again.

        Args:
            row: number of the record.
            make: function of a record's number; if it raises, the record is skipped (see
                `reason_of` for exceptions to this).
            among: ascending numbers of the records that may replace it, its own included. If none
                of these can be used, or by default, any record may.

        Returns:
            What `make` returned, and the number of the record used.

        Raises:
            ValueError: if too large a share is unusable, or too many in a row are.
        """
        for candidate in self._candidates(row, among):
            if candidate in self._unusable:
                continue
            try:
                made = make(candidate)
            except Exception as problem:
                self._count(candidate, reason_of(problem))
                continue
            self._reads += 1  # a rough count will do
            return made, candidate
        raise checks.error(
            f"of {min(_TRIES, len(self))} {self.what} in a row at least one must be usable",
            fix=self.advice,
            first=f"{self.name(row)}: {self._unusable.get(row % len(self), 'unusable')}",
        )

    def _candidates(self, row: int, among: Sequence[int] | None) -> Iterator[int]:
        if among is not None:
            first = int(np.searchsorted(among, row))
            for place in range(first, first + min(_TRIES, len(among))):
                yield int(among[place % len(among)])
        for candidate in range(row, row + min(_TRIES, len(self))):
            yield candidate % len(self)

    def leave_out(self, reasons: Mapping[int, str]) -> None:
        """List records as unusable, once all have been examined.

        Args:
            reasons: why, by number of the record.

        Raises:
            ValueError: if too large a share is unusable.
        """
        with self._lock:
            self._unusable.update(reasons)
        self.check_share()

    def leave_out_files(self, files: Sequence[Skipped]) -> None:
        """List files as unusable that gave no records.

        Args:
            files: the files and why.

        Raises:
            ValueError: if too large a share is unusable.
        """
        self._left_out = (*files, *self._left_out)
        self.check_share()

    def attempt(self, row: int, make: Callable[[int], Made]) -> Made | Skipped:
        """Make something from one record.

        Args:
            row: number of the record.
            make: as for `usable`.

        Returns:
            What `make` returned, or why the record cannot be used; the failure is not counted.
        """
        try:
            return make(row)
        except Exception as problem:
            return Skipped(self.name(row), reason_of(problem))

    def _count(self, row: int, reason: str) -> None:
        with self._lock:
            self._unusable[row] = reason
        self.check_share(self._reads + len(self._unusable))

    def check_share(self, seen: int | None = None) -> None:
        """Raise if more than `max_skipped` of the records are unusable.

        Args:
            seen: number of records examined so far; all by default.
        """
        left_out = len(self._left_out)
        count, total = len(self._unusable) + left_out, len(self) + left_out
        seen = total if seen is None else seen + left_out
        # One among the first few is a large share; a small set is judged as a whole.
        of = min(total, max(seen, LEAST))
        if count > self.max_skipped * of:
            fix = f"{self.advice}, or raise max_skipped"
            raise share_error(
                count, of, self.max_skipped, what=self.what, fix=fix, first=self.skipped
            )
