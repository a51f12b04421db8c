"""Folders as programs and people leave them: what is read, and what is listed as not used."""

import gzip
import io
import json
import tarfile
import unicodedata

import pyarrow
import pyarrow.parquet
import pytest
import tensorflow as tf

from data import sources
from keras_mdm.data import find_videos, holds_videos, load_folder, open_images, prepare_images
from keras_mdm.data.sources.beside import files_with_texts


def lay(root, files):
    """Write files: bytes, text, or the number of a picture."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, int):
            content = sources.png(content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def records(source):
    return [source.read(row) for row in range(len(source))]


def captions(source):
    return {record.key: record.captions for record in records(source)}


def parquet(path, numbers=(), **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    if numbers:
        columns["image"] = [{"bytes": sources.png(n), "path": f"{n}.png"} for n in numbers]
        columns["text"] = [f"picture {n}" for n in numbers]
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


def tfrecord(path, numbers):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in numbers:
            writer.write(sources.example(number))


def told(source):
    """What is not used, by the file."""
    return dict(source.unused)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("KERAS_MDM_CACHE", str(tmp_path_factory.mktemp("cache")))


# Splits


def test_one_split_of_parquet_files_is_read(tmp_path):
    for name, numbers in (("train", (1, 2)), ("validation", (3,)), ("test", (4, 5, 6))):
        parquet(tmp_path / "data" / f"{name}-00000-of-00001.parquet", numbers)
    source = open_images(tmp_path)
    assert [r.captions for r in records(source)] == [("picture 1",), ("picture 2",)]
    assert source.choices["split"] == "train" and len(source.unused) == 2
    assert "the split test" in told(source)["data/test-00000-of-00001.parquet"]
    assert len(open_images(f"{tmp_path}:test")) == 3 == len(open_images(tmp_path, split="test"))
    assert len(open_images(f"{tmp_path}:val")) == 1
    with pytest.raises(ValueError, match=r"such a split.*\['test', 'train', 'validation'\]"):
        open_images(f"{tmp_path}:dev2")
    (tmp_path / "data" / "train-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match="split for training.*:test"):
        open_images(tmp_path)


@pytest.mark.parametrize(
    ("names", "read"),
    [
        (["00000.tar", "00001.tar"], 2),
        (["train/0.tar", "train/1.tar", "test/0.tar", "eval.tar"], 2),
        (["train/0.tar", "extra/0.tar"], 2),  # nothing says that these are not for training
        (["0.tar", "test.tar"], 1),
        (["laion-train-0.tar", "laion-val-0.tar", "laion-0.tar"], 1),
        (["test-0.tar", "test-1.tar"], 2),
        (["split=train/0.tar", "split=test/0.tar"], 1),  # as Spark and pyarrow name folders
        (["a/partial-train/0.tar", "a/partial-test/0.tar"], 1),  # Hugging Face, converted
        (["train-00000-of-00001.tar", "extra-00000-of-00001.tar"], 1),
        (["s-train-000-of-002.tar", "s-train-001-of-002.tar", "s-extra-000-of-001.tar"], 2),
        (["cc-00000-of-00002.tar", "cc-00001-of-00002.tar"], 2),
    ],
)
def test_splits_of_shards(tmp_path, names, read):
    for number, name in enumerate(names):
        tar(tmp_path / name, {"0.png": sources.png(number)})
    source = open_images(tmp_path)
    assert len(source) == read and len(source) + len(source.unused) == len(names)
    assert source.found["tar files"] == len(names)


def test_splits_of_pictures(tmp_path):
    lay(tmp_path, {"train/cat/1.png": 1, "train/dog/2.png": 2, "test/cat/3.png": 3, "x.txt": ""})
    source = open_images(tmp_path)
    assert [r.key for r in records(source)] == ["train/cat/1.png", "train/dog/2.png"]
    assert source.label_names == ("cat", "dog") and source.choices == {"split": "train"}
    assert len(source.unused) == 2 and not source.skipped
    assert [r.key for r in records(open_images(f"{tmp_path}:test"))] == ["test/cat/3.png"]


def test_columns_that_could_be_read_instead_are_listed(tmp_path):
    data = [{"bytes": sources.png(1), "path": None}]
    columns = {"conditioning_image": data, "caption": ["a"], "width": [8]}
    parquet(tmp_path / "0.parquet", [1], **columns)
    source = open_images(tmp_path)
    assert source.choices == {"image": "image", "caption": "caption"}
    assert told(source) == {
        "column conditioning_image": "is not read: image='conditioning_image' chooses it",
        "column text": "is not read: caption='text' chooses it",
    }


@pytest.mark.parametrize("ending", ["tar", "parquet"])
def test_shards_of_one_name_in_two_folders_are_told_apart(tmp_path, ending):
    for number, folder in enumerate(("en", "fr")):
        if ending == "tar":
            tar(tmp_path / folder / "0.tar", {"0.png": sources.png(number), "1.txt": b"alone"})
        else:
            parquet(tmp_path / folder / "0.parquet", [number + 1])
    source = open_images(tmp_path, max_skipped=1.0)
    names = [source.name(row) for row in range(2)]
    assert [name.partition("/")[0] for name in names] == ["en", "fr"]
    expected = ["en/0.tar: 1", "fr/0.tar: 1"] if ending == "tar" else []
    assert [entry.file for entry in source.skipped] == expected


def test_a_split_of_any_name_beside_a_numbered_train(tmp_path):
    parquet(tmp_path / "train-00000-of-00001.parquet", [1, 2])
    parquet(tmp_path / "unsupervised-00000-of-00001.parquet", [3])
    source = open_images(tmp_path)
    assert len(source) == 2 and source.choices["split"] == "train"
    assert "unsupervised" in told(source)["unsupervised-00000-of-00001.parquet"]
    assert len(open_images(f"{tmp_path}:unsupervised")) == 1


def test_two_kinds_of_pictures_with_splits(tmp_path):
    lay(tmp_path, {"trainA/1.png": 1, "trainB/2.png": 2, "testA/3.png": 3, "testB/4.png": 4})
    source = open_images(tmp_path)
    assert {r.key: r.label for r in records(source)} == {"trainA/1.png": 0, "trainB/2.png": 1}
    assert source.label_names == ("trainA", "trainB") and len(source.unused) == 2


def test_pictures_of_another_split_of_tables_belong_to_no_split_by_themselves(tmp_path):
    lay(tmp_path, {"p/1.png": 1, "p/2.png": 2, "train.csv": "file,text\np/1.png,one\n"})
    lay(tmp_path, {"test.csv": "file,text\np/2.png,two\n"})
    assert "table does not name" in told(open_images(tmp_path))["p/2.png"]


def test_splits_within_classes(tmp_path):
    lay(tmp_path, {"cat/train/1.png": 1, "dog/train/2.png": 2, "dog/test/3.png": 3})
    source = open_images(tmp_path)
    assert source.label_names == ("cat", "dog") and len(source) == 2


def test_classes_may_be_called_as_splits(tmp_path):
    lay(tmp_path, {"train/1.png": 1, "bus/2.png": 2, "car/3.png": 3, "train_station/4.png": 4})
    source = open_images(tmp_path)
    assert source.label_names == ("bus", "car", "train", "train_station") and not source.choices


def test_tables_in_folders_of_splits(tmp_path):
    for split, number in (("train", 1), ("test", 2)):
        row = {"file_name": f"{number}.png", "text": f"picture {number}"}
        files = {f"{number}.png": number, "metadata.jsonl": json.dumps(row)}
        lay(tmp_path / split, files)
    source = open_images(tmp_path)
    assert captions(source) == {"1.png": ("picture 1",)} and source.choices["split"] == "train"
    assert sorted(told(source)) == ["test/2.png", "test/metadata.jsonl"]
    assert captions(open_images(f"{tmp_path}:test")) == {"2.png": ("picture 2",)}


def test_tables_in_several_folders_are_one_source(tmp_path):
    lay(tmp_path, {"a/1.png": 1, "b/2.png": 2, "b/3.png": 3})
    lay(tmp_path, {"a/metadata.csv": "file_name,text,label\n1.png,one,x\n"})
    lay(tmp_path, {"b/metadata.csv": "file_name,text,label\n2.png,two,w\n9.png,nine,x\n"})
    source = open_images(tmp_path)
    assert source.read(0).captions == ("one",) and source.read(1).key == "b/2.png"
    assert source.label_names == ("w", "x")
    assert [source.read(row).label for row in (0, 1)] == [1, 0]
    assert told(source) == {"b/3.png": "is a picture that the table does not name"}


def test_a_damaged_list_of_captions_is_not_replaced_by_names(tmp_path):
    lay(tmp_path, {"a.png": 1, "metadata.json": '[{"file": "a.png", "caption": "a cat"}, {"fi'})
    with pytest.raises(ValueError, match="must be a list of objects.*To fix it"):
        open_images(tmp_path)
    lay(tmp_path, {"metadata.json": '{"license": "CC0"}'})
    assert told(open_images(tmp_path))["metadata.json"].startswith("is not a list of objects")


@pytest.mark.parametrize("by", ["column", "folder"])
def test_splits_within_a_table(tmp_path, by):
    lay(tmp_path, {"train/1.png": 1, "test/2.png": 2})
    table = "file,caption,split\ntrain/1.png,one,train\ntest/2.png,two,test\n"
    if by == "folder":
        table = "\n".join(line.rpartition(",")[0] for line in table.splitlines())
    lay(tmp_path, {"metadata.csv": table})
    source = open_images(tmp_path)
    assert captions(source) == {"train/1.png": ("one",)} and source.choices["split"] == "train"
    assert told(source)["metadata.csv, line 3"].startswith("belongs to the split test")
    assert captions(open_images(f"{tmp_path}:test")) == {"test/2.png": ("two",)}


# Links


def test_links_to_folders_are_followed_and_never_in_circles(tmp_path):
    outside = lay(tmp_path / "outside", {"deep/1.png": 1, "2.mp4": ""})
    root = lay(tmp_path / "root", {"real/3.png": 3, ".hidden/4.png": 4})
    for name, target in (
        ("linked", outside),
        ("linked_again", outside / "deep"),
        ("up", tmp_path),
        ("here", root),
        ("same", root / "real"),
        ("shown", root / ".hidden"),
    ):
        (root / name).symlink_to(target)
    (outside / "back").symlink_to(root)
    source = open_images(root)
    keys = [r.key for r in records(source)]
    assert keys == ["linked/deep/1.png", "real/3.png", "shown/4.png"]
    assert holds_videos(root)
    assert find_videos(root, captions="names", max_skipped=1.0).files == ["linked/2.mp4"]
    listed = told(source)
    for name in ("linked_again/", "up/", "here/", "same/", "linked/back/"):
        assert "is a link to" in listed[name], name
    assert load_folder(root, size=8, progress=False).files == tuple(keys)
    tar(outside / "t" / "0.tar", {"0.png": sources.png(1)})
    assert len(open_images(root)) == 1


def test_a_folder_behind_two_links_is_read_once(tmp_path):
    outside = lay(tmp_path / "outside", {"cat/1.png": 1, "2.png": 2})
    root = lay(tmp_path / "root", {"3.png": 3})
    (root / "a").symlink_to(outside / "cat")
    (root / "b").symlink_to(outside)
    (root / "gone").symlink_to(tmp_path / "nowhere")
    source = open_images(root)
    assert [r.key for r in records(source)] == ["3.png", "a/1.png", "b/2.png"]
    assert told(source) == {
        "b/cat/": "is a folder that a link leads to, and is read there",
        "gone": "is a link that leads nowhere",
    }


# Endings and texts


def test_endings_and_texts_in_other_forms(tmp_path):
    jpeg = io.BytesIO()
    from PIL import Image

    Image.new("RGB", (8, 8)).save(jpeg, "jpeg")
    jpeg = jpeg.getvalue()
    cafe = unicodedata.normalize("NFD", "caf\u00e9")
    lay(tmp_path, {"a.jfif": jpeg, "a.TXT": "one", "b.JPE": jpeg, "b.JPE.txt": "two"})
    lay(tmp_path, {"c.jpg": jpeg, "c.caption": "three", "d.jpg": jpeg})
    lay(tmp_path, {"d.json": json.dumps({"caption": ["four", float("nan")], "width": 3})})
    lay(tmp_path, {f"{cafe}.jpg": jpeg, "caf\u00e9.txt": "five", "f.heic": b"", "g.svg": ""})
    lay(tmp_path, {"h.jpg": jpeg, "h.txt": "six", "h.json": "{}", "alone.txt": "", "i.mp4": ""})
    source = open_images(tmp_path)
    found = {key[0]: value for key, value in captions(source).items() if key != f"{cafe}.jpg"}
    assert found == dict(
        zip("abcdh", [(w,) for w in "one two three four six".split()], strict=True)
    )
    assert captions(source)[f"{cafe}.jpg"] == ("five",)
    listed = told(source)
    assert sorted(listed) == ["alone.txt", "f.heic", "g.svg", "h.json", "i.mp4"]
    assert "convert it" in listed["f.heic"] and "video" in listed["i.mp4"]
    loaded = load_folder(tmp_path, size=8, progress=False)
    assert len(loaded.captions) == 6 and {"one", "two", "three", "five"} < set(loaded.captions)


@pytest.mark.parametrize("name", ["Metadata.CSV", "metadata.json", "metadata.jsonl.gz", "t.csv.gz"])
def test_tables_in_other_forms(tmp_path, name):
    row = {"file_name": "1.png", "text": "one"}
    content = {
        "Metadata.CSV": b"file_name,text\n1.png,one\n",
        "metadata.json": json.dumps([row]).encode(),
        "metadata.jsonl.gz": gzip.compress(json.dumps(row).encode() + b"\n"),
        "t.csv.gz": gzip.compress(b"file_name,text\n1.png,one\n"),
    }[name]
    lay(tmp_path, {"1.png": 1, "2.png": 2, name: content})
    source = open_images(tmp_path)
    assert captions(source) == {"1.png": ("one",)} and list(told(source)) == ["2.png"]
    source = open_images(tmp_path / name)
    assert captions(source) == {"1.png": ("one",)} and source.found == {"tables": 1}


def test_json_lines_with_the_ending_of_json(tmp_path):
    rows = [{"file_name": f"{n}.png", "text": f"row {n}"} for n in range(3)]
    lines = [json.dumps(row) for row in rows]
    lines.insert(1, '{"file_name": "9.png", "text": "cut')
    lay(tmp_path, {f"{n}.png": n for n in range(3)})
    lay(tmp_path, {"metadata.json": "\n".join(lines)})
    source = open_images(tmp_path, max_skipped=1.0)
    assert captions(source) == {f"{n}.png": (f"row {n}",) for n in range(3)}
    assert [entry.file for entry in source.skipped] == ["metadata.json, line 2"]
    # One entry that is no object costs itself, and not the captions of all others.
    lay(tmp_path, {"metadata.json": json.dumps([*rows[:2], None])})
    source = open_images(tmp_path, max_skipped=1.0)
    assert captions(source) == {"0.png": ("row 0",), "1.png": ("row 1",)}
    assert [tuple(entry) for entry in source.skipped] == [
        ("metadata.json, row 3", "is not a JSON object")
    ]


def test_a_text_without_a_caption_is_not_replaced_by_the_name_of_the_file(tmp_path):
    lay(tmp_path, {"a.png": 1, "a.json": '{"caption": NaN}', "b.png": 2, "b.txt": "\n"})
    lay(tmp_path, {"red_c.png": 3, "red_c.json": '{"width": 8}', "d.png": 4, "d.txt": "four"})
    lay(tmp_path, {"d.json": '{"caption": "again"}', "e.jif": 5, "f.PJPEG": 6})
    source = open_images(tmp_path)
    assert captions(source) == {
        **{"a.png": (), "b.png": (), "d.png": ("four",), "e.jif": ("e",), "f.PJPEG": ("f",)},
        "red_c.png": ("red c",),
    }
    assert told(source) == {"d.json": "is another text of a picture, of which one is read"}


def test_json_that_is_no_table(tmp_path):
    lay(tmp_path, {"1.png": 1, "metadata.json": json.dumps({"name": "mine", "license": "CC0"})})
    source = open_images(tmp_path)
    assert captions(source) == {"1.png": ("1",)} and list(told(source)) == ["metadata.json"]
    lay(tmp_path, {"metadata.jsonl.gz": b"damaged"})
    with pytest.raises(ValueError, match="packed table must be whole.*To fix it"):
        open_images(tmp_path)


# Files beside others


@pytest.mark.parametrize("kind", ["files", "tfrecord", "webdataset"])
def test_what_img2dataset_writes(tmp_path, kind):
    columns = {"url": ["https://x/1"], "caption": ["one"], "key": ["000000000"], "status": ["ok"]}
    parquet(tmp_path / "00000.parquet", **{name: list(value) for name, value in columns.items()})
    lay(tmp_path, {"00000_stats.json": "{}"})
    if kind == "files":
        lay(tmp_path / "00000", {"000000000.png": 1, "000000000.txt": "one"})
        lay(tmp_path / "00000", {"000000000.json": json.dumps({"caption": "one"})})
    elif kind == "tfrecord":
        tfrecord(tmp_path / "00000.tfrecord", [1])
    else:
        tar(tmp_path / "00000.tar", {"0.png": sources.png(1), "0.txt": b"one"})
    source = open_images(tmp_path)
    assert len(source) == 1 and records(source)[0].captions in {("one",), ("picture number 1",)}
    assert {"00000.parquet", "00000_stats.json"} <= set(told(source)) and not source.skipped


def test_metadata_of_hugging_face_in_parquet(tmp_path):
    lay(tmp_path, {"train/1.png": 1, "train/2.png": 2})
    parquet(tmp_path / "train" / "metadata.parquet", file_name=["1.png"], text=["one"])
    source = open_images(tmp_path)
    assert captions(source) == {"1.png": ("one",)}
    assert list(told(source)) == ["train/2.png"]
    assert len(open_images(tmp_path / "train" / "metadata.parquet")) == 1


def test_side_files_are_no_shards(tmp_path):
    tar(tmp_path / "tar" / "0.tar", {"0.png": sources.png(1)})
    lay(tmp_path / "tar", {"0.tar.md5": "x", "0.tar.idx": "x", "0.tar.gz": b"x"})
    tfrecord(tmp_path / "tfrecord" / "a.tfrecord", [1])
    tfrecord(tmp_path / "tfrecord" / "a.tfrecord-00000-of-00001", [1])
    lay(tmp_path / "tfrecord", {"a.tfrecord.idx": "x", "a.tfrecord.crc": "x"})
    parquet(tmp_path / "parquet" / "part.parquet", [1])
    lay(tmp_path / "parquet", {"part.parquet.crc": "x", "_SUCCESS": "", "part.parquet.lock": ""})
    lay(tmp_path / "pictures", {"img0.target.jpg": 1, "my.parquet.png": 2, "x.tfrecord.png": 3})
    for name, used, unused in (("tar", 1, 3), ("tfrecord", 2, 2), ("parquet", 1, 3)):
        source = open_images(tmp_path / name)
        assert (len(source), len(source.unused)) == (used, unused)
        assert not source.skipped
    assert len(open_images(tmp_path / "pictures")) == 3
    assert told(open_images(tmp_path / "tar"))["0.tar.md5"] == "is a checksum"


def test_tfrecords_without_an_ending(tmp_path):
    """As ImageNet's own."""
    for name, numbers in (("train", (1, 2)), ("validation", (3,))):
        tfrecord(tmp_path / f"{name}-00000-of-00128", numbers)
    lay(tmp_path, {"notes-00000-of-00001": "no records"})
    source = open_images(tmp_path)
    assert len(source) == 2 and source.choices["split"] == "train" and len(source.unused) == 2
    assert len(open_images(tmp_path / "train-00000-of-00128")) == 2


