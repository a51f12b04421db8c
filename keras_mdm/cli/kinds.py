"""What a model draws: pictures, or codes of an autoencoder."""

from typing import TYPE_CHECKING

from keras_mdm import checks

if TYPE_CHECKING:
    from keras_mdm.cascade import Cascade
    from keras_mdm.latents import LatentDiffusion
    from keras_mdm.training import MatryoshkaDiffusion

KINDS = ("pictures", "codes")


def kind_of(
    model: "MatryoshkaDiffusion | Cascade | LatentDiffusion",
    wanted: str | None = None,
    *,
    run: str | None = None,
) -> str:
    """What a model draws, "pictures" or "codes", by its number of channels unless given.

    Args:
        model: the model.
        wanted: one of the two, or `None`.
        run: where the model is from: inside a run, the run knows what it draws.

    Raises:
        ValueError: if it may be either, or cannot be the one given.
    """
    from keras_mdm.pictures.pixels import PICTURE_CHANNELS
    from keras_mdm.stages import channels_of, stages_of

    last, channels = stages_of(model)[-1], channels_of(model)
    if hasattr(model, "codec"):
        if wanted == "codes":
            raise checks.error(
                "a model with its codec draws pictures",
                fix="leave --as out, or sample the model of codes alone",
                model=type(model).__name__,
            )
        return "pictures"
    wanted = wanted or (run and kind_of_run(run))
    if wanted is None and channels == 4 and last.threshold == "none":
        raise checks.error(
            "four channels without a threshold may be a picture with transparency or a code",
            fix="say --as pictures or --as codes",
            channels=channels,
            threshold=last.threshold,
        )
    if wanted == "pictures" and channels not in PICTURE_CHANNELS:
        raise checks.error(
            "pictures have 1, 3 or 4 channels",
            fix="say --as codes, and decode them with keras_mdm.latents.to_pictures",
            channels=channels,
        )
    return wanted or ("pictures" if channels in PICTURE_CHANNELS else "codes")


def kind_of_run(path: str) -> str | None:
    """What a run says that it draws: "codes", or `None` if it does not say.

    A model of codes with three channels, as the paper's, looks like one of pictures.

    Args:
        path: as for `models.load`; may be inside a run.
    """
    from keras_mdm.runs.loading import recorded_output

    return "codes" if recorded_output(path) == "float32" else None
