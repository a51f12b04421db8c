"""A folder of real-life picture files becomes upright squares of RGB on white."""

import logging

import numpy as np
import pytest
from PIL import Image

from keras_mdm.data import area_average, load_folder


def load(folder, size=8, **options):
    return load_folder(folder, size=size, progress=False, **options)


def quarters(size=16):
    """A square with a red, green, blue and black quarter, clockwise from the upper left."""
    picture = np.zeros((size, size, 3), np.uint8)
    half = size // 2
    picture[:half, :half, 0] = picture[:half, half:, 1] = picture[half:, half:, 2] = 255
    return picture


def test_pictures_captions_and_labels_line_up(save, tmp_path):
    save("b/red_apple.png", quarters())
    save("a/cat__2.PNG", quarters()).with_suffix(".txt").write_text("\ufeffa cat\n asleep \n")
    save("root.webp", quarters(), lossless=True).with_suffix(".txt").write_text(" \n")
    save(".hidden/x.png", quarters())
    (tmp_path / "pictures" / "notes.md").write_text("no picture")
    data = load(tmp_path / "pictures")
    assert data.files == ("a/cat__2.PNG", "b/red_apple.png", "root.webp")
    assert data.captions == ("a cat asleep", "red apple", "root")
    assert data.label_names == ("a", "b") and data.labels.tolist() == [0, 1, -1]
    assert data.skipped == () and data.images[8].dtype == np.uint8
    for picture in data.images[8]:
        np.testing.assert_array_equal(picture, quarters(8))


def test_smaller_sizes_are_averages_of_the_largest(save, tmp_path):
    save("x.png", np.random.default_rng(0).integers(0, 256, (37, 53, 3)))
    data = load(tmp_path / "pictures", size=(4, 16, 8))
    assert list(data.images) == [4, 8, 16]
    np.testing.assert_array_equal(data.images[4], area_average(data.images[16], 4))


@pytest.mark.parametrize("shape", [(16, 32), (32, 16)])
def test_the_middle_square_is_kept_and_shrinking_averages(save, tmp_path, shape):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*shape, 3), np.uint8)
    save("x.png", picture)
    middle = picture[:, 8:24] if shape[1] == 32 else picture[8:24]
    got = load(tmp_path / "pictures").images[8][0]
    expected = middle.astype(np.float64).reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    assert np.abs(got - expected).max() <= 1


def test_small_pictures_are_enlarged(save, tmp_path):
    save("x.png", np.full((3, 5, 3), 90))
    np.testing.assert_array_equal(load(tmp_path / "pictures").images[8], np.full((1, 8, 8, 3), 90))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(save, tmp_path, orientation):
    # What a camera stores so that applying the tag gives `quarters` back: the inverse transforms.
    inverse = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    save("x.png", np.ascontiguousarray(inverse[orientation](quarters())), exif=exif)
    np.testing.assert_array_equal(load(tmp_path / "pictures").images[8][0], quarters(8))


def test_transparency_lies_on_white(save, tmp_path):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, :4] = 200, 0, 0, 255
    rgba[4:, 4:] = 0, 0, 0, 128
    save("rgba.png", rgba)
    grey = np.stack([rgba[..., 0], rgba[..., 3]], -1)
    save("grey_alpha.png", grey)
    Image.fromarray(rgba).quantize(8).save(tmp_path / "pictures" / "palette.png")
    data = load(tmp_path / "pictures")
    pictures = dict(zip(data.captions, data.images[8], strict=True))
    for name, opaque in (("rgba", (200, 0, 0)), ("grey alpha", (200,) * 3)):
        np.testing.assert_array_equal(pictures[name][:, :4], np.broadcast_to(opaque, (8, 4, 3)))
    for name in ("rgba", "grey alpha", "palette"):
        assert pictures[name][:4, 4:].min() == 255, name
        assert np.abs(pictures[name][4:, 4:].astype(int) - 127).max() <= 2, name


def test_cmyk_and_16_bits_become_8_bit_rgb(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    cmyk = Image.merge("CMYK", [Image.new("L", (8, 8), value) for value in (0, 255, 255, 0)])
    cmyk.save(folder / "cmyk.jpg", quality=100)
    ramp = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(folder / "deep.png")
    data = load(folder)
    assert np.abs(data.images[8][0].astype(int) - (255, 0, 0)).max() <= 3
    expected = np.round(ramp / 257)[..., None]
    np.testing.assert_array_equal(data.images[8][1], np.broadcast_to(expected, (8, 8, 3)))


def test_corrupt_pictures_are_skipped_and_named(save, tmp_path, caplog):
    save("good.png", quarters())
    whole = save("sub/cut.jpg", quarters(64)).read_bytes()
    (tmp_path / "pictures" / "sub" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pictures" / "text.png").write_text("not a picture")
    (tmp_path / "pictures" / "empty.webp").touch()
    with caplog.at_level(logging.WARNING):
        data = load(tmp_path / "pictures")
    assert data.captions == ("good",) and len(data.images[8]) == 1
    assert [entry.file for entry in data.skipped] == ["empty.webp", "sub/cut.jpg", "text.png"]
    assert all(entry.reason for entry in data.skipped)
    assert "skipped 3 of 4" in caplog.text and "sub/cut.jpg" in caplog.text


def parts(caught):
    must, rest = str(caught.value).split(" Received: ")
    return must, *rest.split(" To fix it: ")


def test_nothing_usable_is_one_error_in_three_parts(tmp_path):
    with pytest.raises(ValueError) as caught:
        load(tmp_path / "absent")
    assert "existing folder" in parts(caught)[0] and "absent" in parts(caught)[1]
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError) as caught:
        load(tmp_path)
    assert ".png" in parts(caught)[0] and "`extensions`" in parts(caught)[2]
    (tmp_path / "bad.png").write_text("x")
    with pytest.raises(ValueError) as caught:
        load(tmp_path)
    assert "readable" in parts(caught)[0] and "bad.png" in parts(caught)[1]
