"""Keras' methods of a model: `fit`, `evaluate`, `train_on_batch`, `test_on_batch`, `export`, and
presets."""

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.training.first_look import LOOKS
from keras_mdm.training.inputs import Inputs, check_ends, unpack
from keras_mdm.training.untuned import untuned_devices


def fit(
    model: Any,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    epochs: int = 1,
    verbose: str | int = "auto",
    callbacks: Any = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    shuffle: bool = True,
    class_weight: Mapping[int, float] | None = None,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    validation_steps: int | None = None,
    validation_batch_size: int | None = None,
    validation_freq: Any = 1,
) -> Any:
    """`keras.Model.fit`, for batches by name and for the data that Keras takes.

    Every sample counts once: batches that are smaller, or do not divide over replicas and
    micro-batches, are filled up with rows of weight 0.

    Arguments that are not listed are those of Keras.

    Args:
        x: a dataset of batches, see the class; or arrays: pictures or clips, or a dict with the
            keys of a batch; or a dataset, `PyDataset` or generator of `(x, y)` or
            `(x, y, sample_weight)`.
        y: for arrays: integer classes, captions, states of texts, or a dict of conditions.
        batch_size: samples of a batch of arrays, over all replicas; 32 unless given.
        validation_split: share of the arrays, at their end, that is held out of training.
        validation_data: as `x`, or a tuple `(x, y)` or `(x, y, sample_weight)` of arrays. A
            dataset must be finite unless `validation_steps` are given.
        shuffle: whether to draw a new order of arrays in every epoch, from the model's seed;
            datasets keep their own order.
        class_weight: weight of every class's samples.
        sample_weight: for arrays: weight of every sample's loss.

    Returns:
        Keras' `History`.

    Raises:
        ValueError: if something is missing, or data does not fit the network, is out of range
            or, for validation, endless.

    Example:

    >>> model.compile("adam")
    >>> history = model.fit(pictures, classes, epochs=2)  # uint8 (n, H, W, 3), int (n,)
    """
    model._assert_compile_called("fit")
    model.check_ready()
    model.refresh()
    inputs = Inputs(model, class_weight)
    if validation_split and validation_data is None:
        (x, y, sample_weight), validation_data = inputs.split(x, y, sample_weight, validation_split)
    source = inputs.batches(x, y, sample_weight, batch_size=batch_size, shuffle=shuffle)
    if validation_data is not None:
        val_x, val_y, val_weight = unpack(validation_data)
        names = {"argument": "validation_data", "steps_name": "validation_steps"}
        check_ends(val_x, validation_steps, **names)
        size = validation_batch_size or batch_size
        validation_data = Inputs(model).batches(val_x, val_y, val_weight, batch_size=size)
    model._looks = LOOKS
    try:
        with untuned_devices():
            return keras.Model.fit(
                model,
                source,
                epochs=epochs,
                verbose=verbose,
                callbacks=callbacks,
                validation_data=validation_data,
                shuffle=bool(shuffle) and isinstance(source, keras.utils.PyDataset),
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_freq=validation_freq,
            )
    finally:
        # Keras tells callbacks only of an orderly end; signal handlers must be given back.
        given = callbacks or ()
        for callback in given if isinstance(given, Sequence) else ():
            if callable(getattr(callback, "restore", None)):
                callback.restore()
        del model._iterator
        model.averages.mark()


def evaluate(
    model: Any,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    verbose: str | int = "auto",
    sample_weight: Any = None,
    steps: int | None = None,
    callbacks: Any = None,
    return_dict: bool = False,
    *,
    weights: str = "ema",
    **kwargs: Any,
) -> Any:
    """`keras.Model.evaluate`; repeated calls draw equal noise, and every sample counts once.

    The losses are those of the data alone, without those of regularizers and layers.

    `y`, `batch_size` and `sample_weight` are as in `fit`; arguments that are not listed are those
    of Keras.

    Args:
        x: as in `fit`; a dataset must be finite unless `steps` are given.
        weights: `"ema"`, `"raw"`, or a power-function average such as `"ema_0.05"`.
        **kwargs: used by Keras inside `fit`.

    Returns:
        The losses, a list or a dict.

    Raises:
        ValueError: as `fit`.
    """
    model._assert_compile_called("evaluate")
    model.check_ready()
    _evaluate_weights(model, weights)
    if not kwargs.get("_use_cached_eval_dataset"):
        check_ends(x, steps, argument="x", steps_name="steps")
        x = Inputs(model).batches(x, y, sample_weight, batch_size=batch_size)
    model._looks = LOOKS
    with untuned_devices():
        return keras.Model.evaluate(
            model,
            x,
            verbose=verbose,
            steps=steps,
            callbacks=callbacks,
            return_dict=return_dict,
            **kwargs,
        )


def _evaluate_weights(model: Any, weights: str) -> None:
    """Choose the weights of the next evaluation, and let it draw the same noise as the last."""
    model.evaluated_weights = model.averages.check(weights)
    model.refresh(contents=weights != "raw")
    model._test_batches.assign(0)


