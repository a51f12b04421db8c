"""Clips out of video files: exactly the frames of the rule, whatever the container."""

import numpy as np
import pytest
from PIL import Image

from data.videos import SIZE, frame, number_of, write_sound, write_video
from keras_mdm.data import ClipRule, UnusableVideo, count_frames, read_clip
from keras_mdm.data.clip_reader import fixed_place

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
        "text.webp": "cannot be read",
        "missing.mp4": "No such file",
        "sound.mp4": "holds no pictures, only audio",
        "short.mp4": "has 28 frames, 29 are needed for 8 at a stride of 4",
    }
    for name, reason in reasons.items():
        with pytest.raises(UnusableVideo, match=reason):
            read_clip(tmp_path / name, RULE, place=0.5)


@pytest.mark.parametrize(
    "wrong",
    [{"frames": 12}, {"frames": 1}, {"size": 0}, {"stride": 0}, {"start": "last"}, {"flip": 1}],
    ids=str,
)
def test_bad_rules(wrong):
    with pytest.raises(ValueError, match="Received: .*To fix it: "):
        ClipRule(**{"size": 8, **wrong})
