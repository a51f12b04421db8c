"""Prepared data with a damaged file: one error that names it and says what to do."""

import json
import shutil
import subprocess
import sys

import pytest

from data import sources
from data.videos import write_video
from keras_mdm.data import (
    ClipRule,
    ClipShards,
    find_videos,
    open_images,
    prepare_clips,
    prepare_images,
    skipped_clips,
)
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


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Videos, one of them with a name that is no UTF-8, and what was prepared of them."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("a", "b\udcff", "c"):
        write_video(folder / "written.mp4", 70)
        (folder / "written.mp4").rename(folder / f"{name}.mp4")
    (folder / "bad.mp4").write_bytes(b"none")
    listed = b"".join(b"%s.mp4,%s\n" % (name, name[:1]) for name in (b"a", b"b\xff", b"bad", b"c"))
    (folder / "list.csv").write_bytes(b"file,caption\n" + listed)
    videos = find_videos(folder, max_skipped=0.5)
    prepare_clips(videos, folder / "shards", **CLIPS)
    return videos, folder / "shards"


CLIPS = {"rule": ClipRule(8), "clips_per_shard": 3, "progress": False}
HEADER = b"key,caption\r\n"
TABLES = {
    "empty": (b"", 1, "it is empty"),
    "without its header": (b"a,b\r\n", 1, r"the columns are \['a', 'b'\]"),
    "without a column": (HEADER + b"a\r\n", 2, "2 columns are needed, there are 1"),
    "a column too many": (HEADER + b"a,b\r\nc,d,e\r\n", 3, "2 columns are needed, there are 3"),
    "cut off": (HEADER + b"a.mp4,a\r\n", 3, "2 clips need a row each, there are 1"),
    "binary": (HEADER + b"a.mp4,\x80\xff\r\n", 2, "it is not UTF-8"),
    "an open quote": (HEADER + b'"' + b"x" * 200_000, 2, "field larger than"),
}


@pytest.mark.parametrize(("content", "line", "problem"), TABLES.values(), ids=TABLES)
def test_the_table_of_a_shard(clips, tmp_path, content, line, problem):
    videos, whole = clips
    shards = tmp_path / "shards"
    shutil.copytree(whole, shards)
    table = shards / "clips-00000.csv"
    table.write_bytes(content)
    words = (
        rf"clips-00000.csv', line={line}, problem=['\"]{problem}.*remove clips-00000.json and run"
    )
    with pytest.raises(ValueError, match=f"must be whole. Received: file='[^']*{words}"):
        ClipShards(shards)
    table.unlink()
    with pytest.raises(ValueError, match="must be there.*To fix it"):
        ClipShards(shards)
    # What the errors advise.
    (shards / "clips-00000.json").unlink()
    again = prepare_clips(videos, shards, **CLIPS)
    assert again.keys == ClipShards(whole).keys and again.identity == ClipShards(whole).identity


def test_names_that_are_no_utf8_are_no_damage(clips):
    shards = ClipShards(clips[1])
    assert shards.keys == ["a", "b\udcff", "c"]
    assert shards.captions == ["a", "b", "c"]


@pytest.mark.parametrize("content", [b"", b"\x80\x00", b"file\r\na\r\n", b"file,reason\r\na\r\n"])
def test_the_list_of_what_was_skipped(clips, tmp_path, content):
    videos, whole = clips
    shards = tmp_path / "shards"
    shutil.copytree(whole, shards)
    (shards / "skipped.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"must be whole.*skipped.csv', line=\d.*prepare` again"):
        skipped_clips(shards)
    prepare_clips(videos, shards, **CLIPS)
    assert [entry.file for entry in skipped_clips(shards)] == ["bad.mp4"]


def test_a_table_of_videos_with_a_quote_that_is_never_closed(tmp_path):
    table = tmp_path / "list.csv"
    table.write_text('file,caption\na.mp4,a\nb.mp4,"' + "x" * 200_000)
    with pytest.raises(ValueError, match="1 of 2.*list.csv, line 3: cannot be read.*To fix it"):
        find_videos(tmp_path, captions=str(table))
    assert len(find_videos(tmp_path, captions=str(table), max_skipped=0.5)) == 1
    table.write_text('"' + "x" * 200_000)
    with pytest.raises(ValueError, match="readable to its end.*line=1.*To fix it"):
        find_videos(tmp_path, captions=str(table))


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
