"""Recomputation of activations: less memory in training, for another forward pass."""

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
    """Call layers as they are, in the body of the `with` statement: where nobody asks for gradients
    there is nothing to save, and an exported graph must not hold gradient functions."""
    token = _OFF.set(True)
    try:
        yield
    finally:
        _OFF.reset(token)


def set_recompute(unet: NestedUNet, levels: Sequence[str] | bool) -> tuple[str, ...]:
    """Have levels compute their blocks again in the backward pass, not keep what is inside.

    What stays in memory are the states between blocks. Results and gradients are the same. Call it
    before the training step is traced.

    Args:
        unet: the network; levels that are not named keep everything again.
        levels: level names, or `True` for all and `False` for none. Outer levels hold most of the
            activations.

    Returns:
        The names.

    Raises:
        ValueError: if a name is no level of the network.

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
            "levels must have layers that say what can be computed again",
            fix="leave these levels out of `recompute`, or give a layer of the name level_<level> "
            "or level_<level>_... a method `recomputed` that returns a list of layers inside",
            levels=sorted(without),
        )
    for name, layers in pieces.items():
        chosen = unet.level_of(name) in levels
        for layer in layers:
            layer.__dict__.pop("call", None)  # the class's own shows again
            if chosen:
                _check_draws_nothing(layer)
                layer.__dict__["call"] = _recomputed(layer.call)
    return tuple(level for level in unet.levels if level in levels)


def _pieces(unet: NestedUNet, name: str, part: Any) -> Sequence[Any]:
    """The layers of a part that are computed again, one by one: an own innermost level that does
    not say which is one of them."""
    if hasattr(part, "recomputed"):
        return part.recomputed()
    return [part] if name == f"level_{unet.levels[0]}" else []


def _check_draws_nothing(layer: Any) -> None:
    """Raise if a layer would draw other numbers when it is computed again."""
    drawing = [each.path for each in layer._flatten_layers() if each._seed_generators]
    if drawing:
        raise checks.error(
            "layers that draw random numbers, such as dropout, cannot be computed again",
            fix="leave the level out of `recompute`, or the dropout out of its layers",
            layers=drawing[:3],
        )


def _recomputed(call: Callable) -> Callable:
    """The call of a layer, run again when its gradient is asked for."""

    @functools.wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if _OFF.get():
            return call(*args, **kwargs)
        given = {"args": args, "kwargs": kwargs}
        tensors = [value for value in tf.nest.flatten(given) if tf.is_tensor(value)]

        @tf.recompute_grad
        def again(*tensors: tf.Tensor) -> Any:
            rest = iter(tensors)
            # What is no tensor, such as an absent text, is part of the function.
            filled = tf.nest.map_structure(
                lambda value: next(rest) if tf.is_tensor(value) else value, given
            )
            return call(*filled["args"], **filled["kwargs"])

        return again(*tensors)

    return wrapped
