"""Small networks with random weights, and inputs for them."""

import numpy as np

from keras_mdm import LevelSpec, build_nested_unet

# As few layers as a claim needs: most of the time goes into connecting the graphs.
INNER = LevelSpec(8, channels=(32,), blocks=(1,), attention=(1,), heads=4)
LARGER = LevelSpec(16, blocks=(1, 1))
CLIP = LevelSpec(8, 2, blocks=(1, 1))
LARGER_CLIP = LevelSpec(16, 2, blocks=(1, 1))
TEXT = {"text_width": 12, "text_blocks": 1, "time_width": 32}


def randomize(unet, seed=0, scale=0.1):
    """Give every weight a random value: the zeros of the first step would hide everything."""
    rng = np.random.default_rng(seed)
    for variable in unet.weights:
        value = rng.normal(scale=scale, size=variable.shape)
        variable.assign(value + 1.0 if variable.name == "gamma" else value)
    return unet


def small(levels=(), *, random=True, **settings):
    """INNER with more levels around it."""
    unet = build_nested_unet([INNER, *levels], **{"time_width": 32, **settings})
    return randomize(unet) if random else unet


def make_inputs(unet, batch=2, seed=1):
    """Random inputs of every key, text with padding."""
    rng = np.random.default_rng(seed)
    inputs = {
        f"z_{level.name}": rng.normal(size=(batch, *level.input_shape(unet.spec.in_channels)))
        for level in unet.spec.levels
    }
    inputs["time"] = rng.uniform(0, 999, size=batch)
    if unet.spec.text_width:
        inputs["text"] = rng.normal(size=(batch, 4, unet.spec.text_width))
        inputs["text_mask"] = np.arange(4)[None] < 2 + np.arange(batch)[:, None]
    for name in unet.spec.micro_conditions:
        inputs[name] = rng.uniform(0.1, 1.0, size=batch)
    inputs = {name: value.astype("float32") for name, value in inputs.items()}
    if unet.spec.num_classes:
        inputs["label"] = np.arange(batch, dtype="int32") - 1
    return inputs


def only(inputs, unet):
    """The inputs that `unet` takes."""
    return {name: inputs[name] for name in unet.input_names}
