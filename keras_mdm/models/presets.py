"""The paper's seven networks and the three that were released, by name."""

from typing import Any

from keras_mdm import checks
from keras_mdm.models.nested_unet import NestedUNet, build_nested_unet
from keras_mdm.models.specs import LevelSpec

PAPER_TEXT_WIDTH = 2048  # FLAN-T5 XL

# Appendix A; everything else follows from the levels.
PAPER = {
    "mdm_s64": [64],
    "mdm_s64s256": [64, 256],
    "mdm_s64s128s256": [64, 128, 256],
    "mdm_s64s256s1024": [64, 256, 1024],
    "mdm_s64s128s256s512s1024": [64, 128, 256, 512, 1024],
    "mdm_s64t16": [64, (16, 64)],
    "mdm_s64t16s256": [64, (16, 64), (16, 256)],
}


def _released(size: int, **options: Any) -> LevelSpec:
    return LevelSpec(size, micro_conditions={"scale": float(size)}, **options)


# The released networks attend to padding, have no text blocks, and use a wide projection.
_RELEASED_64 = _released(64, mask_text=False)
RELEASED = {
    "released_64": [_RELEASED_64],
    "released_256": [_RELEASED_64, _released(256)],
    "released_1024": [_RELEASED_64, _released(256, normalize_input=True), _released(1024)],
}
NAMES = (*PAPER, *RELEASED)


def build(
    name: str,
    *,
    text_width: int | None = None,
    num_classes: int | None = None,
    width: float = 1.0,
    seed: int = 0,
    dtype: Any = None,
) -> NestedUNet:
    """Build a network by name.

    Args:
        name: one of `NAMES`.
        text_width: width of the text encoder's states; 2048 unless given or class-conditional.
        num_classes: number of classes, for a class-conditional network without text.
        width: factor on the channels.
        seed: seed of the initial values.
        dtype: dtype policy.

    Returns:
        A `NestedUNet`.

    Raises:
        ValueError: if the name is unknown, or a released network is requested with classes.

    Example:

    >>> build("mdm_s64s256", text_width=384, width=0.125).levels
    ('64', '256')

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix A.
    """
    checks.one_of("name", name, NAMES)
    if text_width is None and num_classes is None:
        text_width = PAPER_TEXT_WIDTH
    given = {"text_width": text_width, "width": width, "seed": seed, "dtype": dtype}
    if name in PAPER:
        return build_nested_unet(PAPER[name], num_classes=num_classes, **given)
    if num_classes is not None:
        raise checks.error(
            "the released networks are conditioned on text",
            fix="leave num_classes out, or use one of the paper's names",
            name=name,
            num_classes=num_classes,
        )
    return build_nested_unet(
        RELEASED[name],
        text_projection=text_width,
        text_blocks=0,
        **given,
    )


def diffusion(name: str) -> dict[str, Any]:
    """Return the keywords of `MatryoshkaDiffusion` that belong to a network.

    Args:
        name: one of `NAMES`.

    Returns:
        Keyword arguments: schedule, shift power, prediction, loss target, threshold and others.

    Example:

    >>> diffusion("released_256")["shift_power"]
    1.0

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 4.1 and appendix C; the released
    networks' own configuration.
    """
    checks.one_of("name", name, NAMES)
    settings = {"schedule": "cosine", "prediction": "v", "loss_target": "v", "shift_power": 2.0}
    if name in PAPER:
        return {**settings, "downsample": "bilinear", "threshold": "dynamic"}
    power = 1.0 if name == "released_256" else 2.0
    return {
        **settings,
        "shift_power": power,
        "loss_target": "eps",
        "threshold": "static",
        "cond_dropout": 0.0,
        "ema_warmup": False,
    }
