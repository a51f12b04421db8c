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

# Names of layers and variables of rank two and more that take Adam's step. Most are no matrices
# between features: the first and the last layer of a level, tables, the thin factors of LoRA.
# Projections of the time and of the text are large, and learn as well without (measured).
EXCLUDED = (
    "conv_in",
    "conv_out",
    "table",
    "embeddings",
    "lora_kernel_a",
    "lora_kernel_b",
    "time_layer",
    "text_kv",
)
# Quintics x -> a x + b x^3 + c x^5, applied in turn to singular values in [0, 1]. Each is the one
# with the least largest distance from 1 on what the one before makes of [0.01, 1] (Amsel et al.
# 2025). These end between 0.73 and 1.27, which serves as well as 1; smaller ones grow 78 times.
QUINTICS = (
    (8.0934, -23.6204, 17.4462),
    (3.6366, -2.7219, 0.5365),
    (2.6613, -1.9772, 0.4526),
)

PRODUCT_DTYPES = ("float32", "bfloat16")


@keras.saving.register_keras_serializable("keras_mdm")
class Muon(AdamW):
    """Momentum, made orthogonal: every direction of a matrix moves by about the same amount.

    With G the clipped gradient of a kernel, flattened to a matrix of (height x width x inputs) rows
    and `outputs` columns:

        M <- M + (1 - momentum) (G - M)
        W <- W - lr * rms * sqrt(max(rows, columns)) * U V^T    with U S V^T = G + momentum (M - G)

    The factor gives a step the root mean square `rms` times lr, about that of Adam's steps, so that
    Adam's learning rates can be kept. Biases, norms, tables, the first and last layers of a level,
    and the layers that let time and text in take Adam's step. U V^T is found by three polynomials
    of the smaller Gram matrix.

    On two cores a step of a small network takes longer than with Adam, and does the work of about
    two (docs/outer-levels.md). The paper trains with Adam.

    Args:
        learning_rate: as in `Adam`.
        momentum: decay of the momentum of matrices.
        rms: root mean square of a matrix' step at learning rate 1.
        exclude: names of layers or variables (parts of a path) that take Adam's step.
        product_dtype: dtype in which U V^T is found, "float32" or "bfloat16". The compute dtype of
            the global policy unless given, or float32 if that is another. Momentum and weights keep
            their own.
        weight_decay: decoupled decay per unit of learning rate, as in `AdamW`, of all variables.
        **kwargs: the other arguments of `Adam`.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    ```python
    model.compile(optimizer=Muon(Warmup(1.5e-3, warmup_steps=50)))
    ```

    Reference: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks; Liu et
    al., Muon is scalable for LLM training, arXiv 2502.16982, section 2.2 (the factor); Amsel et
    al., The polar express, arXiv 2505.16932 (the polynomials).
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-4,
        *,
        momentum: float = 0.95,
        rms: float = 0.2,
        exclude: Sequence[str] = EXCLUDED,
        product_dtype: str | None = None,
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
        if isinstance(exclude, str) or not all(isinstance(name, str) for name in exclude):
            raise checks.error(
                "`exclude` must be names of layers or variables",
                fix='pass for example ("conv_in", "conv_out")',
                exclude=exclude,
            )
        self.exclude = tuple(exclude)
        if product_dtype is None:
            policy = keras.config.dtype_policy().compute_dtype
            product_dtype = policy if policy in PRODUCT_DTYPES else "float32"
        self.product_dtype = checks.one_of("product_dtype", product_dtype, PRODUCT_DTYPES)

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
        orthogonal = traced_once(orthogonalized, dtype=self.product_dtype)
        step = tf.reshape(orthogonal(tf.reshape(ahead, (rows, columns))), ahead.shape)
        variable.assign_sub(learning_rate * (self.rms * max(rows, columns) ** 0.5) * step)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = {
            "momentum": self.momentum,
            "rms": self.rms,
            "exclude": list(self.exclude),
            "product_dtype": self.product_dtype,
        }
        return {**super().get_config(), **own}


def orthogonalized(matrix: Tensor, dtype: str | None = None) -> Tensor:
    """Return about U V^T of a matrix U S V^T; zeros of zeros.

    An odd polynomial of X is X times a polynomial of its Gram matrix X^T X. These commute, so they
    are collected in one matrix of the smaller size: the large one is used twice, not three times at
    every polynomial.

    Args:
        matrix: (m, n).
        dtype: dtype of the products; that of the matrix unless given.

    Returns:
        (m, n) of the dtype of the matrix; singular values of at least a hundredth of the fourth
        root of the sum of all fourth powers become 0.73 to 1.27, in bfloat16 up to about 1.6.

    Example:

    >>> found = orthogonalized(tf.constant([[3.0, 0.0], [0.0, -0.5], [0.0, 0.0]]))
    >>> (found.numpy().round() + 0.0).tolist()
    [[1.0, 0.0], [0.0, -1.0], [0.0, 0.0]]
    """
    wide = matrix.shape[0] < matrix.shape[1]
    # Scaled before it is squared, as gradients may be tiny.
    x = tf.math.divide_no_nan(matrix, tf.norm(matrix))
    x = tf.cast(tf.transpose(x) if wide else x, dtype or matrix.dtype)
    gram, one = tf.matmul(x, x, transpose_a=True), tf.eye(x.shape[1], dtype=x.dtype)
    # The norm of the Gram matrix bounds the square of the largest singular value more closely.
    bound = tf.cast(tf.norm(tf.cast(gram, matrix.dtype)), gram.dtype)
    gram, x = tf.math.divide_no_nan(gram, bound), tf.math.divide_no_nan(x, tf.sqrt(bound))
    product = None
    for a, b, c in QUINTICS:
        factor = a * one + b * gram + c * tf.matmul(gram, gram)
        product = factor if product is None else tf.matmul(product, factor)
        if (a, b, c) != QUINTICS[-1]:
            gram = tf.matmul(tf.matmul(factor, gram), factor)
    x = tf.cast(tf.matmul(x, product), matrix.dtype)
    return tf.transpose(x) if wide else x
