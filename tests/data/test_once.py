"""Data sets that end: every record once, the rest in a smaller batch."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_mdm.data import (
    ClipRule,
    ImageRule,
    clip_dataset,
    image_dataset,
    image_text_dataset,
    mixed_dataset,
    open_images,
    ordered_dataset,
)

ROWS = 7


@pytest.fixture
def folder(tmp_path):
    """Pictures of one grey level each; the fifth file is none."""
    for number in range(ROWS):
        grey = np.full((8, 8, 3), 10 * number, "uint8")
        Image.fromarray(grey).save(tmp_path / f"{number}.png")
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:30])
    return tmp_path


def greys(dataset):
    return [int(p) for batch in dataset for p in batch["image"].numpy()[:, 0, 0, 0]]


@pytest.mark.parametrize("batch_size", [3, 7, 10])
def test_files_come_once_and_those_that_cannot_be_used_never(folder, batch_size):
    source = open_images(folder, max_skipped=0.5)
    dataset = image_dataset(
        source, ImageRule(8, flip=False), batch_size=batch_size, seed=1, repeat=False
    )
    assert int(dataset.cardinality()) == -(-ROWS // batch_size)
    for _ in range(2):  # and so every time
        assert sorted(greys(dataset)) == [0, 10, 20, 30, 50, 60]
    positions = [int(p) for batch in dataset for p in batch["sample"]]
    assert len(set(positions)) == 6 and set(positions) < set(range(ROWS))


def test_the_order_is_that_of_the_endless_one(folder):
    source, rule = open_images(folder, max_skipped=0.5), ImageRule(8, flip=False)
    options = {"batch_size": 3, "seed": 1}
    endless = image_dataset(source, rule, **options).take(3)
    by_position = {
        int(p): int(g)
        for batch in endless
        for p, g in zip(batch["sample"], batch["image"].numpy()[:, 0, 0, 0], strict=True)
    }
    ends = image_dataset(source, rule, **options, first_step=1, repeat=False)
    found = [
        (int(p), int(g))
        for batch in ends
        for p, g in zip(batch["sample"], batch["image"].numpy()[:, 0, 0, 0], strict=True)
    ]
    assert all(by_position[p] == g and p >= 3 for p, g in found)


def test_arrays_come_once():
    images = np.arange(ROWS, dtype="uint8")[:, None, None, None] * np.ones((1, 4, 4, 3), "uint8")
    dataset = image_text_dataset(images, batch_size=3, seed=0, repeat=False)
    assert [len(batch["image"]) for batch in dataset] == [3, 3, 1]
    assert int(dataset.cardinality()) == 3 and sorted(greys(dataset)) == list(range(ROWS))
    order = ordered_dataset(6, 3, seed=0, repeat=False)
    assert order.element_spec[0].shape == (3,)  # no smaller batch: of a fixed size


def test_what_would_be_empty_or_torn_is_refused(folder):
    source = open_images(folder)
    with pytest.raises(ValueError, match="repeat=False every worker must read all"):
        image_dataset(source, ImageRule(8), batch_size=2, seed=0, repeat=False, worker=(0, 2))
    with pytest.raises(ValueError, match="first_step=3, records=6"):
        ordered_dataset(6, 2, seed=0, first_step=3, repeat=False)
    groups = {
        "8": tf.data.Dataset.range(5).batch(2),
        "16": tf.data.Dataset.range(5).batch(1),
    }
    with pytest.raises(ValueError, match="same number of batches"):
        mixed_dataset(groups)


@pytest.mark.parametrize("labels", [[0.0, 1.7], [0.0, 1.0]], ids=str)
def test_classes_are_integers(labels):
    images = np.zeros((2, 4, 4, 3), "uint8")
    with pytest.raises(ValueError, match="`labels` must be integers.*dtype='float64'"):
        image_text_dataset(images, labels=np.array(labels), batch_size=2, seed=0)


class Clips:
    """Six clips of one grey level each; number 4 gives none, and 5 stands in for it."""

    captions = [f"clip {number}" for number in range(6)]

    def __len__(self):
        return 6

    def check(self, rule):
        pass

    def read_usable(self, row, rule, *, place, mirror):
        row = row + 1 if row == 4 else row
        return np.full((rule.frames, rule.size, rule.size, 3), 10 * row, "uint8"), row


def test_clips_come_once():
    states = np.arange(6, dtype="float32")[:, None, None] * np.ones((1, 2, 3), "float32")
    text = (states, np.ones((6, 2), "float32"))
    rule = ClipRule(8, frames=2)
    dataset = clip_dataset(Clips(), rule, batch_size=4, seed=0, repeat=False, text=text)
    assert int(dataset.cardinality()) == 2
    found = []
    for batch in dataset:
        columns = batch["video"][:, 0, 0, 0, 0], batch["text"][:, 0, 0], batch["sample"]
        found += zip(*(column.numpy().tolist() for column in columns), strict=True)
    assert sorted(grey for grey, _, _ in found) == [0, 10, 20, 30, 50]
    assert all(grey == 10 * state for grey, state, _ in found)
    assert len({position for _, _, position in found}) == 5
