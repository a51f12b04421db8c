"""Kernels in the dtype in which the network computes, cast once per run.

Under a mixed policy every call of a layer casts its kernel, and averages are float32 under any
policy. In training that cannot be avoided, but a sampler calls the network dozens of times with the
same weights, and on a CPU the casts of a network of 460 million weights cost a twentieth of every
call. The cast values are the same, and so are the pictures.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_mdm.models.flags import layers_of
from keras_mdm.sampling.plan import SamplingPlan

# By what the denoiser calls ("network", and "weaker" with autoguidance) and by path of the kernel.
Narrow = Mapping[str, Mapping[str, tf.Tensor]]


def kernels_of(unet: keras.Model) -> list[keras.Variable]:
    """The kernels of a network that are cast in every call.

    Only those of Keras' own dense layers and convolutions: they are nearly all weights, and it is
    known that nothing else reads them. A layer of the user's might do with its weights what it
    likes. Kernels that share a path cannot be told apart later, so they are cast in every call.
    """
    found = [
        layer._kernel
        for layer in layers_of(unet)
        if type(layer) in (keras.layers.Dense, keras.layers.Conv2D)
        and layer.compute_dtype != "float32"
    ]
    times = Counter(kernel.path for kernel in found)
    return [kernel for kernel in found if times[kernel.path] == 1]


def narrow_weights(model: Any, plan: SamplingPlan) -> dict[str, dict[str, tf.Tensor]]:
    """The kernels that a plan's networks use, in their compute dtypes.

    Args:
        model: a `MatryoshkaDiffusion`.
        plan: the static choices.

    Returns:
        Tensors by what the denoiser calls, and by path; none for a network that casts nothing.
    """
    found = {"network": cast_kernels(model.unet, model.averages.replacing(plan.weights))}
    if plan.autoguidance is not None:
        other, weights = plan.autoguidance
        found["weaker"] = cast_kernels(other.unet, other.averages.replacing(weights))
    return found


def cast_kernels(
    unet: keras.Model, replacing: Iterable[tuple[keras.Variable, keras.Variable]] = ()
) -> dict[str, tf.Tensor]:
    """The kernels of a network in its compute dtype, by path.

    Args:
        unet: the network.
        replacing: pairs of a weight and the average that takes its place.
    """
    averages = {id(weight): average for weight, average in replacing}
    found = {}
    for kernel in kernels_of(unet):
        value = averages.get(id(kernel), kernel).value
        found[kernel.path] = tf.cast(tf.convert_to_tensor(value), unet.policy.compute_dtype)
    return found


def by_kernel(unet: keras.Model, tensors: Mapping[str, tf.Tensor]) -> dict[int, tf.Tensor]:
    """The tensors by the identity of the kernel whose place they take.

    Args:
        unet: the network whose kernels were cast.
        tensors: of `narrow_weights`.
    """
    kernels = kernels_of(unet) if tensors else []
    return {id(kernel): tensors[kernel.path] for kernel in kernels}
