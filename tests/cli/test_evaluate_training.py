"""`keras-mdm evaluate --training`: copies of training pictures are found, counted and shown."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_models import Colours

from cli.test_evaluate_command import run
from keras_mdm.cli import asked
from keras_mdm.evaluation.memorised import MEDIAN, NEAR

TRAINED, COPIED = 30, 12


def pictures(count, seed):
    """Four quarters of random colours, and little noise on them."""
    rng = np.random.default_rng(seed)
    quarters = rng.integers(20, 236, (count, 2, 2, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return (quarters + rng.integers(-9, 10, (count, 16, 16, 3))).astype("uint8")


def write(folder, images):
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Words for the command: some of the drawn pictures are copies of training pictures."""
    monkeypatch.setattr(asked, "features_of", lambda name: Colours())
    training = pictures(TRAINED, seed=0)
    drawn = np.concatenate([pictures(120 - COPIED, seed=1), training[:COPIED]])
    (tmp_path / "t").mkdir()
    return (
        write(tmp_path / "drawn", drawn),
        *("--reference", write(tmp_path / "real", pictures(120, seed=2))),
        *("--training", write(tmp_path / "training", training)),
        *("--held-out", write(tmp_path / "held-out", pictures(150, seed=3))),
    )


def test_copies_are_counted_and_shown(folders, tmp_path, capsys):
    assert run(*folders, "--out", tmp_path / "out") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    rows = {row["measure"]: row for row in report["rows"]}
    near, median = rows[NEAR], rows[MEDIAN]
    assert COPIED / 120 <= near["value"] < COPIED / 120 + 0.06
    assert near["floor"] <= 0.01 and (near["drawn"], near["real"]) == (120, TRAINED)
    assert 0.5 < median["value"] < 1.3 and median["floor"] == 1.0
    assert f"| 16 | {NEAR} |" in capsys.readouterr().out
    pairs = report["about"]["nearest training"]["16"]["pairs"]
    # Copies lie at the end of the drawn pictures, in the order of the training pictures.
    assert len(pairs) == 8 and all(pair["distance"] < 1e-9 for pair in pairs)
    for pair in pairs:
        assert int(pair["drawn"][:3]) - (120 - COPIED) == int(pair["training"][:3])
    sheet = np.asarray(Image.open(tmp_path / "out" / "nearest-16.png"))
    cells = sheet[: 2 * 128 + 6].astype(int)
    np.testing.assert_array_equal(cells[:128], cells[134:262])  # each above its original


def test_both_are_needed_and_enough_of_them(folders, tmp_path, capsys):
    assert run(*folders[:-2], "--out", tmp_path / "out") == 2
    assert "pass both --training SOURCE and --held-out SOURCE" in capsys.readouterr().err
    assert run(*folders[:-1], folders[-3], "--out", tmp_path / "out") == 2
    assert "must have at least 99 rows" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
