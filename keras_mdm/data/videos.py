"""Which video files there are, and what they show: folders with captions, and WebVid's CSV."""

import csv
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.data import clip_reader
from keras_mdm.data.base import Skipped
from keras_mdm.data.clip_reader import ClipRule, UnusableVideo
from keras_mdm.data.sources.strings import Strings

EXTENSIONS = clip_reader.VIDEO_EXTENSIONS + clip_reader.ANIMATION_EXTENSIONS
# Columns of a CSV: the file and its caption, or WebVid-10M's.
OWN_COLUMNS = ("file", "caption")
WEBVID_COLUMNS = ("videoid", "page_dir", "name")
# So many records in a row may be unusable before a data set is called broken.
_TRIES = 64
# What a missing side-car is called in the list of what was skipped.
_NO_CAPTION = "has no caption"


class VideoFiles:
    """Captioned video files, as `find_videos` finds them; a source of clips.

    Attributes:
        root: the folder.
        files: paths relative to it.
        captions: one caption per file.
        skipped: files that are left out from the start, and those that gave no clip so far.

    Args:
        root: the folder.
        files: paths relative to it, with forward slashes.
        captions: one caption per file.
        skipped: files that were left out.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        files: Sequence[str],
        captions: Sequence[str],
        skipped: Sequence[Skipped] = (),
    ):
        if len(files) != len(captions) or not len(files):
            raise checks.error(
                "there must be at least one video, and one caption for each",
                fix="pass lists that belong together",
                files=len(files),
                captions=len(captions),
            )
        self.root = Path(root)
        self.files, self.captions = files, captions
        self._left_out = tuple(skipped)
        self._unusable: dict[int, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.files)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        with self._lock:
            broken = sorted(self._unusable.items())
        return self._left_out + tuple(Skipped(self.files[row], why) for row, why in broken)

    @property
    def identity(self) -> dict[str, Any]:
        """What tells this data from other data: number of records, and a SHA-256 of names and
        captions."""
        return {"records": len(self), "sha256": digest_of(self.files, self.captions)}

    def key(self, row: int) -> str:
        """What the place of a video's clip follows from: its path without the ending."""
        return self.files[row].rpartition(".")[0]

    def read(self, row: int, rule: ClipRule, *, place: float | None, mirror: bool) -> np.ndarray:
        """Read the clip of one record.

        Args:
            row: position of the record.
            rule: which frames, and their size.
            place: in [0, 1), where in the video the clip begins; by its key unless given.
            mirror: flip left and right.

        Returns:
            uint8 (T, size, size, 3), or (size, size, 3) for a rule without frames.

        Raises:
            UnusableVideo: if the file gives no clip.
        """
        if place is None:
            place = clip_reader.fixed_place(self.key(row))
        return clip_reader.read_clip(self.root / self.files[row], rule, place=place, mirror=mirror)

    def check(self, rule: ClipRule) -> None:
        """Raise if no file can give clips of this rule; video files can give all."""

    def read_usable(
        self, row: int, rule: ClipRule, *, place: float | None, mirror: bool
    ) -> tuple[np.ndarray, int]:
        """Read the clip of a record, or of the next one after it that gives one.

        So a broken file never stops a run, and what stands in for it is always the same. It is
        listed in `skipped` and not opened again.

        Args:
            row: as in `read`, as are the others.
            rule: see `row`.
            place: see `row`.
            mirror: see `row`.

        Returns:
            The clip, and the record it is of.

        Raises:
            ValueError: if many records in a row give none.
        """
        for candidate in range(row, row + min(_TRIES, len(self))):
            candidate %= len(self)
            if candidate in self._unusable:
                continue
            try:
                return self.read(candidate, rule, place=place, mirror=mirror), candidate
            except UnusableVideo as problem:
                with self._lock:
                    self._unusable[candidate] = str(problem)
        raise checks.error(
            f"of {min(_TRIES, len(self))} videos in a row none gives a clip",
            fix="check the files; a smaller stride or fewer frames take shorter videos",
            first=f"{self.files[row]}: {self._unusable.get(row, 'unusable')}",
            frames=rule.frames or rule.span,
            stride=rule.stride,
        )


