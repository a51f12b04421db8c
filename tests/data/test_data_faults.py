"""Whatever a record raises, it is skipped and listed; what is not its fault is raised."""

import errno
import io
import json
import os
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from data.sources import COUNT, png
from data.videos import write_video
from keras_mdm.data import (
    ClipRule,
    ImageRule,
    ImageSource,
    Record,
    Unusable,
    captions_of,
    clip_dataset,
    find_videos,
    image_dataset,
    load_folder,
    open_images,
    prepare_clips,
    prepare_images,
    read_skipped,
)
from keras_mdm.data.overview import examples, look
from keras_mdm.data.pictures.shards import encode_example

DEEP = b"[" * 100_000
LISTED = {"size": 4, "image_format": "png", "progress": False, "max_skipped": 0.5}


class Failing(ImageSource):
    """Of three records the second one fails."""

    def __init__(self, problem):
        super().__init__(max_skipped=0.5)
        self.problem = problem

    def __len__(self):
        return 3

    def read(self, row):
        if row == 1:
            raise self.problem
        return Record(str(row), png(row), (f"picture {row}",))


def uses(source, tmp_path):
    """Everything that reads records, by name; each returns what was listed."""

    def batches():
        list(image_dataset(source, ImageRule(4), batch_size=3, seed=0, repeat=False))
        return source.skipped

    def prepare():
        prepare_images(source, tmp_path / "shards", **LISTED)
        return read_skipped(tmp_path / "shards")

    def embed():
        listed = []
        assert len(list(captions_of(source, skipped=listed.append))) == len(source) - 1
        return listed

    def shown():
        assert len(examples(source, [4], 3)[1]) == 2
        return look(source, progress=False).broken

    return {"batches": batches, "prepare": prepare, "embed": embed, "overview": shown}


RECORDS = {
    "no number": (OverflowError("cannot convert float infinity to integer"), "OverflowError: cann"),
    "cut": (struct.error("unpack requires a buffer of 2 bytes"), "error: unpack requires"),
    "deep": (RecursionError("maximum recursion depth exceeded"), "RecursionError: maximum"),
    "no attribute": (AttributeError("'NoneType' has no attribute 'name'"), "AttributeError: 'No"),
    "a key": (KeyError("image"), "KeyError: 'image'"),
    "without a word": (AssertionError(), "cannot be read: AssertionError"),
    "said to be": (Unusable("has no pixels"), "^has no pixels$"),
    "another number": (OSError(errno.EACCES, "Permission denied", "a\udcff"), "Permission denied"),
    "no text": (ValueError("bad name: a\udcff"), r"bad name: a\\udcff"),
}


@pytest.mark.parametrize("use", ["batches", "prepare", "embed", "overview"])
@pytest.mark.parametrize("kind", RECORDS)
def test_whatever_a_record_raises_it_is_listed(tmp_path, kind, use):
    problem, words = RECORDS[kind]
    ((file, reason),) = uses(Failing(problem), tmp_path)[use]()
    assert file == "record 1"
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(reason)
    reason.encode("utf-8")


def caused(problem, cause):
    problem.__cause__ = cause
    return problem


MACHINE = {
    "memory": MemoryError(),
    "descriptors": OSError(errno.EMFILE, "Too many open files"),
    "disk": OSError(errno.EIO, "Input/output error"),
    "space": OSError(errno.ENOSPC, "No space left on device"),
    "network": OSError(errno.ESTALE, "Stale file handle"),
    "words": RuntimeError(f"open() failed: {os.strerror(errno.EMFILE)}; opening x.array_record"),
    "called unusable": caused(Unusable("cannot be read"), OSError(errno.EMFILE, "Too many")),
    "missing package": caused(ValueError("needs av"), ImportError("no av")),
}


@pytest.mark.parametrize("use", ["prepare", "embed", "overview"])
@pytest.mark.parametrize("kind", MACHINE)
def test_what_is_not_the_records_fault_is_raised(tmp_path, kind, use):
    problem = MACHINE[kind]
    expected = problem.__cause__ if isinstance(problem, Unusable) else problem
    source = Failing(problem)
    with pytest.raises(type(expected)) as raised:
        uses(source, tmp_path)[use]()
    assert raised.value is expected and source.skipped == ()


