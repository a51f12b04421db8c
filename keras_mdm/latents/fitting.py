"""The training of a `KLAutoencoder`: its loss, its steps on all replicas, and what Keras saves."""

import functools
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_mdm import checks, randomness
from keras_mdm.optimizers import Optimizer
from keras_mdm.pictures import pixels
from keras_mdm.tracing import SharedTrace, forgotten_gradients, share_repeats
from keras_mdm.training.compiling import optimizer_of, refuse
from keras_mdm.training.inputs import distributed
from keras_mdm.training.untuned import untuned_devices

LOSSES = ("loss", "loss_reconstruction", "loss_kl")
LOGGED = (*LOSSES, "learning_rate", "gradient_norm", "skipped_in_a_row")
DIFFERENCES = {"l1": tf.abs, "l2": tf.square}


def check_pictures(model: Any, shape: Any) -> None:
    """Raise unless pictures of this shape have the channels and sides of an autoencoder.

    Args:
        model: a `KLAutoencoder`.
        shape: of a batch; unknown sides pass.
    """
    shape, factor = tuple(shape), model.factor
    fits = len(shape) == 4 and shape[-1] in (None, model.image_channels)
    if not fits or any(side is not None and side % factor for side in shape[1:3]):
        raise checks.error(
            f"pictures must be (B, H, W, {model.image_channels}) with sides that are multiples of "
            f"{factor}",
            fix="resize them, or choose another autoencoder",
            shape=shape,
        )


def losses(model: Any, images: tf.Tensor, noise: tf.Tensor | None) -> dict[str, tf.Tensor]:
    """Losses of every picture, `(B,)` by name, per value of the picture.

    Args:
        model: a compiled `KLAutoencoder`.
        images: `(B, H, W, C)` in [-1, 1].
        noise: of the codes' shape; `None` decodes the mean.
    """
    mean, log_variance = model._posterior(images)
    codes = mean if noise is None else mean + tf.exp(0.5 * log_variance) * noise
    difference = DIFFERENCES[model.reconstruction](model._reconstructed(codes) - images)
    reconstruction = tf.reduce_mean(difference, axis=(1, 2, 3))
    # The divergence of N(mean, variance) from N(0, 1), in closed form.
    divergence = 0.5 * (tf.square(mean) + tf.exp(log_variance) - 1.0 - log_variance)
    values = tf.cast(tf.reduce_prod(tf.shape(images)[1:]), tf.float32)
    kl = tf.reduce_sum(divergence, axis=(1, 2, 3)) / values
    loss = reconstruction + model.kl_weight * kl
    return {"loss": loss, "loss_reconstruction": reconstruction, "loss_kl": kl}


def _read(batch: Any) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Pictures in [-1, 1], and their positions in the training if the batch tells them."""
    batch = batch[0] if isinstance(batch, tuple) else batch
    images = batch["image"] if isinstance(batch, Mapping) else batch
    images = pixels.to_unit(images) if images.dtype == tf.uint8 else tf.cast(images, tf.float32)
    return images, batch.get("sample") if isinstance(batch, Mapping) else None


def _positions(step: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Positions of a replica's rows, counted from the step, `(B,)` int64."""
    context = tf.distribute.get_replica_context()
    rows = tf.shape(images, tf.int64)[0]
    replica = tf.cast(context.replica_id_in_sync_group, tf.int64)
    return (step * context.num_replicas_in_sync + replica) * rows + tf.range(rows)


