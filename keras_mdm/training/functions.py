"""A user's own functions in a model: what is saved of them, and how they are restored.

A file holds no code. A function is saved by its name in Keras, an object with its configuration.
Functions that Keras does not know train and sample like others, but are not saved.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from keras_mdm import checks

_FUNCTION, _OBJECT = "function", "class_name"
_INSTEAD = {"level_weights": "; or pass it to Phase(level_weights=...), which saves no function"}
_as_it_is = contextvars.ContextVar("as_it_is", default=False)


@contextlib.contextmanager
def as_they_are() -> Iterator[None]:
    """Have `saved` return functions themselves, for configurations that only serve to make
    another model in this process."""
    token = _as_it_is.set(True)
    try:
        yield
    finally:
        _as_it_is.reset(token)


def saved(option: str, value: Any) -> Any:
    """Return the value of an option for the configuration of a model; unchanged if not a function.

    Args:
        option: name of the option.
        value: its value.

    Raises:
        ValueError: if it is a function or callable object that Keras does not know.
    """
    if not callable(value) or _as_it_is.get():
        return value
    kind = value if _is_plain(value) else type(value)
    name = keras.saving.get_registered_name(kind)
    known = keras.saving.get_registered_object(name) is not None
    if not known or not (kind is value or hasattr(value, "get_config")):
        what = getattr(value, "__qualname__", type(value).__qualname__)
        raise checks.error(
            f"a function for `{option}` must be known to Keras to be saved with the model",
            fix="write it as a function and decorate that with "
            '@keras.saving.register_keras_serializable("my_project"); the program that loads the '
            "model must import it. A class of callable objects needs get_config as well"
            + _INSTEAD.get(option, ""),
            **{option: what},
        )
    return {_FUNCTION: name} if kind is value else keras.saving.serialize_keras_object(value)


def restored(option: str, value: Any) -> Any:
    """Return the value of an option from what `saved` made of it.

    Raises:
        ValueError: if it is a function that this program does not know.
    """
    if not isinstance(value, Mapping):
        return value
    if _OBJECT in value:
        return keras.saving.deserialize_keras_object(value)
    if set(value) != {_FUNCTION}:
        return value
    function = keras.saving.get_registered_object(value[_FUNCTION])
    if function is None:
        raise checks.error(
            f"the function that the model was saved with as `{option}` must be known where it is "
            "loaded",
            fix="import the module that decorates it with "
            "@keras.saving.register_keras_serializable before",
            **{option: value[_FUNCTION]},
        )
    return function


def _is_plain(value: Any) -> bool:
    """Whether a name says all about a callable, because it holds no values."""
    return isinstance(value, type) or hasattr(value, "__code__")
