"""On the embedded drawings: halves are alike, another style is not, blurred drawings even less."""

import numpy as np
import pytest
import tensorflow as tf

from keras_mdm import assets, data
from keras_mdm.evaluation import EfficientNetLite0, evaluate, measured

KERNEL = "kernel distance x 1000"


def drawings(asset, style, request):
    if not assets.is_fetched(asset):
        if not request.config.getoption("--network"):
            pytest.skip(f"needs `keras-mdm assets fetch {asset}`, or --network")
        assets.fetch(asset, progress=False)
    return data.load_emoji(64, concepts=300, style=style, progress=False).images[64]


def blurred(images):
    small = tf.image.resize(tf.cast(images, tf.float32), (14, 14), "area")
    large = tf.image.resize(small, (64, 64), "bicubic")
    return tf.cast(tf.clip_by_value(tf.round(large), 0.0, 255.0), tf.uint8).numpy()


@pytest.fixture(scope="module")
def halves(request):
    if not assets.is_fetched("efficientnet-lite0"):
        pytest.skip("needs `keras-mdm assets fetch efficientnet-lite0`")
    images = drawings("emoji", "twemoji", request)
    order = np.random.default_rng(0).permutation(len(images))
    features = EfficientNetLite0()
    return features, measured(features, images[order[:150]]), images[order[150:]]


def row_of(halves, images):
    features, real, _ = halves
    options = {"features": features, "measures": ("kernel",)}
    report = evaluate({"64": images}, {"64": real}, **options)
    return next(row for row in report.rows if row.measure == KERNEL)


@pytest.mark.network
def test_halves_are_alike_and_blurred_drawings_are_not(halves):
    alike, apart = row_of(halves, halves[2]), row_of(halves, blurred(halves[2]))
    assert abs(alike.value) < 3 * alike.error
    assert abs(alike.floor) < 20
    assert apart.value > 100 > 20 * alike.error


@pytest.mark.network
def test_another_style_lies_between(halves, request):
    other = row_of(halves, drawings("openmoji", "openmoji", request)[:150])
    assert 30 < other.value < row_of(halves, blurred(halves[2])).value
