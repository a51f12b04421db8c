"""Pictures as files: PNG with the parameters that draw them again; clips as animated PNG."""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

# Where readers find the parameters, as JSON.
PARAMETERS = "keras-mdm"
_MILLISECONDS = 125


def encode(picture: np.ndarray, parameters: Mapping[str, Any] | None = None) -> bytes:
    """A picture or a clip as the bytes of a PNG file, which browsers play if it has frames.

    Args:
        picture: uint8 `(H, W, C)`, or a clip `(T, H, W, C)`, of 1, 3 or 4 channels.
        parameters: written into the file as JSON, under "keras-mdm".

    Returns:
        The bytes.

    Example:

    >>> encode(np.zeros((4, 4, 3), "uint8"), {"seed": 0})[1:4]
    b'PNG'
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    frames = picture[None] if picture.ndim == 3 else picture
    first, *others = (
        Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame) for frame in frames
    )
    info = PngInfo()
    if parameters is not None:
        info.add_itxt(PARAMETERS, json.dumps(parameters, ensure_ascii=False))
    buffer = io.BytesIO()
    playing: dict[str, Any] = {}
    if others:
        playing = {"save_all": True, "append_images": others, "loop": 0}
        playing |= {"duration": _MILLISECONDS}
    first.save(buffer, format="png", pnginfo=info, **playing)
    return buffer.getvalue()
