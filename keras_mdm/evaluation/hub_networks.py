"""CLIP and DINOv2 from keras-hub as feature networks, from a preset of the user's."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.evaluation.batches import checked, in_batches

_BATCH = 32
# Mean and deviation of the pixels, on [0, 1], that the networks were trained with.
_CLIP_PIXELS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_IMAGENET_PIXELS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class ClipFeatures:
    """The picture tower of a CLIP model, and its text tower for the CLIP score.

    Pictures are resized to the square that the model takes, bicubic with antialiasing.

    Args:
        preset: what `keras_hub.models.CLIPBackbone.from_preset` takes: a folder written by
            `save_to_preset`, or the name of a preset; or a pair of a `CLIPBackbone` and a
            `CLIPTokenizer`.

    Raises:
        ValueError: if the preset is not a CLIP model.

    Example:

    ```python
    clip = ClipFeatures("folder/of/clip_vit_large_patch14")
    texts = {"64": clip.score_of(prompts)}
    report = evaluate(model, {"64": real}, request=request, features=clip, texts=texts, ...)
    ```

    Reference: Radford et al., arXiv 2103.00020; Hessel et al., CLIPScore, arXiv 2104.08718.
    """

    measures: Mapping[str, str] = MappingProxyType({"text": "CLIP score"})

    def __init__(self, preset: str | os.PathLike | tuple[Any, Any]):
        import keras_hub

        if isinstance(preset, tuple):
            self._backbone, self._tokenizer = preset
        else:
            self._backbone = _open(preset, keras_hub.models.CLIPBackbone, "CLIP")
            self._tokenizer = keras_hub.models.CLIPTokenizer.from_preset(str(preset))
        size = self._backbone.vision_encoder.image_shape[0]
        self.width = int(self._backbone.projection_dim)
        self.name = f"CLIP {_digest(self._backbone)}, {size} bicubic antialiased"
        self._pictures = _Batches(self._backbone.get_vision_embeddings, size, _CLIP_PIXELS)
        self._texts = tf.function(self._backbone.get_text_embeddings, autograph=False)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return features (B, width) float32 of uint8 pictures (B, H, W, 3)."""
        return self._pictures(images, self.width)

    def texts(self, prompts: Sequence[str]) -> np.ndarray:
        """Return features (B, width) float32 of texts; what is too long is cut."""
        length = self._backbone.text_encoder.max_sequence_length
        start, end = self._tokenizer.start_token_id, self._tokenizer.end_token_id
        ids = np.zeros((len(prompts), length), "int32")
        for row, prompt in enumerate(prompts):
            found = [int(i) for i in np.asarray(self._tokenizer(prompt))] if prompt.strip() else []
            found = [start, *found[: length - 2], end]
            ids[row, : len(found)] = found
        return in_batches(self._texts, ids, _BATCH, self.width)

    def score_of(self, prompts: Sequence[str]) -> "ClipScore":
        """Make the measure of how well pictures fit these prompts, for `evaluate(texts=...)`."""
        return ClipScore(self.texts(prompts))


class ClipScore:
    """100 times the mean of max(cosine, 0) between pictures and their prompts.

    Args:
        prompts: (n, width) features of the prompts by the same model.
    """

    name = "CLIP score"
    real = float("nan")

    def __init__(self, prompts: np.ndarray):
        self.prompts = prompts

    def score(self, features: np.ndarray) -> Any:
        """Score pictures, the first ones of the prompts, by their features (n, D)."""
        from keras_mdm.evaluation.scores import clip_score

        return clip_score(features, self.prompts[: len(features)])


class DinoFeatures:
    """The class token of DINOv2 after its last normalisation.

    Args:
        preset: what `keras_hub.models.DINOV2Backbone.from_preset` takes, or a backbone.
        size: side that pictures are resized to, bicubic with antialiasing; a multiple of the
            network's patches.

    Raises:
        ValueError: if the preset is not a DINOv2 model.

    Reference: Oquab et al., arXiv 2304.07193; Stein et al., arXiv 2306.04675 (for evaluation).
    """

    measures: Mapping[str, str] = MappingProxyType({})

    def __init__(self, preset: Any, *, size: int = 224):
        import keras_hub

        size = checks.integer("size", size, minimum=14)
        backbone = preset
        if isinstance(preset, str | os.PathLike):
            kind = keras_hub.models.DINOV2Backbone
            backbone = _open(preset, kind, "DINOv2", image_shape=(size, size, 3))
        if tuple(backbone.image_shape) != (size, size, 3):
            raise checks.error(
                "the backbone must take pictures of this size",
                fix="pass the folder of the preset, or size=...",
                size=size,
                image_shape=tuple(backbone.image_shape),
            )
        self.width = int(backbone.hidden_dim)
        self.name = f"DINOv2 {_digest(backbone)}, {size} bicubic antialiased"
        self._pictures = _Batches(lambda x: backbone({"images": x})[:, 0], size, _IMAGENET_PIXELS)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return features (B, width) float32 of uint8 pictures (B, H, W, 3)."""
        return self._pictures(images, self.width)


class _Batches:
    """Runs a network on pictures in batches of one size: one graph for each size of pictures."""

    def __init__(self, network: Callable[[Any], Any], size: int, pixels: tuple):
        self._network, self._size, self._pixels = network, size, pixels
        self._traced = tf.function(self._features, autograph=False)

    def __call__(self, images: np.ndarray, width: int) -> np.ndarray:
        return in_batches(self._traced, checked(images), _BATCH, width)

    def _features(self, images: tf.Tensor) -> tf.Tensor:
        x = tf.cast(images, tf.float32)
        if images.shape[1:3] != (self._size, self._size):
            x = tf.image.resize(x, (self._size, self._size), "bicubic", antialias=True)
            x = tf.clip_by_value(tf.round(x), 0.0, 255.0)
        mean, deviation = self._pixels
        return tf.cast(self._network((x / 255.0 - mean) / deviation), tf.float32)


def _open(preset: str | os.PathLike, kind: type, name: str, **options: Any) -> Any:
    import keras_hub

    try:
        found = keras_hub.models.Backbone.from_preset(str(preset), dtype="float32", **options)
    except (ValueError, OSError, KeyError, TypeError) as problem:
        raise checks.error(
            f"a {name} model of keras-hub must be at this place",
            fix="pass a folder that save_to_preset wrote",
            preset=str(preset),
            problem=str(problem)[:200],
        ) from problem
    if not isinstance(found, kind):
        raise checks.error(
            f"`preset` must be a {name} model",
            fix="pass the folder of one",
            preset=str(preset),
            found=type(found).__name__,
        )
    return found


def _digest(backbone: Any) -> str:
    """Which weights, in eight digits."""
    digest = hashlib.sha256()
    for variable in backbone.variables:
        digest.update(np.asarray(variable).tobytes())
    return digest.hexdigest()[:8]
