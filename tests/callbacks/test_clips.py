import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from keras_mdm.callbacks import animated_grid, encode_gif


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
