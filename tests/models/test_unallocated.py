"""Counting a network must never come to allocate it, not even later."""

import keras
import pytest

from keras_mdm.costs.unallocated import unallocated
from keras_mdm.models import LevelSpec, build_nested_unet

SMALL = LevelSpec(8, channels=(32,), blocks=(1,), attention=(0,), use_mid_block=False)


def filled(unet):
    return [variable.path for variable in unet.variables if variable._value is not None]


def test_variables_stay_empty_after_later_scopes():
    with unallocated():
        unet = build_nested_unet([SMALL])
    with keras.StatelessScope():
        pass
    build_nested_unet([SMALL])  # its symbolic calls open scopes too
    assert unet.variables and not filled(unet)


def test_keras_alone_would_fill_them():
    # What the helper is for; when Keras mends this, the helper can go.
    with keras.StatelessScope(initialize_variables=False):
        unet = build_nested_unet([SMALL])
    with keras.StatelessScope():
        pass
    assert len(filled(unet)) == len(unet.variables)


def test_the_list_is_put_back_after_an_error():
    with keras.StatelessScope(initialize_variables=False):
        waiting = keras.Variable(initializer="ones", shape=(1,))
    with pytest.raises(RuntimeError), unallocated():
        build_nested_unet([SMALL])
        raise RuntimeError
    with keras.StatelessScope():
        pass
    assert waiting._value is not None
