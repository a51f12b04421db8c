"""Pictures of several shapes: which bucket each goes into, and batches of one bucket each."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_mdm import data
from keras_mdm.data import ImageRule, ImageSource, Record, image_dataset, open_images
from keras_mdm.data.order.buckets import BucketOrder
from keras_mdm.data.pictures import sizes as sizes_module
from keras_mdm.data.pictures.files import picture_size
from keras_mdm.data.pictures.rule import decode
from keras_mdm.data.pictures.shapes import nearest

from .sources import encoded

BUCKETS = ((16, 16), (12, 20), (20, 12))
RULE = ImageRule(buckets=BUCKETS)
# Height and width of the pictures of a folder, and the bucket that they go into.
SIZES = [((30, 30), 0), ((24, 40), 1), ((50, 20), 2), ((20, 22), 0), ((9, 30), 1)] * 4 + [
    ((33, 30), 0),
    ((36, 60), 1),
    ((18, 30), 1),
]


def flat(number, size):
    """A picture of one colour that tells its number."""
    return Image.fromarray(np.full((*size, 3), 5 * number, np.uint8))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("KERAS_MDM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path):
    for number, (size, _) in enumerate(SIZES):
        flat(number, size).save(tmp_path / f"{number:02d}.png")
    return tmp_path


def numbers(batch):
    return (batch["image"].numpy()[:, 0, 0, 0] // 5).tolist()


def options(**changes):
    return {"batch_size": 4, "seed": 3, **changes}


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((10, 10), 0),
        ((3000, 5000), 1),
        ((5, 3), 2),
        ((10, 1), 2),
        ((1, 1000), 1),
        # Where it is as far from both, at a ratio of sqrt(5 / 3): 1.2909...
        ((1000, 1290), 0),
        ((1000, 1291), 1),
        ((1290, 1000), 0),
        ((1291, 1000), 2),
    ],
)
def test_a_picture_goes_where_its_proportions_are_nearest(size, bucket):
    assert RULE.bucket(*size) == bucket


def test_the_first_one_named_takes_what_is_equally_near():
    assert nearest([(12, 20), (20, 12)], [(7, 7)]).tolist() == [0]
    assert nearest([(20, 12), (12, 20)], [(7, 7)]).tolist() == [0]
    assert nearest([(9, 9), (9, 36)], [(40, 80), (41, 80), (39, 80)]).tolist() == [0, 0, 1]


def test_nearest_is_the_least_distance_of_logarithms():
    rng = np.random.default_rng(0)
    sizes, shapes = rng.integers(1, 5000, (500, 2)), rng.integers(8, 512, (7, 2))
    ratios = np.log(sizes[:, 1] / sizes[:, 0])[:, None] - np.log(shapes[:, 1] / shapes[:, 0])
    np.testing.assert_array_equal(nearest(shapes, sizes), np.argmin(np.abs(ratios), axis=1))


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff", "gif", "bmp"])
@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_the_size_of_a_file_is_that_of_its_upright_picture(kind, orientation):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    tags = {} if orientation is None or kind in ("gif", "bmp") else {"exif": exif}
    stored = encoded(Image.fromarray(np.zeros((10, 30, 3), np.uint8)), kind, **tags)
    _, size = decode(stored, ImageRule(8))
    assert picture_size(stored) == size
    assert size == ((30, 10) if tags and orientation in (6, 8) else (10, 30))


def test_the_size_of_a_usual_file_is_told_without_decoding():
    for kind in ("png", "jpeg", "webp"):
        picture = Image.effect_noise((70, 50), 90).convert("RGB")
        stored = encoded(picture, kind)
        assert picture_size(stored[: len(stored) // 2] if kind != "webp" else stored) == (50, 70)


@pytest.mark.parametrize("size", [(48, 80), (80, 48), (48, 48)])
def test_a_picture_is_resized_to_cover_and_cut_in_the_middle(size):
    height, width = size
    ramp = np.add.outer(np.arange(120), np.arange(200)).astype(np.uint8)
    stored = encoded(Image.fromarray(ramp).convert("RGB"))
    pixels, found = decode(stored, ImageRule(size))
    assert pixels.shape == (*size, 3) and found == (120, 200)
    scale = max(height / 120, width / 200)
    whole = Image.fromarray(ramp).resize(
        (round(200 * scale), round(120 * scale)), Image.Resampling.BOX
    )
    top, left = (whole.height - height) // 2, (whole.width - width) // 2
    expected = np.asarray(whole)[top : top + height, left : left + width]
    np.testing.assert_array_equal(pixels[..., 0], expected)


def test_a_rule_of_a_square_is_the_same_however_it_is_written():
    assert ImageRule((64, 64), of=[256, 256]) == ImageRule(64, of=256)
    assert ImageRule((48, 80)).shape == (48, 80, 3) and RULE.shape == (None, None, 3)


def test_a_lower_level_sees_the_same_picture():
    high = ImageRule(buckets=[(32, 32), (24, 40)])
    low = ImageRule(buckets=[(8, 8), (6, 10)], of=[(32, 32), (24, 40)])
    noise = np.random.default_rng(0).integers(0, 255, (90, 140, 3), dtype=np.uint8)
    stored = encoded(Image.fromarray(noise))
    large, small = decode(stored, high)[0], decode(stored, low)[0]
    assert large.shape == (24, 40, 3) and small.shape == (6, 10, 3)
    means = large.reshape(6, 4, 10, 4, 3).mean(axis=(1, 3))
    assert np.abs(small - means).max() <= 0.5


def made(order, batch_size, steps):
    positions = np.arange(steps * batch_size, dtype=np.int64).reshape(steps, batch_size)
    return [order.rows(tf.constant(step)).numpy() for step in positions]


COUNTS = (23, 8, 2, 0)
MEMBERS = np.split(np.random.default_rng(5).permutation(sum(COUNTS)), np.cumsum(COUNTS)[:-1])
MEMBERS = [np.sort(rows) for rows in MEMBERS]


@pytest.mark.parametrize("batch_size", [1, 5, 16])
@pytest.mark.parametrize("shards", [None, (5, 11, 0, 10, 7)])
def test_every_record_comes_once_per_epoch_of_its_bucket(batch_size, shards):
    order = BucketOrder(MEMBERS, batch_size=batch_size, seed=1, shard_sizes=shards, window=2)
    epochs = 6
    steps = sum(epochs * count // batch_size for count in COUNTS)
    batches = made(order, batch_size, steps)
    for number, (rows, count) in enumerate(zip(MEMBERS, COUNTS, strict=True)):
        own = [batch for batch in batches if len(rows) and np.isin(batch, rows).all()]
        # So many batches are full after six epochs: the rest begins the next one.
        assert len(own) == epochs * count // batch_size
        stream = np.concatenate([*own, np.zeros(0, np.int64)])
        seen = [stream[i : i + count] for i in range(0, len(stream) - count + 1, count or 1)]
        assert all(np.array_equal(np.sort(part), rows) for part in seen if len(part))
        if count > 10:
            assert not np.array_equal(seen[0], seen[1]), number
    assert sum(len(batch) for batch in batches) == steps * batch_size
    # By the end of each epoch every bucket has had its share of the steps.
    for epoch in range(1, epochs + 1):
        begun = sum(epoch * count // batch_size for count in COUNTS)
        for rows, count in zip(MEMBERS, COUNTS, strict=True):
            had = sum(len(rows) and np.isin(batch, rows).all() for batch in batches[:begun])
            assert had == epoch * count // batch_size


def test_any_step_by_itself():
    order = BucketOrder(MEMBERS, batch_size=5, seed=1)
    batches = made(order, 5, 60)
    for step in (59, 0, 17, 41):
        again = BucketOrder(MEMBERS, batch_size=5, seed=1)
        positions = tf.range(5 * step, 5 * step + 5, dtype=tf.int64)
        np.testing.assert_array_equal(again.rows(positions), batches[step])
    other = made(BucketOrder(MEMBERS, batch_size=5, seed=2), 5, 60)
    assert any(not np.array_equal(one, two) for one, two in zip(batches, other, strict=True))
    far = BucketOrder(MEMBERS, batch_size=5, seed=1).batch(10**12)
    assert far[0] in (0, 1, 2)


def test_buckets_are_mixed_evenly():
    order = BucketOrder([np.arange(600), np.arange(600, 900)], batch_size=3, seed=0)
    buckets = np.array([order.batch(step)[0] for step in range(300)])
    for part in range(10):  # of 300 batches 200 and 100: in each tenth 20 and 10, give or take two
        assert abs(np.sum(buckets[30 * part : 30 * part + 30] == 1) - 10) <= 2
    assert len({tuple(buckets[i : i + 3]) for i in range(0, 300, 3)}) == 3


def test_batches_hold_pictures_of_one_bucket(folder):
    dataset = image_dataset(open_images(folder), RULE, **options(original_size="side"))
    assert dataset.element_spec["image"].shape.as_list() == [4, None, None, 3]
    seen = set()
    for step, batch in enumerate(dataset.take(30)):
        shape = tuple(batch["image"].shape[1:3])
        assert {BUCKETS[SIZES[number][1]] for number in numbers(batch)} == {shape}
        assert batch["side"].numpy().tolist() == [min(SIZES[n][0]) for n in numbers(batch)]
        assert batch["sample"].numpy().tolist() == [4 * step + j for j in range(4)]
        seen.add(shape)
    assert seen == set(BUCKETS)


def test_a_run_that_resumes_sees_what_it_would_have_seen(folder):
    rule = ImageRule(buckets=BUCKETS, crop="random", flip=True)
    whole = list(image_dataset(open_images(folder), rule, **options()).take(25))
    for first in np.random.default_rng(0).integers(0, 20, 4):
        part = image_dataset(open_images(folder), rule, **options(first_step=int(first)))
        for one, two in zip(whole[first : first + 5], part.take(5), strict=True):
            np.testing.assert_array_equal(one["image"], two["image"])
            np.testing.assert_array_equal(one["sample"], two["sample"])


def test_two_readers_see_the_same_batches(folder):
    readers = [
        image_dataset(open_images(folder), RULE, **options(batch_size=6, parallel_reads=threads))
        for threads in (1, 8)
    ]
    for one, two in itertools.islice(zip(*readers, strict=False), 20):
        np.testing.assert_array_equal(one["image"], two["image"])


def test_one_bucket_is_no_bucket(folder):
    plain = image_dataset(open_images(folder), ImageRule((12, 20)), **options())
    buckets = image_dataset(open_images(folder), ImageRule(buckets=[(12, 20)]), **options())
    for one, two in zip(plain.take(20), buckets.take(20), strict=True):
        np.testing.assert_array_equal(one["image"], two["image"])


@pytest.mark.parametrize("batch_size", [1, 4, 70])
def test_a_dataset_that_ends_has_every_picture_once(folder, batch_size):
    dataset = image_dataset(
        open_images(folder), RULE, **options(batch_size=batch_size, repeat=False)
    )
    batches = list(dataset)
    counts = np.bincount([bucket for _, bucket in SIZES])
    assert int(dataset.cardinality()) == len(batches)
    assert len(batches) == sum(math.ceil(count / batch_size) for count in counts)
    assert sorted(n for batch in batches for n in numbers(batch)) == list(range(len(SIZES)))
    positions = [int(p) for batch in batches for p in batch["sample"]]
    assert len(set(positions)) == len(SIZES)


def test_large_batches_are_put_together_of_groups(folder):
    for batch_size in (67, 128):
        batch = next(
            iter(image_dataset(open_images(folder), RULE, **options(batch_size=batch_size)))
        )
        assert {SIZES[n][1] for n in numbers(batch)} == {BUCKETS.index(batch["image"].shape[1:3])}
        assert len(batch["image"]) == batch_size


def test_what_is_damaged_is_replaced_within_its_bucket(folder):
    stored = (folder / "02.png").read_bytes()  # of the third bucket; its size can still be read
    (folder / "02.png").write_bytes(stored[:45])
    (folder / "05.png").write_bytes(b"no picture")
    source = open_images(folder, max_skipped=0.2)
    found = [
        n for batch in image_dataset(source, RULE, **options()).take(40) for n in numbers(batch)
    ]
    assert set(found) == set(range(len(SIZES))) - {2, 5}
    assert found.count(7) > found.count(12)  # the next one of the bucket
    assert {file for file, _ in source.skipped} == {"02.png", "05.png"}
    ends = image_dataset(source, RULE, **options(repeat=False))
    assert sorted(n for batch in ends for n in numbers(batch)) == sorted(set(found))


def test_a_bucket_of_damaged_pictures_stops_no_run(tmp_path):
    for number in range(6):
        flat(number, (16, 16)).save(tmp_path / f"{number}.png")
    noise = Image.effect_noise((40, 24), 90).convert("RGB")
    (tmp_path / "6.png").write_bytes(encoded(noise)[:500])
    source = open_images(tmp_path, max_skipped=0.5)
    shapes = {
        tuple(b["image"].shape[1:3]) for b in image_dataset(source, RULE, **options()).take(20)
    }
    assert shapes == {(16, 16), (12, 20)}
    ends = list(image_dataset(source, RULE, **options(repeat=False)))
    assert sorted(b["image"].shape[0] for b in ends) == [0, 2, 4]
    assert {tuple(b["image"].shape[1:]) for b in ends} == {(16, 16, 3), (12, 20, 3)}


def test_too_many_that_are_no_pictures_are_refused(folder):
    (folder / "02.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="may be unusable.*02.png"):
        image_dataset(open_images(folder), RULE, **options())


class Reads(ImageSource):
    """A source of one's own, which counts how often it is read."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def __len__(self):
        return len(SIZES)

    def read(self, row):
        self.rows.append(row)
        return Record(str(row), encoded(flat(row, SIZES[row][0])))


