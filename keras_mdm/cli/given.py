"""Pictures and encoders that `keras-mdm sample` is given."""

from pathlib import Path
from typing import TYPE_CHECKING

from keras_mdm import checks

if TYPE_CHECKING:
    import numpy as np

    from keras_mdm.cascade import Cascade
    from keras_mdm.latents import LatentDiffusion
    from keras_mdm.training import MatryoshkaDiffusion

    Model = MatryoshkaDiffusion | Cascade | LatentDiffusion


def start(path: Path, model: "Model", kind: str) -> "np.ndarray":
    """Read the file of --init: a picture, or the codes of one."""
    import numpy as np

    from keras_mdm.stages import channels_of

    if kind == "pictures":
        return read_picture(path, channels_of(model))
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as problem:
        raise checks.error(
            "--init must be a .npy file of codes for a model of codes",
            fix="pass one that `keras-mdm sample` wrote",
            init=str(path),
        ) from problem


def seen_picture(path: Path, model: "Model", count: int) -> "np.ndarray":
    """Read the picture of --low-res and repeat it for every prompt.

    Args:
        path: the file.
        model: a model that sees a picture.
        count: number of prompts.

    Raises:
        ValueError: if the model does not see a picture that a file can hold.
    """
    import numpy as np

    from keras_mdm.pictures.pixels import PICTURE_CHANNELS
    from keras_mdm.stages import stages_of

    spec = stages_of(model)[0].unet.spec  # a cascade makes its small pictures itself
    channels = spec.in_channels - spec.out_channels
    if channels not in PICTURE_CHANNELS:
        raise checks.error(
            "--low-res needs a model that sees a picture of 1, 3 or 4 channels",
            fix="leave it out, or call `generate(low_res=...)`",
            in_channels=spec.in_channels,
            out_channels=spec.out_channels,
        )
    return np.repeat(read_picture(path, channels, "--low-res")[None], count, axis=0)


def read_picture(path: Path, channels: int = 3, option: str = "--init") -> "np.ndarray":
    """Read a picture file as training does, uint8 (H, W, C).

    Args:
        path: the file.
        channels: of the model.
        option: the option that named it, for errors.

    Raises:
        ValueError: if it is not a picture.
    """
    from keras_mdm import data

    try:
        return data.read_picture(path, channels=channels)
    except data.Unusable as problem:
        raise checks.error(
            f"{option} must be a picture file",
            fix="pass a PNG or JPEG file",
            file=str(path),
            problem=str(problem),
        ) from problem


def attach(model: "Model", folder: Path) -> None:
    """Give a model its FLAN-T5 encoder from a folder.

    Args:
        model: the model.
        folder: the encoder's files.

    Raises:
        ValueError: if the model was made with another encoder, or with none.
    """
    from keras_mdm.text import FlanT5

    wanted = dict(model.text_encoder_identity or {})
    kept = {name: wanted[name] for name in ("length", "max_characters", "dtype") if name in wanted}
    encoder = FlanT5(folder, **(kept if wanted.get("name") == FlanT5.name else {}))
    if encoder.identity != wanted:
        raise checks.error(
            "the text encoder must be the model's own, because guidance starts from its "
            "empty prompt",
            fix="pass the folder that the model was imported with, or import it again with "
            "--text-encoder",
            wanted=wanted or None,
            found=encoder.identity,
        )
    model.text_encoder = encoder
