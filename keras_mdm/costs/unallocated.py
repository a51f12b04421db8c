"""Networks without memory: counting parameters and arithmetic needs no values."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state

from keras_mdm.types import Shape

_PENDING = "uninitialized_variables"


@contextlib.contextmanager
def unallocated() -> Iterator[None]:
    """Build layers inside this context without giving their variables values.

    Keras' own scope for this only postpones: it lists the variables, and the end of the next
    ordinary `StatelessScope`, which every symbolic call opens, fills all of them. After describing
    the 1024 network, drawing one small picture would allocate 2 GB. So the list, which is private
    in Keras 3.15, is restored.

    Example:

    >>> with unallocated():
    ...     unet = presets.build("released_1024")
    >>> unet.count_params()
    480970057
    """
    before = list(global_state.get_global_attribute(_PENDING, []))
    try:
        with keras.StatelessScope(initialize_variables=False), _values_postponed():
            yield
    finally:
        global_state.set_global_attribute(_PENDING, before)


@contextlib.contextmanager
def _values_postponed() -> Iterator[None]:
    """Also allow optimizers: they give some variables values instead of initialisers, such as a
    step of 0, which Keras refuses inside its scope."""
    original = keras.Variable.__init__

    def init(
        self, initializer: Any, shape: Shape | None = None, dtype: Any = None, **options: Any
    ) -> None:
        if not callable(initializer) and not isinstance(initializer, str):
            value = np.asarray(initializer)
            shape, dtype = value.shape, dtype or keras.backend.standardize_dtype(value.dtype)
            initializer = keras.initializers.Constant(float(value) if not shape else value)
        original(self, initializer, shape=shape, dtype=dtype, **options)

    keras.Variable.__init__ = init
    try:
        yield
    finally:
        keras.Variable.__init__ = original
