"""Clips out of video files: exactly the frames of the rule, whatever the container."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from data.videos import SIZE, frame, number_of, write_sound, write_video
from keras_mdm.data import ClipRule, UnusableVideo, count_frames, read_clip
from keras_mdm.data.clips.reader import fixed_place
from keras_mdm.data.reduction import reduce_pixels

pytest.importorskip("av")
RULE = ClipRule(SIZE, frames=8, stride=4)
UNEVEN = np.cumsum(np.random.default_rng(0).integers(20, 120, 80))
KINDS = {
    "h264.mp4": {"g": 12, "bf": 3},
    "one_key.mp4": {"g": 500, "bf": 2},
    "uneven.mkv": {"times": UNEVEN},
    "no_times.avi": {"codec": "mpeg4", "bf": 2},
    "stream.ts": {"g": 30},
    "vp9.webm": {"codec": "libvpx-vp9", "height": 45, "width": 61},
    "all_keys.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {name: write_video(folder / name, **given) for name, given in KINDS.items()}


@pytest.mark.parametrize("name", KINDS)
def test_exactly_the_frames_of_the_rule(files, name):
    assert count_frames(files[name]) == 80
    # A size at which the cells of the numbers stay whole.
    rule = ClipRule(45 if name == "vp9.webm" else SIZE, frames=8, stride=4)
    for place in (0.0, 0.37, 0.999):
        clip = read_clip(files[name], rule, place=place)
        if name == "vp9.webm":  # the numbers stand in the middle of a larger picture
            clip = clip[:, 6:38, 6:38]
        first = int(place * (80 - 28))
        assert [number_of(picture) for picture in clip] == list(range(first, first + 29, 4))


def test_the_picture_of_a_clip_is_its_first_frame(files):
    clip = read_clip(files["h264.mp4"], RULE, place=0.4)
    picture = read_clip(files["h264.mp4"], RULE.picture(), place=0.4)
    np.testing.assert_array_equal(picture, clip[0])
    mirrored = read_clip(files["h264.mp4"], RULE, place=0.4, mirror=True)
    np.testing.assert_array_equal(mirrored, clip[:, :, ::-1])


def test_crop_and_resize(files, tmp_path):
    wide = write_video(tmp_path / "wide.mp4", width=96, height=64, crf=0, pixels="yuv444p")
    clip = read_clip(wide, ClipRule(16, frames=2, stride=1), place=0.0)
    middle = frame(0, 64, 96)[:, 16:80].reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(clip[0], middle, atol=4)  # averages of areas; YUV rounds
    larger = read_clip(wide, ClipRule(100, frames=2, stride=1), place=0.0)
    assert larger.shape == (2, 100, 100, 3)


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_animations_are_put_on_white(tmp_path, kind):
    pictures = []
    for number in range(20):
        picture = Image.fromarray(frame(number)).convert("RGBA")
        picture.putalpha(Image.fromarray(np.tri(SIZE, dtype=np.uint8) * 255))
        pictures.append(picture)
    path = tmp_path / f"moving.{kind}"
    options = {"disposal": 2} if kind == "gif" else {"lossless": True}
    pictures[0].save(path, save_all=True, append_images=pictures[1:], **options)
    assert count_frames(path) == 20
    clip = read_clip(path, ClipRule(SIZE, frames=4, stride=3), place=0.5)
    assert clip.shape == (4, SIZE, SIZE, 3)
    assert np.all(clip[:, 2, 20] == 255)  # above the diagonal there is paper
    seen = [picture[20, 12].mean() > 128 for picture in clip]  # bit 5 is not reached, bit 4 + ...
    expected = [frame(number)[20, 12].mean() > 128 for number in (5, 8, 11, 14)]
    assert seen == expected


def test_the_place_follows_from_the_key():
    places = np.array([fixed_place(f"000{n}") for n in range(2000)])
    assert fixed_place("0007") == places[7] and 0.0 <= places.min() < places.max() < 1.0
    counts, _ = np.histogram(places, 10, (0.0, 1.0))
    assert np.all(np.abs(counts - 200) < 5 * np.sqrt(200))
    assert [*ClipRule(8).wanted(61, 0.9)] == list(range(0, 61, 4))  # just long enough
    assert [*ClipRule(8).wanted(100, 0.9999)][-1] == 99


def test_files_that_give_no_clip(files, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(files["h264.mp4"].read_bytes()[:600])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.webp").write_text("no picture")
    write_sound(tmp_path / "sound.mp4")
    write_video(tmp_path / "short.mp4", 28)
    reasons = {
        "cut.mp4": "cannot be read",
        "empty.mp4": "cannot be read",
        "text.webp": "is not a picture",
        "missing.mp4": "No such file",
        "missing.gif": "is missing",
        "sound.mp4": "holds no pictures, only audio",
        "short.mp4": "has 28 frames, 29 are needed for 8 at a stride of 4",
    }
    for name, reason in reasons.items():
        with pytest.raises(UnusableVideo, match=reason):
            read_clip(tmp_path / name, dataclasses.replace(RULE, short="skip"), place=0.5)
    write_video(tmp_path / "one.mp4", 1)
    for rule in (RULE, RULE.picture()):
        with pytest.raises(UnusableVideo, match="has 1 frame, 2 are needed for a clip"):
            read_clip(tmp_path / "one.mp4", rule, place=0.5)


@pytest.mark.parametrize("count", [2, 5, 8, 9, 13, 28])
def test_a_short_video_gives_all_it_has_spread_evenly(tmp_path, count):
    """As the source that the paper follows does: from its first to its last frame."""
    numbers = [int(n) for n in np.linspace(0, count - 1, 8)]
    moving = tmp_path / "moving.webp"
    pictures = [Image.fromarray(frame(number)) for number in range(count)]
    pictures[0].save(moving, save_all=True, append_images=pictures[1:], lossless=True)
    for file in (write_video(tmp_path / "short.mp4", count, g=500), moving):
        for place in (0.0, 0.9):
            clip = read_clip(file, RULE, place=place)
            assert [number_of(picture) for picture in clip] == numbers
            picture = read_clip(file, RULE.picture(), place=place)
            np.testing.assert_array_equal(picture, clip[0])
    assert len(set(numbers)) == min(count, 8)


def test_long_videos_do_not_depend_on_the_rule_for_short_ones():
    spread, skip = ClipRule(8, short="spread"), ClipRule(8, short="skip")
    for count in (61, 62, 100):
        for place in (0.0, 0.5, 0.99):
            assert spread.wanted(count, place) == skip.wanted(count, place)
    assert (spread.least, skip.least, ClipRule(8, None).least) == (2, 61, 1)


@pytest.mark.parametrize("kind", ["area", "bilinear"])
def test_lower_levels_are_reductions_of_the_highest(files, tmp_path, kind):
    moving = tmp_path / "moving.gif"
    pictures = [Image.fromarray(frame(number)) for number in range(30)]
    pictures[0].save(moving, save_all=True, append_images=pictures[1:])
    for file in (files["h264.mp4"], files["vp9.webm"], moving):
        high = read_clip(file, ClipRule(16, frames=8), place=0.4, mirror=True)
        rule = ClipRule(4, frames=8, of=16, downsample=kind)
        low = read_clip(file, rule, place=0.4, mirror=True)
        np.testing.assert_array_equal(low, reduce_pixels(high, 4, kind))
        picture = read_clip(file, rule.picture(), place=0.4, mirror=True)
        np.testing.assert_array_equal(picture, low[0])
    other = dataclasses.replace(rule, downsample="area" if kind == "bilinear" else "bilinear")
    uneven = [read_clip(files["vp9.webm"], given, place=0.4) for given in (rule, other)]
    assert not np.array_equal(*uneven)


def test_notes_of_rules_are_those_of_before_where_rules_are():
    assert ClipRule(8, short="skip").facts == {
        "size": 8,
        "frames": 16,
        "stride": 4,
        "start": "fixed",
        "flip": True,
        "span": None,
    }
    for rule in (ClipRule(8), ClipRule(8, short="skip"), ClipRule(8, of=16, downsample="bilinear")):
        assert ClipRule.from_facts(rule.facts) == rule
        assert ClipRule.from_facts(rule.picture(4).facts) == rule.picture(4)
    assert ClipRule(8, of=16, downsample="bilinear").facts["of"] == 16
    assert ClipRule(8, frame="middle").picture().facts["frame"] == "middle"


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": 12},
        {"frames": 1},
        {"size": 0},
        {"frame": "last"},
        {"stride": 0},
        {"start": "last"},
        {"flip": 1},
        {"short": "repeat"},
        {"of": 12},
        {"of": 4},
        {"downsample": "nearest"},
    ],
    ids=str,
)
def test_bad_rules(wrong):
    with pytest.raises(ValueError, match="Received: .*To fix it: "):
        ClipRule(**{"size": 8, **wrong})
