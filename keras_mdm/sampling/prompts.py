"""From prompts, labels and tensors to the conditions of every picture."""

import difflib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.conditioning.conditions import NO_CLASS, cast_conditions, condition_names
from keras_mdm.conditioning.low_res import LOW_RES, low_res_channels, micro_conditions
from keras_mdm.finite import check_finite

Arrays = dict[str, np.ndarray]


def text_encoder(model: Any) -> Any:
    """The text encoder or `None`; assign one to use prompts after loading a model."""
    return model._encoder


def attach_text_encoder(model: Any, encoder: Any) -> None:
    """Attach an encoder whose widths fit the network."""
    spec = model.unet.spec
    wanted = {"width": spec.text_width, "pooled_width": spec.pooled_width}
    wanted = {name: value for name, value in wanted.items() if value}
    found = {name: getattr(encoder, name, None) for name in wanted}
    if encoder is not None and found != wanted:
        raise checks.error(
            "the text encoder must have the widths that the network expects, "
            + ", ".join(f"{name} {value}" for name, value in wanted.items()),
            fix="use the encoder that the network was built for",
            **found,
        )
    if encoder is not None and model._encoder_identity is None:
        model._encoder_identity = getattr(encoder, "identity", None)
        if "text" in model._null and not np.any(model._null["text"]):
            warnings.warn(
                "the model was made without a text encoder: guidance compares with a token of "
                "zeros, not with the empty prompt. Pass text_encoder when making the model",
                stacklevel=2,
            )
    model._encoder = encoder


def text_encoder_identity(model: Any) -> dict[str, Any] | None:
    """Identity of the first encoder that the model had."""
    return model._encoder_identity


def conditions_for(
    model: Any,
    prompts: Any,
    labels: Any = None,
    num_images: int | None = None,
    micro: Mapping[str, Any] | None = None,
    low_res: Any = None,
) -> tuple[int, Arrays]:
    """Return the number of pictures, and the conditions of all of them as arrays.

    Arguments as in `generate`.

    Raises:
        ValueError: if the conditions do not fit each other or the network.
    """
    names = condition_names(model.unet.spec)
    given = {"prompts": prompts, "labels": labels, "num_images": num_images}
    conditions = _given_conditions(model, prompts)
    if LOW_RES in names or low_res is not None:
        conditions |= _given_low_res(model, conditions, low_res)
    labels = conditions.get("label") if labels is None else labels
    if labels is not None:
        conditions["label"] = _check_labels(model, labels)
    _check_rows(conditions)
    counts = {name: len(value) for name, value in conditions.items()}
    if num_images is not None:
        counts["num_images"] = checks.integer("num_images", num_images, minimum=1)
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise checks.error(
            "all conditions must be given for the same number of pictures, at least one",
            fix="pass prompts, labels or num_images",
            counts=counts or given,
        )
    count = next(iter(counts.values()))
    conditions |= _micro(model, micro, count, conditions)
    if "label" in names and "label" not in conditions:
        conditions["label"] = np.full(count, NO_CLASS, "int32")
    missing = {"text": ("text", "text_mask"), "pooled": ("pooled",)}
    for name, values in missing.items():
        if name in names and name not in conditions:
            for null in values:
                row = np.asarray(model.null_condition[null])
                conditions[null] = np.repeat(row[None], count, axis=0)
    given = {k: tf.convert_to_tensor(v) for k, v in conditions.items()}
    # Always in the dtypes of the network: others would need another trace.
    cast = cast_conditions(given, model.unet.spec)
    found = {name: value.numpy() for name, value in cast.items()}
    check_finite(found, may_be_nan=model.unet.spec.micro_conditions)
    return count, found


def negative_conditions(model: Any, negative: Any, count: int, conditions: Arrays) -> Arrays:
    """Conditions that guidance leads away from, for every picture.

    Args:
        negative: one text for all pictures, one per picture, or a dict as for `prompts`.
        count: number of pictures.
        conditions: the pictures' conditions; those that `negative` leaves out become "none", but
            micro-conditions stay.
    """
    if isinstance(negative, str):
        negative = [negative] * count
    found = _given_conditions(model, negative, "negative_prompts")
    _check_rows(found)
    if "label" in found:
        found["label"] = _check_labels(model, found["label"])
    rows = {name: len(value) for name, value in found.items()}
    if any(number != count for number in rows.values()):
        raise checks.error(
            "`negative_prompts` must be one text for all pictures or one per prompt",
            fix=f"pass {count} of them, or a single string",
            negative_prompts=rows,
        )
    # Both halves of guidance see the same low-resolution picture.
    found = {k: v for k, v in conditions.items() if k == LOW_RES} | found
    _, found = model.conditions_for(found, num_images=count)
    return {name: found.get(name, value) for name, value in conditions.items()} | found


def _given_conditions(model: Any, prompts: Any, argument: str = "prompts") -> Arrays:
    """The caller's conditions, with texts encoded."""
    names = condition_names(model.unet.spec)
    if isinstance(prompts, str):
        raise checks.error(
            f"`{argument}` must be a list of texts",
            fix=f"pass [{prompts!r}]",
            **{argument: prompts},
        )
    if isinstance(prompts, Mapping):
        checks.known_keys(argument, prompts, (*names, "prompts"))
        tensors = {k: np.asarray(v) for k, v in prompts.items() if k != "prompts"}
        texts = prompts.get("prompts")
        return tensors | (_encode(model, texts, argument) if texts is not None else {})
    return _encode(model, prompts, argument) if prompts is not None else {}


