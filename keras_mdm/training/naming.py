"""From Keras' (x, y, sample_weight) to a batch by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.conditioning.conditions import NO_CLASS
from keras_mdm.training.assertions import require
from keras_mdm.training.remainder import SAMPLE_WEIGHT


class Naming:
    """Function from a batch of tensors in Keras' form to a dict by name.

    `x` are pictures or clips, or a dict of everything. `y` are classes, integers `(B,)` or
    `(B, 1)`, for a network with classes; captions, strings `(B,)`, or states `(B, L, D)` for a
    network with text; or a dict of conditions. Weights are numbers `(B,)`.

    Args:
        model: a `MatryoshkaDiffusion`.
        class_weight: weight of every class's samples; 1 for classes that are not named.

    Raises:
        ValueError: if the weights do not belong to classes; when called, if something does not fit
            the network.
    """

    def __init__(self, model: Any, class_weight: Mapping[int, float] | None = None):
        self._model, self._spec = model, model.unet.spec
        self._key = "video" if model.process.shapes[-1].frames else "image"
        self._weights = None if class_weight is None else self._class_weights(class_weight)

    def needed(self, spec: Any) -> bool:
        """Whether batches of a dataset still need naming.

        Args:
            spec: of an element.
        """
        return not isinstance(spec, Mapping) or "caption" in spec or self._weights is not None

    def check(self, element: tuple) -> None:
        """Raise if any sample of arrays does not fit.

        Args:
            element: (x, y, sample_weight) or a part of it.
        """
        batch = self._named(*tf.nest.map_structure(_first_row, element))
        labels = element[1] if len(element) > 1 else None
        labels = labels if labels is not None and "label" in batch else element[0]
        labels = labels.get("label") if isinstance(labels, Mapping) else labels
        if "label" in batch:
            check_labels(labels, self._spec.num_classes)
        weights = element[2] if len(element) > 2 else None
        if isinstance(element[0], Mapping):
            weights = element[0].get(SAMPLE_WEIGHT, weights)
        if weights is not None:
            _check_weights(weights)

    def __call__(self, *element: Any) -> dict[str, Any]:
        batch = self._named(*element)
        caption = batch.pop("caption", None)
        if caption is not None:
            batch |= self._states(caption)
        if self._weights is not None:
            if "label" not in batch or SAMPLE_WEIGHT in batch:
                raise checks.error(
                    "`class_weight` needs data with classes and without weights of its own",
                    fix="pass sample_weight alone, or labels",
                    keys=sorted(batch),
                )
            label = tf.cast(tf.reshape(batch["label"], (-1,)), tf.int32)
            # Row 0 is for samples without a class.
            batch[SAMPLE_WEIGHT] = tf.gather(tf.constant(self._weights), label - NO_CLASS)
        return batch

    def _named(self, x: Any, y: Any = None, weight: Any = None, *others: Any) -> dict[str, Any]:
        if others:
            raise checks.error(
                "an element must be x, (x, y) or (x, y, sample_weight)",
                fix="yield dicts for more conditions",
                entries=3 + len(others),
            )
        batch = {key or self._key: v for key, v in x.items()} if isinstance(x, Mapping) else {}
        if not isinstance(x, Mapping):
            rank = 5 if self._key == "video" else 4
            if not hasattr(x, "shape") or tf.TensorShape(x.shape).rank not in (None, rank):
                raise checks.error(
                    f"`x` must be {self._key}s, or a dict",
                    fix='pass pictures (n, H, W, C), clips (n, T, H, W, C), or {"image": ..., ...}',
                    x=tuple(getattr(x, "shape", ())) or type(x).__name__,
                )
            batch[self._key] = x
        given = {} if y is None else self._conditions(y)
        if weight is not None:
            given[SAMPLE_WEIGHT] = weight
        twice = sorted(given.keys() & batch.keys())
        if twice:
            raise checks.error("each name must be given once", fix="leave one out", names=twice)
        if given and batch and all(isinstance(value, Mapping) for value in batch.values()):
            raise checks.error(
                "a mixed batch holds the conditions and weights of every group",
                fix="put them into the groups' dicts",
                names=sorted(given),
            )
        batch |= given
        if SAMPLE_WEIGHT in batch:
            batch[SAMPLE_WEIGHT] = tf.cast(tf.reshape(batch[SAMPLE_WEIGHT], (-1,)), tf.float32)
        return batch

    def _conditions(self, y: Any) -> dict[str, Any]:
        if isinstance(y, Mapping):
            return dict(y)
        spec, shape = self._spec, tuple(getattr(y, "shape", ()))
        dtype = getattr(y, "dtype", tf.variant)
        column = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
        if dtype == tf.string and column and (spec.text_width or spec.pooled_width):
            self._encoder()
            return {"caption": tf.reshape(y, (-1,))}
        if dtype.is_integer and column and spec.num_classes:
            return {"label": tf.reshape(y, (-1,))}
        if dtype.is_floating and len(shape) == 3 and spec.text_width:
            return {"text": y}
        raise checks.error(
            f"`y` must be {self._expected()}",
            fix=self._advice(shape, dtype),
            dtype=dtype.name if hasattr(y, "dtype") else type(y).__name__,
            shape=shape,
        )

    def _expected(self) -> str:
        spec = self._spec
        kinds = ["integer classes (n,)"] if spec.num_classes else []
        kinds += ["captions (n,)"] if spec.text_width or spec.pooled_width else []
        kinds += [f"states (n, L, {spec.text_width})"] if spec.text_width else []
        if not kinds:
            return "left out: the network has no conditions"
        return ", ".join(kinds) + " or a dict of conditions"

    def _advice(self, shape: tuple, dtype: Any) -> str:
        spec = self._spec
        if spec.num_classes and len(shape) == 2 and shape[1] not in (None, 1):
            return "pass the numbers of the classes, np.argmax(y, axis=-1)"
        if spec.num_classes and dtype.is_floating:
            return "cast whole numbers to integers"
        if not (spec.num_classes or spec.text_width or spec.pooled_width):
            return "leave it out, or build the network with num_classes or text_width"
        return "pass one class or caption for every picture"

    def _class_weights(self, given: Mapping[int, float]) -> np.ndarray:
        classes = self._spec.num_classes
        if not classes or not isinstance(given, Mapping):
            raise checks.error(
                "`class_weight` must be a dict of weights by class, for a network with classes",
                fix="pass sample_weight",
                class_weight=type(given).__name__,
                num_classes=classes,
            )
        weights = np.ones(classes + 1, "float32")
        for number, weight in given.items():
            if not checks.is_int(number) or not 0 <= number < classes:
                raise checks.error(
                    f"`class_weight` must name classes from 0 to {classes - 1}",
                    fix="pass {class: weight}",
                    class_weight=dict(given),
                )
            weights[1 + number] = checks.real(f"class_weight[{number}]", weight, minimum=0.0)
        return weights

    def _encoder(self) -> Any:
        model = self._model
        if model.text_encoder is None:
            model.text_encoder = model._restore_encoder()
        return model.text_encoder

    def _states(self, captions: tf.Tensor) -> dict[str, tf.Tensor]:
        """The states of captions, made batch by batch: all at once would not fit into memory."""
        from keras_mdm.data.python_calls import call_python

        spec, encoder = self._spec, self._encoder()
        captions = _checked_captions(captions)
        keys = [*(("text", "text_mask") if spec.text_width else ())]
        keys += ["pooled"] if spec.pooled_width else []

        def encode(values: np.ndarray) -> tuple[np.ndarray, ...]:
            texts = [value.decode("utf-8") for value in values.tolist()]
            found = dict(zip(keys[:2], encoder.encode(texts), strict=True)) if keys[1:] else {}
            if spec.pooled_width:
                found["pooled"] = encoder.pool(texts)
            return tuple(np.asarray(found[key], "float32") for key in keys)

        found = call_python(encode, (captions,), [tf.float32] * len(keys))
        shapes = {"text": (None, spec.text_width), "text_mask": (None,)}
        shapes["pooled"] = (spec.pooled_width,)
        for key, value in zip(keys, found, strict=True):
            value.set_shape((captions.shape[0], *shapes[key]))
        return dict(zip(keys, found, strict=True))


def _checked_captions(captions: tf.Tensor) -> tf.Tensor:
    readable = tf.strings.unicode_transcode(captions, "UTF-8", "UTF-8", errors="ignore")
    wrong = tf.boolean_mask(captions, readable != captions)
    needed = require(
        tf.equal(tf.size(wrong), 0),
        "captions must be UTF-8",
        fix='decode them from their encoding, as in text.decode("cp1252")',
        # A message that is not UTF-8 itself would cause another error.
        captions=tf.strings.unicode_transcode(wrong, "UTF-8", "UTF-8", errors="replace"),
    )
    with tf.control_dependencies([needed]):
        return tf.identity(captions)


def _first_row(value: Any) -> Any:
    return tf.convert_to_tensor(value[:1])


def check_labels(labels: Any, classes: int) -> None:
    """Raise unless classes are integers from -1 to the last one.

    Args:
        labels: array.
        classes: number of classes.
    """
    labels = np.asarray(labels)
    whole = np.issubdtype(labels.dtype, np.integer)
    if not whole or labels.min() < NO_CLASS or labels.max() >= classes:
        raise checks.error(
            f"classes must be integers from -1 (none) to {classes - 1}",
            fix="number the classes from 0, or build the network with more of them",
            dtype=labels.dtype.name,
            smallest=float(labels.min()),
            largest=float(labels.max()),
        )


def _check_weights(weights: Any) -> None:
    values = np.asarray(weights, "float32")
    if not np.all(np.isfinite(values)) or np.any(values < 0):
        raise checks.error(
            "`sample_weight` must be finite and non-negative",
            fix="give samples the weight 0 to leave them out",
            smallest=float(np.min(values)),
            largest=float(np.max(values)),
        )
