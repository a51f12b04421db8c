"""Private state of a Keras model that Keras must not track."""

from collections.abc import Callable
from typing import Any


class Untracked:
    """An attribute that Keras does not track: not a weight, not saved, never wrapped.

    Keras inspects every value assigned to a layer or model, and tracks the variables and layers in
    it. A class with untracked attributes hands assignments to `set_untracked` first.

    Args:
        make: function without arguments that makes the value used until one is assigned.

    Example:

    >>> class Counter(keras.Model):
    ...     seen = Untracked(list)
    ...     def __setattr__(self, name, value):
    ...         if not set_untracked(self, name, value):
    ...             super().__setattr__(name, value)
    >>> Counter().seen
    []
    """

    def __init__(self, make: Callable[[], Any] = lambda: None):
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if self._name not in instance.__dict__:
            instance.__dict__[self._name] = self._make()
        return instance.__dict__[self._name]

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self._name] = value

    def __delete__(self, instance: Any) -> None:
        instance.__dict__.pop(self._name, None)


def set_untracked(instance: Any, name: str, value: Any) -> bool:
    """Assign to an `Untracked` attribute; return whether there is one of that name."""
    found = getattr(type(instance), name, None)
    if isinstance(found, Untracked):
        found.__set__(instance, value)
    return isinstance(found, Untracked)


def keep_untracked(instance: Any, **values: Any) -> None:
    """Assign attributes without Keras tracking them."""
    instance.__dict__.update(values)
