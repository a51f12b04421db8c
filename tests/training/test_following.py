"""What Keras or a user does to a network reaches averages, sampler and file, or is refused."""

import dataclasses

import keras
import numpy as np
import pytest
from tiny_models import (
    PLAIN_INNER,
    THREE_PARTS,
    arrays,
    as_dataset,
    make_batch,
    tiny_unet,
)

from keras_mdm import MatryoshkaDiffusion
from keras_mdm.diffusion import schedules
from keras_mdm.optimizers import Adam

OPTIONS = {"labels": [0, 1], "steps": 2, "guidance_scale": 1.0, "progress": False}


def batches(count=2, rows=2):
    rng = np.random.default_rng(0)
    return as_dataset([make_batch(rng, rows, size=8, classes=3) for _ in range(count)])


def trained_model(**options):
    """A model whose averages differ from its weights."""
    options = {"power_emas": (0.1,), "threshold": "static", **options}
    unet = tiny_unet([PLAIN_INNER], num_classes=3)
    model = MatryoshkaDiffusion(unet, **options)
    model.compile(Adam(1e-2))
    model.fit(batches(), verbose=0)
    return model


def draw(model, weights="ema"):
    return model.generate(**OPTIONS, weights=weights, output="float32")["8"]


def freeze_inner(model):
    model.unet.parts["level_8"].trainable = False


def dense_of(model):
    layers = [e for e in model.unet._flatten_layers() if isinstance(e, keras.layers.Dense)]
    return max(layers, key=lambda layer: layer.kernel.shape[0] * layer.kernel.shape[1])


def noise_like(variable, scale=0.2):
    return scale * np.random.default_rng(1).normal(size=variable.shape).astype("float32")


def freeze(model):
    freeze_inner(model)


def unfreeze(model):
    freeze_inner(model)
    draw(model)
    for part in model.unet.parts.values():
        part.trainable = True


def layer_lora(model):
    layer = dense_of(model)
    layer.enable_lora(4)
    layer.lora_kernel_b.assign(noise_like(layer.lora_kernel_b))


def model_lora(model):
    for path in model.enable_lora(2, levels=["8"], alpha=3.0):
        if path.endswith("_b"):
            (b,) = (v for v in model.unet.weights if v.path == path)
            b.assign(noise_like(b))


def merged_lora(model):
    model_lora(model)
    model.merge_lora()


def set_weights(model):
    weights = model.unet.get_weights()
    model.unet.set_weights([w + noise_like(w, 0.02) for w in weights])


def layer_set_weights(model):
    layer = dense_of(model)
    layer.set_weights([w + noise_like(w) for w in layer.get_weights()])


def assign(model):
    kernel = dense_of(model).kernel
    kernel.assign(np.asarray(kernel) + noise_like(kernel))


def load_weights(model, tmp_path):
    other = tiny_unet([PLAIN_INNER], num_classes=3)
    other.set_weights([w + noise_like(w, 0.02) for w in other.get_weights()])
    other.save_weights(tmp_path / "other.weights.h5")
    model.unet.load_weights(tmp_path / "other.weights.h5")


def set_average(model):
    model.set_average(
        {v.path: np.asarray(v) + noise_like(v, 0.02) for v in model.unet.trainable_variables}
    )


def another_schedule(model):
    create = type(model.process).create
    model.process = create(
        model.unet.levels,
        schedules.get("sigmoid", 1000),
        shift_power=2.0,
        prediction="v",
        use_residual=False,
    )


def bound(model):
    model.output_limit = 0.5


slow = pytest.mark.slow
FOLLOWED = [
    # (operation, weights whose pictures it changes)
    (freeze, ()),
    pytest.param(unfreeze, (), marks=slow),
    pytest.param(layer_lora, ("ema", "raw"), marks=slow),
    pytest.param(model_lora, ("ema", "raw"), marks=slow),
    pytest.param(merged_lora, ("ema", "raw"), marks=slow),
    pytest.param(set_weights, ("ema", "raw"), marks=slow),
    pytest.param(layer_set_weights, ("ema", "raw"), marks=slow),
    pytest.param(assign, ("ema", "raw"), marks=slow),
    pytest.param(load_weights, ("ema", "raw"), marks=slow),
    (set_average, ("ema",)),
    pytest.param(another_schedule, ("ema", "raw"), marks=slow),
    pytest.param(bound, ("ema", "raw"), marks=slow),
]