def _given_low_res(model: Any, conditions: Arrays, low_res: Any) -> Arrays:
    if low_res_channels(model.unet.spec) < 1:
        raise checks.error(
            "`low_res` needs a network with more in_channels than out_channels",
            fix="leave it out, or build the network with in_channels=6",
            in_channels=model.unet.spec.in_channels,
            out_channels=model.unet.spec.out_channels,
        )
    given = [v for v in (low_res, conditions.get(LOW_RES)) if v is not None]
    if len(given) != 1:
        raise checks.error(
            "the network is conditioned on a picture, which must be passed exactly once",
            fix="pass low_res, one picture each",
            low_res=len(given),
        )
    (value,) = map(np.asarray, given)
    plain = value.dtype == np.uint8 or not np.issubdtype(value.dtype, np.floating)
    if not plain and not model.threshold == "none" and np.abs(value).max(initial=0.0) > 1.01:
        raise checks.error(
            "`low_res` must be uint8, or floats in [-1, 1]",
            fix="pass uint8, or divide 0..255 by 127.5 and subtract 1",
            largest=float(np.abs(value).max()),
        )
    return {LOW_RES: value}


def _encode(model: Any, prompts: Sequence[str], argument: str = "prompts") -> Arrays:
    names = condition_names(model.unet.spec)
    if "text" not in names and "pooled" not in names:
        raise checks.error(
            "prompts need a network with text",
            fix="pass labels or num_images",
            **{argument: prompts},
        )
    prompts = list(prompts) if isinstance(prompts, Iterable) else prompts
    texts = isinstance(prompts, list) and all(isinstance(prompt, str) for prompt in prompts)
    if not texts or not prompts:
        raise checks.error(
            f"`{argument}` must be a non-empty list of texts",
            fix='pass for example ["a red apple"]',
            **{argument: prompts},
        )
    encoder_of(model)
    found = {}
    if "text" in names:
        found = dict(zip(("text", "text_mask"), model.text_encoder.encode(prompts), strict=True))
    if "pooled" in names:
        found["pooled"] = model.text_encoder.pool(prompts)
    return found


def _micro(model: Any, micro: Mapping[str, Any] | None, count: int, conditions: Arrays) -> Arrays:
    known = micro_conditions(model.unet.spec)
    checks.known_keys("micro", micro or {}, known)
    found = {}
    for name, value in (micro or {}).items():
        value = np.asarray(value, "float32")
        if value.shape not in ((), (count,)) or name in conditions:
            raise checks.error(
                f"the micro-condition {name!r} must be given once, as a number or one per picture",
                fix=f"pass a number or {count} of them",
                shape=value.shape,
            )
        found[name] = np.broadcast_to(value, (count,)).copy()
    return found


def _check_labels(model: Any, labels: Any) -> np.ndarray:
    classes = model.unet.spec.num_classes
    if classes is None:
        raise checks.error(
            "labels need a class-conditional network", fix="pass prompts", labels=labels
        )
    labels = np.asarray(_numbers(model, labels))
    fits = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    if not fits or (labels.size and (labels.min() < NO_CLASS or labels.max() >= classes)):
        raise checks.error(
            f"`labels` must be integers from -1 to {classes - 1}"
            + (", or names of classes" if model.class_names else ""),
            fix="pass one class for every picture",
            labels=labels.tolist(),
        )
    return labels.astype("int32")


def _numbers(model: Any, labels: Any) -> Any:
    """Labels with the names among them replaced by numbers."""
    named = isinstance(labels, str) or any(isinstance(label, str) for label in np.ravel(labels))
    if not named:
        return labels
    if isinstance(labels, str) or np.ndim(labels) != 1:
        raise checks.error(
            "`labels` must be a list of classes", fix=f"pass [{labels!r}]", labels=labels
        )
    names = model.class_names or ()
    known = {name: number for number, name in enumerate(names)}
    strange = [label for label in labels if isinstance(label, str) and label not in known]
    if strange:
        near = difflib.get_close_matches(strange[0], known, 3)
        raise checks.error(
            "a label that is a text must be one of the model's `class_names`",
            fix=f"did you mean {' or '.join(map(repr, near))}"
            if near
            else "pass one of these"
            if known
            else "pass numbers, or assign model.class_names",
            labels=strange[:4],
            class_names=list(known)[:8],
            classes=len(known),
        )
    twice = [label for label in labels if isinstance(label, str) and names.count(label) > 1]
    if twice:
        raise checks.error(
            "a label that is a text must be the name of a single class",
            fix="pass the number of the class",
            labels=twice[:4],
            classes=[number for number, name in enumerate(names) if name == twice[0]],
        )
    return [known[label] if isinstance(label, str) else label for label in labels]


def encoder_of(model: Any) -> Any:
    """The text encoder of a model, restored if none is attached.

    Raises:
        ValueError: if it has none, or it is not known on this machine.
    """
    if model.text_encoder is None:
        model.text_encoder = _restore_encoder(model)
    return model.text_encoder


def _restore_encoder(model: Any) -> Any:
    """Restore the encoder with the identity that the model was saved with, if it is cached."""
    from keras_mdm import text  # only prompts need it

    if model._encoder_identity is None:
        raise checks.error(
            "prompts need a text encoder, and this model was made without one",
            fix="pass text_encoder when making the model (keras-mdm import: "
            "--text-encoder DIR), or prompts as {'text': ..., 'text_mask': ...}",
            text_encoder=None,
        )
    return text.from_identity(model._encoder_identity)


def _check_rows(conditions: Arrays) -> None:
    for name, value in conditions.items():
        if np.ndim(value) == 0:
            raise checks.error(
                f"`{name}` must have one entry per picture",
                fix="pass an array with one entry per picture along its first axis",
                **{name: value},
            )