# Names


def test_names_as_another_system_writes_them(tmp_path):
    names = ["sub/0.png", "caf\u00e9/1.png", "e\u0301.png"]
    disk = ["sub/0.png", unicodedata.normalize("NFD", names[1]), "\u00e9.png"]
    lay(tmp_path, {name: number for number, name in enumerate(disk)})
    rows = [{"file": name, "text": str(n)} for n, name in enumerate(names)]
    rows[0]["file"] = r"sub\0.png"
    lay(tmp_path, {"metadata.jsonl": "\n".join(map(json.dumps, rows))})
    source = open_images(tmp_path)
    assert [r.data for r in records(source)] == [sources.png(n) for n in range(3)]
    assert not source.unused and not source.skipped


def test_names_of_videos_as_another_system_writes_them(tmp_path):
    disk = unicodedata.normalize("NFD", "caf\u00e9/1.mp4")
    table = "file,caption\ncaf\u00e9\\1.mp4,one\nno.mp4,two\n"
    lay(tmp_path, {disk: "", "List.CSV": table})
    found = find_videos(tmp_path)
    assert found.path(0) == tmp_path / disk and found.path(1) == tmp_path / "no.mp4"


def test_names_that_are_no_utf_8(tmp_path):
    tar(tmp_path / "t\udcff" / "a\udce9.tar", {"0.png": sources.png(1)})
    assert len(open_images(tmp_path / "t\udcff")) == 1
    assert len(open_images(tmp_path / "t\udcff" / "a\udce9.tar")) == 1
    root = lay(tmp_path / "p\udcff", {"c\udce9/x\udcfe.png": 1, "c\udce9/x\udcfe.txt": "one"})
    made = prepare_images(root, tmp_path / "o\udcff", size=8, image_format="png", progress=False)
    assert made.read(0).captions == ("one",) and made.label_names == ("c\udce9",)
    assert len(open_images(tmp_path / "o\udcff")) == 1


