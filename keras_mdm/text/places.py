"""Where text encoders are on this machine, by the digest of their weights."""

import json
import os
from pathlib import Path

from keras_mdm.assets.cache import cache_root, locked
from keras_mdm.files import write_atomically


def known(cache_dir: str | os.PathLike | None = None) -> dict[str, str]:
    """Return folder or preset by digest.

    Args:
        cache_dir: as in `keras_mdm.assets.cache_root`.
    """
    try:
        found = json.loads(_table(cache_dir).read_text())
    except (OSError, ValueError, RecursionError):  # no table yet, or a damaged one
        return {}
    return found if isinstance(found, dict) else {}


def remember(digest: str, place: str, cache_dir: str | os.PathLike | None = None) -> None:
    """Remember where an encoder is. A cache that cannot be written only costs the convenience.

    Args:
        digest: digest of its weights.
        place: a folder, or the name of a preset.
        cache_dir: as in `keras_mdm.assets.cache_root`.
    """
    table = _table(cache_dir)
    if known(cache_dir).get(digest) == place:
        return
    try:
        with locked(table.with_suffix(".lock")):
            write_atomically(table, json.dumps({**known(cache_dir), digest: place}, indent=1))
    except OSError:
        return


def _table(cache_dir: str | os.PathLike | None) -> Path:
    return cache_root(cache_dir) / "text" / "folders.json"
