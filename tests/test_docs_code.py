"""Every block of Python in the documentation runs, but for those that say why not."""

import docs_file_stages  # noqa: F401 (adds its stages)
import docs_pages
import docs_stages  # noqa: F401 (likewise)
import pytest
from docs_kit import SLOW, STAGES
from docs_pages import NAMES, Page, python_blocks, reason, text_of
from text.test_t5_tokenizer import spiece  # noqa: F401 (a fixture)

pytestmark = pytest.mark.usefixtures("eagerly")

ELSEWHERE = {"docs/extending.md"}  # test_extending.py
PAGES = [name for name in NAMES if python_blocks(text_of(name)) and name not in ELSEWHERE]


SAMPLE = """
```python
first = 1
```
```python
# Not run: needs a network.
nothing
```
```python
second = first + missing
```
"""


def test_a_block_that_fails_and_one_that_changed_are_noticed(monkeypatch):
    monkeypatch.setattr(docs_pages, "text_of", lambda name: SAMPLE)
    page = Page("sample.md", monkeypatch)
    with pytest.raises(AssertionError, match="sample.md:3 does not hold 'first = 2'"):
        page.run({"first = 2": "first = 3"})
    page = Page("sample.md", monkeypatch)
    page.run({"first = 1": "first = 2"})
    with pytest.raises(NameError, match="missing") as caught:
        page.run()
    assert (str(caught.traceback[-1].path), caught.traceback[-1].lineno) == ("sample.md", 9)
    page.left.append((10, "second = first + missing"))
    page.run(missing=1)
    assert page["second"] == 3 and not page.left
    assert reason("# Not run:\nx") == "" and reason("# Not running\n") is None


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
