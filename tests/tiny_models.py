"""The smallest networks that have every kind of part, and batches for them."""

import numpy as np
import tensorflow as tf

from keras_mdm import LevelSpec, build_nested_unet
from keras_mdm.callbacks import StepCallback

TEXT_WIDTH = 6
THREE_PARTS = r"\. Received: .+\. To fix it: .+\.$"

INNER = LevelSpec(
    8,
    channels=(32,),
    blocks=(1,),
    attention=(1,),
    heads=1,
    groups=8,
    attention_ffn=False,
    use_mid_block=False,
)
PLAIN_INNER = LevelSpec(
    8, channels=(16,), blocks=(1,), attention=(0,), groups=8, use_mid_block=False
)


def outer(size, frames=None):
    return LevelSpec(size, frames, channels=(16, 8), blocks=(1, 1), attention=(0, 0), groups=4)


CLIP = LevelSpec(
    8,
    4,
    channels=(8, 8, 16),
    blocks=(1, 1, 1),
    attention=(0, 0, 0),
    temporal_attention=(0, 0, 0),
    groups=4,
)


def tiny_unet(levels=(INNER, outer(16)), *, scramble=True, **options):
    """A network without zeros at the start (unless asked for), so that every branch matters."""
    options = {"text_projection": None, "text_blocks": 0, "time_width": 32, **options}
    unet = build_nested_unet(list(levels), **options)
    if scramble:
        rng = np.random.default_rng(0)
        for variable in unet.trainable_variables:
            value = np.asarray(variable)
            variable.assign(value + 0.05 * rng.normal(size=value.shape).astype("float32"))
    return unet


def make_batch(rng, rows, *, size=16, tokens=3, classes=None, text=True):
    batch = {"image": rng.integers(0, 256, (rows, size, size, 3)).astype("uint8")}
    if classes is not None:
        batch["label"] = rng.integers(0, classes, rows).astype("int32")
    elif text:
        batch["text"] = rng.normal(size=(rows, tokens, TEXT_WIDTH)).astype("float32")
        batch["text_mask"] = np.ones((rows, tokens), "float32")
        batch["text_mask"][::2, -1] = 0.0
    return batch


def as_dataset(batches):
    signature = {key: tf.TensorSpec(value.shape, value.dtype) for key, value in batches[0].items()}
    dataset = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(len(batches)))


def arrays(variables):
    return [np.asarray(variable).copy() for variable in variables]


class Record(StepCallback):
    """Losses, gradient norms and, if asked for, weights after every execution."""

    def __init__(self, *, weights=False):
        super().__init__()
        self.logs, self.weights, self._keep = [], [], weights

    def on_step_end(self, previous_step, logs):
        self.logs.append({key: float(value) for key, value in logs.items()})
        if self._keep:
            self.weights.append(arrays(self.model.unet.trainable_variables))


class FakeEncoder:
    """States that depend on the letters of a prompt only."""

    width, length = TEXT_WIDTH, 4

    def __init__(self, name="fake"):
        self.identity = {"name": name, "length": self.length}
        self.calls = []

    def encode(self, texts):
        self.calls.append(list(texts))
        states = np.zeros((len(texts), self.length, self.width), "float32")
        mask = np.zeros((len(texts), self.length), "float32")
        for row, text in enumerate(texts):
            words = text.split()[: self.length] or [""]
            for column, word in enumerate(words):
                rng = np.random.default_rng([ord(letter) for letter in word] or 0)
                states[row, column] = rng.normal(size=self.width)
                mask[row, column] = 1.0
        return states, mask

    def null(self):
        states, mask = self.encode([""])
        self.calls.pop()
        return states[0, :1], mask[0, :1]


class Colours:
    """Mean colours of four quarters: a small feature network."""

    name, width = "quarters", 12

    def __call__(self, images):
        count, height, width, _ = images.shape
        cut = images.reshape(count, 2, height // 2, 2, width // 2, 3)
        return (cut.mean((2, 4)).reshape(count, self.width) / 64).astype("float32")


class MeanColour:
    """The mean colour: a feature network that is smaller still."""

    name, width = "mean colour", 3

    def __call__(self, images):
        return images.mean((1, 2)).astype("float32") / 64
