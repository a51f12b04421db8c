"""Every block of Python in the documentation runs, but for those that say why not."""

import pytest
from docs_pages import NAMES, Page, python_blocks, reason, text_of
from docs_stages import SLOW, STAGES
from text.test_t5_tokenizer import spiece  # noqa: F401 (a fixture)

pytestmark = pytest.mark.usefixtures("eagerly")

ELSEWHERE = {"docs/extending.md"}  # test_extending.py
PAGES = [name for name in NAMES if python_blocks(text_of(name)) and name not in ELSEWHERE]


def test_every_page_with_code_has_a_stage():
    assert set(STAGES) == set(PAGES)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_run_says_why(name):
    for _, source in python_blocks(text_of(name)):
        assert reason(source) is None or len(reason(source).split()) > 2, source


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in STAGES]
)
def test_blocks_run(name, tmp_path, monkeypatch, spiece):  # noqa: F811
    monkeypatch.setenv("KERAS_MDM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    page = Page(name, monkeypatch, spiece)
    STAGES[name](page)
    assert not page.left, "the stage does not run all blocks"
