"""Clips: what a still clip, disorder and other clips look like, frames that are held, files."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from tiny_models import Colours

from keras_mdm.evaluation import FrameFeatures, Request, evaluate, frames, moments, samples
from keras_mdm.evaluation.picture_sets import GRAIN, enlarged, grain_of

FRAMES = 6


def moving(count, seed, *, size=8, frames=FRAMES):
    """A bright block that moves evenly from a random place in a random direction."""
    rng = np.random.default_rng(seed)
    clips = rng.integers(0, 30, (count, frames, size, size, 3)).astype("uint8")
    for clip in clips:
        place, step = rng.uniform(0, size, 2), rng.uniform(-1, 1, 2)
        for number, frame in enumerate(clip):
            row, column = ((place + number * step) % size).astype(int)
            frame[row : row + 4, column : column + 4] += 200
    return clips


class Model:
    """A model of a picture level, and of two levels of clips with different numbers of frames."""

    def __init__(self, levels=("8", "3x8", "6x16")):
        spec = SimpleNamespace(out_channels=3)
        self.unet = SimpleNamespace(levels=levels, weights=[np.ones(3)], spec=spec)
        self.ema, self.calls = SimpleNamespace(averages=[]), []

    def generate(self, prompts=None, *, seed, labels=None, num_images=None, **options):
        self.calls.append(list(seed))
        clips = np.concatenate([moving(1, number, size=16) for number in seed])
        small = clips[:, :, ::2, ::2]
        whole = {"8": small[:, 0], "3x8": small[:, ::2], "6x16": clips}
        return {level: whole[level] for level in self.unet.levels}


OPTIONS = {"features": Colours(), "progress": False, "few": True}


def test_disorder_and_standing_still_are_seen():
    real, other = moving(300, 1), moving(300, 2)
    rng = np.random.default_rng(0)
    sets = {
        "same": moving(300, 3),
        "still": np.repeat(other[:, :1], FRAMES, axis=1),
        "disorder": np.stack([rng.permutation(clip) for clip in other]),
    }
    values = {}
    for name, drawn in sets.items():
        report = evaluate({"6x8": drawn}, {"6x8": real}, **OPTIONS, measures=("kernel", "frechet"))
        rows = {row.measure: row for row in report.rows}
        assert set(rows) == {"kernel distance of clips x 1000", "Frechet distance of clips", GRAIN}
        values[name] = rows["kernel distance of clips x 1000"]
    assert abs(values["same"].value) < 3 * values["same"].error
    for name in ("still", "disorder"):
        assert values[name].value > 4 * values[name].error, name
    assert report.about["features"] == "mean and 4 x mean change over frames of quarters"


def test_frames_do_not_enter_for_one_clip_played_backwards():
    clips = moving(5, 1)
    features = FrameFeatures(Colours())
    np.testing.assert_allclose(features(clips), features(clips[:, ::-1]), atol=1e-5)
    np.testing.assert_array_equal(features(clips[:, :1])[:, 12:], 0)  # a single frame
    assert features(clips[:0]).shape == (0, features.width)


def test_levels_are_seen_by_a_network_of_their_kind(monkeypatch):
    class Stand:
        name, width, clips, least_frames = "clips", 3, True, 4

    monkeypatch.setattr(frames, "EfficientNetLite0", Colours)
    colours, stand = Colours(), Stand()
    assert frames.network_of(colours, "64") is colours
    assert frames.network_of(stand, "16x64") is stand
    assert frames.network_of(colours, "16xh48w80").network is colours
    assert isinstance(frames.network_of(stand, "64"), Colours)
    with pytest.raises(ValueError, match="at least 4 frames"):
        frames.network_of(stand, "3x8")


def test_all_levels_of_a_model_of_clips(tmp_path):
    request = Request(20, seed=3, batch_size=8)
    real = moving(30, 9, size=16)
    reference = {"8": real[:, 0, ::2, ::2], "3x8": real[:, ::2, ::2, ::2], "6x16": real}
    given = {"request": request, "directory": tmp_path / "a"}
    report = evaluate(Model(), reference, **OPTIONS, **given)
    subjects = {row.subject for row in report.rows}
    assert subjects == {"8", "3x8", "6x16", "8 enlarged to 3x8", "3x8 enlarged to 6x16"}
    assert report.about["features"] == "quarters; mean and 4 x mean change over frames of quarters"
    assert {line.split()[1] for line in report.verdicts} == {"3x8", "6x16"}
    # The numbers of a level are those of its clips alone.
    drawn = Model().generate(seed=range(3, 23))
    alone = evaluate({"6x16": drawn["6x16"]}, reference, **OPTIONS)
    for row in alone.rows:
        assert report.value("6x16", row.measure) == pytest.approx(row.value, rel=1e-6)
    large = enlarged(drawn["3x8"], 16, 16, 6)
    alone = evaluate({"6x16": large}, reference, **OPTIONS)
    for row in alone.rows:
        assert report.value("3x8 enlarged to 6x16", row.measure) == pytest.approx(row.value)


def test_frames_are_held_where_the_upper_level_has_more():
    clips = moving(2, 1, frames=3)
    large = enlarged(clips, 16, 16, 6)
    assert large.shape == (2, 6, 16, 16, 3)
    for frame in range(6):
        np.testing.assert_array_equal(large[:, frame], enlarged(clips[:, frame // 2], 16, 16))
    still = enlarged(clips[:, 0], 16, 16, 6)
    np.testing.assert_array_equal(still[:, 5], enlarged(clips[:, 0], 16, 16))


def test_grain_is_that_of_the_frames():
    clips = moving(4, 1)
    wanted = np.mean([grain_of(clips[:, frame]) for frame in range(FRAMES)], axis=0)
    np.testing.assert_allclose(grain_of(clips), wanted)
    bright = np.zeros((1, 2, 4, 4, 3), "uint8")
    bright[:, 1] = 200  # a change in time is not grain
    assert grain_of(bright) == 0


def test_clips_are_kept_and_read_again(tmp_path):
    def all_of(model, count):
        found = list(samples.draw(model, Request(count, batch_size=4), tmp_path, progress=False))
        return {level: np.concatenate([batch[level] for batch in found]) for level in found[0]}

    first = all_of(Model(), 5)
    model = Model()
    again = all_of(model, 7)
    assert model.calls == [[4, 5, 6]]  # the batch that was not whole
    for level, clips in first.items():
        np.testing.assert_array_equal(again[level][:5], clips)
    np.testing.assert_array_equal(again["6x16"], Model().generate(seed=range(7))["6x16"])
    strip = tf.io.decode_png((tmp_path / "6x16" / "00001.png").read_bytes()).numpy()
    np.testing.assert_array_equal(strip, first["6x16"][1].reshape(6 * 16, 16, 3))
    with pytest.raises(ValueError, match="frames below each other. Received: height=95"):
        samples.cut(strip[1:], "6x16")


@pytest.mark.parametrize(
    ("drawn", "features", "message"),
    [
        (np.zeros((4, 8, 8, 3), "uint8"), Colours(), "clips must be uint8"),
        (np.zeros((4, 6, 8, 8, 3)), Colours(), "clips must be uint8"),
    ],
)
def test_what_is_no_clip_is_refused(drawn, features, message):
    with pytest.raises(ValueError, match=rf"{message}.*Received: .*To fix it: "):
        evaluate({"6x8": drawn}, {"6x8": moving(3, 1)}, **{**OPTIONS, "features": features})


def test_statistics_of_clips_and_of_pictures_do_not_mix():
    statistics = moments.of_pictures(Colours(), moving(8, 1)[:, 0])
    with pytest.raises(ValueError, match="of one network"):
        evaluate({"6x8": moving(8, 1)}, {"6x8": statistics}, **OPTIONS)