def test_sizes_are_read_once(folder, monkeypatch):
    own = Reads()
    for seed in range(2):
        image_dataset(own, RULE, **options(seed=seed))
    assert sorted(own.rows) == list(range(len(SIZES)))
    # Of files the cache holds them, until one is changed.
    first = sizes_module.sizes_of(open_images(folder))
    assert [tuple(size) for size in first.sizes.tolist()] == [size for size, _ in SIZES]
    parts = [data.split(open_images(folder), part, share=0.2) for part in ("train", "validation")]
    reading = []
    monkeypatch.setattr(sizes_module, "_read", lambda source, bar: reading.append(1) or first)
    np.testing.assert_array_equal(sizes_module.sizes_of(open_images(folder)).sizes, first.sizes)
    np.testing.assert_array_equal(sizes_module.sizes_of(parts[0]).sizes, first.sizes[parts[0].rows])
    assert not reading
    flat(3, (60, 20)).save(folder / "03.png")
    sizes_module.sizes_of(open_images(folder))
    assert reading


@pytest.mark.parametrize("kind", ["tar", "parquet", "array_record", "csv"])
def test_sizes_of_other_sources_are_kept(kind, tmp_path, monkeypatch):
    from .sources import COUNT, SIZE, write

    root = write(kind, tmp_path / kind)
    first = sizes_module.sizes_of(open_images(root))
    assert first.sizes.tolist() == [[SIZE, SIZE]] * COUNT and not first.broken
    monkeypatch.setattr(sizes_module, "_read", None)
    np.testing.assert_array_equal(sizes_module.sizes_of(open_images(root)).sizes, first.sizes)
    batches = image_dataset(open_images(root), RULE, **options(repeat=False))
    assert sum(len(batch["image"]) for batch in batches) == COUNT


