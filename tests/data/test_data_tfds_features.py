"""Data sets of TFDS with several pictures, classes and texts: which are read, in every process."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data import sources
from keras_mdm.data import TfdsImages, open_images
from keras_mdm.data.sources.tfds_features import candidates_of, captions_of, choose

F = tfds.features


def prepared(root, features, records, splits=("train",), supervised=None):
    """A data set written in its folder as TFDS writes it."""
    features = F.FeaturesDict(features)
    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name="mine", version=tfds.core.Version("1.0.0"), data_dir=str(root), module_name="m"
        ),
        features=features,
        supervised_keys=supervised,
    )
    writer = tfds.core.SequentialWriter(info, 10, overwrite=True)
    writer.initialize_splits(list(splits))
    writer.add_examples(dict.fromkeys(splits, records))
    writer.close_all()
    return root


PARTS = {
    "mask": F.Image(shape=(None, None, 3), encoding_format="png"),
    "image": F.Image(shape=(None, None, 3), encoding_format="png"),
    "label_coarse": F.ClassLabel(names=["animal", "plant"]),
    "label": F.ClassLabel(names=["cat", "dog", "oak"]),
}
RECORD = {"mask": sources.pixels(2), "image": sources.pixels(1), "label_coarse": 1, "label": 2}


def red(record):
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(record.data)))[4, 4, 0] // 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("set"), PARTS, [RECORD] * 2)


def test_usual_names_come_first_and_the_others_are_listed(folder):
    source = open_images(folder)
    assert source.choices == {"split": "train", "image": "image", "label": "label"}
    assert source.label_names == ("cat", "dog", "oak") and source.read(0).label == 2
    assert red(source.read(0)) == 1
    assert source.identity["features"] == {"image": "image", "label": "label"}
    assert source.unused == (
        ("feature mask", "is not read: image='mask' chooses it"),
        ("feature label_coarse", "is not read: label='label_coarse' chooses it"),
    )


def test_options_choose_and_stand_in_the_identity(folder):
    source = open_images(folder, image="mask", label="label_coarse")
    assert red(source.read(0)) == 2 and source.read(0).label == 1
    assert source.label_names == ("animal", "plant")
    assert source.identity["features"] == {"image": "mask", "label": "label_coarse"}
    assert source.choices["image"] == "mask"
    with pytest.raises(ValueError, match=r"feature for `image`.*looked_for='masks'.*'mask'"):
        open_images(folder, image="masks")


def test_the_order_of_the_file_decides_nothing(folder, tmp_path):
    """It is that of an unordered map, another one in each process."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = json.loads((tmp_path / "features.json").read_text())
    listed = content["featuresDict"]["features"]
    content["featuresDict"]["features"] = dict(reversed(listed.items()))
    (tmp_path / "features.json").write_text(json.dumps(content))
    assert open_images(tmp_path).choices == open_images(folder).choices


def test_one_picture_and_class_are_as_they_were(tmp_path):
    parts = {"input": PARTS["image"], "kind": PARTS["label"], "description": F.Text()}
    record = {"input": sources.pixels(3), "kind": 1, "description": "a dog"}
    source = open_images(prepared(tmp_path, parts, [record]))
    assert set(source.identity) == {"records", "sha256"}
    assert source.read(0).captions == ("a dog",) and source.label_names == ("cat", "dog", "oak")
    assert source.read(0).label == 1 and red(source.read(0)) == 3
    chosen = {"split": "train", "image": "input", "caption": "description", "label": "kind"}
    assert source.choices == chosen and source.unused == ()
    assert isinstance(source, TfdsImages)


def test_every_feature_and_every_file_is_accounted_for(tmp_path):
    parts = {
        **{"image": PARTS["image"], "label": PARTS["label"], "size": F.Scalar(np.int64)},
        **{"parts": F.Sequence({"x": F.Scalar(np.int64)}), "views": F.Sequence(PARTS["image"])},
    }
    record = {"image": sources.pixels(1), "label": 1, "size": 3, "parts": [{"x": 1}]}
    record["views"] = [sources.pixels(2)]
    prepared(tmp_path, parts, [record] * 2, ["train", "test"])
    (tmp_path / "notes.md").write_text("")
    source = open_images(tmp_path)
    assert source.found["TFRecord files"] == 2 and len(source) == 2
    neither = "is not read: it is neither picture, class nor caption"
    listed = {entry.file: entry.reason for entry in source.unused}
    assert listed.pop("notes.md") == "is of an unsupported kind"
    assert listed.pop("mine-test.tfrecord-00000").startswith("belongs to the split test")
    assert listed == dict.fromkeys(["feature size", "feature parts/x", "feature views"], neither)


def test_keys_of_the_data_set_and_then_the_first_by_name():
    names = ["fine", "coarse"]
    assert choose("label", names, ("image", "fine")) == "fine"
    assert choose("label", names, {"a": ("b", {"c": "fine"})}) == "fine"
    assert choose("label", names, None) == "coarse" and choose("label", [], None) is None
    assert choose("image", ["b", "image/encoded", "a"], ("b", "a")) == "image/encoded"
    assert captions_of(["id", "answer"], ("id2", "answer"))[-1] == "answer"
    assert "id" not in captions_of(["id"], None)


def test_features_in_groups_and_of_masks():
    features = F.FeaturesDict(
        {
            "views": {"left": F.Image(), "kind": F.ClassLabel(num_classes=2)},
            "annotation": F.LabeledImage(labels=3),
            "tags": F.Sequence(F.ClassLabel(num_classes=3)),
            "frames": F.Sequence({"image": F.Image(), "text": F.Text()}),
            "alphabet": F.ClassLabel(),
        }
    )
    assert candidates_of(features) == {
        "image": {"views/left": ()},
        "label": {"views/kind": ("0", "1"), "alphabet": ()},
        "caption": {"frames/text": ()},
    }
    assert candidates_of(F.FeaturesDict({"a": F.LabeledImage(labels=3)}))["image"] == {"a": ()}
