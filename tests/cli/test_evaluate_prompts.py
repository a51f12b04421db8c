"""`keras-mdm evaluate --prompts`: a text file, a table, or a source of captioned pictures."""

import json

import numpy as np
import pytest

from cli.test_evaluate_command import folder  # noqa: F401
from keras_mdm.cli import prompts


def chosen(source, count, seed=0):
    return prompts.chosen_prompts(str(source), count, np.random.default_rng(seed))


@pytest.fixture
def table(tmp_path):
    annotations = [{"image_id": n // 5, "caption": f"caption {n}"} for n in range(40)]
    path = tmp_path / "captions_val2014.json"
    path.write_text(json.dumps({"images": [], "annotations": annotations}))
    return path


def test_a_text_file_is_taken_in_its_order(tmp_path):
    (tmp_path / "prompts.txt").write_text("\ufeffone\n\ntwo \nthree", encoding="utf-8")
    assert chosen(tmp_path / "prompts.txt", 2)[:2] == ["one", "two"]


def test_prompts_of_a_table_are_drawn_by_the_seed_and_each_comes_once(table):
    every = {f"caption {n}" for n in range(40)}
    whole = chosen(table, 40)
    assert set(whole) == every and whole != sorted(whole)
    # More pictures later begin with the same prompts.
    assert chosen(table, 7) == whole[:7]
    assert chosen(table, 7, seed=1) != whole[:7]


def test_prompts_of_pictures(folder):  # noqa: F811
    found = chosen(folder, 105)
    assert set(found) == {"999", *(f"picture {number}" for number in range(104))}


def test_records_without_a_caption_are_told(tmp_path, capsys):
    (tmp_path / "prompts.jsonl").write_text('{"caption": "one"}\n{"caption": ""}\n')
    assert chosen(tmp_path / "prompts.jsonl", 1) == ["one"]
    said = capsys.readouterr().err
    assert said.startswith("1 records of --prompts give none, the first one prompts.jsonl, line 2:")


@pytest.mark.parametrize("count", [41, 1000])
def test_too_few_prompts_are_one_error(table, tmp_path, count):
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    for source, found in ((table, 40), (tmp_path / "prompts.txt", 2)):
        message = rf"a prompt for each picture.*found={found}, count={count}.*To fix it: "
        with pytest.raises(ValueError, match=message):
            chosen(source, count)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "--prompts must be a text file .*problem="),
        ("prompts.txt", b"caf\xe9\n", "--prompts must be a text file in UTF-8"),
        ("prompts.csv", b"file,label\na.png,1\n", "a column of captions"),
        ("prompts.txt", b"\n\n", "a prompt for each picture.*found=0"),
    ],
)
def test_what_holds_no_prompts_is_one_error(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{message}.*To fix it: "):
        chosen(tmp_path / name, 1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_prompts_with_a_byte_order_mark(tmp_path, encoding):
    (tmp_path / "prompts.txt").write_bytes("a café\r\n\r\na dog\r\n".encode(encoding))
    found = prompts.chosen_prompts(str(tmp_path / "prompts.txt"), 2, np.random.default_rng(0))
    assert found == ["a café", "a dog"]
    (tmp_path / "prompts.txt").write_bytes("a café".encode("cp1252"))
    with pytest.raises(ValueError, match="UTF-8"):
        prompts.chosen_prompts(str(tmp_path / "prompts.txt"), 2, np.random.default_rng(0))
