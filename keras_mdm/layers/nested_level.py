"""The two halves of an outer level, before and after the level inside it."""

from typing import Any

import keras
from keras import ops

from keras_mdm.layers.initializers import conv, dense
from keras_mdm.layers.level import (
    LevelPart,
    from_rows,
    tile_frames,
    to_rows,
    untile_frames,
)
from keras_mdm.layers.patches import to_patches
from keras_mdm.layers.resolution_block import repeat_rows
from keras_mdm.types import Shape, Tensor


def first_rows(x: Tensor, like: Tensor) -> Tensor:
    """The first rows of `x`, as many as `like` has: an outer level may have fewer samples."""
    return x[: ops.shape(like)[0]]


def add_to_first_rows(x: Tensor, part: Tensor) -> Tensor:
    """Add `part` `(B', ...)` to the first B' rows of `x` `(B, ...)`."""
    missing = ops.shape(x)[0] - ops.shape(part)[0]
    zeros = ops.zeros((missing, *part.shape[1:]), part.dtype)
    return x + ops.concatenate([part, zeros], axis=0)


def normalize_rows(x: Tensor) -> Tensor:
    """Divide every picture of `(B*T, H, W, C)` by its unbiased standard deviation."""
    count = x.shape[1] * x.shape[2] * x.shape[3]
    centred = x - ops.mean(x, axis=(1, 2, 3), keepdims=True)
    variance = ops.sum(ops.square(centred), axis=(1, 2, 3), keepdims=True) / (count - 1)
    return x / ops.sqrt(variance)


def adapt(adapter: Any, x: Tensor, frames: int) -> Tensor:
    """Run an adapter on rows, or on square pictures made of `frames` rows each."""
    return adapter(x) if frames == 1 else untile_frames(adapter(tile_frames(x, frames)), frames)


