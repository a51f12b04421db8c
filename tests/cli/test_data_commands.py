"""The commands about data: what they print and leave behind."""

import json
from pathlib import Path

import numpy as np
import pytest
from data import sources
from PIL import Image

from keras_mdm import assets, text
from keras_mdm.cli import main as cli
from keras_mdm.data import ClipRule, find_videos, open_images, prepare_clips


@pytest.fixture
def folder(tmp_path):
    root = sources.write("folder", tmp_path / "pictures")
    (root / "second" / "03.png").write_bytes(b"")
    return root


def test_a_look_at_the_data(folder, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert cli.main(["data", str(folder), "--levels", "4", "8", "--sheet", str(sheet)]) == 0
    told = capsys.readouterr().out
    assert "12 records, looked at 12" in told and "is empty: second/03.png" in told
    assert any(line.split()[:4] == ["0", "to", "63", "11"] for line in told.splitlines())
    assert "2 classes" in told and "median 16" in told
    assert np.asarray(Image.open(sheet)).shape[2] == 3
    assert cli.main(["data", str(tmp_path / "nothing")]) == 2
    assert "check the path" in capsys.readouterr().err


def test_a_look_that_a_program_reads(folder, tmp_path, capsys):
    words = ["data", str(folder), "--levels", "4", "--sheet", str(tmp_path / "sheet.png")]
    assert cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["records"], told["looked_at"]) == (12, 12)
    assert told["shorter_side_below"] == {"64": 11} and told["broken"] == {"is empty": 1}
    assert len(told["classes"]) == 2 and sum(told["classes"].values()) == 11
    assert told["caption_characters"]["median"] == 16
    assert Path(told["sheet"]).is_file()


def test_preparing_pictures(folder, tmp_path, capsys):
    words = ["prepare", str(folder), str(tmp_path / "out"), "--size", "4"]
    assert cli.main(words) == 2
    assert "at most 1.00%" in capsys.readouterr().err
    assert cli.main([*words, "--max-skipped", "0.1"]) == 0
    told = capsys.readouterr().out
    assert "skipped second/03.png: is empty" in told
    assert told.endswith(f"11 pictures of 4, 1 skipped\n{tmp_path / 'out'}\n")
    assert len(open_images(tmp_path / "out")) == 11


@pytest.mark.network
def test_encoding_the_captions(folder, tmp_path, capsys):
    if not assets.is_fetched("minilm"):
        pytest.skip("needs `keras-mdm assets fetch minilm`")
    # Captions do not depend on whether the picture can be read.
    words = ["embed", str(folder), str(tmp_path / "states"), "--length", "16"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out.endswith(f"states of 12 texts\n{tmp_path / 'states'}\n")
    stored = text.StoredStates(tmp_path / "states")
    states, mask = text.MiniLM(length=16).encode(["picture number 7"])
    found, found_mask = stored.encode(["picture number 7"])
    np.testing.assert_allclose(found, states[:, : found.shape[1]], atol=2e-3)
    assert found_mask.sum() == mask.sum()


def write_clips(folder, counts):
    from data.videos import write_video

    pytest.importorskip("av")
    folder.mkdir()
    for name, count in counts.items():
        write_video(folder / f"{name}.mp4", count)
    return folder


def test_preparing_clips(tmp_path, capsys):
    videos = write_clips(tmp_path / "videos", {"cat": 20, "dog": 5})
    words = ["prepare", str(videos), str(tmp_path / "out"), "--captions", "names", "--size", "8"]
    words += ["--frames", "4", "--stride", "2", "--short", "skip"]
    assert cli.main(words) == 2
    assert "at most 1.00% of the videos may be unusable" in capsys.readouterr().err
    assert cli.main([*words, "--max-skipped", "0.5"]) == 0
    told = capsys.readouterr().out
    assert "skipped dog.mp4: has 5 frames, 7 are needed" in told
    assert told.endswith(f"1 clips of 4 x 8, 1 skipped\n{tmp_path / 'out'}\n")
    words[2] = str(tmp_path / "spread")
    assert cli.main(words[:-2]) == 0
    assert "2 clips of 4 x 8" in capsys.readouterr().out


class Codes:
    """An encoder that is made as those of the package are."""

    width, identity = 1, {"name": "codes"}

    def __init__(self, *, length):
        self.length = length

    def encode(self, texts):
        mask = np.array([[n < len(text) for n in range(self.length)] for text in texts])
        codes = [[ord(c) for c in text[: self.length].ljust(self.length)] for text in texts]
        return np.array(codes, "float32")[..., None], mask.astype("float32")


@pytest.mark.parametrize("kind", ["videos", "table", "prepared", "animations"])
def test_encoding_the_captions_of_clips(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(text, "MiniLM", Codes)
    folder = tmp_path / "videos"
    words = ["embed", str(folder), str(tmp_path / "states"), "--length", "16"]
    if kind == "animations":
        folder.mkdir()
        Image.new("RGB", (4, 4)).save(folder / "cat.gif")
        Image.new("RGB", (4, 4)).save(folder / "dog.webp")
        words += ["--kind", "videos", "--captions", "names"]
    elif kind == "table":  # no file of it is needed
        folder.mkdir()
        table = "videoid,page_dir,name\n1,0,cat\n2,0,\n3,1,dog\n"
        (folder / "webvid.csv").write_text(table)
    else:
        write_clips(folder, {"cat": 20, "dog": 20})
        for name in ("cat", "dog"):
            (folder / f"{name}.txt").write_text(name)
    if kind == "prepared":
        shards = tmp_path / "shards"
        prepare_clips(find_videos(folder), shards, rule=ClipRule(8, 4, 2), progress=False)
        words[1] = str(shards)
    assert cli.main(words) == 0
    assert "states of 2 texts" in capsys.readouterr().out
    states, mask = text.StoredStates(tmp_path / "states").encode(["cat", "dog"])
    assert states.shape == (2, 3, 1) and mask.all()
