"""Pages of the site that lie outside of docs/: README, recipes, CONTRIBUTING, CHANGELOG.

Links between the files of the repository become links between pages; those to code lead to nothing
on the site, so only their words stay.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
# Path in the repository -> page.
PAGES = {
    "README.md": "index.md",
    "recipes/README.md": "recipes.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    for source, page in PAGES.items():
        text = relinked((ROOT / source).read_text(), posixpath.dirname(source))
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Pages of docs/ that lead out of it."""
    if page.file.src_uri in PAGES.values():
        return markdown
    return relinked(markdown, posixpath.join("docs", posixpath.dirname(page.file.src_uri)))


def relinked(text: str, folder: str) -> str:
    """Markdown of a file in a folder of the repository, with links as its page needs them."""

    def one(match: re.Match) -> str:
        image, words, target = match.groups()
        if "://" in target or target.startswith("#"):
            return match.group(0)
        path, _, anchor = target.partition("#")
        place = posixpath.normpath(posixpath.join(folder, path))
        anchor = f"#{anchor}" if anchor else ""
        if place in PAGES:
            return f"[{words}]({up(folder)}{PAGES[place]}{anchor})"
        if place.startswith("docs/"):
            return f"{image}[{words}]({up(folder)}{place.removeprefix('docs/')}{anchor})"
        return words

    return LINK.sub(one, text)


def up(folder: str) -> str:
    """From a page of docs/ in a folder to the top of the site."""
    inside = folder.removeprefix("docs").strip("/") if folder.startswith("docs") else ""
    return "../" * len([part for part in inside.split("/") if part])
