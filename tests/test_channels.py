"""Grey pictures, pictures with transparency, and codes: from the files to the command line."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_models import PLAIN_INNER, THREE_PARTS, outer, tiny_unet

from keras_mdm import MatryoshkaDiffusion, callbacks, latents, optimizers
from keras_mdm.cli import main as cli
from keras_mdm.data import (
    CaptionedImages,
    ClipRule,
    ImageRule,
    find_videos,
    image_dataset,
    image_text_dataset,
    load_folder,
    open_clips,
    open_images,
    prepare_clips,
    prepare_images,
    read_clip,
)

pytestmark = pytest.mark.usefixtures("eagerly")

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def pictures(channels, count=4, size=16):
    """Pictures of large squares, the left half of those with transparency is transparent."""
    rng = np.random.default_rng(channels)
    found = rng.integers(0, 256, (count, 2, 2, channels)).astype("uint8")
    if channels == 4:
        found[..., 3] = 255
        found[:, :, 0] = 0
    return found.repeat(size // 2, axis=1).repeat(size // 2, axis=2)


@pytest.fixture(params=[pytest.param(1, marks=pytest.mark.slow), 4])
def channels(request):
    return request.param


@pytest.fixture
def folder(channels, tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    for number, picture in enumerate(pictures(channels)):
        squeezed = picture[..., 0] if channels == 1 else picture
        Image.fromarray(squeezed).save(root / f"{number}.png")
    return root


def test_files(folder, channels, tmp_path):
    expected = pictures(channels)
    data = load_folder(folder, size=(8, 16), channels=channels, progress=False)
    np.testing.assert_array_equal(data.images[16], expected)
    np.testing.assert_array_equal(data.images[8], expected[:, ::2, ::2])
    batches = image_text_dataset(data, batch_size=4, seed=0, repeat=False)
    assert next(iter(batches))["image"].shape == (4, 16, 16, channels)
    prepare_images(
        folder, tmp_path / "shards", size=16, image_format="png", channels=channels, progress=False
    )
    for source in (open_images(folder), open_images(tmp_path / "shards")):
        rule = ImageRule(16, channels=channels)
        dataset = image_dataset(source, rule, batch_size=4, seed=0, repeat=False)
        assert dataset.element_spec["image"].shape[1:] == (16, 16, channels)
        batch = next(iter(dataset))["image"].numpy()
        assert sorted(map(bytes, batch)) == sorted(map(bytes, expected))
    with pytest.raises(ValueError, match=THREE_PARTS):
        ImageRule(16, channels=2)
    if channels == 4:
        with pytest.raises(ValueError, match="JPEG"):
            prepare_images(folder, tmp_path / "other", channels=4, progress=False)


def test_grey_files_become_rgb_and_the_other_way_round(folder, channels):
    rgb = load_folder(folder, size=16, progress=False).images[16]
    expected = callbacks.on_white(pictures(channels))
    np.testing.assert_array_equal(rgb, expected)
    grey = load_folder(folder, size=16, channels=1, progress=False).images[16]
    weights = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey[..., 0], expected @ weights, atol=1)


def test_animations(folder, channels, tmp_path):
    frames = pictures(channels)
    shown = [Image.open(folder / f"{number}.png") for number in range(4)]
    file = tmp_path / "videos" / "a.webp"
    file.parent.mkdir()
    # Key frames only: others lose the transparency in libwebp.
    options = {"lossless": True, "exact": True, "minimize_size": False, "kmax": 1}
    shown[0].save(file, save_all=True, append_images=shown[1:], **options)
    rule = ClipRule(16, 4, stride=1, flip=False, channels=channels)
    np.testing.assert_array_equal(read_clip(file, rule, place=0.0), frames)
    assert ClipRule.from_facts(json.loads(json.dumps(rule.facts))) == rule
    videos = find_videos(file.parent, captions="names")
    if channels == 4:
        with pytest.raises(ValueError, match="JPEG"):
            prepare_clips(videos, tmp_path / "shards", rule=rule, progress=False)
        return
    prepare_clips(videos, tmp_path / "shards", rule=rule, progress=False)
    shards = open_clips(tmp_path / "shards")
    assert shards.rule == rule
    found = shards.read(0, rule).astype(int)
    assert found.shape == frames.shape and np.abs(found - frames).mean() < 4  # JPEG
    with pytest.raises(ValueError, match="must match the prepared clips"):
        shards.check(ClipRule(16, 4, stride=1, flip=False))


def trained(channels, **options):
    unet = tiny_unet([PLAIN_INNER, outer(16)], in_channels=channels, out_channels=channels)
    model = MatryoshkaDiffusion(unet, **options)
    model.compile(optimizer=optimizers.Adam(1e-3))
    return model


def test_from_fit_to_the_command_line(folder, channels, tmp_path, capsys):
    model = trained(channels)
    rule = ImageRule(16, channels=channels)
    dataset = image_dataset(open_images(folder), rule, batch_size=4, seed=0)
    grid = callbacks.SampleGrid(
        lambda: model.generate(num_images=2, steps=2, progress=False),
        ["a", "b"],
        tmp_path / "samples",
        1,
        callbacks.EventWriter(tmp_path / "logs"),
    )
    model.fit(dataset, steps_per_epoch=1, verbose=0, callbacks=[grid])
    drawn = model.generate(num_images=2, steps=2, progress=False)
    with Image.open(tmp_path / "samples" / "step-0000001_16.png") as picture:
        assert picture.mode == MODES[channels]
        np.testing.assert_array_equal(
            np.asarray(picture).reshape(16, 34, channels)[:, :16], drawn["16"][0]
        )
    with Image.open(tmp_path / "samples" / "step-0000001_all.png") as picture:
        assert picture.mode == "RGB"
        both = np.asarray(picture)[22:38, :16]
        np.testing.assert_array_equal(both, callbacks.on_white(drawn["16"])[0])
    model.save(tmp_path / "model.keras")
    words = ["sample", str(tmp_path / "model.keras"), "--steps", "2", "--seed", "3"]
    words += ["--init", str(folder / "1.png"), "--strength", "0.5", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    expected = model.generate(
        num_images=1,
        steps=2,
        seed=3,
        init_image=pictures(channels)[1],
        strength=0.5,
        progress=False,
    )
    with Image.open(tmp_path / "out" / "000-sample_16.png") as picture:
        assert picture.mode == MODES[channels]
        found = np.asarray(picture).reshape(16, 16, channels)
    np.testing.assert_array_equal(found, expected["16"][0])


def test_what_is_shown_lies_on_white(channels):
    clip = pictures(channels)
    gif = callbacks.encode_gif(clip)
    sheet = callbacks.contact_sheet(clip[None], ["a"])
    assert gif[:6] == b"GIF89a" and sheet.shape[-1] == 3
    grid = callbacks.captioned_grid({"16": clip}, ["a"] * 4)
    np.testing.assert_array_equal(grid[:16, :16], callbacks.on_white(clip)[0])
    if channels == 4:
        assert (grid[:16, :8] == 255).all()
        half = np.array([[[[200, 0, 100, 51]]]], "uint8")
        assert callbacks.on_white(half).tolist() == [[[[244, 204, 224]]]]
    images = CaptionedImages({16: clip}, ("a",) * 4, np.zeros(4, np.int32), ("x",))
    assert images.largest.shape[-1] == channels
    with pytest.raises(ValueError, match=THREE_PARTS):
        callbacks.image_grid(clip[..., :1].repeat(2, axis=-1))


def test_codes_from_data_to_the_command_line(tmp_path, capsys):
    codec = latents.SpaceToDepth(2)
    shown = pictures(3, size=32)
    batches = image_text_dataset(shown, batch_size=4, seed=0)
    codes = next(iter(latents.to_codes(batches, codec)))["image"]
    stored = image_text_dataset(codes.numpy(), batch_size=4, seed=0, repeat=False)
    assert next(iter(stored))["image"].dtype == tf.float32
    found = latents.to_pictures(codec, codes)
    assert sorted(map(bytes, found)) == sorted(map(bytes, shown))

    model = trained(12, threshold="none")
    draw = lambda: model.generate(num_images=1, steps=2, output="float32", progress=False)  # noqa: E731
    grid = callbacks.SampleGrid(draw, ["a"], tmp_path, 1, codec=codec)
    model.fit(latents.to_codes(batches, codec), steps_per_epoch=1, verbose=0, callbacks=[grid])
    drawn = draw()
    picture = np.asarray(Image.open(tmp_path / "step-0000001_16.png"))
    np.testing.assert_array_equal(picture, latents.to_pictures(codec, drawn["16"])[0])
    with pytest.raises(ValueError, match="codes have to be decoded.*codec="):
        callbacks.SampleGrid(draw, ["a"], tmp_path, 1).write()
    file = tmp_path / "model.keras"
    model.save(file)
    assert cli.main(["sample", str(file), "--steps", "2", "--out", str(tmp_path)]) == 0
    names = [line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()]
    assert names == ["000-sample_8.npy", "000-sample_16.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / names[1]), drawn["16"][0])
    again = ["--init", str(tmp_path / names[1]), "--strength", "0", "--out", str(tmp_path / "b")]
    assert cli.main(["sample", str(file), "--steps", "2", *again]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "b" / names[1]), drawn["16"][0])
    capsys.readouterr()
    # Refused before anything is drawn.
    assert cli.main(["sample", str(file), "--as", "pictures", "--out", str(tmp_path / "c")]) == 2
    assert re.search(r"1, 3 or 4 channels.*channels=12", capsys.readouterr().err)
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
def test_four_channels_without_a_threshold_may_be_either(tmp_path, capsys):
    model = trained(4, threshold="none")
    model.save(tmp_path / "model.keras")
    words = ["sample", str(tmp_path / "model.keras"), "--steps", "1", "--out", str(tmp_path)]
    assert cli.main(words) == 2
    assert "--as pictures or --as codes" in capsys.readouterr().err
    for kind, ending in (("pictures", "png"), ("codes", "npy")):
        assert cli.main([*words, "--as", kind]) == 0
        assert (tmp_path / f"000-sample_16.{ending}").is_file()