@pytest.mark.parametrize(
    ("operation", "changes"), FOLLOWED, ids=lambda e: getattr(e, "__name__", "")
)
def test_generate_operate_generate_save_load_generate(operation, changes, tmp_path):
    model = trained_model()
    names = ("ema", "raw")
    before = {name: draw(model, name) for name in names}
    assert np.max(np.abs(before["ema"] - before["raw"])) > 1e-4
    operation(model, tmp_path) if operation is load_weights else operation(model)
    after = {name: draw(model, name) for name in names}
    for name in names:
        moved = np.max(np.abs(after[name] - before[name]))
        assert moved > 1e-3 if name in changes else moved == 0.0, (name, moved)
    if operation is assign:  # what was replaced is what the averages stand for now
        kernel = dense_of(model).kernel
        np.testing.assert_array_equal(model.ema.by_path()[kernel.path], kernel)
    if operation in (set_weights, load_weights):
        np.testing.assert_array_equal(after["ema"], after["raw"])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for name in names:
        np.testing.assert_allclose(draw(loaded, name), after[name], atol=2e-5)
        np.testing.assert_array_equal(draw(model, name), after[name])
    for (path, old), new in zip(
        model.averages.power["ema_0.1"].by_path().items(),
        loaded.averages.power["ema_0.1"].averages,
        strict=False,
    ):
        if operation not in (layer_lora, model_lora):
            np.testing.assert_array_equal(old, new, err_msg=path)


def test_a_fit_after_lora_moves_only_lora_and_its_averages():
    model = trained_model()
    paths = set(model.enable_lora(2))
    kept = {v.path: np.asarray(v).copy() for v in model.unet.weights if v.path not in paths}
    model.fit(batches(2), verbose=0)
    for variable in model.unet.weights:
        if variable.path in kept:
            np.testing.assert_array_equal(variable, kept[variable.path])
    # B began at 0, and so did its average: after two updates with d = 1/10 and 2/11 it is near.
    averages = model.ema.by_path()
    moved = [v for v in model.unet.weights if v.path.endswith("lora_kernel_b")]
    assert moved and all(np.any(np.asarray(v)) for v in moved)
    assert all(np.any(np.asarray(averages[v.path])) for v in moved)
    held = [v.path for v in model.optimizer._trainable_variables]
    assert set(held) == paths
    slots = sum(np.prod(v.shape) for v in model.optimizer.variables if v.shape)
    added = sum(np.prod(v.shape) for v in model.unet.weights if v.path in paths)
    # Two moments, the updates, skips and scaling, and three numbers.
    assert slots == 2 * added + len(paths) + 2 + 2 + 3


@pytest.mark.slow
def test_lora_is_trained_saved_merged_and_gives_the_same_pictures(tmp_path):
    model = trained_model(ema_decay=0.5)
    frozen = model.unet.parts["class_embedding"]
    frozen.trainable = False
    model.enable_lora(2, alpha=4.0)
    model.fit(batches(3), verbose=0)
    pictures = {name: draw(model, name) for name in model.averages.names}
    assert np.max(np.abs(pictures["ema"] - pictures["raw"])) > 1e-3
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not [v for v in loaded.unet.weights if "lora" in v.path]
    model.merge_lora()
    for each in (loaded, model):
        for name, picture in pictures.items():
            np.testing.assert_allclose(draw(each, name), picture, atol=2e-5)
        flags = {v.path: v.trainable for v in each.unet.weights}
        assert {p for p, f in flags.items() if not f} == {v.path for v in frozen.weights}
        assert [v.path for v in each.unet.trainable_variables] == [p for p, f in flags.items() if f]
        each.fit(batches(1), verbose=0)
    assert int(loaded.optimizer.iterations.numpy()) == 2 + 3 + 1
    with pytest.raises(ValueError, match="must have LoRA" + THREE_PARTS):
        model.merge_lora()


def test_lora_arguments():
    model = trained_model()
    for given in ({"levels": ["64"]}, {"levels": "8"}, {"rank": 0}):
        with pytest.raises(ValueError, match=THREE_PARTS):
            model.enable_lora(**{"rank": 2, **given})
    model.enable_lora(2)
    with pytest.raises(ValueError, match="does not adapt yet" + THREE_PARTS):
        model.enable_lora(2)
    with pytest.raises(ValueError, match="without LoRA" + THREE_PARTS):
        trained_model().start_from(model)


@pytest.mark.parametrize(
    "where", ["model", "layer", *(pytest.param(w, marks=slow) for w in ("network", "policy"))]
)
def test_quantization_is_refused(where, tmp_path):
    model = trained_model()
    before = draw(model)
    match = "quantized networks can be neither averaged, trained nor saved here" + THREE_PARTS
    if where in ("model", "network"):
        with pytest.raises(ValueError, match=match):
            (model if where == "model" else model.unet).quantize("int8")
        np.testing.assert_array_equal(draw(model), before)
        return
    if where == "layer":
        dense_of(model).quantize("int8")
    else:
        dense_of(model).dtype_policy = "int8_from_float32"
    for use in (
        lambda: draw(model),
        lambda: draw(model, "raw"),
        lambda: model.fit(batches(1), verbose=0),
        lambda: model.evaluate(batches(1), verbose=0),
        lambda: model.save(tmp_path / "model.keras"),
        lambda: model.cut("8"),
    ):
        with pytest.raises(ValueError, match=match):
            use()


