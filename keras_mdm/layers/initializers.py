"""Initial weights that depend only on the run's seed and the layer's path.

A layer's initial values must not depend on what was built before it: an outer level has to start
the same in a fresh model, after growth, and on every replica. So no generator state is used; each
composite layer takes a `seed` and gives each part a seed derived from the part's name.
"""

import hashlib
import math
from typing import Any

import keras

from keras_mdm.types import Shape, Tensor


def derive_seed(seed: int, name: str) -> int:
    """Return the seed of the part called `name` in a layer seeded with `seed`.

    Args:
        seed: seed of the enclosing layer.
        name: name of the part, unique in that layer.

    Returns:
        An integer inside [0, 2**31), the same on every machine.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "little") & 0x7FFFFFFF


@keras.saving.register_keras_serializable("keras_mdm")
class FanInUniform(keras.initializers.Initializer):
    """Uniform values inside ±1/sqrt(fan_in), for kernels and biases alike.

    Args:
        fan_in: number of inputs that one output of the layer sums over.
        seed: non-negative integer; equal seeds give equal values.

    Example:

    >>> dense = keras.layers.Dense(8, kernel_initializer=FanInUniform(fan_in=4, seed=0))
    """

    def __init__(self, fan_in: int, seed: int):
        self.fan_in = fan_in
        self.seed = seed

    def __call__(self, shape: Shape, dtype: Any = None) -> Tensor:
        bound = 1.0 / math.sqrt(self.fan_in)
        return keras.random.uniform(shape, -bound, bound, dtype=dtype, seed=self.seed)

    def get_config(self) -> dict:
        return {"fan_in": self.fan_in, "seed": self.seed}


def _initializers(fan_in: int, *, seed: int, name: str, zero: bool, use_bias: bool) -> dict:
    if zero:
        return {"kernel_initializer": "zeros", "bias_initializer": "zeros"}
    kernel = FanInUniform(fan_in, derive_seed(seed, f"{name}/kernel"))
    bias = FanInUniform(fan_in, derive_seed(seed, f"{name}/bias")) if use_bias else None
    return {"kernel_initializer": kernel, "bias_initializer": bias}


def conv(
    name: str,
    in_channels: int,
    filters: int,
    *,
    seed: int,
    dtype: Any,
    kernel_size: int | tuple[int, int] = 3,
    strides: int | tuple[int, int] = 1,
    padding: str = "same",
    zero: bool = False,
) -> keras.layers.Conv2D:
    """Make a convolution with the initial values of the paper's code.

    Args:
        name: name of the layer, also the key of its initial values.
        in_channels: channels of the input.
        filters: channels of the output.
        seed: seed of the enclosing layer.
        dtype: dtype policy of the enclosing layer.
        kernel_size: size of the kernel.
        strides: strides; pad explicitly and pass `padding="valid"` when they exceed 1, because
            "same" pads only one side there.
        padding: as in `keras.layers.Conv2D`.
        zero: start weight and bias at zero.

    Returns:
        An unbuilt `keras.layers.Conv2D`.
    """
    size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    fan_in = in_channels * size[0] * size[1]
    return keras.layers.Conv2D(
        filters,
        size,
        strides=strides,
        padding=padding,
        name=name,
        dtype=dtype,
        **_initializers(fan_in, seed=seed, name=name, zero=zero, use_bias=True),
    )


def dense(
    name: str,
    in_width: int,
    units: int,
    *,
    seed: int,
    dtype: Any,
    use_bias: bool = True,
    zero: bool = False,
) -> keras.layers.Dense:
    """Make a dense layer with the initial values of the paper's code; arguments as in `conv`."""
    return keras.layers.Dense(
        units,
        use_bias=use_bias,
        name=name,
        dtype=dtype,
        **_initializers(in_width, seed=seed, name=name, zero=zero, use_bias=use_bias),
    )
