"""Documentation: links lead somewhere, examples name what exists, and the site builds."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_mdm

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "recipes" / "README.md"])
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def prose(page):
    """The text without blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """The anchors of a page, as renderers make them of its headings."""
    words = (re.sub(r"[^\w\- ]", "", text.lower()) for text in HEADING.findall(prose(page)))
    return {text.strip().replace(" ", "-") for text in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(prose(page)):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def chains(source):
    """The dotted names that begin with `mdm`, such as ["data", "open_images"]."""
    for node in ast.walk(ast.parse(source)):
        names = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        if names and isinstance(node, ast.Name) and node.id == "mdm":
            yield names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_name_what_exists(page):
    for source in BLOCK.findall(page.read_text()):
        for names in chains(source):
            found = keras_mdm
            for name in names:
                assert hasattr(found, name), ".".join(["mdm", *names])
                found = getattr(found, name)


NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def code_of(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_name_what_exists_and_hold_no_output(notebook):
    for names in chains("\n".join(code_of(notebook))):
        found = keras_mdm
        for name in names:
            assert hasattr(found, name), ".".join(["mdm", *names])
            found = getattr(found, name)
    assert not any(cell.get("outputs") for cell in json.loads(notebook.read_text())["cells"])


@pytest.mark.slow
def test_the_notebook_on_drawings_runs(tmp_path, monkeypatch):
    """As it stands, but for the number of steps."""
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for source in code_of(ROOT / "docs" / "notebooks" / "train_on_drawings.ipynb"):
        exec(source.replace("(550, 1100)", "(2, 2)"), namespace)
    assert namespace["images"]["64"].shape == (6, 64, 64, 3)
    assert tuple(namespace["again"].unet.levels) == ("16", "64")


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/api/*.md")]:
        assert str(page.relative_to(ROOT / "docs")) in navigation


def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    words = [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "-d", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    home = (tmp_path / "index.html").read_text()
    assert 'src="images/demo.png"' in home and "docs/images" not in home
    assert "build_nested_unet" in (tmp_path / "api" / "models" / "index.html").read_text()


def test_the_citation_has_the_version():
    assert f"version: {keras_mdm.__version__}\n" in (ROOT / "CITATION.cff").read_text()
