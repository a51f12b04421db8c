"""Which members of a tar shard form a record, and which are left over."""

from typing import Any

import numpy as np

from keras_mdm.data.sources import file_bytes, kinds, tar_members
from keras_mdm.data.sources.folder import EXTENSIONS
from keras_mdm.data.sources.index_cache import Index
from keras_mdm.data.sources.tar_members import BLOCK, Damage, Member

PICTURE = tuple(ending.lstrip(".") for ending in EXTENSIONS)
# Read only if a record has none of the usual ones, as it may be the same picture again.
_UNUSUAL = tuple(ending.lstrip(".") for ending in kinds.PICTURES if ending not in EXTENSIONS)
# Pictures that are not read here: one alone in its record is missed, not merely left over.
_OTHER_PICTURES = ("heic", "heif", "jxl", "ico", "tga", "svg", "psd", "exr", "hdr")
# Parts of a record besides the picture, by the ending of the member.
PARTS = ("txt", "json", "cls")
COLUMNS = ("picture", *PARTS)
# The name for everything after a place where a shard becomes unreadable.
REST = "the rest"
# Most kinds of left-over members that are told apart in a shard: all endings may differ.
_KINDS = 50


def index_of(path: str) -> Index:
    """The index of one shard.

    Args:
        path: an uncompressed tar file.

    Returns:
        "members": uint32 (n, 4, 2), for each record, in the order of the pictures, the block and
        the size of picture, `txt`, `json` and `cls`, zeros for missing ones; names and reasons for
        broken members ("bad_...") and for those left over ("unused_...").

    Raises:
        OSError: if the file cannot be read.
    """
    shard = _Shard()
    total = file_bytes.file_size(path)
    with file_bytes.open_file(path) as file:
        packed = file_bytes.packed(file.read(6))
        for found in () if packed else tar_members.members(file, total):
            shard.add(found) if isinstance(found, Member) else shard.damaged(found, total)
    return unreadable(f"cannot be read: {packed}") if packed else shard.index()


def unreadable(reason: str) -> Index:
    """The index of a shard that cannot be read."""
    shard = _Shard()
    shard.bad.append((REST, reason))
    return shard.index()


def fits(found: Index) -> bool:
    """Whether arrays are an index of a shard."""
    texts = [(f"{kind}_name", f"{kind}_reason") for kind in ("bad", "unused")]
    return (
        found["members"].dtype == np.uint32
        and found["members"].shape[1:] == (len(COLUMNS), 2)
        and all(found[name].dtype.kind == "U" for pair in texts for name in pair)
        and all(found[one].shape == found[two].shape and found[one].ndim == 1 for one, two in texts)
    )


class _Shard:
    """What was found so far, and what is broken."""

    def __init__(self) -> None:
        self.bad: list[tuple[str, str]] = []
        self._rows: dict[str, np.ndarray] = {}
        self._missed: dict[str, tuple[str, str]] = {}  # pictures that are not read, by record
        self._unusual: dict[str, tuple[Member, str]] = {}  # pictures that may be read
        self._left: dict[str, list[Any]] = {}  # first name and number, by reason

    def add(self, member: Member) -> None:
        """Take a member into its record."""
        if member.kind == "folder":
            return
        if member.kind != "file":
            self._leave(member.name, f"is a {member.kind}, not a plain file")
            return
        folder, _, name = member.name.rpartition("/")
        # By WebDataset's convention the first dot ends the name of the record.
        stem, _, ending = name.partition(".")
        ending = ending.lower()
        part = "picture" if ending in PICTURE else ending
        key = f"{folder}/{stem}"
        if not stem:
            self._leave(member.name, "is hidden, or has no name before its first dot")
        elif part not in (*COLUMNS, *_UNUSUAL):
            self._leave_part(member.name, key, ending)
        elif member.size >= 2**32:
            self.bad.append((member.name, f"has {member.size} bytes"))
        elif part in _UNUSUAL:
            self._rows.setdefault(key, np.zeros((len(COLUMNS), 2), np.uint32))
            if self._unusual.setdefault(key, (member, ending))[0] is not member:
                self._leave(member.name, _not_read(ending))
        else:
            row = self._rows.setdefault(key, np.zeros((len(COLUMNS), 2), np.uint32))
            column = COLUMNS.index(part)
            if row[column, 0]:
                self.bad.append((member.name, "is there before"))
            else:
                row[column] = member.place // BLOCK, member.size

    def damaged(self, damage: Damage, total: int) -> None:
        """Note a damaged place."""
        if damage.reason in (tar_members.APPENDED, tar_members.NO_END):
            self._leave(f"byte {damage.start}", damage.reason)
        elif damage.stop == total and not damage.name:
            self.bad.append((REST, f"cannot be read from byte {damage.start} on: {damage.reason}"))
        elif damage.stop == total:
            self.bad.append((damage.name, damage.reason))
            self.bad.append((REST, f"cannot be read from byte {damage.start} on"))
        else:
            name = damage.name or f"bytes {damage.start} to {damage.stop}"
            self.bad.append((name, damage.reason))

    def index(self) -> Index:
        """The index as arrays."""
        for key, (member, ending) in self._unusual.items():
            if self._rows[key][0, 0]:
                self._leave(member.name, _not_read(ending))
            else:
                self._rows[key][0] = member.place // BLOCK, member.size
        rows = [row for row in self._rows.values() if row[0, 0]]
        for key, row in self._rows.items():
            if not row[0, 0] and key not in self._missed:
                self.bad.append((key.lstrip("/"), "has no picture"))
        for key, (name, ending) in self._missed.items():
            if key in self._rows and self._rows[key][0, 0]:
                self._leave(name, _not_read(ending))
            elif "." in ending:
                record = key.rpartition("/")[2]
                self.bad.append(
                    (
                        name,
                        f"is the part {ending!r} of the record {record!r}, which "
                        "has no picture: names end at their first dot",
                    )
                )
            else:
                self.bad.append((name, f"is a picture of a kind that is not read (.{ending})"))
        members = np.stack(rows) if rows else np.zeros((0, len(COLUMNS), 2))
        left = [
            (first if count == 1 else f"{first} and {count - 1} more", reason)
            for reason, (first, count) in self._left.items()
        ]
        return {
            "members": members.astype(np.uint32),
            "bad_name": np.asarray([name for name, _ in self.bad], np.str_),
            "bad_reason": np.asarray([reason for _, reason in self.bad], np.str_),
            "unused_name": np.asarray([name for name, _ in left], np.str_),
            "unused_reason": np.asarray([reason for _, reason in left], np.str_),
        }

    def _leave_part(self, name: str, key: str, ending: str) -> None:
        picture = ending.rpartition(".")[2] in PICTURE + _UNUSUAL + _OTHER_PICTURES
        if picture and key not in self._missed:  # whether it is missed is known at the end
            self._missed[key] = (name, ending)
        else:
            self._leave(name, _not_read(ending))

    def _leave(self, name: str, reason: str) -> None:
        if reason not in self._left and len(self._left) >= _KINDS:
            reason = "is a part of another kind that is not read"
        entry = self._left.setdefault(reason, [name, 0])
        entry[1] += 1


def _not_read(ending: str) -> str:
    return f"is a part that is not read (.{ending})" if ending else "has no ending"
