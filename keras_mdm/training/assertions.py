"""Errors in a graph, worded like those of `checks`, for values known only when it runs."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from keras_mdm.conditioning.conditions import NO_CLASS, condition_names
from keras_mdm.conditioning.low_res import LOW_RES, LOW_RES_NOISE, has_aspect
from keras_mdm.models.network import NetworkFacts


def require(condition: tf.Tensor, must: str, *, fix: str, **received: Any) -> tf.Operation:
    """Return an operation that fails with the three parts of an error unless `condition` holds.

    Args:
        condition: scalar bool.
        must: what has to hold, as in `checks.error`.
        fix: what the caller can do.
        **received: tensors under the names the caller used.

    Example:

    ```python
    with tf.control_dependencies([require(n > 0, "`n` must be positive", fix="pass 1", n=n)]):
        n = tf.identity(n)
    ```
    """
    data = [f"{must}. Received: "]
    for name, value in received.items():
        data += [f"{name}=", value]
    return tf.debugging.Assert(condition, [*data, f". To fix it: {fix}."], summarize=8)


def worded(problem: tf.errors.InvalidArgumentError) -> Exception:
    """Return a failed `require` as a `ValueError` with its message; other errors unchanged.

    Args:
        problem: what TensorFlow raised.
    """
    found = re.search(r"assertion failed: \[(.+Received: .+To fix it: .+?\.)\]", problem.message)
    return ValueError(found[1].replace("] [", "")) if found else problem


def sampling_requirements(
    inputs: Mapping[str, tf.Tensor], spec: NetworkFacts, num_steps: int
) -> Iterator[tf.Operation]:
    """The checks that `generate` makes of its arguments, for the inputs of an exported model.

    Args:
        inputs: `steps`, `guidance_scale` and `seed`, those that there are, scalars or one per
            picture; the scalar `num_images`; conditions; and others, of which only the number of
            rows is looked at.
        spec: the network.
        num_steps: N of the training schedule.
    """
    if "steps" in inputs:
        steps = inputs["steps"]
        yield require(
            tf.reduce_all((steps >= 1) & (steps <= num_steps)),
            f"`steps` must be an integer from 1 to {num_steps}, the steps of the training schedule",
            fix="pass for example steps=50",
            steps=steps,
        )
        yield from _one_value("steps", steps)
    if "guidance_scale" in inputs:
        scale = inputs["guidance_scale"]
        yield require(
            tf.reduce_all(tf.math.is_finite(scale) & (scale >= 0.0)),
            "`guidance_scale` must be a finite number of at least 0",
            fix="pass for example guidance_scale=4.0, or 1.0 for no guidance",
            guidance_scale=scale,
        )
    if "seed" in inputs:
        yield require(
            tf.reduce_all(inputs["seed"] >= 0),
            "`seed` must be a non-negative integer",
            fix="pass for example seed=0",
            seed=inputs["seed"],
        )
    by_row = {k: v for k, v in inputs.items() if len(v.shape)}
    rows = {name: tf.shape(value)[0] for name, value in by_row.items()}
    rows |= {name: value for name, value in inputs.items() if name == "num_images"}
    counts = tf.stack(list(rows.values()))
    yield require(
        tf.reduce_all(tf.equal(counts, counts[0])) & (counts[0] >= 1),
        "all inputs must be given for the same number of pictures, at least one",
        fix="pass the same number of rows for each",
        **rows,
    )
    for name in condition_names(spec):
        if name in by_row:
            yield _condition(name, by_row[name], spec)
    if "text" in by_row:
        tokens = tf.shape(by_row["text"])[:2]
        yield require(
            tf.reduce_all(tf.equal(tokens, tf.shape(by_row["text_mask"]))),
            "`text_mask` must be (B, L) for `text` of the shape (B, L, D)",
            fix="pass the mask of these states",
            text=tokens,
            text_mask=tf.shape(by_row["text_mask"]),
        )


def _one_value(name: str, value: tf.Tensor) -> Iterator[tf.Operation]:
    """A batch takes its steps together, so some amounts are the same in all of its rows."""
    if len(value.shape):
        yield require(
            tf.reduce_all(tf.equal(value, value[:1])),
            f"`{name}` must be the same in all rows of a batch, which is drawn together",
            fix="send pictures with other values in a batch of their own",
            **{name: value},
        )


def noise_requirement(index: tf.Tensor, num_steps: int) -> tf.Operation:
    """Likewise for the noise of the picture that a network sees.

    Args:
        index: scalar, or the same for all rows, table index of the noise.
        num_steps: N of the training schedule.
    """
    return require(
        tf.reduce_all((index >= 1) & (index <= num_steps) & (index == tf.reshape(index, [-1])[:1])),
        f"`{LOW_RES_NOISE}` must be an integer from 1 to {num_steps}, the steps of the training "
        "schedule, the same in all rows",
        fix=f"pass for example {LOW_RES_NOISE}=1 for hardly any noise",
        low_res_noise=index,
    )


def outer_steps_requirement(steps: tf.Tensor, most: int) -> tf.Operation:
    """Likewise for the steps that compute outer levels.

    Args:
        steps: number of steps, a scalar or one per picture.
        most: largest number of steps that compute a level.
    """
    return require(
        tf.reduce_all(steps >= most),
        f"`steps` must be at least {most}, the `outer_steps` that the model was exported with",
        fix=f"pass steps={most} or more",
        steps=steps,
    )


def _condition(name: str, value: tf.Tensor, spec: NetworkFacts) -> tf.Operation:
    if name == "label":
        return require(
            tf.reduce_all((value >= NO_CLASS) & (value < spec.num_classes)),
            f"`label` must hold integers from {NO_CLASS} to {spec.num_classes - 1}",
            fix="pass one class for every picture, -1 for none",
            label=value,
        )
    if name == LOW_RES:  # uint8
        height, width = tf.shape(value)[1], tf.shape(value)[2]
        top = spec.levels[-1].shape
        square = top.height == top.width
        return require(
            tf.logical_and(has_aspect((height, width), top), tf.greater(height, 0)),
            f"`{name}` must "
            + ("be square" if square else f"have height and width as {top.height}:{top.width}"),
            fix="crop it the way the pictures are cropped",
            low_res=tf.shape(value),
        )
    finite = tf.math.is_finite(value)
    if name in spec.micro_conditions:
        finite |= tf.math.is_nan(value)  # the level's default
    wrong = tf.size(value) - tf.math.count_nonzero(finite, dtype=tf.int32)
    return require(
        tf.equal(wrong, 0),
        f"`{name}` must hold finite numbers",
        fix="find what makes it NaN or infinite",
        **{f"not finite in {name}": wrong},
    )