# Values


def test_parquet_without_row_groups(tmp_path):
    parquet(tmp_path / "a.parquet", [1, 2])
    schema = pyarrow.parquet.read_schema(tmp_path / "a.parquet")
    with pyarrow.parquet.ParquetWriter(tmp_path / "b.parquet", schema):
        pass
    assert len(open_images(tmp_path)) == 2
    with pytest.raises(ValueError, match="must hold records.*To fix it"):
        open_images(tmp_path / "b.parquet")


@pytest.mark.parametrize("dictionary", [False, True])
def test_classes_by_name_in_parquet(tmp_path, dictionary):
    names = ["dog", "cat", None, "dog"]
    column = pyarrow.array(names)
    label = column.dictionary_encode() if dictionary else column
    parquet(tmp_path / "a.parquet", [1, 2, 3, 4], label=label)
    source = open_images(tmp_path)
    assert source.label_names == ("cat", "dog")
    assert [r.label for r in records(source)] == [1, 0, -1, 1]


def test_captions_that_are_no_texts(tmp_path):
    rows = [float("nan"), {"en": "a"}, None, True, ["a", float("nan"), {"b": 1}], 7]
    lines = [json.dumps({"file": f"{n}.png", "caption": value}) for n, value in enumerate(rows)]
    lay(tmp_path, {f"{n}.png": n for n in range(6)} | {"metadata.jsonl": "\n".join(lines)})
    found = [r.captions for r in records(open_images(tmp_path))]
    assert found == [(), (), (), (), ("a",), ("7",)]
    columns = {"text": [float("nan"), 2.0], "caption": [{"en": "a"}, {"en": "b"}]}
    image = [sources.png(n) for n in range(2)]
    for name, values in columns.items():
        parquet(tmp_path / name / "a.parquet", image=image, **{name: values})
        expected = [(), ("2.0",)] if name == "text" else [(), ()]
        assert [r.captions for r in records(open_images(tmp_path / name))] == expected


