"""Wrong arguments of what works on data: one error each that says what to do."""

import numpy as np
import pytest
from PIL import Image

import keras_mdm as mdm
from keras_mdm import data, text
from keras_mdm.data import overview


class Encoder:
    """As small as can be."""

    width, length, identity = 1, 2, {}

    def encode(self, texts):
        return np.zeros((len(texts), 2, 1)), np.ones((len(texts), 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for name in "abcd":
        Image.new("RGB", (9, 9)).save(root / f"{name}.png")
    return root


def batches(folder, **options):
    options = {"batch_size": 2, "seed": 0, **options}
    return data.image_dataset(data.open_images(folder), data.ImageRule(8), **options)


WRONG = {
    "a number is no source": lambda _: data.open_images(5),
    "nothing is no source": lambda _: data.open_images(None),
    "one shard instead of a list": lambda _: data.TarImages("a.tar"),
    "a shard that is not there": lambda f: data.TarImages([f / "no.tar"]),
    "a record file that is not there": lambda f: data.ExampleImages([f / "no.tfrecord"]),
    "a Parquet file that is not there": lambda f: data.ParquetImages([f / "no.parquet"]),
    "no Parquet files": lambda _: data.ParquetImages([]),
    "a folder that is not there": lambda f: data.FolderImages(f / "no"),
    "a table that is not there": lambda f: data.TableImages(f / "no.csv"),
    "a table of another kind": lambda f: data.TableImages(f / "no.txt"),
    "another part": lambda f: data.split(data.open_images(f), "test"),
    "a share above one": lambda f: data.split(data.open_images(f), "train", share=2),
    "a part of something else": lambda _: data.split([1, 2], "train"),
    "a row beyond the end": lambda f: data.Rows(data.open_images(f), [0, 4]),
    "a negative row": lambda f: data.Rows(data.open_images(f), [-1, 0]),
    "a row twice": lambda f: data.Rows(data.open_images(f), [1, 1]),
    "rows that are not whole": lambda f: data.Rows(data.open_images(f), [0.5]),
    "preparing a number": lambda f: data.prepare_images(5, f / "out"),
    "a size of zero": lambda f: data.prepare_images(f, f / "out", size=0),
    "a size that is a text": lambda f: data.prepare_images(f, f / "out", size="a"),
    "preparing into a file": lambda f: data.prepare_images(f, f / "a.png"),
    "one text instead of several": lambda f: text.embed(Encoder(), "abc", f / "e", progress=False),
    "texts that are numbers": lambda f: text.embed(Encoder(), [1, 2], f / "e", progress=False),
    "states into a file": lambda f: text.embed(Encoder(), ["a"], f / "a.png", progress=False),
    "states that are not there": lambda f: text.StoredStates(f / "no"),
    "a flip that is no truth value": lambda _: data.ImageRule(8, flip=1),
    "another crop": lambda _: data.ImageRule(8, crop="x"),
    "an encoder that is none": lambda f: batches(f, encoder=3),
    "a micro-condition without a name": lambda f: batches(f, original_size=3),
    "a micro-condition in the labels' place": lambda f: batches(f, original_size="label"),
    "a micro-condition in the pictures' place": lambda f: batches(f, original_size="image"),
    "a column in the positions' place": lambda f: data.image_text_dataset(
        np.zeros((2, 8, 8, 3), "uint8"), batch_size=1, seed=0, micro={"sample": np.zeros(2)}
    ),
    "labels where there are none": lambda f: batches(f, labels=True),
    "a window of nothing": lambda f: batches(f, window=0),
    "captions of a number": lambda _: data.captions_of(3),
    "a look at a number": lambda _: overview.look(3),
}


@pytest.mark.parametrize("case", WRONG)
def test_it_is_refused(case, folder):
    before = sorted(folder.iterdir())
    with pytest.raises(ValueError, match="To fix it"):
        WRONG[case](folder)
    assert sorted(folder.iterdir()) == before  # nothing was written before it was noticed


def test_a_model_starts_from_a_model():
    model = mdm.MatryoshkaDiffusion(mdm.build_nested_unet([8], width=0.125))
    with pytest.raises(ValueError, match="trained=.*To fix it"):
        model.start_from(3)
