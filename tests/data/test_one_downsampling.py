"""Equation 2 has one D^r: a level sees the same picture by whatever path it comes."""

import dataclasses
import io
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_models import PLAIN_INNER, tiny_unet

from keras_mdm import LevelSpec, MatryoshkaDiffusion
from keras_mdm.data import (
    ClipRule,
    ImageRule,
    find_videos,
    image_dataset,
    load_emoji,
    load_folder,
    load_moving_emoji,
    mixed_dataset,
    open_images,
    prepare_clips,
    prepare_images,
)
from keras_mdm.data.pictures.rule import decode
from keras_mdm.data.reduction import reduce_pixels, still_frame
from keras_mdm.diffusion.pyramid import DOWNSAMPLING, FRAMES, LevelShape, build_pyramid
from keras_mdm.optimizers import Adam

from .conftest import svg, write_emoji_asset

pytestmark = pytest.mark.usefixtures("eagerly")

# Height and width of the files: larger than the levels, smaller, upright and lying.
FORMS = ((300, 420), (420, 300), (512, 512), (397, 641), (180, 200), (256, 256))
COUNT = len(FORMS)
LEVELS = ((8, 32), (64, 256))
WITHIN = 0.5  # grey levels, RMS


def pink(number):
    """A picture of a 1/f spectrum and a standard deviation of 50, about a mean of its own."""
    height, width = FORMS[number]
    rng = np.random.default_rng(number)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    frequency[0, 0] = np.inf
    waves = np.fft.fft2(rng.normal(size=(3, height, width))) / frequency
    values = np.fft.ifft2(waves).real.transpose(1, 2, 0)
    values *= 50.0 / values.std(axis=(0, 1))
    return np.clip(np.round(values + 90.0 + 12.0 * number), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The pictures as files, in a folder with a table of them, and one tar beside it."""
    root = tmp_path_factory.mktemp("pink")
    (root / "files").mkdir()
    with tarfile.open(root / "all.tar", "w") as tar:
        for number in range(COUNT):
            buffer = io.BytesIO()
            Image.fromarray(pink(number)).save(buffer, "png")
            (root / "files" / f"{number}.png").write_bytes(buffer.getvalue())
            member = tarfile.TarInfo(f"{number}.png")
            member.size = buffer.getbuffer().nbytes
            tar.addfile(member, io.BytesIO(buffer.getvalue()))
    lines = ["file,caption", *(f"files/{number}.png,picture {number}" for number in range(COUNT))]
    (root / "table.csv").write_text("\n".join(lines))
    return root


class Watched(MatryoshkaDiffusion):
    """Keeps what the loss is computed of."""

    def level_losses(self, network, x0, *others):
        tf.numpy_function(self.seen.append, [x0[self.unet.levels[0]]], [])
        return super().level_losses(network, x0, *others)


def make_model(low, high, kind):
    inner = dataclasses.replace(PLAIN_INNER, size=low)
    outer = LevelSpec(high, channels=(4, 4, 8), blocks=(1, 1, 1), attention=(0, 0, 0), groups=4)
    model = Watched(tiny_unet([inner, outer]), downsample=kind)
    model.seen = []
    model.compile(optimizer=Adam(1e-4))
    return model


def files(source, rule):
    """Every picture of a source once, as batches hold them."""
    return image_dataset(source, rule, batch_size=COUNT, seed=0).take(1)


def only(dataset):
    return next(iter(dataset))


def grey(x):
    return (np.asarray(x, np.float64) + 1.0) * 127.5


def in_order(pictures):
    """Every path has an order of its own, every picture a mean of its own."""
    return pictures[np.argsort(np.mean(pictures, axis=(1, 2, 3)))].astype(np.float64)


def paths(folder, target, low, high, kind):
    """{path: what the lower level sees of all pictures}, by all paths a picture takes."""
    model, found = make_model(low, high, kind), {}
    lower, higher = ImageRule(low, of=high, downsample=kind), ImageRule(high)
    sources = {
        "folder": open_images(folder / "files"),
        "table": open_images(folder / "table.csv"),
        "tar": open_images(folder / "all.tar", cache_dir=target / "cache", progress=False),
        "shards": prepare_images(
            folder / "files", target / "shards", size=high, image_format="png", progress=False
        ),
    }
    for name, source in sources.items():
        found[f"{name} at the lower size"] = only(files(source, lower))["image"]
        levels, _ = model.prepare(only(files(source, higher)))
        found[f"{name} by the pyramid"] = grey(levels[str(low)])
    source = sources["folder"]
    groups = {str(low): files(source, lower), str(high): files(source, higher)}
    mixed = mixed_dataset(groups)
    levels, _ = model.prepare(only(mixed))
    # The samples that have the higher level come first.
    found["group of both levels"] = grey(levels[str(low)][:COUNT])
    found["group of the lower level"] = grey(levels[str(low)][COUNT:])
    model.evaluate(mixed, verbose=0)
    found["evaluation, both levels"] = grey(model.seen[0][:COUNT])
    found["evaluation, lower level"] = grey(model.seen[0][COUNT:])
    model.fit(mixed, verbose=0)
    found["training"] = grey(model.seen[-1][COUNT:])
    data = load_folder(folder / "files", size=(low, high), downsample=kind, progress=False)
    found["load_folder"] = data.images[low]
    found["load_folder by the pyramid"] = grey(model.prepare({"image": data.largest})[0][str(low)])
    return {name: in_order(np.asarray(pictures)) for name, pictures in found.items()}


def rms(difference):
    return np.sqrt(np.mean(np.square(difference)))


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("bilinear", 8, 32),
        *(
            pytest.param(*other, marks=pytest.mark.slow)
            for other in [("area", 8, 32), ("area", 64, 256)]
        ),
    ],
)
def test_all_paths_show_a_level_the_same_picture(folder, tmp_path, kind, low, high):
    found = paths(folder, tmp_path, low, high, kind)
    assert len(found) == 15
    for name, pictures in found.items():
        difference = pictures - found["folder by the pyramid"]
        # Once rounded to bytes: half a grey level at most, 0.29 on average.
        assert rms(difference) <= WITHIN and np.abs(difference).max() <= 0.501, name


@pytest.mark.parametrize(("low", "high"), LEVELS)
def test_files_resized_to_the_lower_size_at_once_are_other_pictures(folder, low, high):
    """What the lower level saw of files before they were reduced from the highest."""
    far = {kind: [] for kind in DOWNSAMPLING}
    for file in sorted((folder / "files").iterdir()):
        direct, whole = (decode(file.read_bytes(), ImageRule(size))[0] for size in (low, high))
        for kind, found in far.items():
            found.append(rms(direct.astype(float) - reduce_pixels(whole, low, kind)))
    assert min(far["bilinear"]) > 10.0
    # Means of means are means; but the square was cut at a whole pixel of the lower size.
    square = [height == width for height, width in FORMS]
    assert all((apart <= 1.0) == fits for apart, fits in zip(far["area"], square, strict=True))


def test_places_of_random_crops_are_those_of_the_highest_level(folder):
    source = open_images(folder / "files")
    for kind in DOWNSAMPLING:
        rule = {"crop": "random", "flip": True}
        large = only(files(source, ImageRule(64, **rule)))["image"].numpy()
        small = only(files(source, ImageRule(16, of=64, downsample=kind, **rule)))["image"]
        np.testing.assert_array_equal(small, reduce_pixels(large, 16, kind))


def test_nothing_changes_where_there_is_one_level(folder):
    source = open_images(folder / "files")
    for rule in (ImageRule(32, of=32), ImageRule(32, of=32, downsample="bilinear")):
        plain = only(files(source, ImageRule(32)))["image"]
        np.testing.assert_array_equal(only(files(source, rule))["image"], plain)


@pytest.mark.parametrize("kind", DOWNSAMPLING)
@pytest.mark.parametrize("sizes", [(8, 64), (8, 48), (8, 16, 320)])
def test_drawings_of_all_sizes_are_one(tmp_path, kind, sizes):
    pytest.importorskip("resvg_py")
    pytest.importorskip("emoji")
    disc = svg("#305070").replace('<rect width="18" height="36"', '<circle cx="16" cy="20" r="12"')
    write_emoji_asset(tmp_path, {"1f34e.svg": disc})
    data = load_emoji(sizes, downsample=kind, cache_dir=tmp_path, progress=False)
    assert tuple(sorted(data.images)) == sizes
    for size in sizes:
        expected = reduce_pixels(data.largest, size, kind).astype(int)
        # Averages of one drawing: the larger of two was rounded before it is averaged here.
        assert np.abs(data.images[size] - expected).max() <= (1 if kind == "area" else 0)


@pytest.mark.usefixtures("twemoji")
def test_moving_drawings_of_all_sizes_are_one():
    options = {"frames": 2, "concepts": ["pizza"], "progress": False}
    data = load_moving_emoji((8, 32), downsample="bilinear", **options)
    np.testing.assert_array_equal(data.clips[8], reduce_pixels(data.clips[32], 8, "bilinear"))
    area = load_moving_emoji((8, 32), **options)
    np.testing.assert_array_equal(area.clips[32], data.clips[32])
    assert np.any(area.clips[8] != data.clips[8])


@pytest.mark.parametrize("kind", [pytest.param("area", marks=pytest.mark.slow), "bilinear"])
@pytest.mark.parametrize("frame", FRAMES)
def test_all_paths_show_a_picture_the_same_frame(tmp_path, frame, kind):
    """Of clips of 8 different pictures: by the pyramid, of files, of shards, of arrays."""
    for number in range(3):
        frames = [Image.fromarray(pink((number + step) % COUNT)) for step in range(20)]
        same = [picture.resize((96, 72)) for picture in frames]
        options = {"save_all": True, "lossless": True, "duration": 40}
        same[0].save(tmp_path / f"{number}.webp", append_images=same[1:], **options)
        (tmp_path / f"{number}.txt").write_text("a caption")
    shapes = [LevelShape(None, 8), LevelShape(8, 8), LevelShape(8, 32)]
    rule = ClipRule(32, frames=8, stride=2, flip=False, of=32, downsample=kind, frame=frame)
    low, files = rule.picture(8), find_videos(tmp_path)
    shards = prepare_clips(files, tmp_path / "shards", rule=rule, progress=False)
    given = {"place": None, "mirror": False}
    for source in (files, shards):
        clips = np.stack([source.read_usable(row, rule, **given)[0] for row in range(3)])
        # What `process.pyramid` is.
        levels = build_pyramid(clips.astype("float32") / 127.5 - 1.0, shapes, kind, frame)
        expected = grey(levels["8"])
        in_memory = reduce_pixels(still_frame(clips, frame), 8, kind)
        found = np.stack([source.read_usable(row, low, **given)[0] for row in range(3)])
        np.testing.assert_array_equal(found, in_memory)
        # An average is rounded twice, in time and in space.
        most = 1.001 if frame == "average" else 0.501
        assert np.abs(found - expected).max() <= most and rms(found - expected) <= WITHIN
    if frame != "first":
        first = dataclasses.replace(low, frame="first")
        others = np.stack([files.read_usable(row, first, **given)[0] for row in range(3)])
        assert rms(others.astype(float) - in_memory) > 5.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": 100}, "of=100, size=64"),
        ({"of": 32}, "of=32, size=64"),
        ({"of": 0}, "of=0"),
        ({"of": 128, "downsample": "cubic"}, "downsample='cubic'"),
    ],
)
def test_rules_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImageRule(64, **options)
