"""A folder of strange files: each of them is a record, a text beside one, not used, or skipped."""

import gzip
import json
import unicodedata
from pathlib import Path

import pyarrow.parquet
import pytest

from data import sources
from data.test_data_layouts import lay, parquet, tar, told
from keras_mdm.cli import main as cli
from keras_mdm.data import open_images, overview, prepare_images


def files_below(root):
    """All files, as a walk that knows nothing of pictures finds them; links to folders are files,
    hidden folders as well."""
    found = set()
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if any(part.startswith(".") for part in Path(name).parts[:-1]):
            continue
        if path.is_dir() and (path.is_symlink() or path.name.startswith(".")):
            found.add(f"{name}/")
        elif not path.is_dir():
            found.add(name)
    return found


def strange(root):
    """Of everything one."""
    cafe = unicodedata.normalize("NFD", "caf\u00e9")
    lay(root, {"red_pear.png": 1, "a.JPE": 2, "a.TXT": "one", "b.png": 3, "b.png.txt": "two"})
    lay(root, {f"{cafe}.png": 4, "caf\u00e9.txt": "three", "c\udce9.png": 5, "d.png": b"damaged"})
    lay(
        root,
        {"e.png": b"", "f.heic": b"", "g.svg": "", "h.mp4": "", "i.png.md5": "", "j.tar.gz": ""},
    )
    lay(root, {"sub/k.png": 6, "sub/k.json": json.dumps({"caption": float("nan")}), "l.txt": ""})
    lay(root, {".hidden.png": 7, ".git/m.png": 8, "img0.target.png": 9, "n": "", "notes.yaml": ""})
    lay(
        root,
        {"metadata.json": json.dumps({"name": "mine"}), "dataset_info.json": '{"features": 1}'},
    )
    lay(
        root,
        {"o-00000-of-00001": "no records", "p.tfrecord.idx": "", "q.parquet.crc": "", "r.zip": ""},
    )
    parquet(root / "00000.parquet", url=["x"], caption=["y"])
    (root / "here").symlink_to(root)
    (root / "gone.png").symlink_to(root / "nothing")
    return root


def test_every_file_of_a_strange_folder_is_accounted_for(tmp_path):
    root = strange(tmp_path / "strange")
    source = open_images(root, max_skipped=1.0)
    found = overview.look(source, limit=None, progress=False)
    names = {source.name(row) for row in range(len(source))}
    beside = {"a.TXT", "b.png.txt", "caf\u00e9.txt", "sub/k.json"}
    unused = set(told(source))
    everything = files_below(root)
    assert names | beside | unused == everything
    assert len(names) + len(beside) + len(source.unused) == len(everything)
    assert sum(source.found.values()) == len(everything)
    assert {file for file, _ in found.broken} == {"d.png", "e.png", "gone.png", "c\udce9.png"}
    assert sum(found.sides.values()) + len(found.broken) == len(source)
    assert all(
        "unsupported kind" not in r or f in {"n", "o-00000-of-00001"} for f, r in source.unused
    )


@pytest.mark.parametrize("kind", ["shards", "table"])
def test_files_beside_shards_and_tables_are_accounted_for(tmp_path, kind):
    root = strange(tmp_path / "strange")
    if kind == "shards":
        for name in ("train/0.tar", "train/1.tar", "test/2.tar"):
            tar(root / name, {"0.png": sources.png(1), "0.txt": b"one"})
        used = {"train/0.tar", "train/1.tar"}
    else:
        rows = [
            {"file": n, "text": "x"} for n in ("b.png", r"sub\k.png", "caf\u00e9.png", "no.png")
        ]
        lines = "\n".join(map(json.dumps, rows)).encode()
        lay(root, {"Metadata.jsonl.gz": gzip.compress(lines), "other.csv": "file\nb.png\n"})
        used = {
            "Metadata.jsonl.gz",
            "b.png",
            "sub/k.png",
            unicodedata.normalize("NFD", "caf\u00e9.png"),
        }
    source = open_images(root, max_skipped=1.0)
    everything = files_below(root)
    assert used | set(told(source)) == everything
    assert len(used) + len(source.unused) == len(everything) == sum(source.found.values())


