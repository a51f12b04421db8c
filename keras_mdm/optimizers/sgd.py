"""Stochastic gradient descent with or without momentum."""

from typing import Any

import keras
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.optimizers.base import Optimizer
from keras_mdm.types import Tensor


@keras.saving.register_keras_serializable("keras_mdm")
class SGD(Optimizer):
    """Gradient descent: b <- momentum * b + g; w <- w - lr * b (PyTorch's form).

    Unlike Adam it reveals every scale factor of the gradient, so equality tests use it.

    Args:
        learning_rate: a number or a schedule.
        momentum: decay of the buffer b; 0 keeps no buffer.
        nesterov: use g + momentum * b in place of b.
        clip_norm: largest global norm of the gradients, after the sum over replicas; `None` for
            no clipping.
        loss_scale: `"dynamic"` for training in float16.
        name: name of the optimizer.

    Example:

    ```python
    optimizer = SGD(0.1, momentum=0.9, clip_norm=None)
    ```
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.01,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        clip_norm: float | None = 2.0,
        loss_scale: str | None = None,
        name: str | None = None,
    ):
        super().__init__(learning_rate, clip_norm=clip_norm, loss_scale=loss_scale, name=name)
        self.momentum = checks.real("momentum", momentum, minimum=0.0, maximum=1.0)
        self.nesterov = bool(nesterov)
        self.slot_names = ("momentum",) if self.momentum else ()

    def coefficients(self, learning_rate: Tensor, updates: Tensor, finite: Tensor) -> tuple:
        # A skipped step does b <- 1 b + 0.
        momentum = tf.where(finite, tf.constant(self.momentum, tf.float64), 1.0)
        return learning_rate, tf.fill(tf.shape(updates), momentum)

    def update_variable(
        self, variable: Tensor, gradient: Tensor, row: Tensor, *coefficients: Tensor
    ) -> None:
        learning_rate, momentum = coefficients
        if not self.momentum:
            tf.raw_ops.ResourceApplyGradientDescent(
                var=variable.handle, alpha=learning_rate, delta=gradient
            )
            return
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=self.slot("momentum", row).handle,
            lr=learning_rate,
            grad=gradient,
            momentum=momentum,
            use_nesterov=self.nesterov,
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = {"momentum": self.momentum, "nesterov": self.nesterov}
        return {**super().get_config(), **own}
