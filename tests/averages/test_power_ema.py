"""Power-function averages: their closed form, and any other made of snapshots of two."""

import numpy as np
import pytest
from tiny_models import PLAIN_INNER, TEXT_WIDTH, FakeEncoder, arrays, outer, tiny_unet
from training.test_mixing import as_dataset, mixed_batch

from keras_mdm import MatryoshkaDiffusion
from keras_mdm.averages.power_ema import PowerEMA, combine, exponent_of, inner_product
from keras_mdm.optimizers import SGD
from keras_mdm.runs import checkpoints
from keras_mdm.runs.reconstruct import reconstruct
from keras_mdm.runs.snapshot import restore_snapshot, save_snapshot

pytestmark = pytest.mark.usefixtures("eagerly")


@pytest.mark.parametrize("width", [0.02, 0.05, 0.1, 0.25])
def test_the_exponent_gives_the_width(width):
    """Mean and variance of the profile (gamma + 1) t^gamma on [0, 1], by integration."""
    gamma = exponent_of(width)
    t = (np.arange(400_000) + 0.5) / 400_000
    profile = (gamma + 1.0) * t**gamma
    mean = np.mean(profile * t)
    assert np.sqrt(np.mean(profile * (t - mean) ** 2)) == pytest.approx(width, rel=1e-4)


@pytest.mark.parametrize("width", [0.0, 0.3, "wide"])
def test_widths_that_no_profile_has(width):
    with pytest.raises(ValueError, match="relative width"):
        exponent_of(width)


def follow(widths, weights):
    """The averages after every weight of a sequence."""
    import keras

    variable = keras.Variable(np.zeros(3, "float32"))
    emas = [PowerEMA([variable], width=width) for width in widths]
    found = []
    for step, weight in enumerate(weights):
        variable.assign(weight)
        for ema in emas:
            ema.update(step)
        found.append([np.asarray(ema.averages[0]).astype("float64") for ema in emas])
    return np.array(found)


def test_updates_follow_the_profile():
    """After n updates weight k counts for k^(g+1) - (k-1)^(g+1) over n^(g+1)."""
    weights = np.random.default_rng(0).normal(size=(40, 3))
    gamma = exponent_of(0.1)
    edges = (np.arange(41) / 40.0) ** (gamma + 1.0)
    expected = np.diff(edges) @ weights
    np.testing.assert_allclose(follow([0.1], weights)[-1, 0], expected, rtol=1e-4, atol=1e-6)


def test_inner_products_are_integrals():
    t = (np.arange(200_000) + 0.5) / 200_000 * 9.0
    for t_a, gamma_a, t_b, gamma_b in ((9.0, 3.0, 9.0, 5.5), (4.0, 2.0, 9.0, 6.0)):
        a = np.where(t <= t_a, (gamma_a + 1) * t**gamma_a / t_a ** (gamma_a + 1), 0.0)
        b = np.where(t <= t_b, (gamma_b + 1) * t**gamma_b / t_b ** (gamma_b + 1), 0.0)
        expected = np.mean(a * b) * 9.0
        assert inner_product(t_a, gamma_a, t_b, gamma_b) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("width", "step"),
    [
        (0.07, 2000),
        (0.1, 1500),
        *(pytest.param(width, 2000, marks=pytest.mark.slow) for width in (0.15, 0.2)),
    ],
)
def test_any_average_afterwards_is_the_one_followed(width, step):
    """Within 1e-3 of the directly tracked one, on weights that drift and jitter."""
    rng = np.random.default_rng(1)
    drift = np.linspace(0.0, 3.0, 2000)[:, None] ** np.array([0.5, 1.0, 1.5])
    weights = 5.0 + drift + 0.1 * rng.normal(size=drift.shape)
    found = follow([0.05, 0.1, width], weights)
    snapshots = [(n, size) for n in range(100, 2001, 100) for size in (0.05, 0.1)]
    share, distance = combine(snapshots, step=step, width=width)
    assert share.sum() == pytest.approx(1.0, abs=1e-9) and distance < 0.05
    stored = [found[n - 1, (0.05, 0.1).index(size)] for n, size in snapshots]
    direct = found[step - 1, 2]
    error = np.max(np.abs(share @ np.array(stored) - direct) / np.abs(direct))
    assert error < 1e-3, error
    # Taking the nearest one that is stored would not do.
    assert np.max(np.abs(found[step - 1, 1] - direct) / np.abs(direct)) > 1e-3 or width == 0.1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model with two averages, checkpointed at every step, and a third one followed directly."""
    model = MatryoshkaDiffusion(
        tiny_unet([PLAIN_INNER, outer(16)], text_width=TEXT_WIDTH),
        text_encoder=FakeEncoder(),
        power_emas=(0.05, 0.1, 0.2),
    )
    model.compile(optimizer=SGD(0.05))
    directory = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    steps = [mixed_batch(rng) for _ in range(8)]
    for count in range(8):
        model.fit(as_dataset(steps[count : count + 1]), epochs=1, verbose=0)
        save_snapshot(model, directory, count + 1, {"phase": 1})
    return model, directory


def test_reconstruction_from_checkpoints(trained):
    model, directory = trained
    direct = model.power_emas["ema_0.2"]
    found, distance = reconstruct(directory, width=0.2)
    assert distance < 1e-3  # it is among those that are stored
    for variable, average in zip(direct.variables, direct.averages, strict=True):
        scale = max(1e-3, float(np.max(np.abs(average))))
        np.testing.assert_allclose(found[variable.path], average, atol=1e-3 * scale)
    other, _ = reconstruct(directory, width=0.12, step=6)
    model.set_average(other)
    for variable, average in zip(model.ema.variables, model.ema.averages, strict=True):
        np.testing.assert_array_equal(average, other[variable.path])
    with pytest.raises(ValueError, match="at most 8"):
        reconstruct(directory, width=0.1, step=9)


def test_sampling_and_files_know_all_averages(trained, tmp_path):
    import keras

    model, directory = trained
    options = {"steps": 2, "seed": 0, "progress": False}
    pictures = {
        name: model.generate(["a dog"], weights=name, **options)["16"]
        for name in ("raw", "ema_0.05", "ema_0.2")
    }
    assert np.any(pictures["ema_0.05"] != pictures["raw"])
    assert np.any(pictures["ema_0.05"] != pictures["ema_0.2"])
    with pytest.raises(ValueError, match="'ema_0.05'"):
        model.generate(["a dog"], weights="ema_0.3", **options)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.text_encoder = FakeEncoder()
    again = loaded.generate(["a dog"], weights="ema_0.2", **options)["16"]
    np.testing.assert_array_equal(again, pictures["ema_0.2"])
    # Back into a model of the same kind; without the averages it is another model.
    newest = checkpoints.newest_valid(directory)
    restore_snapshot(loaded, newest)
    for name in model.power_emas:
        for a, b in zip(
            arrays(loaded.power_emas[name].averages),
            arrays(model.power_emas[name].averages),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
    more = MatryoshkaDiffusion(
        tiny_unet([PLAIN_INNER, outer(16)], text_width=TEXT_WIDTH),
        text_encoder=FakeEncoder(),
        power_emas=(0.05, 0.15),
    )
    more.compile(optimizer=SGD(0.05))
    with pytest.raises(ValueError, match="the average 'ema_0.15'"):
        restore_snapshot(more, newest)


def test_checkpoints_without_averages_are_refused(tmp_path):
    with pytest.raises(ValueError, match="power_emas"):
        reconstruct(tmp_path, width=0.1)
