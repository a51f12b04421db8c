"""What a network's layers add to the loss: Keras' `losses`, of regularizers and of `add_loss`."""

from typing import Any

import keras
import tensorflow as tf

from keras_mdm import checks


def penalties_of(network: keras.Model) -> tf.Tensor | None:
    """Return the sum of a network's `losses` after a call, and forget them; `None` if there are
    none.

    Regularizers see the weights, once. Losses from `add_loss` belong to the rows that the layer was
    called with, those of a micro-batch or a replica, and are averaged over these.

    Args:
        network: the network, called in this trace, inside the tape.

    Raises:
        ValueError: if a layer that is computed again in the backward pass adds a loss, whose
            gradient would be missing.

    Example:

    >>> network.layers[0].kernel.regularizer = keras.regularizers.L2(1e-4)
    >>> outputs = network(inputs)
    >>> loss = data_loss(outputs) + penalties_of(network)
    """
    _check_recomputed(network)
    found = network.losses
    # These are tensors of this trace, which must not appear in `losses` later.
    network._clear_losses()
    if not found:
        return None
    return tf.add_n([tf.cast(tf.reduce_sum(value), tf.float32) for value in found])


def _check_recomputed(network: keras.Model) -> None:
    for layer in network._flatten_layers():
        again = "call" in layer.__dict__  # see `training.recompute`
        if again and any(inner._losses for inner in layer._flatten_layers()):
            raise checks.error(
                "a layer that adds a loss must not be recomputed in the backward pass",
                fix="leave its level out of compile(recompute=...)",
                layer=layer.path,
            )


def with_penalties(loss: tf.Tensor, penalties: Any) -> tf.Tensor:
    """Return a loss with the penalties added.

    Args:
        loss: scalar.
        penalties: from `penalties_of`, of every call.
    """
    given = [value for value in penalties if value is not None]
    return tf.add_n([loss, *given]) if given else loss
