"""What an earlier version left on disk: a model file, a run stopped in mid-phase, a SavedModel.

`python tests/golden/earlier.py` makes them with the code of today, which is only of use before a
change that files must survive; packed as `earlier.tar.xz`, and taken up by `tests/test_earlier.py`.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

import keras_mdm
from keras_mdm import LevelSpec, Phase, build_nested_unet, fit_progressively
from keras_mdm.callbacks import StepCallback

HERE = Path(__file__).parent / "earlier"
LEVELS = (
    LevelSpec(4, channels=(8,), blocks=(1,), attention=(0,), groups=4, use_mid_block=False),
    LevelSpec(8, channels=(4, 8), blocks=(1, 1), attention=(0, 0), groups=4),
)
STEPS = 6


def make_model(phase):
    """A tiny class-conditional model of the first levels."""
    unet = build_nested_unet(list(LEVELS[: len(phase.levels)]), num_classes=3, time_width=16)
    model = keras_mdm.MatryoshkaDiffusion(unet, power_emas=(0.1,), seed=4)
    model.compile(keras_mdm.optimizers.Adam(1e-2))
    return model


def make_dataset(phase, start):
    """The same batch of noise pictures at every step."""
    rng, groups = np.random.default_rng(0), {}
    for level, rows in phase.groups.items():
        images = rng.integers(0, 256, (rows, int(level), int(level), 3), dtype=np.uint8)
        groups[level] = {"image": images, "label": np.arange(rows) % 3}
    batch = groups if len(groups) > 1 else groups[phase.levels[-1]]
    return tf.data.Dataset.from_tensors(batch).repeat()


def train(run_dir, callbacks=()):
    """A run of two phases, or what is left of it; the last steps' losses as well."""
    phases = [
        Phase(["4"], STEPS, batch_size=4, learning_rate=1e-2),
        Phase(["4", "8"], STEPS, batch_size=4, learning_rate=1e-2),
    ]
    return fit_progressively(
        phases,
        make_model,
        make_dataset,
        run_dir=run_dir,
        callbacks=lambda context: list(callbacks),
        checkpoint_every=3,
        progress=False,
    )


def pictures(model):
    """A few pictures of raw and averaged weights, float32 by name."""
    found = {}
    for weights in ("raw", "ema", "ema_0.1"):
        images = model.generate(
            labels=[0, 1], steps=4, weights=weights, output="float32", progress=False
        )
        found |= {f"{weights}/{level}": value for level, value in images.items()}
    return found


def served(directory):
    """Pictures of the exported model, float32 by name."""
    signatures = tf.saved_model.load(str(directory)).signatures
    function = signatures.get("scalars", signatures["serving_default"])
    wanted = function.structured_input_signature[1]
    given = {"label": np.array([0, 1]), "seed": 1, "steps": 4, "guidance_scale": 3.0}
    given = {k: tf.cast(v, wanted[k].dtype) for k, v in given.items() if k in wanted}
    return {f"served/{k}": v.numpy().astype("float32") for k, v in function(**given).items()}


class Kill(StepCallback):
    """Ends the process in the middle of the second phase."""

    def on_step_end(self, previous_step, logs):
        if self.step == STEPS + 5:
            raise KeyboardInterrupt


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    whole = train(HERE / "whole")
    found = {f"whole/{name}": value for name, value in pictures(whole).items()}
    whole.save(HERE / "model.keras")
    keras_mdm.export_saved_model(whole, HERE / "saved")
    found |= served(HERE / "saved" / "1")
    try:
        train(HERE / "stopped", [Kill(initial_step=0)])
    except KeyboardInterrupt:
        print("stopped in mid-phase", file=sys.stderr)
    shutil.rmtree(HERE / "whole")
    np.savez_compressed(HERE / "pictures.npz", **found)


if __name__ == "__main__":
    main()
