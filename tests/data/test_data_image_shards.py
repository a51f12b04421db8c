"""Preparing pictures: what is in the shards, restarting, and by way of Beam."""

import csv
import hashlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from data import sources
from keras_mdm.data import (
    ImageRule,
    image_dataset,
    open_images,
    prepare_images,
    read_skipped,
    sharding,
)
from keras_mdm.data.pictures.beam import prepare_with_beam
from keras_mdm.data.pictures.shards import ImagePreparation
from keras_mdm.files import temporary_path

NO_PICTURE = "is not a picture"
OPTIONS = {"size": 4, "records_per_shard": 5, "image_format": "png", "max_skipped": 0.2}


@pytest.fixture
def folder(tmp_path):
    root = sources.write("folder", tmp_path / "pictures")
    (root / "first" / "04.png").write_bytes(b"broken")
    return root


def prepare(folder, target, **options):
    return prepare_images(open_images(folder), target, progress=False, **{**OPTIONS, **options})


def content(target):
    return {file.name: file.read_bytes() for file in target.iterdir()}


def test_shards_hold_the_squares_and_all_that_is_known(folder, tmp_path):
    wide = np.zeros((8, 20, 3), np.uint8)
    wide[:, 6:14] = 250
    Image.fromarray(wide).save(folder / "second" / "01.png")
    made = prepare(folder, tmp_path / "shards")
    assert len(made) == 11 and made.label_names == sources.CLASSES
    records = {record.key: record for record in map(made.read, range(11))}
    assert records["second/01.png"].original_size == (8, 20)
    assert records["second/01.png"].captions == ("picture number 1",)
    assert records["second/01.png"].label == 1 and records["first/02.png"].label == 0
    batch = next(iter(image_dataset(made, ImageRule(4), batch_size=11, seed=0, labels=True)))
    pictures = {int(p[2, 2, 0]): p.numpy() for p in batch["image"]}
    np.testing.assert_array_equal(pictures[250], np.full((4, 4, 3), 250))  # its middle
    expected = sources.pixels(7).astype(float).reshape(4, 2, 4, 2, 3).mean((1, 3))
    np.testing.assert_allclose(pictures[70], expected, atol=0.5)
    manifest = json.loads((tmp_path / "shards" / "manifest.json").read_text())
    assert (manifest["records"], manifest["skipped"]) == (11, 1)
    assert [shard["records"] for shard in manifest["shards"]] == [4, 5, 2]
    for shard in manifest["shards"]:
        data = (tmp_path / "shards" / shard["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
    assert read_skipped(tmp_path / "shards") == [("first/04.png", NO_PICTURE)]


def test_preparing_goes_on_where_it_was_stopped(folder, tmp_path):
    target = tmp_path / "shards"
    prepare(folder, target)
    before = content(target)
    kept = (target / "images-00000.array_record").stat().st_mtime_ns
    for name in ("manifest.json", "images-00001.json", "images-00002.json", "skipped.csv"):
        (target / name).unlink()
    (target / "images-00002.array_record").unlink()
    (target / "images-00001.partial").write_bytes(b"half a shard")
    prepare(folder, target, workers=1)
    assert content(target) == before
    assert (target / "images-00000.array_record").stat().st_mtime_ns == kept
    with pytest.raises(ValueError, match=r"same data and rule.*'size': \(4, 8\)"):
        prepare(folder, target, size=8)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    with pytest.raises(ValueError, match="must be empty"):
        prepare(folder, tmp_path / "other")


def test_two_workers_may_write_the_same_shard_at_once(folder, tmp_path):
    """As runners do with work that is late, or was given up for lost."""
    prepare(folder, tmp_path / "alone")
    job = ImagePreparation(str(folder), tmp_path / "both", **OPTIONS)
    sharding.claim(job.directory, job.plan)
    both = threading.Barrier(2, timeout=60)

    def write(_):
        with ThreadPoolExecutor(2) as pool:
            return job.write(0, pool, lambda result: both.wait())  # record by record, in turn

    with ThreadPoolExecutor(2) as workers:
        notes = list(workers.map(write, range(2)))
    assert notes[0] == notes[1]
    name = "images-00000.array_record"
    assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_shards_of_shards_keep_the_original_size(folder, tmp_path):
    first = prepare(folder, tmp_path / "large", size=8)
    second = prepare_images(tmp_path / "large", tmp_path / "small", size=4, progress=False)
    assert second.read(0).original_size == (8, 8) and second.read(0).key == first.read(0).key
    assert second.label_names == first.label_names


def test_nothing_usable_is_an_error(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"at least one picture must be usable.*is empty"):
        prepare(tmp_path / "pictures", tmp_path / "shards")
    with pytest.raises(ValueError, match="image_format='bmp'"):
        prepare(tmp_path / "pictures", tmp_path / "shards", image_format="bmp")


def test_too_much_that_is_broken_stops_it_and_a_higher_share_goes_on(folder, tmp_path):
    with pytest.raises(ValueError, match=r"at most 1\.00%.*unusable='1 of 12'.*first/04"):
        prepare(folder, tmp_path / "shards", max_skipped=0.01)
    with pytest.raises(ValueError, match="keras-mdm prepare"):
        read_skipped(tmp_path / "shards")
    assert len(prepare(folder, tmp_path / "shards")) == 11


def test_a_shard_that_is_missing_is_named(folder, tmp_path):
    prepare(folder, tmp_path / "shards")
    (tmp_path / "shards" / "images-00001.array_record").unlink()
    with pytest.raises(ValueError, match=r"missing=\['[^']*images-00001"):
        open_images(tmp_path / "shards")


def test_beam_writes_the_same_shards(folder, tmp_path):
    pytest.importorskip("apache_beam")
    prepare(folder, tmp_path / "here")
    made = prepare_with_beam(folder, tmp_path / "beam", **OPTIONS)
    assert len(made) == 11
    assert content(tmp_path / "beam") == content(tmp_path / "here")
    # Again: what is there is not written again.
    (tmp_path / "beam" / "manifest.json").unlink()
    kept = (tmp_path / "beam" / "images-00001.array_record").stat().st_mtime_ns
    prepare_with_beam(folder, tmp_path / "beam", **OPTIONS)
    assert content(tmp_path / "beam") == content(tmp_path / "here")
    assert (tmp_path / "beam" / "images-00001.array_record").stat().st_mtime_ns == kept


def test_without_beam_the_error_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
    with pytest.raises(ValueError, match="pip install apache-beam"):
        prepare_with_beam(folder, tmp_path / "beam")


def test_the_list_of_what_was_skipped_is_a_table(folder, tmp_path):
    prepare(folder, tmp_path / "shards")
    with (tmp_path / "shards" / "skipped.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"file": "first/04.png", "reason": NO_PICTURE}]


def test_two_calls_at_once_write_each_shard_once(folder, tmp_path, capsys):
    """Each deleted what the other one was writing."""
    written, running = [], threading.Event()
    source = open_images(folder)
    read = source.read

    def slow(row):
        running.set()
        written.append(row)
        time.sleep(0.02)
        return read(row)

    source.read = slow
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(prepare_images, source, tmp_path / "shards", **OPTIONS)
        assert running.wait(10)
        with pytest.raises(ValueError, match="shards of the same data and rule"):
            prepare(folder, tmp_path / "shards", size=8)  # at once, not after waiting
        second = pool.submit(prepare_images, source, tmp_path / "shards", **OPTIONS)
        found = [first.result(), second.result()]
    assert "another process is preparing" in capsys.readouterr().out
    assert sorted(written) == list(range(12))
    assert [len(shards) for shards in found] == [11, 11]
    alone = prepare(folder, tmp_path / "alone")
    assert content(tmp_path / "shards") == content(tmp_path / "alone")
    assert [found[0].read(row).key for row in range(11)] == [
        alone.read(row).key for row in range(11)
    ]


def test_what_another_worker_writes_is_left_alone(folder, tmp_path):
    target = tmp_path / "shards"
    prepare(folder, target)
    mine = temporary_path(target / "images-00000.partial")
    old = target / "images-00000.partial"  # of an earlier version
    mine.touch()
    old.touch()
    prepare(folder, target)
    assert mine.exists() and not old.exists()
