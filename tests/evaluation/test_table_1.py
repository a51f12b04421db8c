"""The commands of docs/evaluation.md for table 1 run end to end, in miniature."""

import math

import pytest
import table_1

from keras_mdm import assets

TEXT = table_1.DOCUMENT.read_text(encoding="utf-8")


def test_the_document_names_a_command_for_each_number():
    found = table_1.commands(TEXT)
    numbers = [command.number for command in found]
    assert [number.split()[-4::3] for number in numbers] == [
        ["8.92", "1"],
        ["6.62", "1.2"],
        ["18.35", "1"],
        ["13.43", "1.35"],
    ]
    for command in found:
        assert command.words[:2] == ["keras-mdm", "evaluate"]
        assert command.words[-2:] == ["--guidance", command.number.split()[-1]]
    first, second, third, fourth = (command.words[:-1] for command in found)
    assert first == second and third == fourth and "runs/cc12m_256" in third


@pytest.mark.usefixtures("eagerly")
@pytest.mark.slow
def test_every_command_ends_with_a_number(tmp_path):
    if not assets.is_fetched("minilm"):
        pytest.skip("needs `keras-mdm assets fetch minilm`")
    found = table_1.rehearse(tmp_path, count=4, steps=2, tiny=True)
    assert [status for _, status, _ in found] == [0, 0, 0, 0]
    for _, _, row in found:
        assert row["subject"] == "32" and row["drawn"] == 4
        assert row["measure"].startswith(("FID", "Frechet distance"))
        assert math.isfinite(row["value"]) and row["value"] > 0.0
    values = [row["value"] for _, _, row in found]
    assert len(set(values)) == 4  # the guidance scale and the prompts reach the pictures
    # ADM's file does not say of how many pictures it is, our own does.
    assert [row["real"] for _, _, row in found] == [0, 0, table_1.REAL, table_1.REAL]
