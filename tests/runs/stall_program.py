"""Three steps, and then something that does not end, for tests that send signals."""

import sys
import threading
import time

import numpy as np
import tensorflow as tf
from tiny_models import TEXT_WIDTH, arrays, make_batch, tiny_unet

from keras_mdm import MatryoshkaDiffusion, distribute
from keras_mdm.callbacks import OrderlyStop, StepCallback, StopOnSignal
from keras_mdm.data.python_calls import call_python
from keras_mdm.optimizers import Adam
from keras_mdm.runs import checkpoints
from keras_mdm.runs.snapshot import save_snapshot

WHERE, FOLDER = sys.argv[1:3]
STEPS = 0 if WHERE == "first" else 3


def say(text):
    print(text, flush=True)


def stall():
    say("stalls")
    while WHERE != "blocking":  # Python may be at work elsewhere
        time.sleep(0.05)
    time.sleep(1e6)


def dataset():
    batch = make_batch(np.random.default_rng(0), 2)

    def batches():
        for _ in range(STEPS if WHERE != "callback" else 100):
            yield batch
        stall()

    def late(index):
        if index >= STEPS:
            stall()
        return np.int64(index)

    signature = {key: tf.TensorSpec(value.shape, value.dtype) for key, value in batch.items()}
    if WHERE == "call":
        steps = tf.data.Dataset.range(100)
        steps = steps.map(lambda index: call_python(late, (index,), tf.int64))
        return steps.map(lambda index: batch)
    return tf.data.Dataset.from_generator(batches, output_signature=signature)


class Watch(StepCallback):
    def on_step_end(self, previous_step, logs):
        say(f"step {self.step}")
        if self.step == 3:
            if distribute.is_chief():
                np.savez(f"{FOLDER}/expected.npz", *arrays(self.model.unet.variables))
            if WHERE == "callback":
                say("stalls")
                threading.Event().wait()
            if len(sys.argv) > 3:
                time.sleep(1.0)  # what is read ahead stalls first
                raise SystemExit(5) if sys.argv[3] == "leave" else RuntimeError("an error")


def main():
    strategy = distribute.strategy()
    with strategy.scope():
        unet = tiny_unet(text_width=TEXT_WIDTH)
        model = MatryoshkaDiffusion(unet, null_text=np.ones((2, TEXT_WIDTH)))
        model.compile(optimizer=Adam(1e-3))

    def write(step):
        if distribute.is_chief():
            save_snapshot(model, FOLDER, step, {"phase": 1})
        say("written")

    with OrderlyStop(deadline=1.0, limit=8.0) as stop:
        model.measure_residual(
            tf.data.Dataset.from_tensors(make_batch(np.random.default_rng(0), 2))
        )
        callback = StopOnSignal(
            write, stop=stop, newest=lambda: checkpoints.list_checkpoints(FOLDER)[-1]
        )
        model.fit(
            dataset(), steps_per_epoch=100, epochs=1, verbose=0, callbacks=[callback, Watch()]
        )
    say("went on")


if __name__ == "__main__":
    main()
