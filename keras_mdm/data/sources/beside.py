"""Texts beside files: `a.txt` for `a.jpg`, and the other names that they may have."""

import json
import os
import unicodedata
from collections.abc import Collection, Iterator, Sequence

from keras_mdm.data.skipping import Unusable, reason_of
from keras_mdm.data.sources import file_bytes, kinds
from keras_mdm.data.sources.strings import Listed
from keras_mdm.data.sources.texts import captions_in, text_of

# Why a text is not read.
ANOTHER = "is another text of a file, of which one is read"
# Fields of a JSON text that may hold captions.
_CAPTIONS = ("caption", "captions", "text", "prompt", "title")


class Texts:
    """The texts of a folder.

    Args:
        names: names of all its files.

    Attributes:
        any: whether there are any.

    Example:

    >>> texts = Texts(["a.jpg", "a.TXT", "b.jpg", "b.txt"])
    >>> texts.unusual("a.jpg"), texts.unusual("b.jpg"), sorted(texts.used(["a.jpg", "b.jpg"]))
    ('a.TXT', None, ['a.TXT', 'b.txt'])
    """

    def __init__(self, names: Sequence[str]):
        texts = [name for name in names if kinds.ending_of(name) in kinds.BESIDE]
        self._exact = set(texts)
        self._by_key = {_key(name): name for name in reversed(texts)}
        self.any = bool(texts)

    def of(self, file: str) -> str | None:
        """The text of a file, if there is one."""
        usual = _usual(file)
        if usual in self._exact or not self.any:
            return usual if self.any else None
        found = (self._by_key.get(_key(name)) for name in _candidates(file))
        return next(filter(None, found), None)

    def unusual(self, file: str) -> str | None:
        """The text of a file, if its name is not the usual one."""
        found = self.of(file)
        return None if found == _usual(file) else found

    def used(self, files: Collection[str]) -> set[str]:
        """The texts of some files."""
        return set(filter(None, map(self.of, files)))

    def more(self, files: Collection[str], used: Collection[str]) -> set[str]:
        """The texts that would be of some files if these had no other.

        Args:
            files: the files.
            used: their texts.
        """
        left = self._exact.difference(used)
        wanted = {_key(_stem(text)) for text in left}
        keys = (_key(stem) for file in files if left for stem in (file, _stem(file)))
        found = wanted.intersection(keys)
        return {text for text in left if _key(_stem(text)) in found}


def _stem(file: str) -> str:
    return os.path.splitext(file)[0]


def _usual(file: str) -> str:
    return f"{_stem(file)}.txt"


def _candidates(file: str) -> Iterator[str]:
    stem = _stem(file)
    for ending in kinds.BESIDE:
        yield stem + ending
        yield file + ending


def _key(name: str) -> str:
    """A key that is the same for names that differ in case or in how accents are written."""
    return (name if name.isascii() else unicodedata.normalize("NFC", name)).lower()


def captions_of_file(path: str) -> tuple[str, ...] | None:
    """The captions in a text beside a picture: its lines, or a field of its JSON.

    Args:
        path: path of the text, which need not exist.

    Returns:
        The captions, perhaps none; `None` if there is no text, or it has no field for captions.

    Raises:
        Unusable: if it is damaged JSON.
    """
    try:
        with file_bytes.open_file(path) as file:
            text = text_of(file.read())
    # If a text exists but cannot be read, the file's name must not replace it.
    except Exception as problem:
        if file_bytes.exists(path):
            name = os.path.basename(path)
            raise Unusable(f"its text {name} {reason_of(problem)}") from problem
        return None
    if kinds.ending_of(path) != ".json":
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise Unusable(f"its .json file cannot be read: {problem}") from problem
    if not isinstance(fields, dict) or not set(_CAPTIONS) & set(fields):
        return None  # it says other things about the picture
    return next(filter(None, (captions_in(fields.get(name)) for name in _CAPTIONS)), ())


def text_of_file(path: str) -> str:
    """The whole text beside a file; for JSON, the captions in a field."""
    if kinds.ending_of(path) == ".json":
        return "\n".join(captions_of_file(path) or ())
    with file_bytes.open_file(path) as file:
        return text_of(file.read())


def files_with_texts(
    root: str | os.PathLike, endings: Collection[str]
) -> tuple[list[tuple[str, str | None]], Listed]:
    """Files of a folder and its sub-folders, sorted by path, with the text beside each.

    Args:
        root: the folder.
        endings: endings of the files, in lower case.

    Returns:
        Paths relative to the folder, of each file and of its text, if any; and the files that are
        neither.
    """
    found, left = [], Listed()
    for folder, names in file_bytes.walk(root, left.append):
        before = f"{folder}/" if folder else ""
        texts = Texts(names)
        files = [name for name in names if kinds.ending_of(name) in endings]
        pairs = [(name, texts.of(name) if texts.any else None) for name in files]
        found += [(before + name, text and before + text) for name, text in pairs]
        taken = set(filter(None, (text for _, text in pairs)))
        more = texts.more(files, taken)
        taken.update(files)
        for name in names:
            if name not in taken:
                left.append(before + name, ANOTHER if name in more else kinds.reason_of(name))
    return sorted(found), left
