"""Captions of tables whose pictures are elsewhere, in every form of a table."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from keras_mdm.data import captions_of_table, is_caption_table, open_images

CAPTIONS = ["a cat, sitting", 'a "big" dog', "two\u00a0birds"]
WANTED = ["a cat, sitting", 'a "big" dog', "two birds"]
ROWS = [{"image_id": n, "caption": caption} for n, caption in enumerate(CAPTIONS)]


def csv_of(rows, separator=","):
    def cell(value):
        text = str(value).replace('"', '""')
        return f'"{text}"' if separator == "," else str(value)

    lines = [separator.join(rows[0])] + [separator.join(map(cell, row.values())) for row in rows]
    return "\n".join(lines) + "\n"


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


FORMS = {
    "a.csv": csv_of(ROWS),
    "only.csv": csv_of([{"caption": row["caption"]} for row in ROWS]),
    "a.tsv": csv_of(ROWS, "\t"),
    "utf16.csv": csv_of(ROWS).encode("utf-16"),
    "a.csv.gz": gzip.compress(csv_of(ROWS).encode()),
    "a.jsonl": "\n".join(map(json.dumps, ROWS)),
    "a.json": json.dumps(ROWS),
    "captions_val2014.json": json.dumps(
        {"info": {}, "images": [{"id": 1}], "annotations": [{**row, "id": 9} for row in ROWS]}
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_captions(tmp_path, name):
    path = write(tmp_path / name, FORMS[name])
    assert is_caption_table(path) and captions_of_table(path) == WANTED


def test_parquet_with_and_without_pictures(tmp_path):
    several = {"caption": [CAPTIONS[:2], [], CAPTIONS[2:]], "other": [1, 2, 3]}
    pyarrow.parquet.write_table(pyarrow.table(several), tmp_path / "a.parquet")
    left_out = []
    assert captions_of_table(tmp_path / "a.parquet", skipped=left_out.append) == WANTED
    assert left_out == [("a.parquet, row 2", "has no caption")]
    # A picture that cannot be decoded is not read.
    pictures = {"image": [{"bytes": b"none", "path": "a.png"}] * 3, "text": CAPTIONS}
    pyarrow.parquet.write_table(pyarrow.table(pictures), tmp_path / "b.parquet")
    assert captions_of_table(tmp_path / "b.parquet") == WANTED


def test_the_captions_are_those_of_the_source_of_the_same_table(tmp_path):
    from data import sources
    from keras_mdm.data import captions_of

    rows = [
        {"file": f"{n}.png", "text": caption, "split": "test" if n == 1 else "train"}
        for n, caption in enumerate(CAPTIONS)
    ]
    for row in rows:
        write(tmp_path / row["file"], sources.png(1))
    table = write(tmp_path / "metadata.csv", csv_of(rows))
    found = captions_of_table(table)
    assert found == list(captions_of(open_images(tmp_path))) == [WANTED[0], WANTED[2]]


def test_rows_without_a_caption_are_told(tmp_path):
    lines = [json.dumps(ROWS[0]), "{", json.dumps({"caption": "  "}), json.dumps({"caption": 3})]
    left_out = []
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    assert captions_of_table(path, skipped=left_out.append) == [WANTED[0], "3"]
    assert [entry.file for entry in left_out] == ["a.jsonl, line 2", "a.jsonl, line 3"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "file,label\na.png,1\n", r"a column of captions.*\'file\', \'label\'"),
        ("a.csv", "", "a column of captions"),
        ("a.jsonl", '{"file": "a.png"}', r"a column of captions.*\'file\'"),
        ("a.json", '{"images": []}', "a list of objects"),
        ("a.json", "{", "a list of objects"),
        ("a.parquet", b"none", "a whole Parquet file"),
    ],
)
def test_a_table_without_captions_is_one_error(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=rf"{message}.*To fix it: "):
        captions_of_table(path)
    with pytest.raises(ValueError, match="must be a file"):
        captions_of_table(tmp_path / "none.csv")


def test_other_files_are_no_tables():
    for name in ("a.txt", "a.tar", "a.tfrecord", "a.png", "folder"):
        assert not is_caption_table(name)
