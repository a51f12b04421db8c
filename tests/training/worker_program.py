"""A short training on mixed batches; as a program, one of several workers that write what came."""

import contextlib
import sys

import numpy as np


def train(strategy, micro_batches=1):
    """(logs of every step, weights at the start and at the end, averages) as arrays."""
    from tiny_models import (
        PLAIN_INNER,
        TEXT_WIDTH,
        Record,
        arrays,
        outer,
        tiny_unet,
    )

    from keras_mdm import MatryoshkaDiffusion
    from keras_mdm.data import image_text_dataset, mixed_dataset
    from keras_mdm.optimizers import Adam

    rng = np.random.default_rng(0)
    text = rng.normal(size=(10, 3, TEXT_WIDTH)).astype("float32")
    groups = {
        str(size): image_text_dataset(
            rng.integers(0, 256, (10, size, size, 3)).astype("uint8"),
            text,
            np.ones((10, 3), "float32"),
            batch_size=rows,
            seed=0,
        )
        for size, rows in ((8, 4), (16, 8))
    }
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        model = MatryoshkaDiffusion(
            tiny_unet([PLAIN_INNER, outer(16)], text_width=TEXT_WIDTH),
            null_text=np.ones((2, TEXT_WIDTH)),
            cond_dropout=0.4,
            times="stratified",
            seed=3,
        )
        optimizer = Adam(1e-3, epsilon=1e-5, clip_norm=0.3)
        model.compile(optimizer=optimizer, micro_batches=micro_batches)
    start = arrays(model.unet.trainable_variables)
    record = Record()
    model.fit(mixed_dataset(groups), epochs=1, steps_per_epoch=3, verbose=0, callbacks=[record])
    names = ("loss", "loss_8", "loss_16", "gradient_norm")
    logs = np.array([[step[name] for name in names] for step in record.logs])
    flat = [
        np.concatenate([np.ravel(value) for value in values])
        for values in (start, arrays(model.unet.trainable_variables), arrays(model.ema.averages))
    ]
    return logs, *flat


def train_phases(strategy, run_dir):
    """The two phases of tests/runs/test_kill.py, shorter; everything in the last checkpoint."""
    from runs.test_progressive import LEVELS, make_dataset, make_model

    from keras_mdm import Phase, fit_progressively
    from keras_mdm.optimizers import SGD

    phases = [
        Phase(LEVELS[:1], 3, batch_size=4, learning_rate=0.1),
        Phase(LEVELS, 3, batch_size=6, learning_rate=0.1),
    ]
    return fit_progressively(
        phases,
        lambda phase: make_model(phase, SGD),
        make_dataset,
        run_dir=run_dir,
        strategy=strategy,
        checkpoint_every=2,
        progress=False,
    )


if __name__ == "__main__":
    from keras_mdm import distribute

    chosen = distribute.strategy()
    if sys.argv[2] == "phases":
        train_phases(chosen, sys.argv[1])
        sys.exit(0)
    found = train(chosen, micro_batches=int(sys.argv[2]))
    index = chosen.cluster_resolver.task_id
    assert distribute.is_chief(chosen) == (index == 0)
    names = ("logs", "start", "end", "averages")
    np.savez(f"{sys.argv[1]}/worker-{index}.npz", **dict(zip(names, found, strict=True)))