def test_batches_end_with_what_is_not_the_records_fault():
    for problem in (MemoryError("out of it"), KeyboardInterrupt(), *MACHINE.values()):
        source = Failing(problem)
        with pytest.raises((type(problem), OSError)):
            source.usable(1, source.read)
        assert source.skipped == ()


def unknown_codec(path):
    write_video(path, 30)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))


def absurd_pixels(path):
    """A pixel aspect of 1 : 2^31 - 1."""
    write_video(path, 30, aspect="1:1")
    data = path.read_bytes()
    place = data.index(b"pasp")
    path.write_bytes(data[: place + 4] + struct.pack(">II", 1, 2**31 - 1) + data[place + 12 :])


def absurd_table(path):
    """A table of times with 2^31 entries, for which FFmpeg has "no memory"."""
    write_video(path, 30)
    data = bytearray(path.read_bytes())
    place = data.index(b"ctts")
    data[place + 8 : place + 12] = struct.pack(">I", 2**28 - 1)
    path.write_bytes(data)


def cut_gif(path):
    pictures = [Image.fromarray(np.full((8, 8), 9 * n, np.uint8)) for n in range(20)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "gif", save_all=True, append_images=pictures[1:])
    path.write_bytes(buffer.getvalue()[:-19])


@pytest.mark.parametrize("make", [unknown_codec, absurd_pixels, absurd_table, cut_gif])
def test_videos(tmp_path, make):
    write_video(tmp_path / "whole.mp4", 30)
    make(tmp_path / ("bad.gif" if make is cut_gif else "bad.mp4"))
    videos = find_videos(tmp_path, captions="names", max_skipped=0.5)
    rule = ClipRule(8, frames=8, stride=2)
    batches = clip_dataset(videos, rule, batch_size=2, seed=0)
    assert next(iter(batches))["video"].shape == (2, 8, 8, 8, 3)
    shards = prepare_clips(videos, tmp_path / "shards", rule=rule, progress=False)
    assert [file for file, _ in videos.skipped] == [videos.files[0]]
    assert [file for file, _ in read_skipped(tmp_path / "shards")] == [videos.files[0]]
    assert len(shards) == 1


def tar_with(path, members):
    with tarfile.open(path, "w") as shard:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))


def test_json_that_is_nested_too_deeply(tmp_path):
    members = {f"{n:03d}.png": png(n) for n in range(3)} | {"001.json": DEEP}
    tar_with(tmp_path / "0.tar", members)
    source = open_images(tmp_path / "0.tar", max_skipped=0.5, cache_dir=tmp_path / "cache")
    list(image_dataset(source, ImageRule(4), batch_size=3, seed=0, repeat=False))
    ((_, reason),) = source.skipped
    assert "recursion" in reason

    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    lines = [json.dumps({"file": f"{n}.png", "caption": "a"}).encode() for n in range(3)]
    (tmp_path / "list.jsonl").write_bytes(b"\n".join([*lines, DEEP]))
    source = open_images(tmp_path / "list.jsonl", max_skipped=0.5)
    assert len(source) == 3 and "not JSON" in source.skipped[0].reason


@pytest.mark.parametrize(
    ("kind", "value"), [("bytes", b"tall"), ("float", 1.5), ("float", np.nan), ("int64", -5)]
)
def test_sizes_that_are_no_numbers(tmp_path, kind, value):
    """1.5 became 1, and -5 pixels were told to the model."""
    from tensorflow.core.example.example_pb2 import Example

    array_record = pytest.importorskip("array_record.python.array_record_module")
    writer = array_record.ArrayRecordWriter(str(tmp_path / "a.array_record"), "group_size:1")
    for number in range(COUNT):
        record = Example.FromString(encode_example(png(number), ["a"], -1, "k", (8, 8)))
        if number == 2:
            feature = record.features.feature["original_height"]
            feature.Clear()
            getattr(feature, f"{kind}_list").value.append(value)
        writer.write(record.SerializeToString())
    writer.close()
    source = open_images(tmp_path / "a.array_record", max_skipped=0.5)
    list(image_dataset(source, ImageRule(4), batch_size=4, seed=0, repeat=False))
    ((file, reason),) = source.skipped
    assert file.endswith("record 2") and f"has the original size {value!r} x 8" in reason


def test_folders_in_memory(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    (tmp_path / "1.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "2.png").write_bytes(png(2)[:60])
    data = load_folder(tmp_path, size=4, progress=False)
    assert [file for file, _ in data.skipped] == ["1.png", "2.png"]
