"""Small video files whose frames say which they are."""

from fractions import Fraction

import numpy as np

SIZE = 32
_CELLS = 8  # bits of a frame's number, in a 4 x 2 grid of squares


def frame(number, height=SIZE, width=SIZE):
    """A picture whose eight central cells are the bits of `number`."""
    picture = np.full((height, width, 3), 128, np.uint8)
    top, left = (height - 16) // 2, (width - 32) // 2
    for bit in range(_CELLS):
        row, column = divmod(bit, 4)
        value = 235 if number >> bit & 1 else 20
        picture[top + 8 * row : top + 8 * row + 8, left + 8 * column : left + 8 * column + 8] = (
            value
        )
    return picture


def number_of(picture):
    """The number that a picture of any size shows."""
    cell = picture.shape[0] / 4
    found = 0
    for bit in range(_CELLS):
        row, column = divmod(bit, 4)
        y, x = int((1.5 + row) * cell), int((0.5 + column) * cell)
        found |= int(picture[y, x].mean() > 128) << bit
    return found


def write_video(
    path,
    count=80,
    *,
    codec="libx264",
    times=None,
    height=SIZE,
    width=SIZE,
    pixels="yuv420p",
    **options,
):
    """Write `count` numbered frames; `times` in milliseconds gives a variable rate."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.options = {key: str(value) for key, value in options.items()}
        if times is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number in range(count):
            shown = av.VideoFrame.from_ndarray(frame(number, height, width), format="rgb24")
            if times is not None:
                shown.pts, shown.time_base = int(times[number]), Fraction(1, 1000)
            container.mux(stream.encode(shown))
        container.mux(stream.encode())
    return path


def write_sound(path):
    """Write a file with sound only."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        for number in range(20):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            sound.sample_rate, sound.pts = 16000, 1024 * number
            container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return path
