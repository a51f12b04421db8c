"""Adam and AdamW in the bias-corrected form."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.optimizers.base import Optimizer
from keras_mdm.types import Tensor


@keras.saving.register_keras_serializable("keras_mdm")
class Adam(Optimizer):
    """Adam as in the paper: w <- w - lr * m_hat / (sqrt(v_hat) + epsilon).

    With g the clipped gradient and t the number of updates of this variable, this one included:

        m <- m + (1 - beta_1) (g - m)        m_hat = m / (1 - beta_1^t)
        v <- v + (1 - beta_2) (g^2 - v)      v_hat = v / (1 - beta_2^t)

    `keras.optimizers.Adam` adds epsilon to sqrt(v) instead of sqrt(v_hat). The two differ where
    gradients are small, above all in the first steps.

    Args:
        learning_rate: a number or a schedule. The paper trains with 1e-4.
        beta_1: decay of the first moment.
        beta_2: decay of the second moment; 0.99 in the paper, 0.999 in the released code.
        epsilon: added to the square root.
        clip_norm: largest global norm of the gradients, after the sum over replicas; `None` for
            no clipping.
        loss_scale: `"dynamic"` for training in float16.
        name: name of the optimizer.

    Example:

    ```python
    model.compile(optimizer=Adam(Warmup(1e-4, warmup_steps=30_000), clip_norm=2.0))
    ```

    Reference: Kingma and Ba, Adam: a method for stochastic optimization, arXiv 1412.6980;
    defaults of Gu et al., appendix B.
    """

    slot_names = ("momentum", "velocity")

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-4,
        *,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        epsilon: float = 1e-8,
        clip_norm: float | None = 2.0,
        loss_scale: str | None = None,
        name: str | None = None,
    ):
        super().__init__(learning_rate, clip_norm=clip_norm, loss_scale=loss_scale, name=name)
        for key, beta in (("beta_1", beta_1), ("beta_2", beta_2)):
            if checks.real(key, beta, minimum=0.0) >= 1.0:
                raise checks.error(
                    f"`{key}` must be below 1", fix="pass for example 0.99", **{key: beta}
                )
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = checks.real("epsilon", epsilon, minimum=0.0)

    def coefficients(self, learning_rate: Tensor, updates: Tensor, finite: Tensor) -> tuple:
        t = updates + 1.0
        # The fused kernel uses float32 betas, so the correction must use the same numbers.
        beta_1, beta_2 = (
            tf.constant(np.float32(b), tf.float64) for b in (self.beta_1, self.beta_2)
        )
        correction_1 = 1.0 - tf.pow(beta_1, t)
        correction_2 = tf.sqrt(1.0 - tf.pow(beta_2, t))
        # m_hat / (sqrt(v_hat) + eps) = (c2 / c1) m / (sqrt(v) + c2 eps): all corrections are
        # scalars, so that TensorFlow's kernel makes one pass over the memory of w, m and v. In a
        # skipped step, decays of 1 and a gradient of 0 leave the moments unchanged.
        decays = tf.where(finite, tf.stack([beta_1, beta_2]), 1.0)
        keep_1, keep_2 = (tf.fill(tf.shape(t), decay) for decay in tf.unstack(decays))
        step_size = learning_rate * correction_2 / correction_1
        return step_size, self.epsilon * correction_2, keep_1, keep_2

    def update_variable(
        self, variable: Tensor, gradient: Tensor, row: Tensor, *coefficients: Tensor
    ) -> None:
        step_size, epsilon, beta_1, beta_2 = coefficients
        zero = tf.zeros((), variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self.slot("momentum", row).handle,
            v=self.slot("velocity", row).handle,
            # Powers of zero switch off the kernel's own correction.
            beta1_power=zero,
            beta2_power=zero,
            lr=step_size,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=epsilon,
            grad=gradient,
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("keras_mdm")
class AdamW(Adam):
    """Adam with decoupled weight decay: w <- (1 - lr * weight_decay) w before Adam's step.

    All variables decay, including biases and norms, as in PyTorch; Keras'
    `exclude_from_weight_decay` leaves some out. The decay uses the variable's own learning rate,
    including factors and warm-up.

    Args:
        learning_rate: as in `Adam`.
        weight_decay: the decay per unit of learning rate.
        **kwargs: the other arguments of `Adam`.

    Example:

    ```python
    optimizer = AdamW(1e-4, weight_decay=0.01)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    ```

    Reference: Loshchilov and Hutter, Decoupled weight decay regularization, arXiv 1711.05101.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-4,
        *,
        weight_decay: float = 0.01,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        self.weight_decay = checks.real("weight_decay", weight_decay, minimum=0.0)

    def coefficients(self, learning_rate: Tensor, updates: Tensor, finite: Tensor) -> tuple:
        decay = learning_rate * self.weight_decay
        return (*super().coefficients(learning_rate, updates, finite), decay)

    def update_variable(
        self, variable: Tensor, gradient: Tensor, row: Tensor, *coefficients: Tensor
    ) -> None:
        *adam, decay = coefficients
        if self.weight_decay and self._use_weight_decay(self._trainable_variables[row]):
            variable.assign_sub(variable * decay)
        super().update_variable(variable, gradient, row, *adam)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "weight_decay": self.weight_decay}