@pytest.mark.parametrize(
    "name", ["train-0-of-4", "a.tfrec", "flowers00-230.tfrec", "coco_train.record", "A.TFR"]
)
def test_names_of_tfrecord_files(tmp_path, name):
    tfrecord(tmp_path / name, [1, 2])
    source = open_images(tmp_path)
    assert len(records(source)) == 2 and source.found == {"TFRecord files": 1}
    source = open_images(tmp_path / name)
    assert len(source) == 2 and source.found == {"TFRecord files": 1}
    (tmp_path / name).write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match="compressed with gzip.*gunzip"):
            open_images(path)


def test_other_files_with_names_like_those_of_tfrecord_files(tmp_path):
    lay(
        tmp_path,
        {"a.png": 1, "labels-0-of-1": "a text", "b.record": "", "c-0-of-1.gz": b"\x1f\x8b"},
    )
    assert list(captions(open_images(tmp_path))) == ["a.png"]


def test_damaged_parts_of_a_whole_without_endings(tmp_path):
    for part in range(2):
        tfrecord(tmp_path / f"train-0000{part}-of-00004", [part])
    lay(tmp_path, {"train-00002-of-00004": bytes(100), "train-00003-of-00004": ""})
    source = open_images(tmp_path, max_skipped=0.5)
    assert len(records(source)) == 2
    assert [entry.file for entry in source.skipped] == ["train-00002-of-00004"]
    assert told(source) == {"train-00003-of-00004": "is empty"}


