"""Animated emoji: which of the files are clips, and what they are called."""

import numpy as np
import pytest
from PIL import Image

from keras_mdm.data import ClipRule, load_animated_emoji

from .conftest import write_emoji_asset


@pytest.fixture
def cache(tmp_path):
    pytest.importorskip("emoji")
    write_emoji_asset(tmp_path, {}, name="animated-emoji")
    folder = tmp_path / "assets" / "animated-emoji"
    counts = {"1f34e": 9, "1f34f": 5, "1f435": 1, "1f44d-1f3fb": 9, "e0ff": 9}
    for name, count in counts.items():
        pictures = [Image.fromarray(np.full((8, 8, 3), 9 * n, np.uint8)) for n in range(count)]
        pictures[0].save(folder / f"{name}.webp", save_all=True, append_images=pictures[1:])
    (folder / "1f436.webp").write_bytes(b"no picture")
    return tmp_path


def test_named_clips_without_skin_tones(cache):
    clips = load_animated_emoji(cache_dir=cache)
    assert clips.captions == ["red apple", "green apple"]
    assert load_animated_emoji(minimum_frames=9, cache_dir=cache).captions == ["red apple"]
    clip, row = clips.read_usable(1, ClipRule(8, frames=4, stride=1), place=0.0, mirror=False)
    assert row == 1 and np.abs(clip.mean(axis=(1, 2, 3)) - 9 * np.arange(4)).max() < 4


def test_bad_input(cache, tmp_path):
    for call in (
        lambda: load_animated_emoji(minimum_frames=10, cache_dir=cache),
        lambda: load_animated_emoji(minimum_frames=1, cache_dir=cache),
        lambda: load_animated_emoji(cache_dir=tmp_path / "empty"),
    ):
        with pytest.raises(ValueError, match="Received: .*To fix it: "):
            call()
