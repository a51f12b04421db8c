"""Prepared data with a damaged file: one error that names it and says what to do."""

import json
import subprocess
import sys

import pytest

from data import sources
from keras_mdm.data import ClipShards, open_images, prepare_images
from keras_mdm.files import temporary_path

OPTIONS = {"size": 4, "records_per_shard": 5, "image_format": "png", "progress": False}
DAMAGED = {"empty": b"", "cut off": b'{"format": 1, "sh', "a list": b"[]", "binary": b"\x80\x00"}


@pytest.fixture
def folder(tmp_path):
    return sources.write("folder", tmp_path / "pictures")


@pytest.fixture
def shards(folder, tmp_path):
    prepare_images(folder, tmp_path / "shards", **OPTIONS)
    return tmp_path / "shards"


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("name", ["manifest.json", "plan.json", "images-00001.json"])
def test_pictures(folder, shards, name, content):
    whole = (shards / name).read_bytes()
    (shards / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"must be whole. Received: file='[^']*{name}'.*To fix"):
        open_images(shards) if name == "manifest.json" else prepare_images(
            folder, shards, **OPTIONS
        )
    if name == "plan.json":
        (shards / name).write_bytes(whole)
    elif name != "manifest.json":
        (shards / name).unlink()
    # What the errors advise.
    prepare_images(folder, shards, **OPTIONS)
    assert (shards / name).read_bytes() == whole
    assert len(open_images(shards)) == 12


def test_a_shard_without_its_fields_is_named(shards):
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["shards"][1].pop("file")
    (shards / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest.json', problem=\"shards\[1\] has no 'file'"):
        open_images(shards)


def test_a_manifest_of_something_else_is_left_alone(folder):
    """Data sets of others may hold a file of that name."""
    for content in (*DAMAGED.values(), b'{"name": "mine"}'):
        (folder / "manifest.json").write_bytes(content)
        assert len(open_images(folder)) == 12


@pytest.mark.parametrize(
    ("content", "message"),
    [(content, "must be whole") for content in DAMAGED.values()]
    + [
        (b'{"rule": {}, "shards": []}', "rule of this version"),
        (b'{"rule": {"size": 8, "speed": 2}, "shards": []}', "rule of this version"),
        (b'{"rule": {"size": 8}, "shards": [{"file": 3}]}', r"shards\[0\]"),
    ],
)
def test_clips(tmp_path, content, message):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"{message}.*To fix it: run `keras-mdm prepare`"):
        ClipShards(tmp_path)


def test_a_call_that_was_killed_before_its_plan_was_there_can_be_repeated(folder, tmp_path):
    """What it left made the folder count as one of something else."""
    code = "import sys; from keras_mdm.files import temporary_path as t; t(sys.argv[1]).touch()"
    target = tmp_path / "shards"
    target.mkdir()
    subprocess.run([sys.executable, "-c", code, str(target / "plan.json")], check=True)
    mine = temporary_path(target / "plan.json")
    mine.touch()  # of a call that runs at this moment
    assert len(list(target.iterdir())) == 2
    prepare_images(folder, target, **OPTIONS)
    left = [path for path in target.iterdir() if path.name.startswith(".")]
    assert left == [mine]
