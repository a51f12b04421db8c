"""Recomputation of activations: less training memory for another forward pass."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from keras_mdm import checks
from keras_mdm.models.nested_unet import NestedUNet

_OFF = contextvars.ContextVar("recompute_off", default=False)


@contextlib.contextmanager
def no_recompute() -> Iterator[None]:
    """Switch recomputation off in the body of the `with` statement: without gradients it saves
    nothing, and an exported graph must not hold gradient functions."""
    token = _OFF.set(True)
    try:
        yield
    finally:
        _OFF.reset(token)


def set_recompute(unet: NestedUNet, levels: Sequence[str] | bool) -> tuple[str, ...]:
    """Have levels recompute their blocks in the backward pass instead of keeping activations.

    Only the states between blocks stay in memory. Results and gradients are the same. Call it
    before the training step is traced.

    Args:
        unet: the network; levels that are not named keep their activations again.
        levels: level names, or `True` for all and `False` for none. Outer levels hold most of the
            activations.

    Returns:
        The names.

    Raises:
        ValueError: if a name is not a level of the network.

    Example:

    >>> set_recompute(build_nested_unet([LevelSpec(8, channels=(32, 64)), 16]), ["16"])
    ('16',)

    Reference: Chen et al. 2016 (arXiv 1604.06174).
    """
    if isinstance(levels, bool):
        levels = unet.levels if levels else ()
    if isinstance(levels, str):
        raise checks.error(
            "`recompute` must be a list of level names", fix=f"pass [{levels!r}]", recompute=levels
        )
    checks.known_keys("recompute", levels, unet.levels)
    pieces = {name: _pieces(unet, name, part) for name, part in unet.parts.items()}
    without = set(levels) - {unet.level_of(name) for name, found in pieces.items() if found}
    if without:
        raise checks.error(
            "levels must have layers that say what can be recomputed",
            fix="leave these levels out of `recompute`, or give a layer named level_<level> or "
            "level_<level>_... a method `recomputed` that returns a list of its inner layers",
            levels=sorted(without),
        )
    for name, layers in pieces.items():
        chosen = unet.level_of(name) in levels
        for layer in layers:
            layer.__dict__.pop("call", None)  # uncovers the class's own
            if chosen:
                _check_draws_nothing(layer)
                layer.__dict__["call"] = _recomputed(layer.call)
    return tuple(level for level in unet.levels if level in levels)


def _pieces(unet: NestedUNet, name: str, part: Any) -> Sequence[Any]:
    """The layers of a part that are recomputed one by one. A user's innermost level that does not
    name any is recomputed as a whole."""
    if hasattr(part, "recomputed"):
        return part.recomputed()
    return [part] if name == f"level_{unet.levels[0]}" else []


def _check_draws_nothing(layer: Any) -> None:
    """Raise if a layer would draw other random numbers when recomputed."""
    drawing = [each.path for each in layer._flatten_layers() if each._seed_generators]
    if drawing:
        raise checks.error(
            "layers that draw random numbers, such as dropout, cannot be recomputed",
            fix="leave the level out of `recompute`, or the dropout out of its layers",
            layers=drawing[:3],
        )


def _recomputed(call: Callable) -> Callable:
    """Wrap a layer's call so that it runs again when its gradient is computed."""

    @functools.wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if _OFF.get():
            return call(*args, **kwargs)
        given = {"args": args, "kwargs": kwargs}
        tensors = [value for value in tf.nest.flatten(given) if tf.is_tensor(value)]

        @tf.recompute_grad
        def again(*tensors: tf.Tensor) -> Any:
            rest = iter(tensors)
            # Values that are not tensors, such as an absent text, are part of the function.
            filled = tf.nest.map_structure(
                lambda value: next(rest) if tf.is_tensor(value) else value, given
            )
            return call(*filled["args"], **filled["kwargs"])

        return again(*tensors)

    return wrapped