@keras.saving.register_keras_serializable("keras_mdm")
class NestedDown(LevelPart):
    """First half of an outer level: input, way down, adapter to the level inside.

    Args:
        inner_channels: number of channels that the level inside expects (its `channels[0]`).
        normalize_input: divide every picture by its standard deviation first.
        tiled_adapter: the adapter sees the frames of a clip side by side as one square picture, as
            in the official network, instead of one by one.
        **kwargs: as in `LevelPart`.

    Call arguments:
        z: `(B, H, W, C)` or `(B, T, H, W, C)` float32, the noisy input of this level.
        time_embedding: `(B_all, E)` with B_all >= B; the first B rows are used.
        text: optional `(B_all, L, D)`, text_mask: optional `(B_all, L)`.
        features: optional `(B', [T,] H, W, channels[0])` with B' <= B, from the next outer level.

    Returns:
        dict with `features`, the input of the level inside `(B, [T',] h, w, inner_channels)`, zero
        at initialisation, and `skips`, rows for the second half.

    Example:

    >>> down = NestedDown(channels=(32, 32), blocks=(1, 1), attention=(0, 0),
    ...     temporal_attention=(0, 0), strides=(2,), inner_channels=64)
    >>> z, embedding = keras.ops.ones((2, 16, 16, 3)), keras.ops.ones((2, 128))
    >>> down(z, embedding)["features"].shape
    TensorShape([2, 8, 8, 64])

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 3.2.
    """

    def __init__(
        self,
        *,
        inner_channels: int,
        normalize_input: bool = False,
        tiled_adapter: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.inner_channels = inner_channels
        self.normalize_input = normalize_input
        self.tiled_adapter = tiled_adapter
        self._make_down()

    def build(
        self,
        z_shape: Shape,
        time_embedding_shape: Shape,
        text_shape: Shape | None = None,
        text_mask_shape: Shape | None = None,
        features_shape: Shape | None = None,
    ) -> None:
        self._build_down(z_shape, time_embedding_shape, text_shape)
        last = len(self.channels) - 1
        self.in_adapter = conv(
            "in_adapter",
            self.channels[last],
            self.inner_channels,
            zero=True,
            seed=self.seed,
            dtype=self.dtype_policy,
        )
        self.in_adapter.build(self.rows_shape(z_shape, last, self.channels[last]))

    def call(
        self,
        z: Tensor,
        time_embedding: Tensor,
        text: Tensor = None,
        text_mask: Tensor = None,
        features: Tensor = None,
    ) -> dict[str, Any]:
        time_embedding = first_rows(time_embedding, z)
        text = None if text is None else first_rows(text, z)
        text_mask = None if text_mask is None else first_rows(text_mask, z)
        x = to_rows(z)
        x = normalize_rows(x) if self.normalize_input else x
        x = self.conv_in(to_patches(x, self.patch))
        if features is not None:
            x = add_to_first_rows(x, to_rows(features))
        x, skips = self._run_down(x, time_embedding, text, text_mask)
        frames = self.frames_at(len(self.channels) - 1)
        features = adapt(self.in_adapter, x, frames if self.tiled_adapter else 1)
        features = from_rows(features, frames, frames > 1)
        return {"features": features, "skips": skips}

    def compute_output_shape(
        self,
        z_shape: Shape,
        time_embedding_shape: Shape,
        text_shape: Shape | None = None,
        text_mask_shape: Shape | None = None,
        features_shape: Shape | None = None,
    ) -> dict[str, Any]:
        last = len(self.channels) - 1
        frames = self.frames_at(last)
        clip = (frames,) if frames > 1 else ()
        sides = self.sides_at(z_shape, last)
        return {
            "features": (z_shape[0], *clip, *sides, self.inner_channels),
            "skips": self.skip_shapes(z_shape),
        }

    def get_config(self) -> dict:
        config = {
            "inner_channels": self.inner_channels,
            "normalize_input": self.normalize_input,
            "tiled_adapter": self.tiled_adapter,
        }
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("keras_mdm")
class NestedUp(LevelPart):
    """Second half of an outer level: adapter from the level inside, way up, prediction.

    Args:
        inner_channels: number of channels of the inside level's features (its `channels[0]`).
        out_channels: channels of the prediction.
        tiled_adapter: as in `NestedDown`.
        learned_deviation: predict one more channel, the logarithm of the factor by which the
            detail's deviation differs from that of the data.
        sees_below: take the pictures of the level below.
        **kwargs: as in `LevelPart`.

    Call arguments:
        skips: list of rows, from `NestedDown`.
        inner_features: `(B_all, [T',] h, w, inner_channels)`; the first B rows are used.
        time_embedding: `(B_all, E)`.
        text: optional `(B_all, L, D)`, text_mask: optional `(B_all, L)`.
        z_below: with `sees_below`, `(B_all, [T',] h, w, C)`, the noisy input of the level below;
            output_below: `(B_all, [T',] h, w, C or more)`, its prediction;
            z: `(B, [T,] H, W, C)`, the noisy input of this level.

    Returns:
        dict with `output` `(B, [T,] H, W, out_channels)` float32 (one channel more with a learned
        deviation), zero at initialisation, and `features` `(B, [T,] H/p, W/p, channels[0])`, p
        the patch, for the next outer level.

    Example:

    >>> given = dict(channels=(32, 32), blocks=(1, 1), attention=(0, 0),
    ...     temporal_attention=(0, 0), strides=(2,), inner_channels=64)
    >>> z, embedding = keras.ops.ones((2, 16, 16, 3)), keras.ops.ones((2, 128))
    >>> down, up = NestedDown(**given), NestedUp(**given, out_channels=3)
    >>> up(down(z, embedding)["skips"], keras.ops.ones((2, 8, 8, 64)), embedding)["output"].shape
    TensorShape([2, 16, 16, 3])

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 3.2.
    """

    def __init__(
        self,
        *,
        inner_channels: int,
        out_channels: int = 3,
        tiled_adapter: bool = False,
        learned_deviation: bool = False,
        sees_below: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.inner_channels = inner_channels
        self.out_channels = out_channels
        self.learned_deviation = learned_deviation
        self.sees_below = sees_below
        self.tiled_adapter = tiled_adapter
        self._make_up()

    def _input_shape(self, skips_shape: Any) -> tuple:
        """Shape of the level's input, derived from the first skip's (rows)."""
        rows, height, width, channels = skips_shape[0]
        frames = self.frames_at(0)
        batch = None if rows is None else rows // frames
        sides = height * self.patch, width * self.patch
        return (batch, *(() if self.frames is None else (frames,)), *sides, channels)

    @property
    def _predicted(self) -> int:
        return self.out_channels + self.learned_deviation

    def build(
        self,
        skips_shape: Any,
        inner_features_shape: Shape,
        time_embedding_shape: Shape,
        text_shape: Shape | None = None,
        text_mask_shape: Shape | None = None,
        z_below_shape: Shape | None = None,
        output_below_shape: Shape | None = None,
        z_shape: Shape | None = None,
    ) -> None:
        shape = self._input_shape(skips_shape)
        last = len(self.channels) - 1
        self.out_adapter = conv(
            "out_adapter",
            self.inner_channels,
            self.channels[last],
            zero=True,
            seed=self.seed,
            dtype=self.dtype_policy,
        )
        self.out_adapter.build(self.rows_shape(shape, last, self.inner_channels))
        self._build_up(shape, time_embedding_shape, text_shape, self._predicted)
        if self.sees_below:
            self._build_view(z_below_shape, z_shape, time_embedding_shape)

    def _build_view(self, below_shape: Any, z_shape: Any, time_embedding_shape: Shape) -> None:
        channels = below_shape[-1] + self.out_channels + z_shape[-1]
        given = {"seed": self.seed, "dtype": self.dtype_policy}
        arriving = self.channels[min(1, len(self.channels) - 1)]  # at the highest resolution
        self.view = conv("view", channels * self.patch**2, arriving, **given)
        self.view.build(self.rows_shape(z_shape, 0, channels * self.patch**2))
        self.view_time = dense("view_time", time_embedding_shape[-1], arriving, **given)
        self.view_time.build(time_embedding_shape)

    def _view(self, z_below: Tensor, output_below: Tensor, z: Tensor, embedding: Tensor) -> Tensor:
        """What the level below started from and predicts, enlarged, beside the own input."""
        rows, frames = to_rows(z), self.frames_at(0)
        batch = ops.shape(z)[0]
        output_below = output_below[..., : self.out_channels]  # without a learned deviation
        below = ops.concatenate([z_below[:batch], output_below[:batch]], axis=-1)
        held = frames // (below.shape[1] if len(below.shape) == 5 else 1)
        below = repeat_rows(to_rows(below), held)
        below = ops.image.resize(below, rows.shape[1:3], interpolation="bilinear")
        x = self.view(to_patches(ops.concatenate([below, rows], axis=-1), self.patch))
        scale = repeat_rows(1.0 + self.view_time(ops.silu(embedding)), frames)
        return x * ops.expand_dims(scale, (1, 2))

    def call(
        self,
        skips: Tensor,
        inner_features: Tensor,
        time_embedding: Tensor,
        text: Tensor = None,
        text_mask: Tensor = None,
        z_below: Tensor = None,
        output_below: Tensor = None,
        z: Tensor = None,
    ) -> dict[str, Any]:
        # skips[-1] is the state at the lowest resolution: nothing follows the last ResBlock.
        x = skips[-1]
        batch = ops.shape(skips[0])[0] // self.frames_at(0)
        time_embedding = time_embedding[:batch]
        text = None if text is None else text[:batch]
        text_mask = None if text_mask is None else text_mask[:batch]
        frames = self.frames_at(len(self.channels) - 1) if self.tiled_adapter else 1
        x = x + adapt(self.out_adapter, to_rows(inner_features[:batch]), frames)
        seen = self._view(z_below, output_below, z, time_embedding) if self.sees_below else None
        x = self._run_up(x, skips, time_embedding, text, text_mask, seen)
        features = from_rows(x, self.frames_at(0), self.frames is not None)
        return {"output": self._head(x), "features": features}

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Tensor:
        skips = args[0] if args else kwargs["skips"]
        shape = self._input_shape([skip.shape for skip in skips])
        return output_spec(shape, self._predicted, self.channels[0], self.compute_dtype, self.patch)

    def compute_output_shape(
        self,
        skips_shape: Any,
        inner_features_shape: Shape,
        time_embedding_shape: Shape,
        text_shape: Shape | None = None,
        text_mask_shape: Shape | None = None,
        z_below_shape: Shape | None = None,
        output_below_shape: Shape | None = None,
        z_shape: Shape | None = None,
    ) -> dict[str, Any]:
        shape = self._input_shape(skips_shape)
        return output_shapes(shape, self._predicted, self.channels[0], self.patch)

    def get_config(self) -> dict:
        config = {
            "inner_channels": self.inner_channels,
            "out_channels": self.out_channels,
            "tiled_adapter": self.tiled_adapter,
            "learned_deviation": self.learned_deviation,
            "sees_below": self.sees_below,
        }
        return {**super().get_config(), **config}


def output_shapes(shape: Shape, out_channels: int, channels: int, patch: int = 1) -> dict:
    """Shapes of the result of a level with input `shape`."""
    *rest, height, width, _ = shape
    return {
        "output": (*rest, height, width, out_channels),
        "features": (*rest, height // patch, width // patch, channels),
    }


def output_spec(shape: Shape, out_channels: int, channels: int, dtype: str, patch: int = 1) -> dict:
    """Symbolic result of a level with input `shape`: float32 prediction, features in `dtype`."""
    shapes = output_shapes(shape, out_channels, channels, patch)
    return {
        "output": keras.KerasTensor(shapes["output"], dtype="float32"),
        "features": keras.KerasTensor(shapes["features"], dtype=dtype),
    }