def train_on_batch(
    model: Any,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    return_dict: bool = False,
) -> Any:
    """One optimizer step on one batch.

    Args:
        x: arrays, as in `fit`, of any number of samples; so are `y`, `sample_weight` and
            `class_weight`.
        return_dict: whether to return a dict.

    Returns:
        The step's values, by name or as a list in the order of `metrics_names`.

    Raises:
        ValueError: as `fit`.
    """
    model._assert_compile_called("train_on_batch")
    model.check_ready()
    batch = _one_batch(model, Inputs(model, class_weight), x, y, sample_weight)
    return _on_batch(model, model.make_train_function(), batch, return_dict)


def test_on_batch(
    model: Any,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    return_dict: bool = False,
    *,
    weights: str = "ema",
) -> Any:
    """The losses of one batch; equal batches draw equal noise.

    Args:
        x: arrays, as in `evaluate`, of any number of samples; so are `y` and `sample_weight`.
        return_dict: whether to return a dict.
        weights: as in `evaluate`.

    Returns:
        The losses, by name or as a list.

    Raises:
        ValueError: as `evaluate`.
    """
    model._assert_compile_called("test_on_batch")
    model.check_ready()
    batch = _one_batch(model, Inputs(model), x, y, sample_weight)
    _evaluate_weights(model, weights)
    return _on_batch(model, model.make_test_function(), batch, return_dict)


def predict(model: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """`keras.Model.predict` of the network: its outputs for noisy inputs; `generate` draws.

    Args:
        x: the network's inputs by key, or a dataset of them; further arguments are Keras'.

    Returns:
        The outputs by level name.

    Raises:
        ValueError: if the data is not a dict.
    """
    if not isinstance(x, Mapping | tf.data.Dataset | keras.utils.PyDataset):
        raise checks.error(
            f"`predict` takes the network's inputs, a dict of {list(model.unet.input_names)}",
            fix="draw pictures with generate, or measure the denoising with evaluate",
            x=type(x).__name__,
        )
    return keras.Model.predict(model, x, *args, **kwargs)


def _one_batch(model: Any, inputs: Inputs, x: Any, y: Any, sample_weight: Any) -> Any:
    data = inputs.one_batch(x, y, sample_weight)
    if model.distribute_strategy.num_replicas_in_sync > 1:
        data = model.distribute_strategy.experimental_distribute_dataset(data)
    return iter(data)


def _on_batch(model: Any, function: Any, batch: Any, return_dict: bool) -> Any:
    model.reset_metrics()
    model._looks = 1
    try:
        with untuned_devices():
            logs = function(batch)
    finally:
        del model._iterator
    logs = {k: float(v) for k, v in logs.items() if k != "stop_request"}
    return logs if return_dict else model._flatten_metrics_in_order(logs)


def export(
    model: Any, filepath: Any, format: str = "tf_saved_model", verbose: Any = None, **options: Any
) -> Any:
    """`keras_mdm.export_saved_model`: the sampler with the network inside, for serving.

    Args:
        filepath: directory to write.
        format: `"tf_saved_model"`.
        verbose: whether to print the directory.
        **options: of `export_saved_model`, such as `sampler` and `weights`.

    Returns:
        The directory.

    Raises:
        ValueError: for other formats and signatures, or as `export_saved_model`.
    """
    from keras_mdm.export import export_saved_model

    if format != "tf_saved_model" or options.pop("input_signature", None) is not None:
        raise checks.error(
            "a diffusion model is exported as a SavedModel with the sampler's own signature",
            fix="leave format and input_signature out; model.unet.export writes the network",
            format=format,
        )
    known = inspect.signature(export_saved_model).parameters
    checks.known_keys("export", options, [name for name in known][2:])
    directory = export_saved_model(model, filepath, **options)
    if verbose:
        print(f"Saved the model at {directory}")
    return directory


def save_preset(
    model: Any,
    directory: str | os.PathLike,
    *,
    pictures: Sequence[str | os.PathLike] = (),
    metrics: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the model as a directory that can be published: `model.keras`, a model card, and
    `preset.json` with versions and checksums. See `keras_mdm.release.save_preset`.

    Args:
        directory: must be empty or not exist.
        pictures: files of drawn pictures to show in the card.
        metrics: a report of `evaluate`, as JSON (`report.json`, or `worth.json` of a run).
        overwrite: replace a preset that is there.

    Returns:
        The directory.

    Raises:
        ValueError: if the directory holds anything else, or a picture cannot be read.

    Example:

    >>> model.save_preset("red_apples", pictures=["samples.png"])
    """
    from keras_mdm.release import save_preset as write

    return write(model, directory, pictures=pictures, metrics=metrics, overwrite=overwrite)


def from_preset(cls: type, path: str | os.PathLike) -> Any:
    """Load a model from a preset.

    Args:
        path: a directory written by `save_preset`; `hf://user/name`, at a revision with
            `hf://user/name@revision`; or the directory's address in an object store, such as
            `gs://bucket/name`.

    Returns:
        The model, not compiled.

    Raises:
        ValueError: if files are missing or damaged, a later version wrote them, or the preset holds
            a model of another class.

    Example:

    >>> model = MatryoshkaDiffusion.from_preset("hf://user/red_apples")  # doctest: +SKIP
    """
    from keras_mdm.runs.loading import load_preset

    return load_preset(path, cls)
