"""How the tests of sampling draw and compare pictures."""

import numpy as np

PROMPTS = ["red apple", "blue car", "sun"]


def draw(model, prompts=PROMPTS, **options):
    options = {"steps": 3, "seed": 1, "progress": False, "guidance_scale": 3.0, **options}
    return model.generate(prompts, **options)


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def largest(a, b):
    """Largest difference at any level."""
    return max(float(np.max(np.abs(a[k].astype(float) - b[k].astype(float)))) for k in a)


def scramble_averages(model):
    """Move the averages away from the raw weights, so that a mix-up shows."""
    rng = np.random.default_rng(3)
    for average in model.ema.averages:
        average.assign(np.asarray(average) + 0.02 * rng.normal(size=average.shape))
