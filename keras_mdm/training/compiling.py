"""Arguments of Keras' `compile`: an optimizer by name, and those that have no meaning here."""

from typing import Any

import keras

from keras_mdm import checks, optimizers

# Our optimizers, which clip after the sum over replicas, by Keras' names.
_BY_NAME = {
    "adam": optimizers.Adam,
    "adamw": optimizers.AdamW,
    "muon": optimizers.Muon,
    "sgd": optimizers.SGD,
}
_WHERE = {
    "loss": "the loss is the model's own: pass loss_target, loss_weighting and level_weights to "
    "MatryoshkaDiffusion",
    "loss_weights": "pass level_weights to MatryoshkaDiffusion",
    "metrics": "fit and evaluate report the loss of every level; keras_mdm.evaluation compares "
    "pictures",
    "weighted_metrics": "fit and evaluate report weighted losses of every level",
    "auto_scale_loss": "pass loss_scale to an optimizer of keras_mdm.optimizers",
}


def optimizer_of(given: Any) -> keras.optimizers.Optimizer:
    """Return an optimizer, given itself, its name or its configuration.

    Args:
        given: an optimizer; `"adam"`, `"adamw"`, `"muon"` or `"sgd"` for those of
            `keras_mdm.optimizers` with their defaults, or another name that Keras knows; or a
            configuration.

    Raises:
        ValueError: if it is none of these.

    Example:

    >>> type(optimizer_of("adam")) is keras_mdm.optimizers.Adam
    True
    """
    if isinstance(given, keras.optimizers.Optimizer):
        return given
    try:
        if isinstance(given, str):
            own = _BY_NAME.get(given.lower())
            return own() if own is not None else keras.optimizers.get(given)
        if isinstance(given, dict):
            return keras.optimizers.get(given)
    except (ValueError, TypeError, KeyError):
        pass
    raise checks.error(
        "`optimizer` must be an optimizer, the name of one, or its configuration",
        fix=f"pass keras_mdm.optimizers.Adam(1e-4), or one of {sorted(_BY_NAME)}",
        optimizer=given,
    )


def refuse(others: dict[str, Any]) -> None:
    """Raise for arguments of Keras' `compile` that have no meaning here.

    Args:
        others: arguments by name; `None` counts as not given.
    """
    given = {name: value for name, value in others.items() if value is not None}
    for name, value in given.items():
        raise checks.error(
            f"`compile` takes no `{name}` here",
            fix=_WHERE.get(name, "leave it out"),
            **{name: value},
        )
