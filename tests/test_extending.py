"""docs/extending.md runs as written, section by section."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("eagerly")

TEXT = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
SECTIONS = {
    section.partition("\n")[0].strip(): re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    for section in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
}


def test_every_section_has_code():
    assert SECTIONS and all(SECTIONS.values())


@pytest.mark.parametrize("title", SECTIONS)
def test_a_section_runs_as_written(title, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "extending"}
    for number, block in enumerate(SECTIONS[title]):
        exec(compile(block, f"extending.md, {title!r}, block {number}", "exec"), namespace)
