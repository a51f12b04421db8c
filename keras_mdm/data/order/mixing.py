"""Mixed-resolution batches out of one dataset per group."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_mdm import checks


def mixed_dataset(groups: Mapping[str, tf.data.Dataset]) -> tf.data.Dataset:
    """Return the dataset of batches whose samples differ in their highest level.

    Every group has a pipeline of its own, so that pictures which are trained at a low level only
    are never loaded large, and data of which only a part is large feeds its groups as it is.

    Args:
        groups: datasets of batches by the highest level of their samples, each of a fixed batch
            size. Of one group its own batches are returned.

    Returns:
        A dataset of dicts of batches by level. Positions under "sample" are renumbered, so that no
        two samples of a step have the same: noise and times are drawn from them.

    Raises:
        ValueError: if there is no group.

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
        raise checks.error("there must be a group", fix="pass {level: dataset}", groups={})
    if len(groups) == 1:
        return next(iter(groups.values()))
    sizes = {level: int(dataset.cardinality()) for level, dataset in groups.items()}
    finite = {level: size for level, size in sizes.items() if 0 <= size < 2**31}
    if len(set(finite.values())) > 1:  # the longer ones would lose their last batches
        raise checks.error(
            "the datasets of all groups must have equally many batches, or no end",
            fix="choose batch sizes in the proportion of the pictures, or repeat the shorter ones",
            batches=sizes,
        )
    count = len(groups)

    def renumber(number: int, batch: Mapping[str, Any]) -> dict[str, Any]:
        if "sample" not in batch:
            return dict(batch)
        return {**batch, "sample": batch["sample"] * count + number}

    def join(batches: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        return {level: renumber(n, batch) for n, (level, batch) in enumerate(batches.items())}

    # The pipelines of the groups read ahead; only the join is left.
    return tf.data.Dataset.zip(dict(groups)).map(join).prefetch(tf.data.AUTOTUNE)
