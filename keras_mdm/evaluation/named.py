"""Feature networks by the words of the command line."""

from collections.abc import Callable
from typing import Any

from keras_mdm import checks
from keras_mdm.evaluation.efficientnet import EfficientNetLite0
from keras_mdm.evaluation.hub_networks import ClipFeatures, DinoFeatures
from keras_mdm.evaluation.i3d import I3D
from keras_mdm.evaluation.inception import FIDInception
from keras_mdm.evaluation.keras_inception import KerasInceptionV3

DEFAULT = "efficientnet-lite0"
_OF_FILES: dict[str, Callable[..., Any]] = {
    "inception": FIDInception,
    "keras-inception": KerasInceptionV3,
    "i3d": I3D,
    "clip": ClipFeatures,
    "dino": DinoFeatures,
}
_TRUSTED = "trusted-"
_VOUCHED = ("inception", "i3d")


def named(name: str) -> Any:
    """Make a feature network from its word.

    Args:
        name: the word: "efficientnet-lite0", "inception:FILE", "keras-inception:FILE",
            "i3d:FOLDER", "clip:FOLDER" or "dino:FOLDER"; with "trusted-" before "inception" or
            "i3d" you vouch for the weights.

    Raises:
        ValueError: if there is no such network, or its file is of another kind.

    Example:

    >>> named("trusted-i3d:i3d-kinetics-400").measures["frechet"]  # doctest: +SKIP
    'FVD'
    """
    kind, _, path = name.partition(":")
    if kind == DEFAULT and not path:
        return EfficientNetLite0()
    plain = kind.removeprefix(_TRUSTED)
    if plain == kind and path and kind in _OF_FILES:
        return _OF_FILES[kind](path)
    if plain != kind and path and plain in _VOUCHED:
        return _OF_FILES[plain](path, trusted=True)
    words = [*(f"{kind}:FILE" for kind in _OF_FILES), *(f"{_TRUSTED}{k}:FILE" for k in _VOUCHED)]
    raise checks.error(
        "--features must name a feature network",
        fix=f"pass {DEFAULT}, {', '.join(words[:-1])} or {words[-1]}",
        features=name,
    )
