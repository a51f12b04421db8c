"""Layers of a user's, written as a Keras user writes them: layers inside have no names."""

import keras
from keras import ops

from keras_mdm import LevelSpec
from keras_mdm.layers.initializers import FanInUniform


def register(cls):
    return keras.saving.register_keras_serializable("own_parts")(cls)


@register
class OwnBlock(keras.layers.Layer):
    """Two dense layers; no `build`, and the layers inside make their weights when called."""

    def __init__(self, channels, *, factor=1, seed=0, **kwargs):
        super().__init__(**kwargs)
        given = {"dtype": self.dtype_policy, "kernel_initializer": FanInUniform(channels, seed)}
        self.inside = keras.layers.Dense(channels * factor, activation="silu", **given)
        self.time = keras.layers.Dense(channels * factor, **given)
        self.out = keras.layers.Dense(channels, **given)

    def call(self, x, time_embedding, skip=None):
        if skip is not None:
            x = ops.concatenate([x, skip], axis=-1)
        return self.out(self.inside(x) + self.time(time_embedding)[:, None, None])


@register
class OwnAttention(keras.layers.Layer):
    """Keras' attention, made in `build`, over pixels and, if there is one, the text."""

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, x_shape, text_shape=None, text_mask_shape=None):
        given = {"key_dim": x_shape[-1] // self.heads, "dtype": self.dtype_policy}
        pixels = (None, x_shape[1] * x_shape[2], x_shape[3])
        self.pixels = keras.layers.MultiHeadAttention(self.heads, **given)
        self.pixels.build(pixels, pixels)
        self.tokens = None
        if text_shape is not None:
            self.tokens = keras.layers.MultiHeadAttention(self.heads, **given)
            self.tokens.build(pixels, (None, None, text_shape[-1]))

    def call(self, x, text=None, text_mask=None):
        rows = ops.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[3]))
        found = rows + self.pixels(rows, rows)
        if text is not None:
            mask = ops.cast(text_mask, "bool")[:, None, :]
            found = found + self.tokens(found, text, attention_mask=mask)
        return ops.reshape(found, (-1, *x.shape[1:]))


@register
class OwnLevel(keras.layers.Layer):
    """The smallest whole innermost level, for pictures and clips."""

    def __init__(self, channels, out_channels=3, frames=None, depth=1, seed=0, **kwargs):
        super().__init__(**kwargs)
        given = {"kernel_initializer": FanInUniform(channels[0], seed)}
        self.first = keras.layers.Dense(channels[0], dtype=self.dtype_policy, **given)
        self.time = keras.layers.Dense(channels[0], dtype=self.dtype_policy, **given)
        self.blocks = [
            keras.layers.Dense(channels[0], activation="silu", dtype=self.dtype_policy, **given)
            for _ in range(depth)
        ]
        self.last = keras.layers.Dense(out_channels, dtype="float32", **given)

    def call(self, z, time_embedding, text=None, text_mask=None, features=None):
        x = self.first(z)
        axes = [1] * (len(x.shape) - 2)
        x = x + ops.reshape(self.time(time_embedding), (-1, *axes, x.shape[-1]))
        if features is not None:
            rows = ops.shape(x)[0] - ops.shape(features)[0]
            added = ops.pad(features, [[0, rows]] + [[0, 0]] * (len(x.shape) - 1))
            x = x + ops.cast(added, x.dtype)
        for block in self.blocks:
            x = x + block(x)
        return {"output": self.last(x), "features": x}


BLOCKS = LevelSpec(
    8,
    channels=(32,),
    blocks=(1,),
    attention=(1,),
    heads=2,
    resblock=OwnBlock,
    spatial_attention=OwnAttention,
)
WHOLE = LevelSpec(8, channels=(24,), innermost_level=OwnLevel)
