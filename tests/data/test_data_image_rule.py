"""Pictures of every kind become the same squares; places and mirrors are evenly drawn."""

import numpy as np
import pytest
from PIL import Image, ImageCms

from data.sources import encoded
from keras_mdm.cli import given
from keras_mdm.data import (
    ClipRule,
    ImageRule,
    ImageSource,
    Record,
    Unusable,
    image_dataset,
    read_picture,
)
from keras_mdm.data.clips.reader import read_clip
from keras_mdm.data.pictures.rule import decode


def red_and_blue(size=8):
    """Left half red, right half blue."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[:, : size // 2, 0] = 255
    pixels[:, size // 2 :, 2] = 255
    return Image.fromarray(pixels)


def square(data, size=8, **options):
    return decode(data, ImageRule(size), **options)[0]


@pytest.mark.parametrize(
    ("kind", "options", "within"),
    [
        ("png", {}, 0),
        ("webp", {"lossless": True}, 0),
        ("webp", {"quality": 95}, 80),
        ("jpeg", {"quality": 98, "subsampling": 0}, 12),
        ("bmp", {}, 0),
        ("tiff", {}, 0),
    ],
)
def test_formats(kind, options, within):
    found = square(encoded(red_and_blue(), kind, **options)).astype(int)
    assert np.abs(found - np.asarray(red_and_blue()).astype(int)).max() <= within


def test_four_colours_of_print():
    picture = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    found = square(encoded(picture, "jpeg", quality=98))
    np.testing.assert_allclose(found, [[[255, 0, 0]] * 8] * 8, atol=4)


def test_sixteen_bits_are_scaled_and_not_cut():
    values = np.full((8, 8), 32896, np.uint16)
    np.testing.assert_array_equal(square(encoded(Image.fromarray(values))), 128)


def test_transparency_is_on_white():
    picture = Image.new("RGBA", (8, 8), (0, 0, 255, 0))
    picture.paste((0, 0, 255, 255), (0, 0, 4, 8))
    found = square(encoded(picture))
    np.testing.assert_array_equal(found[:, :4], [[[0, 0, 255]] * 4] * 8)
    np.testing.assert_array_equal(found[:, 4:], 255)
    palette = picture.convert("P")
    palette.info["transparency"] = palette.getpixel((6, 0))
    np.testing.assert_array_equal(square(encoded(palette))[:, 4:], 255)
    half = Image.new("LA", (8, 8), (0, 128))
    np.testing.assert_allclose(square(encoded(half)), 127, atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation):
    upright = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    # What a camera stores that says how it was held: the inverse of what the tag asks for.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright.transpose(1, 0, 2), 2),
        8: np.rot90(upright, -1),
    }[orientation]
    picture = Image.fromarray(np.ascontiguousarray(stored))
    exif = picture.getexif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(square(encoded(picture, exif=exif)), upright)


def test_shrinking_averages_what_a_pixel_covers():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8)
    expected = pixels[:, 8:40].reshape(8, 4, 8, 4, 3).mean((1, 3))
    found, size = decode(encoded(Image.fromarray(pixels)), ImageRule(8))
    np.testing.assert_allclose(found, expected, atol=1.0)
    assert size == (32, 48)


def test_profiles_and_small_pictures_do_no_harm():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert square(encoded(red_and_blue(), icc_profile=profile))[0, 0].tolist() == [255, 0, 0]
    assert square(encoded(red_and_blue(2)), size=16).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"GIF89a", "is not a picture"),
        (b"\0" * 100, "is not a picture"),
        (encoded(red_and_blue())[:50], "truncated"),
        (encoded(Image.new("L", (64, 64)), "jpeg")[:-100], "(?i)truncated"),
    ],
)
def test_what_is_no_picture(data, message):
    with pytest.raises(Unusable, match=message):
        square(data)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it sees
def test_no_bytes_crash_the_reader():
    rng = np.random.default_rng(0)
    whole = [encoded(red_and_blue(), kind) for kind in ("png", "jpeg", "webp", "gif", "tiff")]
    for _ in range(300):
        data = bytearray(whole[rng.integers(len(whole))])
        for place in rng.integers(0, len(data), 4):
            data[place] = rng.integers(256)
        try:
            assert square(bytes(data)).shape == (8, 8, 3)
        except Unusable as problem:
            assert str(problem)


def test_too_many_pixels_are_seen_before_decoding():
    for side, message in ((9_000, "9000 x 9000 pixels, more than 64000000"), (60_000, "far too")):
        data = bytearray(encoded(Image.new("P", (10, 10)), "gif"))
        data[6:10] = side.to_bytes(2, "little") * 2  # a small file that claims to be huge
        with pytest.raises(Unusable, match=message):
            square(bytes(data))


class One(ImageSource):
    """The same wide picture again and again; its columns tell where they are."""

    def __len__(self):
        return 1

    def read(self, row):
        columns = np.broadcast_to(np.arange(7, dtype=np.uint8)[None, :, None], (4, 7, 3))
        return Record("one", encoded(Image.fromarray(np.ascontiguousarray(columns))))


def test_places_and_mirrors_are_evenly_drawn_and_follow_from_the_position():
    rule = ImageRule(4, crop="random", flip=True)
    options = {"batch_size": 800, "seed": 0}
    batch = next(iter(image_dataset(One(), rule, **options)))["image"].numpy()
    mirrored = batch[:, 0, 0, 0] > batch[:, 0, 1, 0]
    lefts = batch[:, 0].min(axis=(1, 2))
    assert 0.45 < mirrored.mean() < 0.55
    assert np.bincount(lefts).tolist() == pytest.approx([200] * 4, abs=50)
    again = next(iter(image_dataset(One(), rule, **options)))["image"].numpy()
    np.testing.assert_array_equal(batch, again)
    other = next(iter(image_dataset(One(), rule, batch_size=800, seed=1)))["image"].numpy()
    assert np.any(batch != other)
    centre = next(iter(image_dataset(One(), ImageRule(4), batch_size=9, seed=0)))["image"]
    assert np.all(centre.numpy()[:, 0, :, 0] == [1, 2, 3, 4])  # never mirrored unless asked


def test_the_range_of_the_release():
    batch = next(
        iter(image_dataset(One(), ImageRule(4, pixel_range="release"), batch_size=1, seed=0))
    )["image"]
    assert batch.dtype == "float32"
    np.testing.assert_array_equal(batch[0, 0, :, 0], (np.arange(1, 5) - 127) / 128)


def odd_pictures():
    """Pictures that a plain conversion to RGB gets wrong, as the bytes of PNG files."""
    transparent = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    transparent.paste((0, 200, 0, 255), (0, 0, 4, 8))
    grey = Image.fromarray(np.full((8, 8), 257 * 90, np.uint16))
    turned = red_and_blue()
    exif = turned.getexif()
    exif[0x0112] = 6
    return {
        "transparent": encoded(transparent),
        "a transparent colour": encoded(red_and_blue(), transparency=(0, 0, 255)),
        "16 bits": encoded(grey),
        "turned": encoded(turned, exif=exif),
    }


@pytest.mark.parametrize("kind", odd_pictures())
def test_every_reader_reads_as_training_does(kind, tmp_path):
    """That of the command line and that of animations had rules of their own."""
    file = tmp_path / "picture.png"
    file.write_bytes(odd_pictures()[kind])
    expected = square(file.read_bytes())
    assert (
        expected[2, 2].tolist()
        == {
            "transparent": [0, 200, 0],
            "a transparent colour": [255, 0, 0],
            "16 bits": [90, 90, 90],
            "turned": [255, 0, 0],
        }[kind]
    )
    assert (
        expected[6, 6].tolist()
        == {
            "transparent": [255, 255, 255],
            "a transparent colour": [255, 255, 255],
            "16 bits": [90, 90, 90],
            "turned": [0, 0, 255],
        }[kind]
    )
    np.testing.assert_array_equal(given.read_picture(file), expected)
    np.testing.assert_array_equal(read_picture(file), expected)
    # An animation of one frame, whatever its format.
    file = file.rename(tmp_path / "picture.gif")
    clip = read_clip(file, ClipRule(8, frames=None, short="spread", span=1), place=0.0)
    np.testing.assert_array_equal(clip, expected)


def test_pictures_of_other_channels(tmp_path):
    files = odd_pictures()
    file = tmp_path / "picture.png"
    file.write_bytes(files["transparent"])
    found = read_picture(file, channels=4)
    assert found[2, 2].tolist() == [0, 200, 0, 255] and found[6, 6, 3] == 0
    grey = read_picture(file, channels=1)
    assert grey.shape == (8, 8, 1) and grey[6, 6] == 255
    file.write_bytes(files["16 bits"])
    assert (read_picture(file, channels=4) == [90, 90, 90, 255]).all()
    for broken in (tmp_path / "none.png", tmp_path):
        with pytest.raises(Unusable):
            read_picture(broken)