def _gradients(
    model: Any, step: tf.Tensor, images: tf.Tensor, samples: tf.Tensor
) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
    """Mean losses of a replica's pictures, and gradients whose sum over replicas is that of the
    whole batch."""
    height, width = (side // model.factor for side in images.shape[1:3])
    shapes = {"code": (height, width, model.channels)}
    key = randomness.key(model.seed, "posterior", step)
    noise = randomness.normal_per_sample(key, samples, shapes)["code"]
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        means = {name: _mean(value) for name, value in losses(model, images, noise).items()}
        # Gradients are summed over replicas. Scaled inside the tape, or they would double.
        replicas = model.distribute_strategy.num_replicas_in_sync
        scaled = model.optimizer.scale_loss(means["loss"] / replicas)
    gradients = tape.gradient(scaled, [variable.value for variable in variables])
    return means, [tf.convert_to_tensor(gradient) for gradient in gradients]


def _mean(values: tf.Tensor) -> tf.Tensor:
    """Mean over the rows; zero of none."""
    return tf.math.divide_no_nan(tf.reduce_sum(values), tf.cast(tf.size(values), values.dtype))


def shared_gradients(model: Any) -> SharedTrace:
    """`_gradients`, traced once for all replicas."""
    return SharedTrace(
        functools.partial(_gradients, model),
        lambda: [*model.variables, *model.optimizer.variables],
    )


def train_step(model: Any, batch: Any) -> dict[str, tf.Tensor]:
    """One optimizer step on this replica's part of a batch; returns the step's values."""
    share_repeats()
    step = tf.identity(tf.convert_to_tensor(model.optimizer.iterations))
    images, samples = _read(batch)
    if samples is None:
        samples = _positions(step, images)
    means, gradients = model._shared_gradients(step, images, tf.cast(samples, tf.int64))
    rate = tf.cast(model.optimizer.learning_rate, tf.float32)
    model.optimizer.apply(gradients, model.trainable_variables)
    if isinstance(model.optimizer, Optimizer):
        norm = tf.convert_to_tensor(model.optimizer.gradient_norm)
        in_a_row = tf.cast(model.optimizer.skipped_in_a_row, tf.float32)
    else:
        norm, in_a_row = tf.linalg.global_norm(gradients), tf.zeros(())
    logs = {**means, "learning_rate": rate, "gradient_norm": norm, "skipped_in_a_row": in_a_row}
    _track(model, logs, images)
    return logs


def test_step(model: Any, batch: Any) -> dict[str, tf.Tensor]:
    """Losses without training, from the mean of the posterior."""
    share_repeats()
    images, _ = _read(batch)
    logs = {name: _mean(value) for name, value in losses(model, images, None).items()}
    _track(model, logs, images)
    return logs


def _track(model: Any, logs: Mapping[str, tf.Tensor], images: tf.Tensor) -> None:
    rows = tf.cast(tf.shape(images)[0], tf.float32)
    for name, value in logs.items():
        kept = tf.where(tf.math.is_finite(value), value, 0.0)
        counted = tf.where(tf.math.is_finite(value), rows, 0.0)
        model._trackers[name].update_state(kept, sample_weight=counted)


def make_train_function(model: Any, force: bool = False) -> Any:
    """Trace the training step for all replicas."""
    if model.train_function is None or force:
        model.train_function = _over_replicas(model, lambda batch: model.train_step(batch))
    return model.train_function


def make_test_function(model: Any, force: bool = False) -> Any:
    """Trace the evaluation step for all replicas."""
    if model.test_function is None or force:
        model.test_function = _over_replicas(model, lambda batch: model.test_step(batch))
    return model.test_function


def _over_replicas(model: Any, step: Any) -> Any:
    strategy = model.distribute_strategy

    def run(batch: Any) -> dict[str, tf.Tensor]:
        with forgotten_gradients():
            values = strategy.run(step, args=(batch,))
        mean = tf.distribute.ReduceOp.MEAN
        return {name: strategy.reduce(mean, value, axis=None) for name, value in values.items()}

    traced = run if model.run_eagerly else tf.function(run, autograph=False)
    return lambda iterator: traced(next(iterator))


def fit(model: Any, x: Any, *, batch_size: int | None = None, **options: Any) -> Any:
    """`keras.Model.fit` on pictures.

    Args:
        x: pictures `(n, H, W, C)`, uint8 or in [-1, 1]; or a dataset of batches of them, or of
            dicts with "image", such as `keras_mdm.data.image_dataset` makes.
        batch_size: of pictures in an array, over all replicas; 32 unless given.
        **options: further arguments of `keras.Model.fit`.

    Returns:
        Keras' `History`.

    Raises:
        ValueError: if the pictures do not fit the network or the replicas.
    """
    model._assert_compile_called("fit")
    if not isinstance(x, tf.data.Dataset):
        size = checks.integer("batch_size", 32 if batch_size is None else batch_size, minimum=1)
        size = min(len(x), size)
        # Keras knows neither the order of these nor what to do with a part that is left over.
        x = tf.data.Dataset.from_tensor_slices(x).shuffle(len(x), seed=model.seed)
        x = x.batch(size, drop_remainder=True)
    elif batch_size is not None:
        raise checks.error(
            "`batch_size` belongs to arrays", fix="batch the dataset", batch_size=batch_size
        )
    spec = x.element_spec
    image = spec.get("image") if isinstance(spec, Mapping) else spec
    if not isinstance(image, tf.TensorSpec):
        raise checks.error(
            "batches must be pictures, or dicts with pictures under `image`",
            fix="map the dataset to one of these",
            batches=str(spec),
        )
    check_pictures(model, image.shape)
    replicas = model.distribute_strategy.num_replicas_in_sync
    if replicas > 1 and (image.shape[0] is None or image.shape[0] % replicas):
        raise checks.error(
            "every batch must have the same number of rows for each replica",
            fix=f"batch with drop_remainder=True, into a multiple of {replicas}",
            batch=image.shape[0],
            replicas=replicas,
        )
    with untuned_devices():
        # The order is the dataset's own.
        return keras.Model.fit(model, distributed(x), **{"shuffle": False, **options})


def prepared_optimizer(model: Any, optimizer: Any, others: Mapping[str, Any]) -> Any:
    """The optimizer of a model, built; raises for what cannot be used here."""
    refuse(dict(others))
    strategy = model.distribute_strategy
    with strategy.scope():
        optimizer = optimizer_of(optimizer)
    names = ("clipnorm", "global_clipnorm", "clipvalue")
    clipping = {n: getattr(optimizer, n) for n in names if getattr(optimizer, n, None) is not None}
    if strategy.num_replicas_in_sync > 1 and clipping:
        raise checks.error(
            "stock Keras optimizers clip on each replica separately",
            fix="use keras_mdm.optimizers with clip_norm",
            replicas=strategy.num_replicas_in_sync,
            **clipping,
        )
    if model.compute_dtype == "float16" and isinstance(optimizer, Optimizer):
        optimizer.loss_scale = "dynamic"
    with strategy.scope():
        if not optimizer.built:
            optimizer.build(model.trainable_variables)
    return optimizer


def get_compile_config(model: Any) -> dict[str, Any] | None:
    """The arguments of `compile`, saved with the model; `None` if it was not called."""
    if not model.compiled:
        return None
    return {
        "optimizer": keras.saving.serialize_keras_object(model.optimizer),
        "reconstruction": model.reconstruction,
        "kl_weight": model.kl_weight,
        "run_eagerly": model.run_eagerly,
    }


def compile_from_config(model: Any, config: Mapping[str, Any]) -> None:
    """Compile again with the saved model's arguments."""
    optimizer = keras.saving.deserialize_keras_object(config["optimizer"])
    model.compile(**{**config, "optimizer": optimizer})
