"""A short training from every kind of source; as a program, one of several workers."""

import contextlib
import sys
from pathlib import Path

import numpy as np


def train(strategy, root, first_step=0, worker=(0, 1)):
    """{kind: losses of the steps from `first_step` to 3}, each from the same weights."""
    from data import sources
    from tiny_models import INNER, Record, tiny_unet

    from keras_mdm import MatryoshkaDiffusion
    from keras_mdm.data import ImageRule, image_dataset
    from keras_mdm.optimizers import SGD

    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        model = MatryoshkaDiffusion(tiny_unet([INNER], num_classes=2, scramble=True), seed=3)
        # So slow that every source sees the same weights, up to rounding.
        model.compile(optimizer=SGD(1e-12))
    found = {}
    for kind, source in sources.opened(root).items():
        record = Record()
        options = {"batch_size": 4, "labels": True, "worker": worker}
        if first_step:  # noise and times follow from how many steps were taken
            other = image_dataset(source, ImageRule(8), seed=2, **options)
            model.fit(other, epochs=1, steps_per_epoch=first_step, verbose=0)
        batches = image_dataset(source, ImageRule(8), seed=1, first_step=first_step, **options)
        model.fit(batches, epochs=1, steps_per_epoch=3 - first_step, verbose=0, callbacks=[record])
        found[kind] = [float(step["loss"]) for step in record.logs]
    return found


def train_mixed(strategy, root, worker=(0, 1)):
    """Losses of three steps on mixed-resolution batches, of groups of different sizes."""
    from data import sources
    from tiny_models import INNER, Record, outer, tiny_unet

    from keras_mdm import MatryoshkaDiffusion
    from keras_mdm.data import ImageRule, image_dataset, mixed_dataset
    from keras_mdm.optimizers import SGD

    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        unet = tiny_unet([INNER, outer(16)], num_classes=2, scramble=True)
        model = MatryoshkaDiffusion(unet, seed=3)
        model.compile(optimizer=SGD(0.1))
    source, record = sources.opened(root)["folder"], Record()
    groups = {
        str(size): image_dataset(
            source, ImageRule(size), batch_size=rows, seed=1, labels=True, worker=worker
        )
        for size, rows in ((8, 2), (16, 4))
    }
    model.fit(mixed_dataset(groups), epochs=1, steps_per_epoch=3, verbose=0, callbacks=[record])
    return [float(step["loss"]) for step in record.logs]


if __name__ == "__main__":
    from keras_mdm import distribute

    chosen = distribute.strategy()
    index = chosen.cluster_resolver.task_id
    own = distribute.worker(4) if sys.argv[2] == "own" else (0, 1)
    if own != ((index, 2) if sys.argv[2] == "own" else (0, 1)) or distribute.worker(5) != (0, 1):
        sys.exit(f"worker {index} takes itself for {own}")
    losses = train(chosen, Path(sys.argv[1]), first_step=int(sys.argv[3]), worker=own)
    if sys.argv[2:] == ["own", "0"]:
        losses["mixed"] = train_mixed(chosen, Path(sys.argv[1]), worker=distribute.worker(2, 4))
    np.savez(f"{sys.argv[1]}/worker-{index}.npz", **losses)