@pytest.mark.parametrize("name", ["a.tar", "a.tfrecord", "a.parquet", "a.array_record"])
def test_a_damaged_shard_beside_pictures_is_no_source(tmp_path, name):
    """It was, and the pictures could not be opened."""
    lay(tmp_path, {f"{n}.png": n for n in range(3)})
    (tmp_path / name).write_bytes(b"damaged" * 100)
    source = open_images(tmp_path, max_skipped=0.5)
    assert len(source) == 3 and source.unused == []
    ((file, reason),) = source.skipped
    assert file == name and "file without a readable picture" in reason
    assert sum(source.found.values()) == 4
    with pytest.raises(ValueError, match=r"may be unusable.*1 of 4.*a\."):
        open_images(tmp_path)
    tar(tmp_path / "good.tar", {"0.png": sources.png(1)})
    assert len(open_images(tmp_path, max_skipped=1.0)) == 1


def test_files_without_records_do_not_count_as_records(tmp_path):
    """`prepare` compared unusable rows of a table with the other rows only: more than all."""
    lay(tmp_path, {"0.png": 0, "1.png": 1})
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join(
            ['{"file": "0.png", "text": "a"}', '{"file": "1.png", "text": "a\\u0000"}', *"[]"] * 4
        )
    )
    made = prepare_images(tmp_path, tmp_path / "out", size=8, max_skipped=1.0, progress=False)
    assert len(made) == 1


def test_the_command_shows_the_account(tmp_path, capsys):
    root = strange(tmp_path / "strange")
    lay(root, {f"more/{n}.md5": "" for n in range(5)})
    assert cli.main(["data", str(root), "--levels", "8", "--sheet", str(tmp_path / "s.png")]) == 0
    out = capsys.readouterr().out
    for words in (
        "10 pictures, 6 texts, 2 hidden",
        "7  is a checksum: i.png.md5, q.parquet.crc, more/0.md5, ...",
        "convert it to JPEG or PNG: f.heic, g.svg",
        "is missing: gone.png",
        "is a Parquet file without pictures: 00000.parquet",
    ):
        assert words in out, words
    tar(root / "train" / "0.tar", {"0.png": sources.png(1)})
    tar(root / "test" / "0.tar", {"0.png": sources.png(1)})
    assert cli.main(["data", f"{root}:test", "--sheet", str(tmp_path / "s.png")]) == 0
    out = capsys.readouterr().out
    assert "split: test" in out and "belongs to the split train" in out


def test_empty_parquet_files_are_listed_as_such(tmp_path):
    parquet(tmp_path / "b.parquet", (1, 2))
    pyarrow.parquet.write_table(pyarrow.table({"image": [], "text": []}), tmp_path / "a.parquet")
    source = open_images(tmp_path)
    assert len(source) == 2
    assert list(source.unused) == [("a.parquet", "is a Parquet file without pictures")]


def test_files_beside_prepared_shards_and_single_files_are_accounted_for(tmp_path):
    lay(tmp_path / "in", {"1.png": 1, "2.png": 2})
    prepare_images(tmp_path / "in", tmp_path / "out", size=8, progress=False)
    shard = next((tmp_path / "out").glob("*.array_record*"))
    lay(tmp_path / "out", {"old.array_record": shard.read_bytes(), "notes.md": b""})
    source = open_images(tmp_path / "out")
    assert len(source) == 2 and source.found["ArrayRecord files"] == 2
    assert {entry.file: entry.reason for entry in source.unused} == {
        "old.array_record": "is a shard that the manifest does not list",
        "notes.md": "is of an unsupported kind",
    }
    assert open_images(shard).found == {"ArrayRecord files": 1}
