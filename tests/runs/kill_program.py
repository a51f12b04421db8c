"""A run of two phases that prints every step, for tests that kill it."""

import os
import sys
import time

from keras_mdm import Phase, distribute, fit_progressively
from keras_mdm.callbacks import StepCallback
from runs.test_progressive import LEVELS, make_dataset, make_model


class Say(StepCallback):
    """Prints the step, and gives whoever reads it the time to act in the middle of things."""

    def on_step_end(self, previous_step, logs):
        print(f"step {self.step}", flush=True)
        time.sleep(0.02)


def main():
    strategy = distribute.strategy()
    print(f"process {os.getpid()}", flush=True)
    phases = [
        Phase(LEVELS[:1], 24, batch_size=4, learning_rate=1e-2),
        Phase(LEVELS, 24, batch_size=6, learning_rate=1e-2),
    ]
    fit_progressively(
        phases,
        make_model,
        make_dataset,
        run_dir=sys.argv[1],
        strategy=strategy,
        callbacks=lambda context: [Say(initial_step=context.global_step)],
        checkpoint_every=1,
        progress=False,
    )
    print("done", flush=True)


if __name__ == "__main__":
    main()
