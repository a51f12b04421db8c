"""The commands about data: what they print and leave behind."""

import numpy as np
import pytest
from data import sources
from PIL import Image

from keras_mdm import assets, text
from keras_mdm.cli import main as cli
from keras_mdm.data import open_images


@pytest.fixture
def folder(tmp_path):
    root = sources.write("folder", tmp_path / "pictures")
    (root / "second" / "03.png").write_bytes(b"")
    return root


def test_a_look_at_the_data(folder, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert cli.main(["data", str(folder), "--levels", "4", "8", "--sheet", str(sheet)]) == 0
    told = capsys.readouterr().out
    assert "12 records, looked at 12" in told and "second/03.png: is empty" in told
    assert any(line.split()[:4] == ["0", "to", "63", "11"] for line in told.splitlines())
    assert "2 classes" in told and "median 16" in told
    assert np.asarray(Image.open(sheet)).shape[2] == 3
    assert cli.main(["data", str(tmp_path / "nothing")]) == 2
    assert "check the path" in capsys.readouterr().err


def test_preparing_pictures(folder, tmp_path, capsys):
    words = ["prepare", str(folder), str(tmp_path / "out"), "--size", "4"]
    assert cli.main(words) == 2
    assert "at most 1.00%" in capsys.readouterr().err
    assert cli.main([*words, "--max-skipped", "0.1"]) == 0
    told = capsys.readouterr().out
    assert "skipped second/03.png: is empty" in told
    assert f"11 pictures of 4 in {tmp_path / 'out'}, 1 skipped" in told
    assert len(open_images(tmp_path / "out")) == 11


@pytest.mark.network
def test_encoding_the_captions(folder, tmp_path, capsys):
    if not assets.is_fetched("minilm"):
        pytest.skip("needs `keras-mdm assets fetch minilm`")
    # Captions do not depend on whether the picture can be read.
    words = ["embed", str(folder), str(tmp_path / "states"), "--length", "16"]
    assert cli.main(words) == 0
    assert "states of 12 texts" in capsys.readouterr().out
    stored = text.StoredStates(tmp_path / "states")
    states, mask = text.MiniLM(length=16).encode(["picture number 7"])
    found, found_mask = stored.encode(["picture number 7"])
    np.testing.assert_allclose(found, states[:, : found.shape[1]], atol=2e-3)
    assert found_mask.sum() == mask.sum()
