"""Muon: matrices move by orthogonal steps, all else by Adam."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.optimizers.adam import AdamW
from keras_mdm.tracing import traced_once
from keras_mdm.types import Tensor

# Names of layers and variables of rank two and more that are no matrices between features: the
# first and the last layer of a level, tables, and the thin factors of LoRA.
EXCLUDED = ("conv_in", "conv_out", "table", "embeddings", "lora_kernel_a", "lora_kernel_b")
# The quintic x -> a x + b x^3 + c x^5 takes singular values from (0, 1] to about 1 within five
# iterations: to 0.7 to 1.2, which serves as well as 1 (Jordan et al. 2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315


@keras.saving.register_keras_serializable("keras_mdm")
class Muon(AdamW):
    """Momentum, made orthogonal: every direction of a matrix moves by about the same amount.

    With G the clipped gradient of a kernel, flattened to a matrix of (height x width x inputs) rows
    and `outputs` columns:

        M <- M + (1 - momentum) (G - M)
        W <- W - lr * rms * sqrt(max(rows, columns)) * U V^T    with U S V^T = G + momentum (M - G)

    The factor gives a step the root mean square `rms` times lr, about that of Adam's steps, so that
    Adam's learning rates can be kept. Biases, norms, tables, and the first and last layers of a
    level take Adam's step. U V^T is found by Newton-Schulz iterations on the smaller Gram matrix.

    On two cores a step of a small network takes up to half as long again as with Adam, and learns
    about three times as much (docs/outer-levels.md). The paper trains with Adam.

    Args:
        learning_rate: as in `Adam`.
        momentum: decay of the momentum of matrices.
        rms: root mean square of a matrix' step at learning rate 1.
        iterations_per_step: Newton-Schulz iterations.
        exclude: names of layers or variables (parts of a path) that take Adam's step.
        weight_decay: decoupled decay per unit of learning rate, as in `AdamW`, of all variables.
        **kwargs: the other arguments of `Adam`.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    ```python
    model.compile(optimizer=Muon(Warmup(1.5e-3, warmup_steps=50)))
    ```

    Reference: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks; Liu et
    al., Muon is scalable for LLM training, arXiv 2502.16982, section 2.2 (the factor).
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-4,
        *,
        momentum: float = 0.95,
        rms: float = 0.2,
        iterations_per_step: int = 5,
        exclude: Sequence[str] = EXCLUDED,
        weight_decay: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        if checks.real("momentum", momentum, minimum=0.0) >= 1.0:
            raise checks.error(
                "`momentum` must be below 1", fix="pass for example 0.95", momentum=momentum
            )
        self.momentum = momentum
        self.rms = checks.real("rms", rms, minimum=0.0)
        self.iterations_per_step = checks.integer(
            "iterations_per_step", iterations_per_step, minimum=1
        )
        if isinstance(exclude, str) or not all(isinstance(name, str) for name in exclude):
            raise checks.error(
                "`exclude` must be names of layers or variables",
                fix='pass for example ("conv_in", "conv_out")',
                exclude=exclude,
            )
        self.exclude = tuple(exclude)

    def is_matrix(self, variable: keras.Variable) -> bool:
        """Whether a variable takes orthogonal steps."""
        return len(variable.shape) >= 2 and not set(variable.path.split("/")) & set(self.exclude)

    def make_slots(self, name: str, variables: Sequence[keras.Variable]) -> list[keras.Variable]:
        """As in the base, but matrices have no second moment."""
        whole = [v for v in variables if name == "momentum" or not self.is_matrix(v)]
        made = iter(super().make_slots(name, whole) if whole else ())
        keys = {self._var_key(v) for v in whole}
        return [
            next(made)
            if self._var_key(v) in keys
            else self.add_variable(
                (1,), dtype=v.dtype, aggregation="only_first_replica", name=f"no_{name}"
            )
            for v in variables
        ]

    def coefficients(self, learning_rate: Tensor, updates: Tensor, finite: Tensor) -> tuple:
        # A skipped step keeps the momentum, and its rate of zero the weights.
        keep = tf.where(finite, tf.constant(self.momentum, tf.float64), 1.0)
        adam = super().coefficients(learning_rate, updates, finite)
        return (*adam, learning_rate, tf.fill(tf.shape(updates), keep))

    def update_variable(
        self, variable: Tensor, gradient: Tensor, row: Tensor, *coefficients: Tensor
    ) -> None:
        *adam, learning_rate, keep = coefficients
        owner = self._trainable_variables[row]
        if not self.is_matrix(owner):
            super().update_variable(variable, gradient, row, *adam)
            return
        if self.weight_decay and self._use_weight_decay(owner):
            variable.assign_sub(variable * adam[-1])
        momentum = self.slot("momentum", row)
        mean = gradient + keep * (momentum - gradient)
        momentum.assign(mean)
        ahead = gradient + keep * (mean - gradient)
        columns = ahead.shape[-1]
        rows = int(np.prod(ahead.shape[:-1]))
        orthogonal = traced_once(orthogonalized, iterations=self.iterations_per_step)
        step = tf.reshape(orthogonal(tf.reshape(ahead, (rows, columns))), ahead.shape)
        variable.assign_sub(learning_rate * (self.rms * max(rows, columns) ** 0.5) * step)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = {
            "momentum": self.momentum,
            "rms": self.rms,
            "iterations_per_step": self.iterations_per_step,
            "exclude": list(self.exclude),
        }
        return {**super().get_config(), **own}


def orthogonalized(matrix: Tensor, *, iterations: int) -> Tensor:
    """Return about U V^T of a matrix U S V^T; zeros of zeros.

    Every iteration multiplies X by a polynomial of its Gram matrix X^T X. These commute, so they
    are collected in one matrix of the smaller size: the large one is used twice, not at every
    iteration, which halves the time.

    Args:
        matrix: (m, n).
        iterations: number of Newton-Schulz iterations.

    Returns:
        (m, n); the singular values that are not small against the largest become about 1.

    Example:

    >>> found = orthogonalized(tf.constant([[3.0, 0.0], [0.0, -0.5], [0.0, 0.0]]), iterations=5)
    >>> (np.abs(found.numpy().round(1)) > 0.5).tolist()
    [[True, False], [False, True], [False, False]]
    """
    wide = matrix.shape[0] < matrix.shape[1]
    x = tf.transpose(matrix) if wide else matrix
    # Its norm bounds the largest singular value by 1.
    x = tf.math.divide_no_nan(x, tf.norm(x))
    gram, one = tf.matmul(x, x, transpose_a=True), tf.eye(x.shape[1], dtype=x.dtype)
    product = one
    for number in range(iterations):
        factor = _A * one + _B * gram + _C * tf.matmul(gram, gram)
        product = tf.matmul(product, factor) if number else factor
        if number < iterations - 1:
            gram = tf.matmul(tf.matmul(factor, gram), factor)
    x = tf.matmul(x, product)
    return tf.transpose(x) if wide else x