def test_another_dtype_policy_is_refused():
    model = trained_model()
    draw(model)
    for layer in (dense_of(model), model.unet):
        policy, layer.dtype_policy = layer.dtype_policy, "mixed_bfloat16"
        with pytest.raises(ValueError, match="built with"):
            draw(model)
        layer.dtype_policy = policy
        draw(model)


def test_a_process_that_no_option_makes_is_refused():
    model = trained_model()
    linear = schedules.get("linear", 1000)
    with pytest.raises(ValueError, match="that options can make"):
        model.process = dataclasses.replace(model.process, schedules={"16": linear})
    draw(model)
    before = draw(model)
    model.process.schedules["8"] = linear  # past the setter
    assert np.max(np.abs(draw(model) - before)) > 1e-3
    assert model.get_config()["schedule"] == linear.get_config()


def test_options_of_training_are_traced_again():
    """Losses of a step depend on them, and Keras keeps the step that it has."""
    model = trained_model()
    first = model.evaluate(batches(), return_dict=True, verbose=0)["loss"]
    model.loss_weighting = "sigmoid"
    assert model.evaluate(batches(), return_dict=True, verbose=0)["loss"] != first
    model.loss_weighting = "none"
    assert model.evaluate(batches(), return_dict=True, verbose=0)["loss"] == first
    weights = arrays(model.unet.weights)
    model.optimizer.set_learning_rate_factors((v, 0.0) for v in model.unet.weights[3:])
    model.fit(batches(), verbose=0)
    for row, (old, new) in enumerate(zip(weights, arrays(model.unet.weights), strict=True)):
        assert np.any(old != new) == (row < 3), row


def test_options_that_live_elsewhere_are_refused_by_their_old_name():
    model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]))
    for name, value in (("schedule", "linear"), ("prediction", "eps"), ("ema_decay", 0.5)):
        with pytest.raises(ValueError, match=rf"`{name}` is chosen when .+{THREE_PARTS}"):
            setattr(model, name, value)
        assert not hasattr(model, name)


def test_another_decay_is_traced_again_and_saved():
    model = trained_model()
    model.ema.decay, model.ema.warmup = 0.0, False
    model.fit(batches(count=1), verbose=0)  # the average becomes the weight
    for variable, average in model.averages.replacing("ema"):
        np.testing.assert_allclose(average, variable, atol=1e-6)
    config = model.get_config()
    assert (config["ema_decay"], config["ema_warmup"]) == (0.0, False)


def test_an_optimizer_of_keras_that_does_not_know_new_weights_is_named():
    model = trained_model()
    model.compile(keras.optimizers.Adam(1e-3))
    dense_of(model).enable_lora(2)
    with pytest.raises(ValueError, match="compile the model again"):
        model.fit(batches(1), verbose=0)
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(batches(1), verbose=0)
    model.unet.trainable = False
    with pytest.raises(ValueError, match="must be trainable" + THREE_PARTS):
        model.fit(batches(1), verbose=0)


def test_weights_changed_after_single_steps_are_noticed_too():
    model = trained_model()
    step, iterator = model.make_train_function(), iter(batches(2))
    step(iterator)
    step(iterator)
    assert model.averages.age == 4
    set_weights(model)
    np.testing.assert_array_equal(draw(model), draw(model, "raw"))


def test_weights_changed_after_loading_are_noticed(tmp_path, capsys):
    trained_model().save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    kernel = dense_of(model).kernel
    others = {p: np.asarray(a).copy() for p, a in model.ema.by_path().items() if p != kernel.path}
    assign(model)
    draw(model)
    assert f"1 weights were changed outside training ({kernel.path})" in capsys.readouterr().err
    for path, average in others.items():  # of exactly those that were changed
        np.testing.assert_array_equal(model.ema.by_path()[path], average)
    draw(model)
    assert not capsys.readouterr().err


@pytest.mark.slow
def test_two_replicas_freeze_and_adapt(two_replicas):
    """As one device: the same losses, weights and averages."""
    ends = []
    for strategy in (None, two_replicas):
        keras.utils.set_random_seed(0)
        if strategy is None:
            model = trained_model()
        else:
            with strategy.scope():
                model = trained_model()
        freeze_inner(model)
        model.fit(batches(1, rows=4), verbose=0)
        frozen = arrays(model.unet.parts["class_embedding"].variables)
        for variable in frozen:
            assert np.all(np.isfinite(variable))
        model.enable_lora(2)
        for variable in model.unet.weights:
            if variable.path.endswith("lora_kernel_a"):
                variable.assign(noise_like(variable))
        losses = model.fit(batches(2, rows=4), verbose=0).history["loss"]
        ends.append((losses, arrays(model.unet.weights), arrays(model.ema.averages), draw(model)))
    for one, two in zip(*(end[1] + end[2] for end in ends), strict=True):
        np.testing.assert_allclose(two, one, atol=1e-4)
    np.testing.assert_allclose(ends[1][0], ends[0][0], rtol=1e-4)
    np.testing.assert_allclose(ends[1][3], ends[0][3], atol=5e-3)
