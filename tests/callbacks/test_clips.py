import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from keras_mdm.callbacks import (
    EventWriter,
    SampleGrid,
    animated_grid,
    contact_sheet,
    encode_gif,
    encode_mp4,
    write_clip,
)
from keras_mdm.data import ClipRule, read_clip


def played(data):
    with Image.open(io.BytesIO(data)) as gif:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
        return np.stack(frames), gif.info


def test_a_gif_plays_its_frames():
    frames = np.full((4, 12, 16, 3), 255, "uint8")
    for t in range(4):
        frames[t, 4:8, 4 * t : 4 * t + 4] = (200, 0, 40)
    found, info = played(encode_gif(frames, frames_per_second=4))
    assert info["duration"] == 250 and info["loop"] == 0
    np.testing.assert_allclose(found.astype(int), frames, atol=4)  # colours of a palette


@pytest.mark.parametrize("shown", [[0, 0, 0, 0], [0, 1, 1, 1, 1, 1, 2, 0], [3], [2, 2]])
@pytest.mark.parametrize("speed", [8.0, 10.0, 50.0])
def test_no_frame_of_a_gif_is_dropped(shown, speed, tmp_path):
    rng = np.random.default_rng(0)
    different = rng.choice([0, 255], (4, 12, 16, 1)).astype("uint8").repeat(3, axis=-1)
    different[1] = different[0]
    different[1, 5, 3:7] = 128  # a part changes
    frames = different[shown]
    path = write_clip(tmp_path / "clip.gif", frames, frames_per_second=speed, smallest=1)
    with Image.open(path) as gif:
        assert gif.n_frames == len(shown)
        lasts = []
        for number, frame in enumerate(ImageSequence.Iterator(gif)):
            lasts.append(frame.info["duration"])
            np.testing.assert_array_equal(np.asarray(frame.convert("RGB")), frames[number])
    assert lasts == [{8.0: 120, 10.0: 100, 50.0: 20}[speed]] * len(shown)
    # And as data.
    if len(shown) in (2, 4, 8):
        rule = ClipRule(12, frames=len(shown), stride=1, flip=False, short="skip")
        found = read_clip(path, rule, place=0.0)
        np.testing.assert_array_equal(found, frames[:, :, 2:14])


def test_levels_with_fewer_frames_hold_theirs():
    value = np.arange(1, 5, dtype="uint8")
    clip = 40 * value[None, :, None, None, None] * np.ones((2, 1, 8, 8, 3), "uint8")
    clips = {"8": clip[:, 0], "2x8": clip[:, ::2], "4x8": clip}
    frames = animated_grid(clips, ["one", "two"], size=8)
    shown = frames[:, [4, 18, 32], 4, 0]  # the middle of every row's first cell
    assert shown.tolist() == [[40, 40, 40], [40, 40, 80], [40, 120, 120], [40, 120, 160]]


@pytest.mark.parametrize(
    "call",
    [
        lambda: encode_gif(np.zeros((2, 8, 8, 3))),
        lambda: encode_gif(np.zeros((8, 8, 3), "uint8")),
        lambda: encode_gif(np.zeros((2, 8, 8, 3), "uint8"), frames_per_second=100),
        lambda: encode_mp4(np.zeros((2, 8, 8, 3), "uint8"), quality=99),
        lambda: contact_sheet(np.zeros((1, 2, 8, 8, 3), "uint8"), ["a"], size=-1),
        lambda: animated_grid({}, []),
        lambda: animated_grid(
            {"3x8": np.zeros((1, 3, 8, 8, 3), "uint8"), "4x8": np.zeros((1, 4, 8, 8, 3), "uint8")},
            ["a"],
        ),
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError, match="Received: .*To fix it: "):
        call()


@pytest.mark.parametrize("sides", [(16, 24), (15, 9)])
def test_an_mp4_plays_its_frames(sides, tmp_path):
    av = pytest.importorskip("av")
    frames = np.full((6, *sides, 3), 255, "uint8")
    for t in range(6):
        frames[t, 2:8, : 1 + t] = (20, 60, 200)
    path = write_clip(tmp_path / "clip.mp4", frames, frames_per_second=12.5, smallest=30)
    factor = -(-30 // min(sides))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == 12.5
        assert stream.width % 2 == stream.height % 2 == 0
        found = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert found.shape[0] == 6
    small = found[:, factor // 2 :: factor, factor // 2 :: factor][:, : sides[0], : sides[1]]
    assert np.abs(small.astype(int) - frames).mean() < 4  # colours at half the resolution


def test_endings_choose_the_format(tmp_path):
    frames = np.zeros((2, 8, 8, 3), "uint8")
    gif = write_clip(tmp_path / "a.GIF", frames, smallest=20)
    assert played(gif.read_bytes())[0].shape == (2, 24, 24, 3)
    with pytest.raises(ValueError, match="Received: .*To fix it: "):
        write_clip(tmp_path / "a.avi", frames)


def test_a_contact_sheet_is_one_row_per_clip():
    clips = np.arange(1, 9, dtype="uint8").reshape(2, 4, 1, 1, 1) * 30
    clips = np.broadcast_to(clips, (2, 4, 8, 8, 3)).copy()
    sheet = contact_sheet(clips, ["a pizza turning", "b"], size=16, gap=2)
    frames = sheet[[8, 26], -4 * 18 + 2 :][:, 8::18]
    assert frames[..., 0].tolist() == [[30, 60, 90, 120], [150, 180, 210, 240]]
    left = sheet[:, : sheet.shape[1] - 4 * 18]
    assert left[:16].min() < 128 and left[18:].min() < 128  # both captions are there
    with pytest.raises(ValueError, match="Received: .*To fix it: "):
        contact_sheet(clips, ["a"])


def test_sample_grids_of_clips_play_in_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.util.img_mime_type_detector import from_bytes
    from tensorboard.util.tensor_util import make_ndarray

    clips = {"8": np.zeros((2, 8, 8, 3), "uint8"), "4x8": np.zeros((2, 4, 8, 8, 3), "uint8")}
    clips["4x8"] += np.arange(4, dtype="uint8")[:, None, None, None] * 60
    writer = EventWriter(tmp_path / "logs")
    grid = SampleGrid(lambda: clips, ["a", "b"], tmp_path, 1, writer)
    names = [path.name for path in grid.write()]
    writer.close()
    assert names == [f"step-0000000_{name}" for name in ("8.png", "4x8.png", "all.gif")]
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    shown = make_ndarray(events.Tensors("samples/all")[0].tensor_proto)[2]
    assert from_bytes(shown) == "image/gif"
    assert len(played(shown)[0]) == 4
