"""Mixed-resolution batches from one dataset per group."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_mdm import checks


def mixed_dataset(groups: Mapping[str, tf.data.Dataset]) -> tf.data.Dataset:
    """Return the dataset of batches whose samples differ in their highest level.

    Every group has its own pipeline. So pictures that are trained at a low level only are never
    loaded large, and data that is only partly large can feed the groups as it is.

    Args:
        groups: datasets of batches by the highest level of their samples, each with a fixed batch
            size. A single dataset is returned unchanged.

    Returns:
        A dataset of dicts of batches by level. Positions under "sample" are renumbered, so that no
        two samples of a step share one: noise and times are drawn from them.

    Raises:
        ValueError: if there is no group, or the datasets differ in length.

    Example:

    ```python
    mixed_dataset({
        "64": image_text_dataset(small, batch_size=5, seed=0),
        "256": image_text_dataset(large, batch_size=11, seed=0),
    })
    ```

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 3.3.
    """
    if not groups:
        raise checks.error("`groups` must not be empty", fix="pass {level: dataset}", groups={})
    if len(groups) == 1:
        return next(iter(groups.values()))
    sizes = {level: int(dataset.cardinality()) for level, dataset in groups.items()}
    finite = {level: size for level, size in sizes.items() if 0 <= size < 2**31}
    if len(set(finite.values())) > 1:  # the longer ones would lose their last batches
        raise checks.error(
            "the datasets of all groups must have the same number of batches, or no end",
            fix="choose batch sizes in proportion to the pictures, or repeat the shorter datasets",
            batches=sizes,
        )
    count = len(groups)

    def renumber(number: int, batch: Mapping[str, Any]) -> dict[str, Any]:
        if "sample" not in batch:
            return dict(batch)
        return {**batch, "sample": batch["sample"] * count + number}

    def join(batches: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        return {level: renumber(n, batch) for n, (level, batch) in enumerate(batches.items())}

    # The pipelines of the groups read ahead already; only the join remains.
    return tf.data.Dataset.zip(dict(groups)).map(join).prefetch(tf.data.AUTOTUNE)
