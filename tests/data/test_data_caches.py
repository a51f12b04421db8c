"""Caches that are damaged, used by several at once, cannot be written, or have no place."""

import io
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from text.test_text_cache import Letters

from data import sources
from keras_mdm.assets import cache_root, fetch, kept
from keras_mdm.assets.cache import NOWHERE
from keras_mdm.data import load_emoji, open_images
from keras_mdm.files import temporary_path
from keras_mdm.text import encode_cached

TEXTS = ["apple", "cat"]


def archive(**columns):
    buffer = io.BytesIO()
    np.savez(buffer, **columns)
    return buffer.getvalue()


def array():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def states(cache):
    return encode_cached(Letters(), TEXTS, cache_dir=cache, progress=False)[0].tolist()


def tar(cache):
    return open_images(cache.parent / "tar", cache_dir=cache, progress=False).identity


def tfrecord(cache):
    return open_images(cache.parent / "tfrecord", cache_dir=cache, progress=False).identity


def test_a_damaged_file_is_told_once(tmp_path, caplog):
    """The states of its texts are kept in another file, and it stays."""
    states(tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    file.write_bytes(b"")
    for _ in range(3):
        states(tmp_path)
    assert caplog.text.count("made again") == 1


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    assert kept.read(tmp_path / "a.npz", dict) is None


KINDS = {"text": states, "tar": tar, "tfrecord": tfrecord}
DAMAGE = {
    "empty": b"",
    "cut": b"PK\x03\x04cut",
    "another archive": archive(x=np.zeros(3)),
    "an array": array(),
    "a pickle": b"\x80\x04K\x01.",
    "numbers": archive(
        **dict.fromkeys(("keys", "states", "mask", "members", "place", "size", "end"), 3)
    ),
    "texts": archive(
        **dict.fromkeys(("keys", "states", "mask", "members", "place", "size", "end"), ["a", "b"])
    ),
}


@pytest.fixture
def cache(tmp_path):
    for kind in ("tar", "tfrecord"):
        sources.write(kind, tmp_path / kind)
    kept._told.clear()
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_damaged_is_made_again(cache, kind, caplog):
    whole = KINDS[kind](cache)
    files = {file: file.read_bytes() for file in cache.rglob("*.npz")}
    first = next(iter(files.values()))
    contents = {**DAMAGE, "half": first[: len(first) // 2]}
    for name, content in contents.items():
        for file in cache.rglob("*.npz"):
            file.write_bytes(content)
        caplog.clear()
        assert KINDS[kind](cache) == whole, name
        assert "made again" in caplog.text or kind == "text", name
        for file in cache.rglob("*.npz"):
            file.unlink()
        for file, right in files.items():
            file.write_bytes(right)
    caplog.clear()
    assert KINDS[kind](cache) == whole and not caplog.text


def test_texts_without_their_states(cache):
    """There are more keys than rows."""
    whole = states(cache)
    (file,) = cache.rglob("*.npz")
    with np.load(file) as columns:
        found = dict(columns)
    for name in ("states", "mask"):
        file.write_bytes(archive(**found | {name: found[name][:1]}))
        assert states(cache) == whole


def test_what_others_write_at_this_moment_is_not_read(cache, caplog):
    whole = states(cache)
    (file,) = cache.rglob("*.npz")
    temporary_path(file).write_bytes(b"PK")
    assert states(cache) == whole and not caplog.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["a file", "no home"])
def test_without_a_cache_it_goes_on_and_says_so_once(cache, kind, place, caplog, monkeypatch):
    whole = KINDS[kind](cache)
    if place == "a file":
        cache = cache.parent / "other"
        cache.write_text("in the way")
    else:
        cache = cache.parent / "unused"
        monkeypatch.setattr("keras_mdm.text.embedding_cache.cache_root", lambda _: NOWHERE)
        monkeypatch.setattr("keras_mdm.data.sources.index_cache.cache_root", lambda _: NOWHERE)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert KINDS[kind](cache) == whole
    assert caplog.text.count("set KERAS_MDM_CACHE to a folder that can be written") == 1
    assert ("there is no home directory" in caplog.text) == (place == "no home")


def test_drawings_without_a_cache(drawings, caplog, monkeypatch):
    whole = load_emoji(16, cache_dir=drawings, progress=False)
    kept._told.clear()
    monkeypatch.setattr("keras_mdm.data.emoji.drawings.cache_root", lambda _: NOWHERE)
    again = load_emoji(16, cache_dir=drawings, progress=False)
    assert again.identity == whole.identity
    assert caplog.text.count("KERAS_MDM_CACHE") == 1


def test_users_without_a_home(monkeypatch):
    for name in ("HOME", "KERAS_MDM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nowhere(cls):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", classmethod(nowhere))
    assert cache_root() == NOWHERE and not os.path.exists(NOWHERE)
    with pytest.raises(ValueError, match="can be written.*To fix it: set KERAS_MDM_CACHE"):
        fetch("emoji", progress=False)
