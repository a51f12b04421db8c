"""Codecs from files, by what the path names."""

import os
import zipfile
from pathlib import Path
from typing import Any

import keras

from keras_mdm import checks
from keras_mdm.files import DAMAGED
from keras_mdm.latents.autoencoder import KLAutoencoder
from keras_mdm.latents.codecs import check_codec
from keras_mdm.latents.hub import HubAutoencoder

HUB = "hub:"
RUN_FILE = "autoencoder.keras"
_CHECKPOINTS = (".ckpt", ".pth", ".pt")


def load_codec(path: str | os.PathLike, *, scale: float | None = None) -> Any:
    """Load an autoencoder.

    Args:
        path: a `.keras` file of an autoencoder, or of a `LatentDiffusion`, whose codec is taken; a
            run of an autoencoder; a `.ckpt` file of the authors of latent diffusion; or
            "hub:PRESET", a preset of keras-hub's Stable Diffusion 3.
        scale: for a `.ckpt` file, see `KLAutoencoder.from_compvis`.

    Returns:
        The `Codec`, not compiled.

    Raises:
        ValueError: if the path is none of these, or the file holds something else.

    Example:

    >>> codec = load_codec("runs/autoencoder_f4")  # doctest: +SKIP
    """
    text, place = os.fspath(path), Path(path)
    if text.startswith(HUB):
        return HubAutoencoder.from_preset(text.removeprefix(HUB))
    if place.suffix in _CHECKPOINTS and place.is_file():
        return KLAutoencoder.from_compvis(place, scale=scale)
    file = place / RUN_FILE if place.is_dir() else place
    if not file.is_file() or not zipfile.is_zipfile(file):
        raise checks.error(
            "an autoencoder must be a .keras file, a finished run of one, a .ckpt file of latent "
            f"diffusion, or {HUB}PRESET",
            fix="check the path, or train one: python recipes/autoencoder.py",
            path=text,
        )
    try:
        found = keras.saving.load_model(file, compile=False)
    except (*DAMAGED, AttributeError, IndexError) as problem:
        raise checks.error(
            "a .keras file must be complete, and its classes known",
            fix="copy it again, or import the module that registers its classes",
            path=text,
            problem=str(problem).partition("\n")[0][:200],
        ) from problem
    found = getattr(found, "codec", found)
    check_codec(found)
    return found
