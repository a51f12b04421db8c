"""Every kind of source: what it reads, the order, resuming, and what is wrong with some."""

import collections
import itertools
import json
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from data import sources
from keras_mdm.data import (
    ImageRule,
    ImageSource,
    Record,
    Unusable,
    captions_of,
    image_dataset,
    open_images,
    overview,
    prepare_images,
    split,
)
from keras_mdm.data.pictures.dataset import MAX_CAPTION
from keras_mdm.data.sources.strings import Strings
from keras_mdm.data.sources.table import number_classes

BATCH = 5  # does not divide the twelve records


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return sources.open_all(tmp_path_factory.mktemp("sources"))


class Words:
    """An encoder whose states are the numbers in the texts."""

    width = 1

    def encode(self, texts):
        states = np.array([[[float(text.split()[-1])]] for text in texts])
        return states, np.ones(states.shape[:2])


def batches(source, count=None, **options):
    options = {"batch_size": BATCH, "seed": 3, **options}
    rule = options.pop("rule", ImageRule(sources.SIZE))
    made = image_dataset(source, rule, **options)
    return list(made.take(count)) if count else made


@pytest.mark.parametrize("kind", sources.KINDS)
def test_records(opened, kind):
    source = opened[kind]
    assert len(source) == sources.COUNT
    found = {}
    for row in range(len(source)):
        record = source.read(row)
        number = int(record.captions[0].split()[-1])
        found[number] = record
        batch = batches(source, 1, rule=ImageRule(sources.SIZE))[0]
    assert sorted(found) == list(range(sources.COUNT))
    assert [found[n].label for n in range(12)] == [sources.label(n) for n in range(12)]
    if source.label_names:
        assert source.label_names in (sources.CLASSES, ("0", "1"))
    batch = batches(source, 1, labels=True, encoder=Words(), original_size="side")[0]
    ids = sources.numbers(batch)
    np.testing.assert_array_equal(batch["image"], [sources.pixels(n) for n in ids])
    assert batch["text"][:, 0, 0].numpy().tolist() == ids
    assert batch["label"].numpy().tolist() == [sources.label(n) for n in ids]
    side = 90.0 if kind in ("array_record", "tfrecord") else sources.SIZE
    assert batch["side"].numpy().tolist() == [side] * BATCH


