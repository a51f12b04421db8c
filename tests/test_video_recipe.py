"""The video recipe on files: its data, and the prompts that it draws."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from data.videos import number_of, write_video
from text.test_text_cache import Letters

from keras_mdm import Phase
from keras_mdm.data import captions_of, open_clips, prepare_clips
from keras_mdm.data.reduction import reduce_pixels
from keras_mdm.text import StoredStates, embed

pytest.importorskip("av")
ROOT = Path(__file__).parents[1]
LEVELS = ("16", "4x16", "4x32")
PHASE = Phase([16, (4, 16), (4, 32)], steps=1, batch_size=9, learning_rate=1e-3)


@pytest.fixture
def folder(tmp_path):
    for name, count in {"cat": 20, "dog": 30, "owl": 5}.items():  # 7 frames are a clip
        (tmp_path / "videos").mkdir(exist_ok=True)
        write_video(tmp_path / "videos" / f"{name}.mp4", count)
    return tmp_path / "videos"


@pytest.fixture
def data(recipe, folder, tmp_path):
    """Function that makes the data of a run."""

    def make(downsample="bilinear", frame="first", **given):
        options = {"data": str(folder), "animated_emoji": False, "stride": 2, "clips": "fixed"}
        options |= {"captions": "names", "max_skipped": 0.01, "short": "spread", "seed": 0}
        options |= {"embeddings": None, "run_dir": str(tmp_path / "run"), **given}
        made, process = recipe("shared.clips").Clips, {"downsample": downsample, "frame": frame}
        return made(SimpleNamespace(**options), LEVELS, Letters(), process)

    return make


def batch_of(data, phase=PHASE):
    return next(iter(data.datasets()(phase, 0).as_numpy_iterator()))


def test_the_prompts_are_those_of_figure_18(recipe):
    assert recipe("shared.texts").PAPER_VIDEO_PROMPTS.read_text().splitlines() == [
        "Busy freeway at night",
        "Pouring milk into black coffee",
        "A teddy bear riding a skateboard by the lake",
    ]
    assert recipe("shared.texts").PAPER_GUIDANCE == 7.0


def test_options_of_the_recipe():
    help_of = (ROOT / "recipes" / "webvid_video.py").read_text()
    assert '"--short"' in help_of and "add_max_skipped" in help_of and "add_text" in help_of


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("kind", ["area", "bilinear"])
def test_lower_groups_see_reductions_of_the_highest_level(data, folder, tmp_path, kind, prepared):
    if prepared:
        rule = dataclasses.replace(data().rule, size=64, of=None)
        videos = open_clips(folder, captions="names")
        prepare_clips(videos, tmp_path / "shards", rule=rule, progress=False)
    made = data(kind, **({"data": str(tmp_path / "shards")} if prepared else {}))
    whole = {level: made._group(level, 3, captions=made.encode()) for level in LEVELS}
    picture, low, high = (next(iter(whole[level].as_numpy_iterator())) for level in LEVELS)
    np.testing.assert_array_equal(low["video"], reduce_pixels(high["video"], 16, kind))
    np.testing.assert_array_equal(picture["image"], low["video"][:, 0])
    middle = data(kind, "middle", **({"data": str(tmp_path / "shards")} if prepared else {}))
    assert middle.identity == made.identity  # a run knows its process by itself
    group = middle._group(LEVELS[0], 3, captions=middle.encode())
    picture = next(iter(group.as_numpy_iterator()))["image"]
    np.testing.assert_array_equal(picture, low["video"][:, low["video"].shape[1] // 2])


def test_captions_are_encoded_once_into_the_runs_folder(data, tmp_path):
    made = data()
    batch = batch_of(made)
    assert set(batch) == set(LEVELS)
    assert sum(len(group["sample"]) for group in batch.values()) == 9
    assert len(StoredStates(tmp_path / "run" / "embeddings")) == 3
    assert made.encoder.seen.count("cat") <= 2  # in the estimate of the size as well
    seen = len(made.encoder.seen)
    batch_of(made)
    assert made.encoder.seen[seen:].count("cat") <= 1  # the estimate alone


def test_stored_states_must_be_the_encoders(data, folder, tmp_path):
    class Other(Letters):
        identity = {"name": "other"}

    source = open_clips(folder, captions="names")
    for encoder, right in ((Letters(), True), (Other(), False)):
        target = tmp_path / f"states-{right}"
        embed(encoder, captions_of(source), target, progress=False)
        made = data(embeddings=str(target))
        if right:
            batch_of(made)
            assert not made.encoder.seen
        else:
            with pytest.raises(ValueError, match="must be those of the run's text encoder"):
                made.datasets()


def test_short_videos_and_what_a_run_must_find_unchanged(data, folder):
    spread, skip = data(), data(short="skip", max_skipped=0.34)
    before = {"size": 32, "frames": 4, "stride": 2, "start": "fixed", "flip": True, "span": None}
    assert skip.identity["rule"] == before
    assert spread.identity["rule"] == {**before, "short": "spread"}
    # Of the process, not of the data.
    assert data("area").identity == data("bilinear").identity
    for made in (spread, skip):
        made.rule = dataclasses.replace(made.rule, flip=False)  # numbers are read off
        dataset = made._group("4x32", 3, captions={})
        clips = next(iter(dataset.as_numpy_iterator()))["video"]
        numbers = [[number_of(picture) for picture in clip] for clip in clips]
        steps = {tuple(np.diff(row)) for row in numbers}
        assert ((1, 1, 2) in steps) == (made is spread)
    assert [entry.file for entry in skip.source.skipped] == ["owl.mp4"]
    with pytest.raises(Exception, match="at most 1.00% of the videos may be unusable"):
        batch_of(data(short="skip"))
