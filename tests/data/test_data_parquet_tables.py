"""Parquet files beside pictures, as img2dataset and Hugging Face write them."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from data import sources
from data.test_data_layouts import captions, lay, parquet, records, tfrecord, told
from keras_mdm.data import open_images


def pictures(root, names="abcd"):
    return lay(root, {f"{name}.png": number for number, name in enumerate(names)})


def test_parts_of_a_table_are_read_together(tmp_path):
    pictures(tmp_path)
    for part, names in enumerate(("ab", "cd")):
        files = [f"{name}.png" for name in names]
        parquet(tmp_path / f"part-{part}.parquet", file_name=files, text=list(names))
    source = open_images(tmp_path)
    assert captions(source) == {f"{name}.png": (name,) for name in "abcd"}
    assert not len(source.unused)


def test_tables_of_splits_in_one_folder(tmp_path):
    pictures(tmp_path)
    for split, names in (("train", "abc"), ("test", "d")):
        files = [f"{name}.png" for name in names]
        parquet(tmp_path / f"{split}-00000-of-00001.parquet", file_name=files, text=list(names))
    source = open_images(tmp_path)
    assert captions(source) == {f"{name}.png": (name,) for name in "abc"}
    assert told(source)["test-00000-of-00001.parquet"].startswith("belongs to the split test")
    assert captions(open_images(tmp_path, split="test")) == {"d.png": ("d",)}


def test_pictures_that_are_given_by_their_names_only(tmp_path):
    pictures(tmp_path)
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    named = [{"bytes": None, "path": f"{name}.png"} for name in "abcd"]
    table = {"image": pyarrow.array(named, kind), "text": list("abcd")}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "data.parquet")
    assert captions(open_images(tmp_path)) == {f"{name}.png": (name,) for name in "abcd"}


@pytest.mark.parametrize("kind", ["pictures", "TFRecord"])
def test_damaged_metadata_costs_no_picture(tmp_path, kind):
    if kind == "pictures":
        pictures(tmp_path / "00000")
    else:
        tfrecord(tmp_path / "00000.tfrecord", range(4))
    (tmp_path / "00000.parquet").write_bytes(b"PAR1")
    source = open_images(tmp_path)
    assert len(records(source)) == 4
    assert "cannot be read" in told(source)["00000.parquet"]


def test_damaged_captions_of_all_pictures_are_an_error(tmp_path):
    pictures(tmp_path)
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="metadata.parquet: cannot be read"):
        open_images(tmp_path)


def test_tables_that_are_not_read_are_called_so(tmp_path):
    pictures(tmp_path)
    lay(tmp_path, {"metadata.csv": "file_name,text\na.png,first\n"})
    parquet(tmp_path / "metadata.parquet", file_name=["a.png"], text=["second"])
    source = open_images(tmp_path)
    assert captions(source) == {"a.png": ("first",)}
    assert told(source)["metadata.parquet"].startswith("is a table in Parquet, but not")


def test_rows_that_were_not_downloaded_are_not_records(tmp_path):
    for part in range(2):
        status = ["success", "failed_to_download", "success", "failed_to_resize"]
        jpg = [sources.png(part), None, sources.png(part), None]
        columns = {"caption": list("abcd"), "status": status, "error_message": [None, "404"] * 2}
        parquet(tmp_path / f"0000{part}.parquet", jpg=jpg, **columns)
    source = open_images(tmp_path)
    assert [record.captions for record in records(source)] == [("a",), ("c",)] * 2
    assert told(source)["00001.parquet: row 1 of group 0"] == "has no picture: failed_to_download"
    assert len(source.unused) == 4 and not source.skipped


def test_numbered_folders_of_a_download_are_not_classes(tmp_path):
    for shard in ("00000", "00001"):
        files = {f"{shard}/{shard}0.png": 1, f"{shard}/{shard}0.txt": shard}
        files |= {f"{shard}/{shard}0.json": json.dumps({"caption": shard, "url": "-"})}
        lay(tmp_path, {**files, f"{shard}_stats.json": "{}"})
    source = open_images(tmp_path)
    assert not source.label_names and {record.label for record in records(source)} == {-1}
    assert told(source)["00000/000000.json"].startswith("is another text of a picture")


@pytest.mark.parametrize("kind", ["string_view", "binary", "large_binary"])
def test_classes_by_name_in_any_type_of_text(tmp_path, kind):
    classes = pyarrow.array(["dog", "cat", None]).cast(getattr(pyarrow, kind)())
    parquet(tmp_path / "a.parquet", (1, 2, 3), label=classes)
    source = open_images(tmp_path)
    assert source.label_names == ("cat", "dog")
    assert [record.label for record in records(source)] == [1, 0, -1]


def test_classes_by_name_in_one_file_and_by_number_in_another(tmp_path):
    parquet(tmp_path / "a.parquet", (1,), label=["dog"])
    parquet(tmp_path / "b.parquet", (2,), label=[7])
    source = open_images(tmp_path)
    assert [source.label_names[record.label] for record in records(source)] == ["dog", "7"]


def noted(features):
    return {"huggingface": json.dumps({"info": {"features": features}})}


def test_what_hugging_face_notes_about_columns(tmp_path):
    pictures = [{"bytes": sources.png(n), "path": None} for n in range(2)]
    table = pyarrow.table({"sound": pictures, "photo": pictures, "label": [1, 0]})
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    features |= {"sound": {"sampling_rate": 8000, "_type": "Audio"}, "photo": {"_type": "Image"}}
    table = table.replace_schema_metadata(noted(features))
    pyarrow.parquet.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    source = open_images(tmp_path)
    assert source.label_names == ("cat", "dog") and source.choices["image"] == "photo"
    assert [record.label for record in records(source)] == [1, 0]


def test_pictures_in_a_column_that_is_named(tmp_path):
    parquet(tmp_path / "a.parquet", scan=[sources.png(1)], caption=["a"])
    with pytest.raises(ValueError, match="pass image="):
        open_images(tmp_path)
    for path in (tmp_path, tmp_path / "a.parquet"):
        assert records(open_images(path, image="scan"))[0].captions == ("a",)


def test_a_damaged_file_is_metadata_if_pictures_or_records_are_called_like_it(tmp_path):
    pictures(tmp_path / "00000")
    for name in ("00000", "0001"):
        (tmp_path / f"{name}.parquet").write_bytes(b"PAR1")
    source = open_images(tmp_path, max_skipped=0.5)
    assert list(told(source)) == ["00000.parquet"]
    reason = "is a Parquet file without a readable picture"
    assert [tuple(entry) for entry in source.skipped] == [("0001.parquet", reason)]
    parquet(tmp_path / "good.parquet", (1,))  # now all of them are of records
    source = open_images(tmp_path, max_skipped=0.7)
    assert {entry.file for entry in source.skipped} == {"00000.parquet", "0001.parquet"}
