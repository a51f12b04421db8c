"""Captions in other encodings: read by their byte order mark, else refused and listed."""

import io
import json
import tarfile

import numpy as np
import pytest

from data import sources
from keras_mdm.cli.main import main
from keras_mdm.data import (
    ImageRule,
    captions_of,
    find_videos,
    image_dataset,
    load_folder,
    open_images,
    prepare_images,
)

CAPTIONS = ["caf\u00e9 au lait", "\u6728\u306e\u6a4b", "Stra\u00dfe, \u201enass\u201c"]
MARKED = {
    "utf-8": CAPTIONS[0].encode(),
    "utf-8-sig": CAPTIONS[0].encode("utf-8-sig"),
    "utf-16": CAPTIONS[0].encode("utf-16"),
    "utf-16-be": b"\xfe\xff" + CAPTIONS[0].encode("utf-16-be"),
    "utf-32": CAPTIONS[0].encode("utf-32"),
}
OTHERS = {
    "cp1252": CAPTIONS[0].encode("cp1252"),
    "shift-jis": CAPTIONS[1].encode("shift-jis"),
    "utf-16 without a mark": CAPTIONS[0].encode("utf-16-le"),
    "half of utf-16": CAPTIONS[0].encode("utf-16")[:-1],
    "half of a character": CAPTIONS[0].encode()[:4],
}


class Letters:
    """Captions as they arrive at an encoder."""

    width = 1

    def __init__(self):
        self.seen = []

    def encode(self, texts):
        self.seen += texts
        return np.zeros((len(texts), 1, 1), "float32"), np.ones((len(texts), 1), "float32")


def trained(source):
    """Captions that a training sees, and the files that it refuses."""
    encoder = Letters()
    data = image_dataset(
        source, ImageRule(8), batch_size=len(source), seed=0, encoder=encoder, repeat=False
    )
    list(data)
    assert sorted(encoder.seen) == sorted(captions_of(source))
    return set(encoder.seen), dict(source.skipped)


def write_folder(root, content):
    """Two pictures, of which the second one's text is UTF-8."""
    root.mkdir()
    for number, text in enumerate((content, b"plain")):
        (root / f"{number}.png").write_bytes(sources.png(number))
        (root / f"{number}.txt").write_bytes(text)
    return root


@pytest.mark.parametrize("encoding", [*MARKED, *OTHERS])
def test_texts_beside_pictures(tmp_path, encoding):
    root = write_folder(tmp_path / "pictures", (MARKED | OTHERS)[encoding])
    source = open_images(root, max_skipped=0.5)
    captions, skipped = trained(source)
    data = load_folder(root, size=8, progress=False)
    if encoding in MARKED:
        assert captions == {CAPTIONS[0], "plain"} and not skipped
        assert data.captions == (CAPTIONS[0], "plain")
        return
    assert captions == {"plain"} and list(skipped) == ["0.png"]
    assert "is not UTF-8" in skipped["0.png"] or "NUL" in skipped["0.png"]
    assert data.captions == ("plain",) and data.skipped[0].file == "0.png"
    # Without captions nothing is wrong with the picture.
    plain = open_images(root)
    (batch,) = image_dataset(plain, ImageRule(8), batch_size=2, seed=0, repeat=False)
    assert sorted(sources.numbers(batch)) == [0, 1] and not plain.skipped
    prepared = prepare_images(root, tmp_path / "shards", size=8, max_skipped=0.5, progress=False)
    assert list(captions_of(prepared)) == ["plain"]


@pytest.mark.parametrize("encoding", [*MARKED, *OTHERS])
def test_texts_beside_videos(tmp_path, encoding):
    for name, text in (("a", (MARKED | OTHERS)[encoding]), ("b", b"plain")):
        (tmp_path / f"{name}.mp4").touch()
        (tmp_path / f"{name}.txt").write_bytes(text)
    found = find_videos(tmp_path, max_skipped=0.5)
    if encoding in MARKED:
        assert list(found.captions) == [CAPTIONS[0], "plain"] and not found.skipped
        return
    assert list(found.captions) == ["plain"] and found.skipped[0].file == "a.mp4"


def table_of(ending):
    rows = [(f"{number}.png", text, "yes") for number, text in enumerate(CAPTIONS)]
    if ending == "jsonl":
        fields = ("file", "caption", "label")
        lines = [
            json.dumps(dict(zip(fields, row, strict=True)), ensure_ascii=False) for row in rows
        ]
        return "\n".join(lines)
    comma = {"csv": ",", "tsv": "\t"}[ending]
    lines = [comma.join(("file", "caption", "label"))]
    return "\r\n".join(lines + [comma.join((f, f'"{text}"', k)) for f, text, k in rows])


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_tables_with_a_mark(tmp_path, ending, encoding):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(sources.png(number))
    # U+0A0A: both of its bytes look like the end of a line.
    text = table_of(ending).replace(CAPTIONS[2], f"{CAPTIONS[2]} \u0a0a")
    (tmp_path / f"table.{ending}").write_bytes(text.encode(encoding))
    source = open_images(tmp_path)
    assert [source.read(row).captions[0] for row in range(3)] == [
        *CAPTIONS[:2],
        f"{CAPTIONS[2]} \u0a0a",
    ]
    assert source.label_names == ("yes",)
    assert len(trained(source)[0]) == 3 and not source.skipped


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_tables_with_other_rows(tmp_path, ending):
    """Rows of a table may come from different programs."""
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(sources.png(number))
    table = table_of(ending).encode()
    table = table.replace(CAPTIONS[0].encode(), CAPTIONS[0].encode("cp1252"))
    table = table.replace(CAPTIONS[1].encode(), "\u6a4b".encode("shift-jis"))
    (tmp_path / f"table.{ending}").write_bytes(table)
    source = open_images(tmp_path, max_skipped=0.9)
    captions, skipped = trained(source)
    assert captions == {CAPTIONS[2]} and sorted(skipped) == ["0.png", "1.png"]
    assert all("is not UTF-8" in reason for reason in skipped.values())
    # Two classes must not become one.
    (tmp_path / f"table.{ending}").write_bytes(table.replace(b"yes", b"\xe9", 1))
    source = open_images(tmp_path, max_skipped=0.9)
    assert source.label_names == ("yes",) and len(source) == 2
    assert "class that is not UTF-8" in source.skipped[0].reason


