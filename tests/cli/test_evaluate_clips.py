"""`keras-mdm evaluate` on a model of pictures and clips, on folders of clips, and network words."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from tiny_models import CLIP, PLAIN_INNER, Colours, outer, tiny_unet

from keras_mdm import MatryoshkaDiffusion, data
from keras_mdm.cli import asked, clips, main
from keras_mdm.cli.reference import references
from keras_mdm.levels import LevelShape

pytestmark = pytest.mark.usefixtures("eagerly")
COUNT = 10


def run(*words):
    return main.main(["evaluate", *map(str, words)])


def rows(out):
    found = json.loads((out / "report.json").read_text())["rows"]
    return {(row["subject"], row["measure"]): row for row in found}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Animations of 7 frames: at a stride of 2 a clip of 4, and one that is broken."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        shades = np.linspace(20 * number, 20 * number + 60, 7).astype("uint8")
        frames = [Image.fromarray(np.full((20, 20, 3), shade)) for shade in shades]
        frames[0].putpixel((0, 0), tuple(rng.integers(0, 255, 3).tolist()))
        path = folder / f"{number:02d}.gif"
        frames[0].save(path, save_all=True, append_images=frames[1:])
    (folder / "99.gif").write_bytes(b"no animation")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    top = dataclasses.replace(outer(16, 4), temporal_attention=(0, 0))
    unet = tiny_unet([PLAIN_INNER, CLIP, top])
    MatryoshkaDiffusion(unet, downsample="area", frame="middle").save(path)
    return path


@pytest.fixture
def small_features(monkeypatch):
    monkeypatch.setattr(asked, "features_of", lambda name: Colours())


def test_real_clips_are_those_of_training(videos):
    """Lower levels are reduced from the pixels of the highest: in time as the process says."""
    levels = ["8", "2x8", "4x16"]
    found = references(
        str(videos), levels, "area", Colours(), frame="middle", stride=2, count=COUNT
    )
    given = {level: np.concatenate(list(batches)) for level, batches in found.pictures.items()}
    rule = data.ClipRule(16, 4, 2, flip=False)
    source = data.open_clips(str(videos), captions="names")
    whole = np.stack([source.read(row, rule) for row in range(COUNT)])
    np.testing.assert_array_equal(given["4x16"], whole)
    small = data.reduction.reduce_pixels(whole, 8)
    np.testing.assert_array_equal(given["2x8"], small[:, 1::2])
    np.testing.assert_array_equal(given["8"], small[:, 2])
    assert found.captions is None


@pytest.mark.usefixtures("small_features")
def test_all_levels_of_a_model_of_clips(model, videos, tmp_path, capsys):
    given = ("--reference", videos, "--stride", 2, "--few", "-n", 6, "--steps", 2)
    assert run(model, *given, "--metrics", "kernel", "--out", tmp_path / "a") == 0
    said = capsys.readouterr()
    assert "1 of 11 real clips were skipped, the first one 99.gif" in said.err
    found = rows(tmp_path / "a")
    wanted = {"8", "4x8", "4x16", "8 enlarged to 4x8", "4x8 enlarged to 4x16"}
    assert {subject for subject, _ in found} == wanted
    row = found["4x16", "kernel distance of clips x 1000"]
    assert (row["drawn"], row["real"]) == (6, COUNT)
    about = json.loads((tmp_path / "a" / "report.json").read_text())["about"]
    assert about["features"] == "quarters; mean and 4 x mean change over frames of quarters"
    # The folder of a level is a target itself, with the same number.
    drawn = tmp_path / "a" / "pictures" / "4x16"
    again = (*given[:5], "--metrics", "kernel", "--levels", "4x16", "--out", tmp_path / "b")
    assert run(drawn, *again) == 0
    found = rows(tmp_path / "b")["4x16", "kernel distance of clips x 1000"]
    assert found["value"] == pytest.approx(row["value"], rel=1e-6)
    capsys.readouterr()
    assert run(drawn, *again[:-3], "2x8", *again[-2:]) == 2
    assert "must have its size" in capsys.readouterr().err


def test_a_folder_of_videos_is_read_frame_by_frame(videos):
    drawn, levels, _ = clips.of_folder(str(videos), "4x16", 3)
    (batch,) = drawn["4x16"]
    assert levels == ["4x16"] and batch.shape == (3, 4, 16, 16, 3)
    # Frames that follow each other, every one of them: the shades rise by 10.
    steps = np.diff(batch[0].astype(int).mean((1, 2, 3)))
    np.testing.assert_allclose(steps, 10, atol=1)


@pytest.mark.parametrize("frame", ["first", "middle", "average"])
def test_fewer_frames_are_those_of_the_process(frame):
    from keras_mdm.diffusion import downsample

    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (2, 8, 4, 4, 3)).astype("uint8")
    for frames in (2, 4, 8):
        shapes = LevelShape(8, 4), LevelShape(frames, 4)
        wanted = np.asarray(downsample(clip.astype("float32"), *shapes, "area", frame))
        found = clips.fewer_frames(clip, frames, frame)
        np.testing.assert_allclose(found, wanted, atol=0.51)


@pytest.mark.parametrize(
    "word", ["inception", "trusted-clip:x", "efficientnet-lite0:x", "trusted-", "i3d:", "fid:x"]
)
def test_words_that_name_no_network(word):
    with pytest.raises(ValueError, match=r"must name a feature network.*trusted-i3d:FILE"):
        asked.features_of(word)


def test_words_of_networks_lead_to_their_files(tmp_path):
    for word, message in (
        ("inception", "check the path"),
        ("trusted-inception", "check the path"),
        ("keras-inception", "check the path"),
        ("i3d", r"saved_model\.pb"),
        ("trusted-i3d", r"saved_model\.pb"),
    ):
        with pytest.raises(ValueError, match=message):
            asked.features_of(f"{word}:{tmp_path / 'none'}")
