"""The conditions of a batch: what a network needs, and what replaces a dropped condition."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.conditioning.low_res import (
    LOW_RES,
    as_low_res,
    low_res_channels,
    micro_conditions,
)
from keras_mdm.levels import LevelShape
from keras_mdm.models.network import NetworkFacts

NO_CLASS = -1
# Conditions that are not micro-conditions.
_LARGE = ("text", "text_mask", "pooled", "label")


def condition_names(spec: NetworkFacts) -> tuple[str, ...]:
    """Keys of a batch on which the network is conditioned, micro-conditions last."""
    names = []
    if spec.text_width:
        names += ["text", "text_mask"]
    if spec.pooled_width:
        names.append("pooled")
    if spec.num_classes:
        names.append("label")
    if low_res_channels(spec) > 0:
        names.append(LOW_RES)
    return (*names, *micro_conditions(spec))


def pad_tokens(text: tf.Tensor, mask: tf.Tensor, length: tf.Tensor):
    """Pad `(B, L, D)` and `(B, L)` with zero rows to at least `length` tokens."""
    missing = tf.maximum(length - tf.shape(text)[1], 0)
    text = tf.pad(text, [[0, 0], [0, missing], [0, 0]])
    return text, tf.pad(mask, [[0, 0], [0, missing]])


def unconditional(
    conditions: Mapping[str, tf.Tensor], null: Mapping[str, Any], micro: Sequence[str] = ()
) -> dict:
    """Replace prompts and classes by "none"; micro-conditions stay unless named.

    Args:
        conditions: `text` `(B, L, D)` and `text_mask` `(B, L)`, `label` `(B,)`, and others.
        null: `text` `(L0, D)` and `text_mask` `(L0,)` if the network has text, and `pooled` `(P,)`
            if it has pooled text.
        micro: micro-conditions that are also replaced by the level's default, or `low_res`.

    Returns:
        A dict with the same keys. Text may have more tokens than before: to combine the two, pad
        the given one with `pad_tokens`.
    """
    dropped = dict(conditions)
    if "text" in dropped:
        rows, length = tf.shape(dropped["text"])[0], tf.shape(dropped["text"])[1]
        text = tf.repeat(tf.convert_to_tensor(null["text"])[None], rows, axis=0)
        mask = tf.repeat(tf.convert_to_tensor(null["text_mask"])[None], rows, axis=0)
        dropped["text"], dropped["text_mask"] = pad_tokens(text, mask, length)
    if "pooled" in dropped:
        rows = tf.shape(dropped["pooled"])[0]
        dropped["pooled"] = tf.repeat(tf.convert_to_tensor(null["pooled"])[None], rows, axis=0)
    if "label" in dropped:
        dropped["label"] = tf.fill(tf.shape(dropped["label"]), NO_CLASS)
    for name in micro:
        # NaN stands for the level's default; a picture becomes mid-grey.
        none = 0.0 if name == LOW_RES else float("nan")
        dropped[name] = tf.fill(tf.shape(dropped[name]), none)
    return dropped


def match_tokens(first: Mapping[str, tf.Tensor], second: Mapping[str, tf.Tensor]):
    """Pad the text of two sets of conditions to one length."""
    if "text" not in first:
        return dict(first), dict(second)
    length = tf.maximum(tf.shape(first["text"])[1], tf.shape(second["text"])[1])
    padded = []
    for conditions in (first, second):
        text, mask = pad_tokens(conditions["text"], conditions["text_mask"], length)
        padded.append({**conditions, "text": text, "text_mask": mask})
    return padded


def dropped_with(name: str) -> str:
    """The condition with which a condition is dropped: a mask with its text."""
    return {"text_mask": "text"}.get(name, name)


def check_dropout(rates: Any, spec: NetworkFacts) -> float | dict[str, float]:
    """Check and return the share of samples that lose their conditions.

    Args:
        rates: a number for prompt and class together, or numbers by name of condition.
        spec: the network.

    Raises:
        ValueError: if a rate is outside [0, 1] or a name is not a condition of the network.
    """
    if not isinstance(rates, Mapping):
        return checks.real("cond_dropout", rates, minimum=0.0, maximum=1.0)
    allowed = {dropped_with(name) for name in condition_names(spec)}
    checks.known_keys("cond_dropout", rates, sorted(allowed))
    return {
        name: checks.real(f"cond_dropout[{name!r}]", rate, minimum=0.0, maximum=1.0)
        for name, rate in rates.items()
    }


def drop(
    conditions: Mapping[str, tf.Tensor],
    null: Mapping[str, Any],
    dropped: tf.Tensor | Mapping[str, tf.Tensor],
) -> dict:
    """Drop the conditions of some samples, so that the model learns to work without them.

    Args:
        conditions: see `unconditional`.
        null: see `unconditional`.
        dropped: `(B,)` bool for prompt and class together, or by name of condition; those without
            an entry are kept.

    Returns:
        A dict with the same keys.

    Reference: Ho and Salimans 2022 (arXiv 2207.12598), algorithm 1.
    """
    each = isinstance(dropped, Mapping)
    # A common flag concerns prompt and class; micro-conditions are dropped only by their own flags.
    micro = [k for k in conditions if each and k in dropped and k not in _LARGE]
    kept, none = match_tokens(conditions, unconditional(conditions, null, micro))
    mixed = {}
    for name, value in kept.items():
        chosen = dropped.get(dropped_with(name)) if each else dropped
        if chosen is None:
            mixed[name] = value
            continue
        chosen = tf.reshape(chosen, (-1, *(1 for _ in value.shape[1:])))
        mixed[name] = tf.where(chosen, tf.cast(none[name], value.dtype), value)
    return mixed


def cast_conditions(
    batch: Mapping[str, Any], spec: NetworkFacts, top: LevelShape | None = None
) -> dict[str, tf.Tensor]:
    """Take the conditions from a batch, each in the dtype that the network expects.

    Args:
        batch: tensors by name, not only conditions.
        spec: the network.
        top: see `as_low_res`.

    Raises:
        ValueError: if a condition is missing (micro-conditions may be), the text has another width,
            or classes are not integers.
    """
    conditions = {}
    if "label" in batch and spec.num_classes:
        dtype = tf.as_dtype(batch["label"].dtype)
        if not dtype.is_integer:  # 1.7 would become class 1
            raise checks.error(
                "`label` must hold integers, the numbers of classes",
                fix="cast whole numbers in the pipeline; take the argmax of one-hot rows",
                dtype=dtype.name,
            )
    for name in condition_names(spec):
        if name == LOW_RES and name in batch:
            conditions[name] = as_low_res(batch[name], spec, top)
        elif name in batch:
            dtype = tf.int32 if name == "label" else tf.float32
            conditions[name] = tf.cast(batch[name], dtype)
    if "text" in conditions:
        if "text_mask" not in conditions:
            conditions["text_mask"] = keras.ops.ones_like(conditions["text"][..., 0])
        if conditions["text"].shape[-1] != spec.text_width:
            raise checks.error(
                f"`text` must have the width {spec.text_width}",
                fix="use the text encoder that the network was built for",
                text_shape=tuple(conditions["text"].shape),
            )
        if tuple(conditions["text_mask"].shape[1:]) not in {
            tuple(conditions["text"].shape[1:2]),
            (None,),
        }:
            raise checks.error(
                "`text_mask` must be (B, L) for `text` of shape (B, L, D)",
                fix="pass the mask that belongs to the states",
                text_shape=tuple(conditions["text"].shape),
                text_mask_shape=tuple(conditions["text_mask"].shape),
            )
    if "pooled" in conditions and conditions["pooled"].shape[-1:] != (spec.pooled_width,):
        raise checks.error(
            f"`pooled` must be (B, {spec.pooled_width})",
            fix="use the text encoder that the network was built for",
            pooled_shape=tuple(conditions["pooled"].shape),
        )
    large = ("text", "pooled", "label", LOW_RES)
    required = [name for name in large if name in condition_names(spec)]
    checks.required_keys("the batch", batch, required)
    return conditions
