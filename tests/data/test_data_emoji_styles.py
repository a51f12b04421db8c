"""Emoji of several styles: captions name both, and a concept is held out in one style only."""

import numpy as np
import pytest

from keras_mdm.data import load_styles
from keras_mdm.data.emoji.styles import held_out_style

from .conftest import svg, write_emoji_asset

# Of which the first four are drawn in both styles.
NAMES = [f"1f4{n:02x}" for n in range(0x00, 0x3E)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A cache with two styles: red and blue drawings of the same concepts, some in one alone."""
    pytest.importorskip("resvg_py")
    cache = tmp_path_factory.mktemp("styles")
    write_emoji_asset(cache, {f"{name}.svg": svg("#ff0000") for name in NAMES})
    drawn = {f"{name.upper()}.svg": svg("#0000ff") for name in NAMES[4:]}
    write_emoji_asset(cache, drawn, name="openmoji")
    return cache


def load(cache, **options):
    return load_styles(4, cache_dir=cache, progress=False, **options)


def test_captions_and_pixels_are_of_the_style(both):
    data = load(both)
    assert len(data) == 2 * len(NAMES) - 4
    assert data.captions[4].startswith("a twemoji drawing of ")
    colours = {"twemoji": (255, 0, 0), "openmoji": (0, 0, 255)}
    for row in range(len(data)):
        assert f"{data.styles[row]} drawing of" in data.captions[row]
        assert tuple(data.images[4][row, 0, 0]) == colours[data.styles[row]]
    assert "Twitter" in data.attribution and "OpenMoji" in data.attribution


def test_what_is_held_out_is_seen_in_the_other_style(both):
    whole, train, held = (load(both, split=name) for name in ("all", "train", "validation"))
    pairs = [set(zip(data.concepts, data.styles, strict=True)) for data in (whole, train, held)]
    assert pairs[0] == pairs[1] | pairs[2] and not pairs[1] & pairs[2]
    seen = {concept for concept, _ in pairs[1]}
    assert seen == set(whole.concepts)  # every concept is seen in some style
    assert 0 < len(held) < len(NAMES) / 4
    assert not set(NAMES[:4]) & set(held.concepts)  # those have no other style
    # The same ones, whatever the order of the styles.
    again = load(both, styles=("openmoji", "twemoji"), split="validation")
    assert set(zip(again.concepts, again.styles, strict=True)) == pairs[2]


def test_a_tenth_of_all_concepts_is_held_out_evenly():
    styles = ("twemoji", "openmoji")
    found = [held_out_style(f"{n:x}", styles) for n in range(4000)]
    counts = np.array([found.count(style) for style in styles])
    # Within four standard deviations of a tenth, half in each style.
    assert abs(counts.sum() - 400) < 4 * np.sqrt(4000 * 0.09)
    assert abs(counts[0] - counts[1]) < 4 * np.sqrt(400)
    assert held_out_style("1f34e", ("twemoji",)) is None


@pytest.mark.parametrize("styles", ["twemoji", ("twemoji",), ("twemoji", "twemoji")])
def test_one_style_is_not_several(styles):
    with pytest.raises(ValueError, match="at least two different styles.*load_emoji for one"):
        load_styles(4, styles)