def find_videos(
    directory: str | os.PathLike, *, captions: str | os.PathLike | None = None
) -> VideoFiles:
    """Find the videos of a folder and their captions.

    A CSV file has the columns `file` (relative to the folder) and `caption`, or those of
    WebVid-10M: `videoid`, `page_dir` and `name`, for files at `page_dir/videoid.mp4`. Its files are
    not looked for here: what is missing is skipped when its turn comes. Without a CSV file, the
    caption of `horse.mp4` is the text of `horse.txt` beside it; videos without one are skipped.

    Args:
        directory: the folder; searched with its sub-folders when there is no CSV file.
        captions: a CSV file, `"names"` to take the names of the files for captions, or `None` for
            the only CSV file directly in the folder, or else for text files beside the videos.

    Returns:
        The videos, in the order of the CSV file, else sorted by path.

    Raises:
        ValueError: if there is no such folder or file, it lists no videos with captions, or the
            columns are not those above (which ones are missing).

    Example:

    >>> videos = find_videos("clips")  # doctest: +SKIP
    >>> len(videos), videos.captions[0]  # doctest: +SKIP

    Reference: Bain et al. 2021 (arXiv 2104.00650) for WebVid.
    """
    root = Path(directory)
    if not root.is_dir():
        raise checks.error(
            "`directory` must be an existing folder",
            fix="pass the folder that holds the videos",
            directory=str(directory),
        )
    if captions is None:
        tables = sorted(root.glob("*.csv"))
        if len(tables) > 1:
            raise checks.error(
                "there must be one CSV file in the folder, or it must be named",
                fix="pass captions=, the file to use",
                files=[table.name for table in tables],
            )
        captions = tables[0] if tables else None
    if captions is not None and captions != "names":
        return VideoFiles(root, *_from_table(Path(captions)))
    files, texts, skipped = [], [], []
    for file in _walk(root):
        name = file.relative_to(root).as_posix()
        text = file.stem.replace("_", " ") if captions == "names" else _beside(file)
        text = " ".join(text.split())
        if not text:
            skipped.append(Skipped(name, _NO_CAPTION))
            continue
        files.append(name)
        texts.append(text)
    if not files:
        raise checks.error(
            "the folder must hold videos with captions",
            fix="write horse.txt beside horse.mp4, or a CSV file with the columns file,caption, or "
            "pass captions='names'",
            directory=str(directory),
            without_caption=len(skipped),
        )
    return VideoFiles(root, files, texts, skipped)


def holds_videos(directory: str | os.PathLike) -> bool:
    """Whether a folder holds a video file, or WebVid's table.

    Animated pictures do not count: their endings are those of pictures as well.

    Args:
        directory: anything; what is no folder holds none.
    """
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(name.lower().endswith(clip_reader.VIDEO_EXTENSIONS) for name in names):
            return True
        for name in names if Path(folder) == Path(directory) else ():
            if name.endswith(".csv") and "videoid" in _read_header(Path(folder) / name):
                return True
    return False


def _read_header(table: Path) -> list[str]:
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return [name.strip() for name in next(csv.reader(file), [])]


def digest_of(*columns: Sequence[str]) -> str:
    """A SHA-256 of columns of text."""
    digest = hashlib.sha256()
    for column in columns:
        for text in column:
            digest.update(str(text).encode("utf-8", "surrogatepass") + b"\0")
        digest.update(b"\1")
    return digest.hexdigest()


def _walk(root: Path) -> Iterator[Path]:
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS:
                found.append(Path(folder) / name)
    return iter(sorted(found, key=lambda file: file.relative_to(root).as_posix()))


def _beside(file: Path) -> str:
    text = file.with_suffix(".txt")
    return text.read_text(encoding="utf-8-sig", errors="replace") if text.is_file() else ""


def _from_table(table: Path) -> tuple[Sequence[str], Sequence[str], list[Skipped]]:
    """Files, captions and what was left out, of a CSV file."""
    columns = _read_csv(table)
    webvid = "videoid" in columns
    wanted = WEBVID_COLUMNS if webvid else OWN_COLUMNS
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise checks.error(
            f"a CSV file must have the columns {', '.join(OWN_COLUMNS)}, or WebVid's "
            f"{', '.join(WEBVID_COLUMNS)}",
            fix=f"add or rename columns: {', '.join(missing)} missing",
            columns=list(columns),
            file=table.name,
        )
    if webvid:
        files = Strings(
            f"{page}/{video}.mp4"
            for page, video in zip(columns["page_dir"], columns["videoid"], strict=True)
        )
        captions = columns["name"]
    else:
        files, captions = columns["file"], columns["caption"]
    # Ten million rows as Python strings would take some GB.
    kept, texts, skipped = Strings(), Strings(), []
    for file, caption in zip(files, captions, strict=True):
        text = " ".join(caption.split())
        if text and file:
            kept.append(file)
            texts.append(text)
        else:
            skipped.append(Skipped(file or "(no file)", _NO_CAPTION if file else "has no file"))
    if not kept:
        raise checks.error(
            "a CSV file must list videos with captions",
            fix="check its rows",
            file=table.name,
            rows=len(files),
        )
    return kept, texts, skipped


def _read_csv(table: Path) -> dict[str, Sequence[str]]:
    if not table.is_file():
        raise checks.error(
            "`captions` must be a CSV file",
            fix="pass the path of one, or 'names'",
            captions=str(table),
        )
    # Line by line: ten million rows fit, and nothing but what is used is kept.
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(line.replace("\0", "") for line in file)
        header = [name.strip() for name in next(rows, [])]
        used = {name: header.index(name) for name in header if name in _USED}
        columns: dict[str, Strings] = {name: Strings() for name in used}
        for row in rows:
            for name, place in used.items():
                columns[name].append(row[place] if place < len(row) else "")
    return {name: columns.get(name, []) for name in header}


_USED = {*OWN_COLUMNS, *WEBVID_COLUMNS}
