"""What stands in for a record that cannot be used, and how many may be so."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.machine_faults import of_the_machine

Made = TypeVar("Made")

# Share of unusable records above which a data set is called broken.
MAX_SKIPPED = 0.01
# The share is taken of at least so many records, or one of ten would be too many.
LEAST = 1000
# What stands in for an unusable record is looked for among so many that follow it.
_TRIES = 64
# Longer reasons are cut: some parsers quote what they could not read.
_REASON = 300


class Unusable(ValueError):
    """A record that gives nothing to train on; the message says why."""


def reason_of(problem: Exception) -> str:
    """Why a record cannot be used, from what was raised while it was read.

    Files may hold anything, and their parsers are others': whatever they raise, it is the record's
    fault and no reason to end a job. What is not the record's fault is raised here again: memory,
    descriptors or space that are used up, a disk or a network that is gone, a package that is
    missing. A broken record that asks for more memory than there is cannot be told from that.

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
            # Whoever called it unusable was too quick.
            while isinstance(problem, Unusable) and problem.__cause__ is not None:
                problem = problem.__cause__
            raise problem
        cause = cause.__cause__
    text = " ".join((getattr(problem, "strerror", None) or str(problem)).split())
    text = text if len(text) <= _REASON else f"{text[:_REASON]} ..."
    # Names of files are part of some messages, and need not be text.
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
    """The error that more than a share of the records is unusable.

    Args:
        count: so many are.
        of: of so many.
        max_skipped: the share.
        what: what they are called.
        fix: what can be done.
        first: some of them; three are named.
    """
    return checks.error(
        f"at most {max_skipped:.2%} of the {what} may be unusable",
        fix=fix,
        unusable=f"{count} of {of}",
        first=[f"{file}: {reason}" for file, reason in first[:3]],
    )


class Skipping:
    """Records of which some may be unusable: the part that sources of pictures and of clips share.

    Attributes:
        max_skipped: share of unusable records, of those seen, above which reading stops.
        unused: files that lie in the source and are not meant to be records of it (another split,
            check sums, tables beside shards), and why: listed, but nothing is wrong with them.
        choices: what was chosen of several, by what it is ("split", "image", "label").

    Args:
        left_out: what was found unusable before.
        max_skipped: see above.

    Raises:
        ValueError: if `max_skipped` is no share.
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
        """What a record is called in lists of what was skipped."""
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
        """Make something of a record, or of the next one after it that can be used.

        So a broken file never stops a run, and what stands in for it is always the same. It is
        listed in `skipped` and not opened again.

        Args:
            row: number of the record.
            make: function of a number; whatever it raises, see `reason_of`, the record is skipped.

            among: ascending numbers of the records of which one may stand in for it, itself among
                them; if none of these can be used, any may, as without it.

        Returns:
            What `make` returned, and the number it was made of.

        Raises:
            ValueError: if too large a share is unusable, or many in a row are.
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
            f"of {min(_TRIES, len(self))} {self.what} in a row none can be used",
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
        """List records as unusable, all others having been looked at.

        Args:
            reasons: by their numbers.

        Raises:
            ValueError: if they are too large a share.
        """
        with self._lock:
            self._unusable.update(reasons)
        self.check_share()

    def attempt(self, row: int, make: Callable[[int], Made]) -> Made | Skipped:
        """Make something of one record.

        Args:
            row: number of the record.
            make: as for `usable`.

        Returns:
            What `make` returned, or why the record cannot be used; it is not counted.
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
            seen: how many were looked at so far; all of them unless given.
        """
        left_out = len(self._left_out)
        count, total = len(self._unusable) + left_out, len(self) + left_out
        seen = total if seen is None else seen + left_out
        # Of the first few, one is a large share; a small set is judged as a whole.
        of = min(total, max(seen, LEAST))
        if count > self.max_skipped * of:
            fix = f"{self.advice}, or raise max_skipped"
            raise share_error(
                count, of, self.max_skipped, what=self.what, fix=fix, first=self.skipped
            )
