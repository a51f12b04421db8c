"""The smallest autoencoder that has every kind of layer."""

import numpy as np

from keras_mdm.latents import KLAutoencoder

SIZES = {"width": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4}


def tiny(factor=2, *, channels=3, scramble=True, **options):
    """An autoencoder without zeros at the start, so that every layer matters."""
    codec = KLAutoencoder(factor, channels=channels, **{**SIZES, **options})
    if scramble:
        rng = np.random.default_rng(0)
        for variable in codec.trainable_variables:
            value = np.asarray(variable)
            variable.assign(value + 0.05 * rng.normal(size=value.shape).astype("float32"))
    return codec


def pictures(count=6, size=8, channels=3, seed=0):
    """Random uint8 pictures."""
    shape = (count, size, size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape).astype("uint8")
