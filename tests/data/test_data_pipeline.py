"""The order of samples is a permutation per epoch and a pure function of the step."""

import numpy as np
import pytest

from keras_mdm.data import CaptionedImages, image_text_dataset, ordered_dataset


def run(steps, *, records=10, batch=4, seed=0, first_step=0):
    """Return indices and positions, each (steps, batch)."""
    dataset = ordered_dataset(records, batch, seed=seed, first_step=first_step).take(steps)
    indices, positions = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.stack(indices), np.stack(positions)


@pytest.mark.parametrize("records, batch", [(10, 4), (7, 7), (3, 8), (1, 4), (1918, 32)])
def test_every_record_comes_exactly_once_per_epoch(records, batch):
    epochs = 3
    indices, positions = run(-(-epochs * records // batch), records=records, batch=batch)
    np.testing.assert_array_equal(positions.ravel(), np.arange(positions.size))
    for epoch in range(epochs):
        seen = indices.ravel()[epoch * records : (epoch + 1) * records]
        np.testing.assert_array_equal(np.sort(seen), np.arange(records))


def test_a_batch_straddles_epochs():
    # 10 records in batches of 4: batch 2 holds the last two of epoch 0 and the first two of 1.
    indices, _ = run(5)
    assert set(indices[:2].ravel()) | set(indices[2, :2]) == set(range(10))
    assert set(indices[2, 2:]) | set(indices[3:].ravel()) == set(range(10))


def test_epochs_and_seeds_differ_in_order_and_repeat_exactly():
    indices, _ = run(10, records=40, batch=4)
    again, _ = run(10, records=40, batch=4)
    np.testing.assert_array_equal(indices, again)
    later, _ = run(10, records=40, batch=4, first_step=10)
    assert (indices != later).mean() > 0.8
    # Every bit of the seed and of the epoch counts; the op itself looks at a few low ones only.
    for seed in (1, 2**8, 2**16, 2**32, 2**62):
        assert (indices != run(10, records=40, batch=4, seed=seed)[0]).mean() > 0.8
    for epoch in (2**8, 2**16, 2**32):
        later, _ = run(10, records=40, batch=4, first_step=10 * epoch)
        assert (indices != later).mean() > 0.8


@pytest.mark.parametrize("records", [40, 275, 1918])
def test_epochs_are_shuffled_as_well_as_random_permutations(records):
    # Means over 40 epochs of small seeds, where a weak cipher shows: a random permutation leaves
    # one record in place and has a correlation of 1 / sqrt(n) with the sorted order.
    fixed, correlations = [], []
    for seed in range(4):
        order, _ = run(10, records=records, batch=records, seed=seed)
        fixed += list((order == np.arange(records)).sum(axis=1))
        correlations += [np.corrcoef(epoch, np.arange(records))[0, 1] for epoch in order]
    assert np.mean(fixed) < 2
    assert np.sqrt(np.mean(np.square(correlations)) * records) < 1.5


@pytest.mark.parametrize("first_step", [1, 2, 5, 1000])
def test_seeking_equals_running_up_to_there(first_step):
    indices, positions = run(first_step + 4)
    sought = run(4, first_step=first_step)
    np.testing.assert_array_equal(sought[0], indices[first_step:])
    np.testing.assert_array_equal(sought[1], positions[first_step:])


def test_seeking_far_costs_nothing_and_stays_a_permutation():
    # Step 10**12 could not be reached by skipping.
    indices, positions = run(10, records=8, batch=4, first_step=10**12)
    assert positions[0, 0] == 4 * 10**12
    np.testing.assert_array_equal(np.sort(indices.reshape(5, 8)), np.tile(np.arange(8), (5, 1)))


def arrays(n=6):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 8, 8, 3), np.uint8)
    text = rng.normal(size=(n, 3, 5)).astype(np.float16)
    mask = rng.integers(0, 2, (n, 3)).astype(np.float32)
    return images, text, mask, np.arange(n, dtype=np.int64)


