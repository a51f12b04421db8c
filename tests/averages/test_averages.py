"""Averages have their own age, cover frozen weights, and are named alike everywhere."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import PLAIN_INNER, arrays, tiny_unet
from training.test_following import OPTIONS, batches, dense_of, draw, freeze_inner, trained_model

import keras_mdm as mdm
from keras_mdm import MatryoshkaDiffusion, export_saved_model
from keras_mdm.cli.main import main
from keras_mdm.optimizers import Adam, Optimizer
from keras_mdm.runs.snapshot import load_snapshot, restore_snapshot, save_snapshot

pytestmark = pytest.mark.usefixtures("eagerly")


def gap(model):
    return {v.path: np.asarray(v) - a for v, a in model.ema.by_path().items()}


@pytest.mark.parametrize(
    "through", ["compile", pytest.param("file", marks=pytest.mark.slow), "checkpoint"]
)
def test_a_new_optimizer_continues_the_average(through, tmp_path):
    """The average keeps d = (1 + n) / (10 + n) of itself, n being its own age."""
    model = trained_model()  # two steps
    if through == "file":
        model.save(tmp_path / "model.keras")
        model = mdm.load(tmp_path / "model.keras")
    elif through == "checkpoint":
        model = load_snapshot(save_snapshot(model, tmp_path, 2, {}))
    assert model.averages.age == 2
    before = {path: np.asarray(a).copy() for path, a in model.ema.by_path().items()}
    model.compile(Adam(1e-3))
    model.fit(batches(1), verbose=0)
    d = 3.0 / 12.0
    for variable, average in zip(model.ema.variables, model.ema.averages, strict=True):
        wanted = d * before[variable.path] + (1 - d) * np.asarray(variable)
        np.testing.assert_allclose(average, wanted, atol=1e-6, err_msg=variable.path)


@pytest.mark.parametrize("when", [pytest.param("before", marks=pytest.mark.slow), "after"])
def test_frozen_layers_survive_file_and_checkpoint(when, tmp_path):
    unet = tiny_unet([PLAIN_INNER], num_classes=3)
    frozen = unet.parts["level_8"]
    if when == "before":
        frozen.trainable = False
    model = MatryoshkaDiffusion(unet, ema_decay=0.5)
    model.compile(Adam(1e-2))
    model.fit(batches(), verbose=0)
    if when == "after":
        frozen.trainable = False
        unet.parts["level_8_embedding"].variables[0].trainable = False  # of a layer that is not
    assert len(model.ema.averages) == len(unet.weights)
    pictures = {name: draw(model, name) for name in ("ema", "raw")}
    model.save(tmp_path / "model.keras")
    restored = load_snapshot(save_snapshot(model, tmp_path, 2, {}))
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    flags = [v.trainable for v in unet.weights]
    assert not all(flags) and any(flags)
    for other in (loaded, restored):
        assert [v.trainable for v in other.unet.weights] == flags
        moving = [v.path for v in unet.trainable_variables]
        assert [v.path for v in other.unet.trainable_variables] == moving
        assert not other.unet.parts["level_8"].trainable
        for name, picture in pictures.items():
            np.testing.assert_array_equal(draw(other, name), picture)
    saved, found = model.optimizer.state(), loaded.optimizer.state()
    assert saved.keys() == found.keys() and int(found["iterations"]) == 2
    for key, value in saved.items():
        np.testing.assert_array_equal(value, found[key], err_msg=key)
    held = arrays(frozen.weights)
    ends = []
    for each in (model, loaded):
        each.fit(batches(1), verbose=0)
        ends.append(arrays(each.unet.weights) + arrays(each.ema.averages))
    for a, b in zip(*ends, strict=True):
        np.testing.assert_array_equal(a, b)
    for old, new in zip(held, frozen.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    # Thawed, it moves again.
    loaded.unet.trainable = True
    loaded.fit(batches(1), verbose=0)
    moved = arrays(loaded.unet.parts["level_8"].weights)
    assert all(np.any(a != b) for a, b in zip(held, moved, strict=True))


@pytest.mark.slow
def test_every_name_of_weights_is_exported(tmp_path, capsys):
    model = trained_model()
    model.unet.parts["class_embedding"].trainable = False
    model.save(tmp_path / "model.keras")
    assert model.averages.names == ("ema", "raw", "ema_0.1")
    for name in model.averages.names:
        target = tmp_path / f"export-{name}"
        assert main(["export", str(tmp_path / "model.keras"), str(target), "--weights", name]) == 0
        served = tf.saved_model.load(str(target / "1")).signatures["scalars"]
        found = served(
            label=tf.constant(OPTIONS["labels"]),
            steps=tf.constant(OPTIONS["steps"]),
            guidance_scale=tf.constant(1.0),
            seed=tf.constant(0, tf.int64),
        )["8"].numpy()
        wanted = model.generate(**OPTIONS, weights=name)["8"]
        assert np.max(np.abs(found.astype(int) - wanted.astype(int))) <= 1
        # And by all the others that take a name.
        loss = model.evaluate(batches(), weights=name, verbose=0, return_dict=True)["loss"]
        assert np.isfinite(loss)
        np.testing.assert_array_equal(draw(model.cut("8"), name), draw(model, name))
        guided = model.generate(**{**OPTIONS, "guidance_scale": 2.0}, autoguidance=name)
        weaker = model.generate(**{**OPTIONS, "guidance_scale": 2.0}, autoguidance=(model, name))
        np.testing.assert_array_equal(guided["8"], weaker["8"])
    for use in (
        lambda: model.generate(**OPTIONS, weights="ema_0.3"),
        lambda: model.generate(**OPTIONS, autoguidance="ema_0.3"),
        lambda: model.generate(**OPTIONS, autoguidance=(model, "ema_0.3")),
        lambda: model.evaluate(batches(), weights="ema_0.3"),
        lambda: model.network("ema_0.3"),
        lambda: export_saved_model(model, tmp_path / "x", weights="ema_0.3"),
    ):
        with pytest.raises(ValueError, match="one of 'ema', 'raw', 'ema_0.1'"):
            use()


def test_lora_in_the_checkpoints_of_a_run_comes_back_bit_for_bit(tmp_path):
    def make():
        model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER], num_classes=3), ema_decay=0.5)
        model.enable_lora(2, alpha=3.0)
        model.compile(Adam(1e-2))
        return model

    model = make()
    model.fit(batches(), verbose=0)
    path = save_snapshot(model, tmp_path, 2, {})
    again, alone = make(), load_snapshot(path)
    restore_snapshot(again, path)
    alone.compile(Adam(1e-2))
    for other in (again, alone):
        assert [v.path for v in other.unet.trainable_variables] == [
            v.path for v in model.unet.trainable_variables
        ]
        np.testing.assert_array_equal(draw(other), draw(model))
    for each in (model, again):
        each.fit(batches(1), verbose=0)
    for a, b in zip(
        arrays(model.unet.weights)
        + arrays(model.ema.averages)
        + list(model.optimizer.state().values()),
        arrays(again.unet.weights)
        + arrays(again.ema.averages)
        + list(again.optimizer.state().values()),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("frozen", [False, True])
def test_files_and_checkpoints_of_earlier_versions(frozen, tmp_path, monkeypatch):
    """They number their variables, and average and count what was trainable."""
    model = trained_model(power_emas=())
    picture = draw(model)
    layer = model.unet.parts["level_8_embedding"]
    kept = {v.path for v in layer.weights} if frozen else set()

    def save(self, store):
        averages = self.ema.by_path()
        for number, path in enumerate(path for path in averages if path not in kept):
            store[str(number)] = averages[path]

    def config(self, config=MatryoshkaDiffusion.get_config):
        return {**config(self), "ema_starts": [1] * (len(self.ema.averages) - len(kept))}

    with monkeypatch.context() as patch:
        patch.setattr(MatryoshkaDiffusion, "save_own_variables", save)
        patch.setattr(MatryoshkaDiffusion, "get_config", config)
        patch.delattr(Optimizer, "save_own_variables")
        model.save(tmp_path / "model.keras")
    for path in kept:  # frozen from the start, an average is the weight
        (row,) = (i for i, v in enumerate(model.ema.variables) if v.path == path)
        model.ema.restart([row], 0)
    picture = draw(model)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    alone = mdm.load(tmp_path / "model.keras")
    for each in (loaded, alone):
        np.testing.assert_array_equal(draw(each), picture)
        assert each.averages.age == 2
        want = [0 if v.path in kept else 1 for v in each.ema.variables]
        assert each.ema.starts == want
    assert int(loaded.optimizer.iterations.numpy()) == 2
    # A checkpoint without the age, and without averages of what was frozen.
    groups = {name: dict(ema.state()) for name, ema in model.averages.by_name.items()}
    for path in kept:
        del groups["ema"][f"average/{path}"], groups["ema"][f"start/{path}"]
    from keras_mdm.runs import checkpoints
    from keras_mdm.runs.snapshot import _weights, describe_model

    groups |= {"model": _weights(model), "optimizer": model.optimizer.state()}
    path = checkpoints.save(tmp_path, 2, groups, {"seed": 0, "model": describe_model(model)})
    for each in (load_snapshot(path), loaded):
        if each is loaded:
            restore_snapshot(each, path)
        assert each.averages.age == 2
        np.testing.assert_array_equal(draw(each), picture)


def test_an_average_that_is_set_by_hand_stays():
    """Whoever changes weights and averages together knows what the averages are."""
    model, other = trained_model(), trained_model(seed=3)
    assert np.any(draw(model) != draw(other))
    for mine, theirs in zip(model.weights, other.weights, strict=True):
        mine.assign(theirs.value)
    np.testing.assert_array_equal(draw(model), draw(other))
    fresh = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER], num_classes=3), power_emas=(0.1,))
    fresh.threshold = "static"
    fresh.set_weights(other.get_weights())
    np.testing.assert_array_equal(draw(fresh), draw(other))
    assert dense_of(fresh).kernel.shape and freeze_inner(fresh) is None