def test_double_slashes_in_names_of_a_table(tmp_path):
    lay(tmp_path, {"sub/a.png": 1, "metadata.csv": "file_name,text\nsub//a.png,one\n"})
    source = open_images(tmp_path)
    assert captions(source) == {"sub//a.png": ("one",)} and not len(source.unused)


def test_array_records_by_their_other_name(tmp_path):
    lay(tmp_path / "in", {"1.png": 1, "2.png": 2})
    prepare_images(tmp_path / "in", tmp_path / "out", size=8, progress=False)
    shard = next((tmp_path / "out").glob("*.array_record*"))
    shard.rename(tmp_path / "a.arrayrecord")
    assert len(records(open_images(tmp_path / "a.arrayrecord"))) == 2


def test_a_second_text_of_a_video_is_called_so(tmp_path):
    lay(tmp_path, {"a.mp4": "", "a.txt": "one", "a.mp4.txt": "two", "b.txt": "nobody"})
    found, left = files_with_texts(tmp_path, (".mp4",))
    assert found == [("a.mp4", "a.txt")]
    assert {entry.file: entry.reason for entry in left} == {
        "a.mp4.txt": "is another text of a file, of which one is read",
        "b.txt": "is a text that belongs to no other file",
    }


def test_a_packed_copy_of_a_part_is_not_a_damaged_part(tmp_path):
    tfrecord(tmp_path / "train-00000-of-00001.tfrecord", [1])
    lay(tmp_path, {"train-00000-of-00001.gz": gzip.compress(b"copy")})
    source = open_images(tmp_path)
    assert len(source) == 1 and not source.skipped
    assert told(source) == {"train-00000-of-00001.gz": "is packed: unpack it"}
