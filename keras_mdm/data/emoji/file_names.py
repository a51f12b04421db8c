"""Concepts of drawings whose files are named in words ("red-apple") instead of code points."""

import re
import unicodedata
from collections.abc import Mapping

SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}

# Fluent Emoji's words for concepts that the Unicode CLDR calls otherwise.
_OTHER_WORDS = {
    "blackbird": "1f426-200d-2b1b",
    "hugging-face": "1f917",
    "keycap-asterisk": "2a-20e3",
    "keycap-hashtag": "23-20e3",
    "knocked-out-face": "1f635",
    "man-blonde-hair": "1f471-200d-2642",
    "man-deaf": "1f9cf-200d-2642",
    "man-merpeople": "1f9dc-200d-2642",
    "man-with-bunny-ears": "1f46f-200d-2642",
    "man-wrestling": "1f93c-200d-2642",
    "person-blonde-hair": "1f471",
    "person-deaf": "1f9cf",
    "person-elf": "1f9dd",
    "person-fairy": "1f9da",
    "person-genie": "1f9de",
    "person-mage": "1f9d9",
    "person-merpeople": "1f9dc",
    "person-superhero": "1f9b8",
    "person-supervillain": "1f9b9",
    "person-vampire": "1f9db",
    "person-with-bunny-ears": "1f46f",
    "person-wrestling": "1f93c",
    "person-zombie": "1f9df",
    "phoenix-bird": "1f426-200d-1f525",
    "piata": "1fa85",
    "pouting-face": "1f621",
    "red-triangle": "1f53a",
    "woman-blonde-hair": "1f471-200d-2640",
    "woman-deaf": "1f9cf-200d-2640",
    "woman-merpeople": "1f9dc-200d-2640",
    "woman-with-bunny-ears": "1f46f-200d-2640",
    "woman-wrestling": "1f93c-200d-2640",
}


def in_words(name: str) -> str:
    """Return a name as files have it: words in lower case, without accents, joined by "-".

    Example:

    >>> in_words("woman's hat"), in_words("A button (blood type)")
    ('womans-hat', 'a-button-blood-type')
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return "-".join(re.findall("[a-z0-9]+", plain.replace("'", "").replace("&", "and")))


def concepts_in_words(names: Mapping[str, str]) -> dict[str, str]:
    """Concept ids by the words in file names; skin tones are left out.

    Args:
        names: English names by concept id.
    """
    found: dict[str, str] = {}
    for key, name in names.items():
        if SKIN_TONES.isdisjoint(key.split("-")):
            found.setdefault(in_words(name), key)
    return found | {words: key for words, key in _OTHER_WORDS.items() if key in names}
