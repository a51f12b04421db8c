"""Video files and their captions: folders with texts, and WebVid's CSV."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.clips import reader
from keras_mdm.data.clips.base import Clips
from keras_mdm.data.clips.rule import ClipRule, UnusableVideo
from keras_mdm.data.clips.tables import is_webvid, problem_of, read_table
from keras_mdm.data.skipping import MAX_SKIPPED, reason_of
from keras_mdm.data.sources import file_bytes
from keras_mdm.data.sources.beside import files_with_texts, text_of_file

EXTENSIONS = reader.VIDEO_EXTENSIONS + reader.ANIMATION_EXTENSIONS
# How many files of a table are looked for, to find out where they are.
_PROBED = 64


class VideoFiles(Clips):
    """Captioned video files, as `find_videos` finds them; a source of clips.

    Attributes:
        root: the folder.
        files: paths relative to it.
        captions: one caption per file.
        skipped: files left out from the start, and those that gave no clip so far.
        max_skipped: share of unusable files, among those seen, above which reading stops.

    Args:
        root: the folder.
        files: paths relative to it, with forward slashes.
        captions: one caption per file.
        skipped: files that were left out.
        flat: files may also be directly in the folder, without the sub-folders that `files` names.

    Raises:
        ValueError: if there is no video, the number of captions differs, or too many files were
            left out.
    """

    what = "videos"
    advice = "check the files"

    def __init__(
        self,
        root: str | os.PathLike,
        files: Sequence[str],
        captions: Sequence[str],
        skipped: Sequence[Skipped] = (),
        *,
        max_skipped: float = MAX_SKIPPED,
        flat: bool = False,
    ):
        super().__init__(skipped, max_skipped)
        if len(files) != len(captions) or not len(files):
            raise checks.error(
                "there must be at least one video, and one caption for each",
                fix="pass lists that belong together",
                files=len(files),
                captions=len(captions),
            )
        self.root = Path(root)
        self.files, self.captions = files, captions
        self.check_share()
        self._folders = [False, True] if flat else [False]
        if flat and self._found(flat=True) > self._found(flat=False):
            self._folders.reverse()

    def __len__(self) -> int:
        return len(self.files)

    def name(self, row: int) -> str:
        """Path of a file, as the table or the folder has it."""
        return self.files[row]

    @property
    def identity(self) -> dict[str, Any]:
        """What distinguishes this data: number of records, and a SHA-256 of names and captions."""
        return {"records": len(self), "sha256": digest_of(self.files, self.captions)}

    def key(self, row: int) -> str:
        """What decides the place of a video's clip: its path without the ending."""
        return self.files[row].rpartition(".")[0]

    def read(
        self, row: int, rule: ClipRule, *, place: float | None = None, mirror: bool = False
    ) -> np.ndarray:
        """Read the clip of one record; its key decides its own place. See `Clips.read`."""
        if place is None:
            place = reader.fixed_place(self.key(row))
        return reader.read_clip(self.path(row), rule, place=place, mirror=mirror)

    def path(self, row: int) -> Path:
        """Where the file of a record is.

        Args:
            row: position of the record.

        Raises:
            UnusableVideo: if it could be in several places, and is in none.
        """
        places = [self._place(row, flat) for flat in self._folders]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            other = file_bytes.same_file(self.root, self.files[row])
            found = other and Path(other)
        if found is None and len(places) == 1:
            return places[0]  # its reader says what is wrong with it
        if found is None:
            names = " nor ".join(place.relative_to(self.root).as_posix() for place in places)
            raise UnusableVideo(f"is missing: neither {names} is there")
        return found

    def _place(self, row: int, flat: bool) -> Path:
        file = self.files[row]
        return self.root / (file.rpartition("/")[2] if flat else file)

    def _found(self, *, flat: bool) -> int:
        """How many of the first files exist."""
        rows = range(min(_PROBED, len(self)))
        return sum(self._place(row, flat).is_file() for row in rows)

    def check(self, rule: ClipRule) -> None:
        """Raise if no file can give clips of this rule: never, as video files suit every rule."""


def find_videos(
    directory: str | os.PathLike,
    *,
    captions: str | os.PathLike | None = None,
    max_skipped: float = MAX_SKIPPED,
) -> VideoFiles:
    """Find the videos of a folder and their captions.

    A CSV file has the columns `file` (relative to the folder) and `caption`, or those of
    WebVid-10M: `videoid`, `page_dir` and `name`, for files at `page_dir/videoid.mp4` or all in one
    folder as `videoid.mp4`. Only the first few files are looked for now, to find out which; missing
    ones are skipped when their turn comes. Without a CSV file, the caption of `horse.mp4` is the
    text of `horse.txt` beside it; videos without one are skipped.

    Args:
        directory: the folder; searched with its sub-folders when there is no CSV file.
        captions: a CSV file; `"names"` to use the names of the files as captions; or `None` for the
            only CSV file directly in the folder, or, without one, for text files beside the videos.
        max_skipped: share of the videos that may be unusable: without a caption, missing, broken,
            or too short for the rule. A set of fewer than 1000 is judged as a whole.

    Returns:
        The videos, in the order of the CSV file, else sorted by path.

    Raises:
        ValueError: if there is no such folder or file, no video or too few have captions, or
            columns are missing (the error names them).

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
        tables = sorted(file for file in root.iterdir() if file.suffix.lower() in (".csv", ".tsv"))
        if len(tables) > 1:
            raise checks.error(
                "there must be one CSV or TSV file in the folder, or it must be named",
                fix="pass captions=, the file to use",
                files=[table.name for table in tables],
            )
        captions = tables[0] if tables else None
    if captions is not None and captions != "names":
        *listed, webvid = read_table(Path(captions))
        return VideoFiles(root, *listed, max_skipped=max_skipped, flat=webvid)
    files, texts, skipped = [], [], []
    found, unused = files_with_texts(root, EXTENSIONS)
    for name, beside in found:
        text = Path(name).stem.replace("_", " ") if captions == "names" else ""
        try:
            if captions is None and beside:
                text = text_of_file(os.path.join(root, beside))
            problem = problem_of(text)
        except Exception as fault:  # such as damaged JSON
            problem = reason_of(fault)
        if problem:
            skipped.append(Skipped(name, problem))
            continue
        files.append(name)
        texts.append(" ".join(text.split()))
    if not files:
        raise checks.error(
            "the folder must hold videos with captions",
            fix="write horse.txt beside horse.mp4, or a CSV file with the columns file,caption, or "
            "pass captions='names'",
            directory=str(directory),
            without_caption=len(skipped),
        )
    videos = VideoFiles(root, files, texts, skipped, max_skipped=max_skipped)
    videos.unused = unused
    return videos


def holds_videos(directory: str | os.PathLike) -> bool:
    """Whether a folder holds a video file, or WebVid's table.

    Animated pictures do not count, as their endings are also those of pictures."""
    for folder, names in file_bytes.walk(directory) if os.path.isdir(directory) else ():
        if any(name.lower().endswith(reader.VIDEO_EXTENSIONS) for name in names):
            return True
        for name in names if not folder else ():
            if name.lower().endswith(".csv") and is_webvid(Path(directory) / name):
                return True
    return False


def digest_of(*columns: Sequence[str]) -> str:
    """A SHA-256 of columns of text."""
    digest = hashlib.sha256()
    for column in columns:
        for text in column:
            digest.update(str(text).encode("utf-8", "surrogatepass") + b"\0")
        digest.update(b"\1")
    return digest.hexdigest()