def test_tables_of_videos(tmp_path):
    table = tmp_path / "list.csv"
    text = "file,caption\r\n" + "".join(f'{n}.mp4,"{c}"\r\n' for n, c in enumerate(CAPTIONS))
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        table.write_bytes(text.encode(encoding))
        found = find_videos(tmp_path)
        assert list(found.captions) == CAPTIONS and not found.skipped
    table.write_bytes(text.encode().replace(CAPTIONS[0].encode(), CAPTIONS[0].encode("cp1252")))
    found = find_videos(tmp_path, max_skipped=0.5)
    assert list(found.captions) == CAPTIONS[1:] and found.skipped[0].file == "0.mp4"
    table.write_bytes(text.encode("utf-16")[:-1])
    with pytest.raises(ValueError, match="readable to its end.*To fix it"):
        find_videos(tmp_path)


def test_tar_shards(tmp_path):
    members = {
        "0.txt": CAPTIONS[0].encode("utf-16"),
        "1.txt": CAPTIONS[0].encode("cp1252"),
        "2.json": json.dumps({"caption": CAPTIONS[1]}, ensure_ascii=False).encode("utf-16"),
        "3.json": json.dumps({"caption": CAPTIONS[0]}, ensure_ascii=False).encode("cp1252"),
    }
    members |= {f"{number}.png": sources.png(number) for number in range(4)}
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in sorted(members):
            member = tarfile.TarInfo(name)
            member.size = len(members[name])
            tar.addfile(member, io.BytesIO(members[name]))
    source = open_images(tmp_path, max_skipped=0.5, cache_dir=tmp_path / "cache")
    captions, skipped = trained(source)
    assert captions == set(CAPTIONS[:2]) and len(skipped) == 2
    assert all("is not UTF-8" in reason for reason in skipped.values())


def test_records_and_columns_of_bytes(tmp_path):
    import pyarrow
    import pyarrow.parquet
    import tensorflow as tf
    from tensorflow.core.example.example_pb2 import Example

    texts = [CAPTIONS[0].encode(), CAPTIONS[0].encode("cp1252"), CAPTIONS[1].encode("utf-16")]
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        for number, text in enumerate(texts):
            example = Example.FromString(sources.example(number))
            example.features.feature["caption"].bytes_list.value[0] = text
            writer.write(example.SerializeToString())
    columns = {"image": [sources.png(n) for n in range(3)], "text": texts}
    lists = {**columns, "text": [[text] for text in texts]}
    # What others wrote as text without looking at it.
    buffers = pyarrow.array(texts).buffers()
    unchecked = {**columns, "text": pyarrow.StringArray.from_buffers(3, *buffers[1:])}
    for name, table in (("bytes", columns), ("lists", lists), ("text", unchecked)):
        pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / f"{name}.parquet")
    for name in ("a.tfrecord", "bytes.parquet", "lists.parquet", "text.parquet"):
        source = open_images(tmp_path / name, max_skipped=0.5)
        captions, skipped = trained(source)
        assert captions == set(CAPTIONS[:2]), name
        assert len(skipped) == 1 and "is not UTF-8" in next(iter(skipped.values()))


def test_names_of_files(tmp_path, caplog):
    root = tmp_path / "pictures"
    root.mkdir()
    for number, name in enumerate(("red_apple.png", "caf\udce9.png")):
        (root / name).write_bytes(sources.png(number))
    source = open_images(root, max_skipped=0.5)
    assert trained(source)[0] == {"red apple"} and len(source.skipped) == 1
    assert load_folder(root, size=8, progress=False).captions == ("red apple",)
    (told,) = caplog.messages
    assert r"caf\udce9.png (its name is not UTF-8: rename the file)" in told


def test_the_command_line_prints_names_of_any_bytes(tmp_path, capsys):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, name in enumerate(("red_apple.png", "caf\udce9.png")):
        (pictures / name).write_bytes(sources.png(number))
    (pictures / "caf\udce9.png").write_bytes(b"damaged")
    words = ["prepare", str(pictures), str(tmp_path / "out"), "--size", "8"]
    assert main([*words, "--max-skipped", "0.5"]) == 0
    assert r"skipped caf\udce9.png" in capsys.readouterr().out
