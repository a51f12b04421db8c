"""Icon sets in Iconify's format, one JSON of many icons, as one SVG file per icon."""

import io
import json
from collections.abc import Iterator, Mapping
from typing import IO, Any

# What an icon or an alias may have here: of all the format allows, what the pinned sets use.
_KNOWN = {"body", "width", "height", "hidden", "parent", "hFlip"}


def svg_files(packed: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """Names and contents of the SVG files of an icon set.

    An icon has a body and perhaps a size of its own. An alias is another icon, perhaps mirrored.

    Args:
        packed: the JSON file, open.

    Returns:
        Pairs of a file name, the icon's with `.svg`, and the drawing, open.

    Raises:
        ValueError: if an icon uses a part of the format that is not known here.

    Example:

    >>> given = {"width": 32, "height": 32, "icons": {"dot": {"body": "<circle r='9'/>"}}}
    >>> list(svg_files(io.BytesIO(json.dumps(given).encode())))[0][0]
    'dot.svg'
    """
    content = json.load(packed)
    size = {key: content[key] for key in ("width", "height")}
    icons: Mapping[str, Any] = content["icons"]
    for name, icon in icons.items():
        yield f"{name}.svg", _svg({**size, **icon})
    for name, alias in content.get("aliases", {}).items():
        yield f"{name}.svg", _svg({**size, **icons[alias["parent"]], **alias})


def _svg(icon: Mapping[str, Any]) -> IO[bytes]:
    strange = sorted(icon.keys() - _KNOWN)
    if strange:
        raise ValueError(f"icons must consist of {sorted(_KNOWN)}. Received: {strange}")
    width, height, body = icon["width"], icon["height"], icon["body"]
    if icon.get("hFlip"):
        body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
    text = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{body}</svg>'
    return io.BytesIO(text.encode())
