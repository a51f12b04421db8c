"""Parquet files with large groups of rows: what is kept is bounded in bytes."""

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from data import sources
from keras_mdm.data import ImageRule, image_dataset, open_images, split
from keras_mdm.data.sources.kept_groups import KeptGroups


@pytest.fixture
def folder(tmp_path):
    """Twelve groups of three rows; each takes 100 kB."""
    rows = range(36)
    columns = {"image": [sources.png(n % 12) for n in rows], "text": ["c"] * 36}
    columns["other"] = [bytes(500_000)] * 36  # is not read
    columns["image"] = [data + bytes(33_000) for data in columns["image"]]
    table = pyarrow.table(columns)
    options = {"row_group_size": 3, "use_dictionary": False, "compression": "none"}
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", **options)
    return tmp_path


def test_what_is_kept_is_bounded_in_bytes(folder, caplog):
    source = open_images(folder, memory=550_000)
    assert source.shard_window == 2 and not caplog.text
    batches = image_dataset(source, ImageRule(4), batch_size=4, seed=0, repeat=False)
    assert sum(len(batch["sample"]) for batch in batches) == 36
    assert 3 <= len(source._kept._kept) <= 5
    assert split(source, "train", share=0.2).shard_window == 2
    assert open_images(folder).shard_window > 8


def test_every_group_is_read_once_in_an_epoch(folder):
    source = open_images(folder, memory=550_000)
    loaded, load = [], source._kept._load
    source._kept._load = lambda group: loaded.append(group) or load(group)
    list(image_dataset(source, ImageRule(4), batch_size=4, seed=0, repeat=False, parallel_reads=1))
    assert sorted(loaded) == list(range(12))


def test_more_than_was_allowed_is_said(folder, caplog):
    source = open_images(folder, memory=1000)
    assert source.shard_window == 1 and "row_group_size" in caplog.text
    assert source.choices["memory"] == "0.0 GB for three groups of rows"
    assert len(source.read(35).data) > 33_000


def test_the_oldest_goes_first():
    kept = KeptGroups([1, 1, 1, 1, 6], lambda group: np.full(2, group), 8)
    assert [int(kept[group][0]) for group in (0, 1, 2, 0, 3, 4)] == [0, 1, 2, 0, 3, 4]
    assert list(kept._kept) == [0, 3, 4] and kept._bytes == 8


def test_repeated_pictures_count_as_often_as_they_are_held(tmp_path):
    data = sources.png(0) + bytes(50_000)
    table = pyarrow.table({"image": [data] * 60})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    source = open_images(tmp_path, memory=2_000_000)
    for row in range(60):
        source.read(row)
    assert len(source._kept._kept) == 3