def test_rows_of_a_batch_belong_together():
    images, text, mask, labels = arrays()
    dataset = image_text_dataset(images, text, mask, labels, batch_size=4, seed=5, first_step=2)
    order, positions = run(3, records=6, batch=4, seed=5, first_step=2)
    for step, batch in enumerate(dataset.take(3).as_numpy_iterator()):
        index = order[step]
        np.testing.assert_array_equal(batch["image"], images[index])
        np.testing.assert_array_equal(batch["text"], text[index])
        np.testing.assert_array_equal(batch["text_mask"], mask[index])
        np.testing.assert_array_equal(batch["label"], labels[index])
        np.testing.assert_array_equal(batch["sample"], positions[step])


def test_batches_have_static_shapes_the_stated_types_and_no_strings():
    images, text, mask, labels = arrays()
    spec = image_text_dataset(images, text, mask, labels, batch_size=4, seed=0).element_spec
    types = {key: (value.dtype.name, value.shape.as_list()) for key, value in spec.items()}
    assert types == {
        "image": ("uint8", [4, 8, 8, 3]),
        "text": ("float16", [4, 3, 5]),
        "text_mask": ("float32", [4, 3]),
        "label": ("int32", [4]),
        "sample": ("int64", [4]),
    }


def test_a_record_brings_its_largest_pictures_and_labels():
    images, *_, labels = arrays()
    record = CaptionedImages(
        {2: images[:, :2, :2], 8: images}, ("",) * 6, labels.astype(np.int32), ("x",) * 6
    )
    batch = next(image_text_dataset(record, batch_size=6, seed=0).as_numpy_iterator())
    np.testing.assert_array_equal(batch["image"], images[batch["label"]])
    only = image_text_dataset(record, batch_size=6, seed=0, keys=("image",)).element_spec
    assert set(only) == {"image"}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"text_mask": None}, "text_mask=False"),
        ({"text": np.zeros((5, 3, 5))}, r"text=\(5, 3, 5\)"),
        ({"text_mask": np.ones((6, 4))}, r"text_mask=\(6, 4\)"),
        ({"labels": np.zeros((6, 1))}, r"label=\(6, 1\)"),
        ({"images": np.zeros((6, 8, 8, 3), np.float64)}, "dtype='float64'"),
        ({"images": np.zeros((6, 8, 8, 2), np.uint8)}, r"shape=\(6, 8, 8, 2\)"),
        ({"keys": ("image", "caption")}, r"unknown_keys=\['caption'\]"),
        ({"labels": None, "keys": ("image", "label")}, r"add \['label'\]"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"first_step": -1}, "first_step=-1"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    images, text, mask, labels = arrays()
    given = {"images": images, "text": text, "text_mask": mask, "labels": labels}
    with pytest.raises(ValueError, match=message):
        image_text_dataset(**({"batch_size": 4, "seed": 0} | given | change))


def test_batches_hold_pooled_vectors_and_micro_conditions():
    images = np.arange(5, dtype="uint8")[:, None, None, None] * np.ones((1, 4, 4, 3), "uint8")
    extra = {
        "pooled": np.arange(10.0, dtype="float32").reshape(5, 2),
        "micro": {"score": np.array([0.0, 0.1, 0.2, 0.3, np.nan])},
    }
    batch = next(iter(image_text_dataset(images, batch_size=5, seed=1, **extra)))
    order = batch["image"][:, 0, 0, 0].numpy()
    np.testing.assert_array_equal(batch["pooled"], extra["pooled"][order])
    np.testing.assert_array_equal(batch["score"], extra["micro"]["score"][order].astype("float32"))
    for wrong in ({"pooled": np.zeros(5)}, {"micro": {"score": np.zeros(4)}}):
        with pytest.raises(ValueError, match="Received: .*To fix it: "):
            image_text_dataset(images, batch_size=2, seed=0, **wrong)


def test_clips_are_batched_as_video():
    clips = np.arange(3, dtype="uint8")[:, None, None, None, None] * np.ones((1, 2, 4, 4, 3), "u1")
    batch = next(iter(image_text_dataset(clips, batch_size=3, seed=1)))
    assert sorted(batch) == ["sample", "video"]
    assert sorted(batch["video"][:, 0, 0, 0, 0].numpy().tolist()) == [0, 1, 2]