def test_groups_of_rows_are_read_side_by_side(folder, tmp_path):
    import pyarrow
    import pyarrow.parquet

    files = sorted(folder.glob("*.png"))
    table = pyarrow.table({"image": [file.read_bytes() for file in files]})
    (tmp_path / "shards").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "shards/a.parquet", row_group_size=4)
    source = open_images(tmp_path / "shards")
    assert source.shard_sizes is not None
    whole = list(image_dataset(source, RULE, **options(batch_size=3, window=2)).take(20))
    for batch in whole:
        assert {BUCKETS[SIZES[n][1]] for n in numbers(batch)} == {tuple(batch["image"].shape[1:3])}
    again = image_dataset(source, RULE, **options(batch_size=3, window=2, first_step=11))
    for one, two in zip(whole[11:], again, strict=False):
        np.testing.assert_array_equal(one["image"], two["image"])
    ends = image_dataset(source, RULE, **options(repeat=False))
    assert sorted(n for batch in ends for n in numbers(batch)) == list(range(len(SIZES)))


def test_prepared_pictures_keep_their_buckets(folder, tmp_path):
    prepared = data.prepare_images(
        folder, tmp_path / "shards", buckets=BUCKETS, image_format="png", progress=False
    )
    direct = image_dataset(open_images(folder), RULE, **options())
    stored = image_dataset(prepared, RULE, **options())
    for one, two in zip(direct.take(20), stored.take(20), strict=True):
        np.testing.assert_array_equal(one["image"], two["image"])
    with pytest.raises(ValueError, match="same data and rule"):
        data.prepare_images(folder, tmp_path / "shards", buckets=BUCKETS[:2], progress=False)
    wide = data.prepare_images(folder, tmp_path / "wide", size=(12, 20), progress=False)
    assert next(iter(image_dataset(wide, ImageRule((6, 10)), **options())))["image"].shape == (
        4,
        6,
        10,
        3,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`size"),
        ({"size": (8, 0)}, "`size"),
        ({"size": (8, 8, 8)}, "`size"),
        ({"size": (48, 80), "of": (96, 120)}, "`of` must be a multiple of `size`"),
        ({"size": 8, "buckets": BUCKETS}, "one size or buckets"),
        ({"buckets": []}, "must be a list of shapes"),
        ({"buckets": [(8, 8), (16, 16)]}, "same proportions"),
        ({"buckets": BUCKETS, "of": 64}, "`of` must be a list of shapes"),
        ({"buckets": BUCKETS, "of": [(32, 32)]}, "one size for each bucket"),
        ({"buckets": BUCKETS, "of": [(32, 32), (12, 20), (21, 12)]}, "`of` must be a multiple"),
    ],
)
def test_rules_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageRule(**arguments)


def test_workers_read_whole_batches(folder):
    whole = image_dataset(open_images(folder), RULE, **options())
    part = image_dataset(open_images(folder), RULE, **options(worker=(1, 2)))
    for one, two in zip(whole.take(6), part.take(6), strict=True):
        np.testing.assert_array_equal(one["image"], two["image"])