@pytest.mark.parametrize("kind", sources.KINDS)
def test_every_record_once_per_epoch_and_resuming_anywhere(opened, kind):
    steps = 12  # five epochs
    rule = ImageRule(4, crop="random", flip=True)
    whole = batches(opened[kind], steps, rule=rule)
    positions = np.concatenate([batch["sample"] for batch in whole])
    assert positions.tolist() == list(range(steps * BATCH))
    ids = list(
        itertools.chain(
            *(sources.numbers({"image": batch["image"]}) for batch in batches(opened[kind], steps))
        )
    )
    epochs = [ids[first : first + 12] for first in range(0, 60, 12)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5  # another order each time
    for step in (1, 4, 11):
        (again,) = batches(opened[kind], 1, rule=rule, first_step=step)
        for key in again:
            np.testing.assert_array_equal(again[key], whole[step][key])
    other = [n for batch in batches(opened[kind], 3, seed=4) for n in sources.numbers(batch)]
    assert other != ids[:15]


@pytest.mark.parametrize("batch_size", [64, 128, 97, 200])
def test_batches_of_any_size_are_the_same_sequence(opened, batch_size):
    whole = [n for b in batches(opened["tar"], 40, batch_size=12) for n in sources.numbers(b)]
    found = batches(opened["tar"], 2, batch_size=batch_size)
    assert [len(batch["image"]) for batch in found] == [batch_size] * 2
    assert [n for b in found for n in sources.numbers(b)] == whole[: 2 * batch_size]
    assert np.concatenate([b["sample"] for b in found]).tolist() == list(range(2 * batch_size))


@pytest.mark.parametrize("kind", sources.KINDS)
def test_replicas_share_every_batch_in_order(opened, kind, two_replicas):
    made = batches(opened[kind], batch_size=6)
    plain = [sources.numbers(batch) for batch in made.take(4)]
    for ids, batch in zip(plain, two_replicas.experimental_distribute_dataset(made), strict=False):
        parts = two_replicas.experimental_local_results(batch["image"])
        assert [len(part) for part in parts] == [3, 3]
        assert [n for part in parts for n in sources.numbers({"image": part})] == ids


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_workers_read_their_parts_and_nothing_else(opened, kind):
    whole = [sources.numbers(b) for b in batches(opened[kind], 12, batch_size=6, first_step=1)]
    parts = [
        batches(opened[kind], 4, batch_size=6, first_step=1, worker=(index, 3))
        for index in range(3)
    ]
    for index, part in enumerate(parts):
        # A batch holds two samples of each of three steps.
        own = [n for batch in part for n in sources.numbers(batch)]
        assert own == [n for ids in whole for n in ids[2 * index : 2 * index + 2]]
        places = np.concatenate([batch["sample"] for batch in part])
        assert places[:4].tolist() == [6 + 2 * index, 7 + 2 * index, 12 + 2 * index, 13 + 2 * index]
    for worker in ((3, 3), (0, 4), (-1, 2), 2):
        with pytest.raises(ValueError, match="index, number"):
            batches(opened[kind], batch_size=6, worker=worker)


def test_folders_are_classes_and_names_are_captions(save, tmp_path):
    for name in ("cats/black_cat.png", "cats/deep/er.png", "dogs/dog.png", ".hidden/no.png"):
        save(name, sources.pixels(1))
    (tmp_path / "pictures" / "dogs" / "dog.txt").write_text("\ufeffa dog\n\n the  dog \n")
    (tmp_path / "pictures" / "empty").mkdir()
    source = open_images(tmp_path / "pictures", max_skipped=0.5)
    assert [source.name(row) for row in range(3)] == [
        "cats/black_cat.png",
        "cats/deep/er.png",
        "dogs/dog.png",
    ]
    assert source.label_names == ("cats", "dogs")
    records = [source.read(row) for row in range(3)]
    assert [record.captions for record in records] == [
        ("black cat",),
        ("er",),
        ("a dog", "the  dog"),
    ]
    assert [record.label for record in records] == [0, 0, 1]
    assert source.skipped == (("empty/", "holds no pictures"),)


def test_one_of_several_captions_by_the_position(save, tmp_path):
    file = save("a.png", sources.pixels(1))
    file.with_suffix(".txt").write_text("number 1\nnumber 2\nnumber 3\n")
    source = open_images(tmp_path / "pictures")
    chosen = [
        float(x) for batch in batches(source, 60, encoder=Words()) for x in batch["text"][:, 0, 0]
    ]
    counts = collections.Counter(chosen)
    assert set(counts) == {1.0, 2.0, 3.0} and min(counts.values()) > 70  # of 300, by chance 100


def test_short_texts_in_little_memory():
    texts = [
        "a.png",
        "",
        "\u00e9t\u00e9",
        "sub/b.png",
        "\udcff",
    ]  # the last is a byte of a file name
    found = Strings(texts[:3])
    for text in texts[3:]:
        found.append(text)
    assert list(found) == texts and found == texts and found != texts[:4]
    assert found[-1] == texts[-1] and "sub/b.png" in found
    with pytest.raises(IndexError):
        found[5]


# Parts


def test_a_split_takes_every_record_once_and_does_not_move_any():
    class Many(ImageSource):
        def __init__(self, count):
            super().__init__()
            self.count = count

        def __len__(self):
            return self.count

        def read(self, row):
            return Record(str(row), b"")

    source = Many(100_000)
    train, held = split(source, "train"), split(source, "validation")
    keys = [part.read(row).key for part in (train, held) for row in range(len(part))]
    assert sorted(map(int, keys)) == list(range(100_000))
    assert 60 < len(held) < 150  # one of a thousand
    more = split(Many(150_000), "validation")
    assert set(held.rows) == {row for row in more.rows if row < 100_000}
    assert split(source, "all") is source
    assert train.identity != held.identity
    with pytest.raises(ValueError, match="at least one record"):
        split(Many(3), "validation")


def test_parts_of_shards_stay_shards(opened):
    part = split(opened["parquet"], "train", share=0.3)
    assert sum(part.shard_sizes) == len(part) < 12
    ids = [n for batch in batches(part, 3, batch_size=len(part)) for n in sources.numbers(batch)]
    assert len(set(ids)) == len(part) and collections.Counter(ids).most_common(1)[0][1] == 3


# What is wrong


def broken_folder(save, tmp_path):
    for number in range(12):
        file = save(f"{number:02d}.png", sources.pixels(number))
        file.with_suffix(".txt").write_text(sources.caption(number))
    folder = tmp_path / "pictures"
    (folder / "02.png").write_bytes(b"")
    (folder / "04.png").write_bytes(sources.png(4)[:60])
    (folder / "06.png").write_bytes(b"no picture at all")
    (folder / "08.txt").write_text("a caption\0with NUL")
    (folder / "10.txt").write_text("x" * 10_000)
    return folder


def test_what_cannot_be_used_is_replaced_counted_and_listed(save, tmp_path):
    source = open_images(broken_folder(save, tmp_path), max_skipped=0.5)
    found = batches(source, 12, encoder=Words())
    ids = [n for batch in found for n in sources.numbers(batch)]
    # The next one stands in, with its own caption.
    assert collections.Counter(ids) == {0: 5, 1: 5} | dict.fromkeys((3, 5, 7, 9, 11), 10)
    assert [x for batch in found for x in batch["text"][:, 0, 0].numpy().tolist()] == ids
    reasons = dict(source.skipped)
    assert list(reasons) == ["02.png", "04.png", "06.png", "08.png", "10.png"]
    assert reasons["02.png"] == "is empty" and "is not a picture" in reasons["06.png"]
    assert (
        "NUL" in reasons["08.png"]
        and f"10000 characters, more than {MAX_CAPTION}" in (reasons["10.png"])
    )
    again = batches(open_images(source.root, max_skipped=0.5), 12, encoder=Words())
    assert [n for batch in again for n in sources.numbers(batch)] == ids
    # Captions do not matter to a model without text.
    plain = open_images(source.root, max_skipped=0.5)
    batches(plain, 3)
    assert len(plain.skipped) == 3


def test_examples_show_captions_as_they_are_trained(save, tmp_path):
    source = open_images(broken_folder(save, tmp_path), max_skipped=0.5)
    pictures, texts = overview.examples(source, [8, 16], 12)
    assert sorted(texts) == sorted(sources.caption(n) for n in (0, 1, 3, 5, 7, 9, 11))
    assert [pictures[level].shape for level in pictures] == [(7, 8, 8, 3), (7, 16, 16, 3)]


def test_too_many_of_them_stop_the_run(save, tmp_path):
    source = open_images(broken_folder(save, tmp_path))
    with pytest.raises(tf.errors.OpError, match=r"at most 1\.00% of the records may be unusable"):
        batches(source, 12)


def test_huge_pictures_are_not_decoded(save, tmp_path):
    save("a.png", np.zeros((300, 400, 3)))
    save("b.png", sources.pixels(1))
    source = open_images(tmp_path / "pictures", max_skipped=0.5)
    batches(source, 2, rule=ImageRule(8, max_pixels=100_000))
    assert source.skipped == (("a.png", "has 400 x 300 pixels, more than 100000"),)


def test_tables_skip_what_they_name_wrongly(save, tmp_path):
    for number in range(3):
        save(f"{number}.png", sources.pixels(number))
    table = tmp_path / "pictures" / "table.jsonl"
    rows = [{"file": f"{n}.png", "caption": [f"a {n}", f"b {n}"]} for n in (0, 1, 1, 2, 7)]
    lines = [json.dumps(row) for row in rows] + ["{not json", "[1]", '{"caption": "x"}', ""]
    table.write_text("\n".join(lines))
    source = open_images(tmp_path / "pictures", max_skipped=0.9)
    assert len(source) == 4 and source.read(1).captions == ("a 1", "b 1")
    with pytest.raises(Unusable, match="is missing"):
        source.read(3)
    reasons = [reason for _, reason in source.skipped]
    assert len(reasons) == 4 and reasons[-1] == "names a file again"
    assert source.skipped[0].file == "table.jsonl, line 6" and "not JSON" in reasons[0]
    with pytest.raises(ValueError, match="may be unusable"):
        open_images(tmp_path / "pictures")


def test_captions_with_halves_of_characters(save, tmp_path):
    save("a.png", sources.pixels(1))
    table = tmp_path / "pictures" / "t.jsonl"
    rows = ['{"file": "a.png", "caption": "half a face \\ud83d 7"}']
    rows.append('{"file": "b.png", "caption": "whole 8"}')
    table.write_text("\n".join(rows))
    save("b.png", sources.pixels(2))
    source = open_images(table, max_skipped=0.5)
    assert "\ud83d" in source.read(0).captions[0]
    prepared = prepare_images(source, tmp_path / "shards", size=8, max_skipped=0.5, progress=False)
    for found in (source, prepared):
        assert list(captions_of(found)) == ["whole 8"]
    batch = batches(source, 1, encoder=Words(), batch_size=2)[0]
    assert set(batch["text"].numpy().flat) == {8.0}
    assert [file for file, _ in source.skipped] == ["a.png"]


def test_a_table_may_hold_lines_in_quotes(save, tmp_path):
    save("a.png", sources.pixels(1))
    save("b.png", sources.pixels(2))
    table = tmp_path / "pictures" / "t.csv"
    table.write_text('file,caption\na.png,"two\nlines, ""quoted"""\nb.png,plain\n')
    source = open_images(table)
    assert source.read(0).captions == ('two\nlines, "quoted"',)
    assert source.read(1).captions == ("plain",)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_row_with_nul_is_skipped(save, tmp_path, name):
    rows = [("a.png", "one 1"), ("b.png", "nul \0 2"), ("c.png", "three 3")]
    lines = ["file,caption"] + [f"{file},{caption}" for file, caption in rows]
    if name == "t.jsonl":
        lines = [f'{{"file": "{file}", "caption": "{caption}"}}' for file, caption in rows]
    for number, (file, _) in enumerate(rows):
        save(file, sources.pixels(number))
    (tmp_path / "pictures" / name).write_text("\n".join(lines) + "\n")
    source = open_images(tmp_path / "pictures", max_skipped=0.5)
    found = batches(source, 3, batch_size=3, encoder=Words())
    assert {x for batch in found for x in batch["text"].numpy().flat} == {1.0, 3.0}
    assert len(source.skipped) == 1


def test_a_row_that_is_too_long_for_a_table_is_left_out(save, tmp_path):
    for name in "abc":
        save(f"{name}.png", sources.pixels(1))
    table = tmp_path / "pictures" / "t.csv"
    table.write_text(f"file,caption\na.png,one\nb.png,{'x' * 200_000}\nc.png,three\n")
    source = open_images(table, max_skipped=0.5)
    assert [source.read(row).captions for row in range(2)] == [("one",), ("three",)]
    assert (
        source.skipped[0].file == "t.csv, line 3" and "cannot be read" in source.skipped[0].reason
    )


def test_a_member_that_is_too_large_is_left_out(tmp_path):
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(save_png(tmp_path / "x.png"), "x.png")
    place = 512 * (1 + -(-(tmp_path / "x.png").stat().st_size // 512))
    member = tarfile.TarInfo("y.jpg")
    member.size = 2**32
    with open(file, "r+b") as tar:
        tar.seek(place)
        tar.write(member.tobuf(tarfile.GNU_FORMAT))
        tar.truncate(place + 512 + member.size + 1024)  # takes no space on the disk
    source = open_images(file, max_skipped=0.5, cache_dir=tmp_path / "cache")
    assert len(source) == 1
    assert source.skipped == (("a.tar: y.jpg", "has 4294967296 bytes"),)


def save_png(path):
    path.write_bytes(sources.png(1))
    return path


def test_shards_that_are_cut_off_or_no_shards(tmp_path):
    sources.write("tar", tmp_path / "tar")
    whole = (tmp_path / "tar" / "00001.tar").read_bytes()
    (tmp_path / "tar" / "00001.tar").write_bytes(whole[:3000])
    (tmp_path / "tar" / "00002.tar").write_bytes(b"not a tar file" * 100)
    with tarfile.open(tmp_path / "tar" / "00003.tar", "w") as tar:
        for name in ("x.png", "x.png"):
            file = tmp_path / name
            file.write_bytes(sources.png(1))
            tar.add(file, name)
        (tmp_path / "y.txt").write_text("no picture")
        tar.add(tmp_path / "y.txt", "y.txt")
    options = {"cache_dir": tmp_path / "cache", "max_skipped": 0.9}
    source = open_images(tmp_path / "tar", **options)
    assert len(source) == 6  # four, one before the cut, one of two with the same name
    listed = {entry.file.partition(": ")[2]: entry.reason for entry in source.skipped}
    assert "cannot be read" in listed["the rest"] and listed["x.png"] == "is there before"
    assert listed["y"] == "has no picture"
    # Found once: the index is read from the cache, until the file changes.
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.npz")}
    assert len(before) == 4
    open_images(tmp_path / "tar", **options)
    assert before == {f: f.stat().st_mtime_ns for f in (tmp_path / "cache").rglob("*.npz")}
    (tmp_path / "tar" / "00001.tar").write_bytes(whole)
    assert len(open_images(tmp_path / "tar", **options)) == 9


@pytest.mark.parametrize("kind", ["tar", "array_record", "tfrecord", "parquet"])
def test_a_file_that_cannot_be_read_is_skipped_and_listed(tmp_path, kind):
    root = sources.write(kind, tmp_path / "all")
    first = sorted(root.glob("*.*"))[0]
    broken = first.with_name(first.name.replace("0000", "9", 1).replace("part-0", "part-9"))
    broken = broken.with_name(broken.name.replace("all", "zz"))
    broken.write_bytes(b"\x01" + first.read_bytes()[:20])
    cached = {"cache_dir": tmp_path / "cache"} if kind in ("tar", "tfrecord") else {}
    with pytest.raises(ValueError, match=r"at most 1\.00% of the files may be unreadable"):
        open_images(root, **cached)
    source = open_images(root, max_skipped=0.6, **cached)
    assert len(source) == 12 and len(source.skipped) == 1
    assert broken.name in source.skipped[0].file
    ids = [n for batch in batches(source, 4, batch_size=12) for n in sources.numbers(batch)]
    assert collections.Counter(ids) == dict.fromkeys(range(12), 4)


@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
def test_a_record_that_was_changed_on_disk_is_skipped(tmp_path, kind):
    root = sources.write(kind, tmp_path / kind)
    file = sorted(root.glob("*.*record*"))[0]
    content = bytearray(file.read_bytes())
    content[content.index(b"picture number 1") + 3] ^= 1  # not a part of the picture: it decodes
    file.write_bytes(content)
    cached = {"cache_dir": tmp_path / "cache"} if kind == "tfrecord" else {}
    source = open_images(root, max_skipped=0.1, **cached)
    ids = [n for batch in batches(source, 2, batch_size=12) for n in sources.numbers(batch)]
    assert len(source) == 12 and collections.Counter(ids)[1] == 0
    assert [("checksum" in why or "hash" in why) for _, why in source.skipped] == [True]


def test_a_length_that_was_changed_ends_a_file(tmp_path):
    root = sources.write("tfrecord", tmp_path / "records")
    file = sorted(root.glob("*.tfrecord*"))[0]
    content = bytearray(file.read_bytes())
    second = 16 + int.from_bytes(content[:8], "little")
    content[second] ^= 1  # one byte more or less would read on somewhere else
    file.write_bytes(content)
    source = open_images(root, max_skipped=0.6, cache_dir=tmp_path / "cache")
    assert source.skipped[0].reason == f"cannot be read from byte {second} on"
    assert len(source) == 7  # one of six, and the other file


def test_other_files_called_manifest_are_no_manifest(save, tmp_path):
    for content in ("{not json", "[1]", '{"icons": ["a.png"]}'):
        save("a.png", sources.pixels(1))
        (tmp_path / "pictures" / "manifest.json").write_text(content)
        assert len(open_images(tmp_path / "pictures")) == 1


@pytest.mark.parametrize("kind", ["folder", "csv", "tar", "tfrecord", "parquet"])
def test_files_that_only_tensorflow_can_reach(tmp_path, kind, opened):
    """TensorFlow's file system in memory stands for buckets."""
    root, target = sources.write(kind, tmp_path / kind), f"ram://sources/{kind}"
    for file in root.rglob("*"):
        if file.is_file():
            path = f"{target}/{file.relative_to(root).as_posix()}"
            tf.io.gfile.makedirs(path.rpartition("/")[0])
            with tf.io.gfile.GFile(path, "wb") as copy:
                copy.write(file.read_bytes())
    cached = {"cache_dir": tmp_path / "cache"} if kind in ("tar", "tfrecord") else {}
    found, here = open_images(f"{target}/", **cached), opened[kind]
    assert [found.read(row)[1:] for row in range(12)] == [here.read(row)[1:] for row in range(12)]
    assert len(batches(found, 1)) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nothing", "a folder, a file or tfds:NAME"),
        (lambda p: p, "must hold pictures"),
        (lambda p: (p / "a.csv").write_text("name,caption\nx,y\n") and p, "column of files"),
        (lambda p: (p / "a.csv").write_text("file,caption\n") and p, "must list pictures"),
        (lambda p: (p / "a.csv").write_text("file\rx.png\r") and p, "a line of column names"),
        (
            lambda p: (p / "a.csv").write_text("f") and (p / "b.tsv").write_text("f") and p,
            "one called metadata",
        ),
        (lambda p: (p / "a.tar").write_bytes(b"x" * 2000) and p, "must hold pictures"),
        (lambda p: (p / "a.parquet").write_bytes(b"x" * 2000) and p, "unreadable='1 of 1'"),
        (lambda p: (p / "a.tfrecord").write_bytes(b"") or p, "must hold records"),
        (lambda p: (p / "a.tfrecord").write_bytes(b"x" * 2000) and p, "from byte 0 on"),
        (lambda p: (p / "a.array_record").write_bytes(b"") or p, "unreadable='1 of 1'"),
        (lambda p: (p / "a.array_record").write_bytes(b"x" * 2000) and p, "unreadable='1 of 1'"),
        (lambda p: (p / "a.mp3").write_bytes(b"x") and p / "a.mp3", "a file named"),
        (lambda p: "tfds:no_such_data_set", "such a data set"),
        (lambda p: "tfds:mnist", "must be prepared on this machine"),
    ],
)
def test_nothing_to_train_on_is_an_error_at_once(tmp_path, make, message, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("KERAS_MDM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=message):
        open_images(make(tmp_path))


def test_features_by_other_names(tmp_path):
    root = sources.write("array_record", tmp_path / "records")
    with pytest.raises(ValueError, match=r"feature for `image`.*looked_for='pixels'.*'image'"):
        open_images(root, image="pixels")
    assert open_images(root, caption="key").read(4).captions == ("4",)


def test_classes_that_are_no_numbers(tmp_path):
    source = open_images(sources.write("array_record", tmp_path), label="caption")
    assert source.read(3).label == -1
    assert len(batches(source, 1)) == 1  # they do not matter without classes
    with pytest.raises(ValueError, match="the data must have classes, named or numbered"):
        batches(source, 1, labels=True)


def test_records_without_a_class_of_the_data_cannot_be_used(save, tmp_path):
    for number in range(4):
        save(f"{number}.png", sources.pixels(number))
    table = tmp_path / "pictures" / "t.jsonl"
    rows = [{"file": f"{n}.png", "label": label} for n, label in enumerate(["a", "b", [1], None])]
    table.write_text("\n".join(map(json.dumps, rows)))
    source = open_images(tmp_path / "pictures", max_skipped=0.5)
    found = [x for batch in batches(source, 4, labels=True) for x in batch["label"].numpy()]
    assert set(found) == {0, 1}
    assert source.skipped == (("2.png", "has no class"), ("3.png", "has no class"))
    source = open_images(tmp_path / "pictures", max_skipped=0.9)
    source.label_names = ("a",)
    batches(source, 4, labels=True)
    assert source.skipped[0] == ("1.png", "has class 1, but there are 1")


def test_numbers_of_classes():
    names, numbers = number_classes(["b", "a"])
    assert names == ("a", "b") and numbers.tolist() == [1, 0, -1]
    names, numbers = number_classes(["2", "0"])
    assert names == ("0", "1", "2") and numbers.tolist() == [2, 0, -1]
    # Those of a catalogue would be a class each, with all below.
    names, numbers = number_classes([987654321, 5])
    assert names == ("5", "987654321") and numbers.tolist() == [1, 0, -1]
    assert number_classes([])[0] == ()


def test_a_member_with_other_json_gives_no_caption(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in (("a.json", b"[1, 2]"), ("a.png", sources.png(1))):
            (tmp_path / name).write_bytes(content)
            tar.add(tmp_path / name, name)
    source = open_images(tmp_path / "a.tar", cache_dir=tmp_path / "cache")
    assert source.read(0).captions == () and source.read(0).label == -1


def test_arguments(opened):
    source = opened["tar"]
    for options, message in (
        ({"rule": 8}, "must be an ImageRule"),
        ({"batch_size": 0}, "batch_size"),
        ({"first_step": -1}, "first_step"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(ValueError, match=message):
            batches(source, 1, **options)
    with pytest.raises(ValueError, match="must be a source of pictures"):
        batches([1, 2], 1)
    with pytest.raises(ValueError, match="max_skipped"):
        open_images(source._bytes.paths[0], max_skipped=2)
