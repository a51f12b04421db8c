"""Data sets that `save_to_disk` of Hugging Face's datasets wrote."""

import json

import pyarrow
import pyarrow.ipc
import pytest

from data import sources
from data.test_data_layouts import captions, lay, records, told
from keras_mdm.data import ImageRule, image_dataset, open_images

FEATURES = {
    "image": {"_type": "Image"},
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
}


def save(folder, numbers, *, files=1, split=None, **state):
    """Write what save_to_disk writes: two rows in a batch."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{number:05d}-of-{files:05d}.arrow" for number in range(files)]
    note = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    for number, name in enumerate(names):
        rows = numbers[number::files]
        columns = {"image": [{"bytes": sources.png(n), "path": f"{n}.png"} for n in rows]}
        columns |= {"text": [f"picture {n}" for n in rows], "label": [n % 2 for n in rows]}
        table = pyarrow.table(columns).replace_schema_metadata(note)
        with pyarrow.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    listed = {"_data_files": [{"filename": name} for name in names], "_split": split, **state}
    (folder / "state.json").write_text(json.dumps(listed))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
    return folder


def test_a_data_set(tmp_path):
    source = open_images(save(tmp_path, range(7), files=2))
    assert source.label_names == ("cat", "dog")
    assert source.choices == {"image": "image", "caption": "text", "label": "label"}
    order = [0, 2, 4, 6, 1, 3, 5]
    for record, number in zip(records(source), order, strict=True):
        assert record.data == sources.png(number) and record.label == number % 2
        assert record.captions == (f"picture {number}",)
    assert set(told(source)) == {"state.json", "dataset_info.json"}
    assert source.found == {"Arrow files": 2, "texts": 2}
    batches = image_dataset(source, ImageRule(4), batch_size=2, seed=0, repeat=False)
    assert sum(len(batch["sample"]) for batch in batches) == 7
    assert len(open_images(tmp_path / "data-00000-of-00002.arrow")) == 4


def test_splits(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        save(tmp_path / split, range(count), split=split)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    source = open_images(tmp_path)
    assert len(source) == 3 and source.choices["split"] == "train"
    assert "the split test" in told(source)["test/data-00000-of-00001.arrow"]
    assert len(open_images(f"{tmp_path}:test")) == 2
    with pytest.raises(ValueError, match="such a split"):
        open_images(tmp_path, split="validation")


def test_damaged_files_are_listed_and_missing_ones_an_error(tmp_path):
    save(tmp_path, range(8), files=4)
    file = tmp_path / "data-00002-of-00004.arrow"
    file.write_bytes(file.read_bytes()[:700])
    source = open_images(tmp_path, max_skipped=0.5)
    assert len(records(source)) == 6
    assert [entry.file for entry in source.skipped] == [file.name]
    file.unlink()
    with pytest.raises(ValueError, match="all files must be there"):
        open_images(tmp_path)


def test_notes_of_a_data_set_beside_pictures(tmp_path):
    info = json.dumps({"builder_name": "x", "features": {}, "splits": {}})
    lay(tmp_path, {"dataset_info.json": info, "1.png": 1})
    assert list(told(open_images(tmp_path))) == ["dataset_info.json"]


def test_pictures_beside_the_file(tmp_path):
    lay(tmp_path, {"a.png": 1})
    table = pyarrow.table({"image": [{"bytes": None, "path": "a.png"}], "text": ["one"]})
    with pyarrow.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    source = open_images(tmp_path / "a.arrow")
    assert records(source)[0].data == sources.png(1)
    beside = open_images(tmp_path)  # a folder of pictures
    assert captions(beside) == {"a.png": ("a",)}
    assert told(beside)["a.arrow"].startswith("is an Arrow file: pass it by itself")


def test_what_cannot_be_read_in_order(tmp_path):
    save(tmp_path, range(2), _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(ValueError, match="flatten_indices"):
        open_images(tmp_path)
    (tmp_path / "state.json").write_text("[]")
    with pytest.raises(ValueError, match="must list the Arrow files"):
        open_images(tmp_path)


def test_columns_that_could_be_read_instead_are_listed(tmp_path):
    picture = [{"bytes": sources.png(1), "path": None}]
    table = pyarrow.table({"image": picture, "depth": picture, "text": ["a"], "caption": ["b"]})
    with pyarrow.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')
    for path in (tmp_path, tmp_path / "a.arrow"):
        found = told(open_images(path))
        assert found["column depth"] == "is not read: image='depth' chooses it"
        assert found["column text"] == "is not read: caption='text' chooses it"
