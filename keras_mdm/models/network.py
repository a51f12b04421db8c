"""The interface between networks of any origin and the rest of the package."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import keras
from keras import ops

from keras_mdm import checks
from keras_mdm.levels import LevelShape, Size, sides_of
from keras_mdm.models.flags import policies_of, quantization
from keras_mdm.models.shapes import shapes_at
from keras_mdm.models.specs import LevelSpec
from keras_mdm.types import Tensor


class NetworkFacts(Protocol):
    """What is known of a network without its weights: a `NestedUNetSpec`, or facts read off the
    inputs and outputs of another network."""

    @property
    def levels(self) -> tuple[LevelSpec, ...]:
        """Its levels, ascending."""

    @property
    def micro_conditions(self) -> tuple[str, ...]:
        """Names of extra numbers that condition it."""

    @property
    def num_classes(self) -> int | None:
        """Classes of its labels."""

    @property
    def text_width(self) -> int | None:
        """Width of the text's states."""

    @property
    def pooled_width(self) -> int | None:
        """Width of the pooled vector, one per prompt."""

    @property
    def in_channels(self) -> int:
        """Channels of every input."""

    @property
    def out_channels(self) -> int:
        """Channels of every prediction."""


class LevelNetwork(keras.Model):
    """A network that denoises all levels at once: a `NestedUNet`, or another in an `OwnNetwork`.

    It is a functional Keras model. `levels` (names, ascending), `input_names` and `output_names`
    describe it; `spec` says more, see `NetworkFacts`. `policy` is its dtype policy. `parts` holds
    layers by name, and `level_of` gives the level of each.

    Args:
        inputs: symbolic inputs by key.
        outputs: symbolic predictions by level name, ascending.
        spec: what is known of the network.
        policy: its dtype policy.
        name: name of the model.

    Call arguments:
        inputs: dict with `z_<level>` `(B, [T,] H, W, C)` float32 per level, `time` `(B,)` float32
            (the timestep 0..N-1), and, if the network was built with them, `text` `(B, L, D)` with
            `text_mask` `(B, L)` of 0/1 (all ones if left out), `pooled` `(B, P)`, `label` `(B,)`
            int32 (-1 = no class), and micro-conditions `(B,)` float32 (NaN, the level's default, if
            left out). Outer levels may have fewer rows, which belong to the first samples.

    Returns:
        dict of float32 predictions by level name, each of the shape of its `z` (with
        `out_channels`).

    Raises:
        ValueError: if a key is missing or unknown, or two weights share a path.
    """

    def __init__(
        self,
        inputs: Mapping[str, keras.KerasTensor],
        outputs: Mapping[str, keras.KerasTensor],
        *,
        spec: NetworkFacts,
        policy: keras.DTypePolicy,
        name: str,
    ):
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.spec = spec
        self.policy = policy
        self.levels = tuple(level.name for level in spec.levels)
        self.input_names = tuple(inputs)
        self.output_names = tuple(outputs)
        self.trained_alone = None
        # Not tracked by Keras, as it is not part of the network.
        self.__dict__["_policies"] = policies_of(self)
        counts = collections.Counter(variable.path for variable in self.weights)
        shared = sorted(path for path, count in counts.items() if count > 1)
        if shared:
            raise checks.error(
                "every weight of a network must have a path of its own",
                fix="give the layers that hold them different names",
                shared=shared[:3],
            )

    @property
    def trained_alone(self) -> tuple[str, ...] | None:
        """Levels that were the highest of some samples in the last training, which sets this; it is
        saved. `None` if unknown."""
        return self.__dict__.get("_trained_alone")

    @trained_alone.setter
    def trained_alone(self, levels: Sequence[str] | None) -> None:
        # Not tracked by Keras, which would wrap it.
        known = None if levels is None else tuple(name for name in self.levels if name in levels)
        self.__dict__["_trained_alone"] = known

    def runs_alone(self, level: str) -> bool:
        """Whether a level may be used without those above it, as far as known.

        Args:
            level: name of a level.
        """
        known = self.trained_alone
        return known is None or level == self.levels[-1] or level in known

    def level_of(self, part: str) -> str:
        """Return the level of a part, which its name gives: `level_<level>` or `level_<level>_...`.
        Text, class and everything else belong to the innermost level.

        Args:
            part: a key of `parts`.
        """
        level = part.removeprefix("level_").partition("_")[0]
        return level if level in self.levels else self.levels[0]

    def recorded(self) -> dict[str, dict[str, Any]]:
        """What a run records of its network and requires in all phases, as JSON values: "level
        <name>" for every level, and "conditions"."""
        raise NotImplementedError

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        # Before Keras sees the dict: it would reject absent keys and misread unknown ones.
        return super().__call__(self._complete(inputs), **kwargs)

    def _complete(self, inputs: Mapping[str, Any]) -> dict:
        """Check the keys and fill in those that may be left out."""
        if not isinstance(inputs, Mapping):
            raise checks.error(
                "the input must be a dict of tensors",
                fix=f"pass a dict with the keys {list(self.input_names)}",
                type=type(inputs).__name__,
            )
        checks.known_keys("inputs", inputs, self.input_names)
        optional = {"text_mask", *self.spec.micro_conditions}
        checks.required_keys(
            "inputs", inputs, [name for name in self.input_names if name not in optional]
        )
        full = {name: ops.convert_to_tensor(value) for name, value in inputs.items()}
        self._check_shapes(full)
        if "text" in full:
            text = full["text"]
            if text.shape[-1] != self.spec.text_width:
                raise checks.error(
                    f"`text` must have the width {self.spec.text_width}",
                    fix="use the text encoder the network was built for",
                    text_shape=tuple(text.shape),
                )
            if "text_mask" not in full:
                full["text_mask"] = ops.ones(ops.shape(text)[:2], "float32")
            full["text_mask"] = ops.cast(full["text_mask"], "float32")  # any dtype is accepted
        for name in self.spec.micro_conditions:
            if name not in full:
                full[name] = ops.full(ops.shape(full["time"]), float("nan"), "float32")
        return {name: full[name] for name in self.input_names}

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Further sizes that inputs of the highest level may have, with all levels scaled alike;
        none unless `MatryoshkaDiffusion(buckets=...)` sets them."""
        return self.__dict__.get("_sizes", ())

    @sizes.setter
    def sizes(self, sizes: Sequence[Size]) -> None:
        for size in sizes:
            self.shapes_at(size)
        self.__dict__["_sizes"] = tuple(sizes)  # not tracked by Keras, which would wrap it

    def shapes_at(self, size: Size) -> tuple[LevelShape, ...]:
        """Return the levels with another size for the highest one, if the layers can take it.

        Args:
            size: a number, or `(height, width)`.

        Raises:
            ValueError: if the layers cannot take it.
        """
        return shapes_at(self.spec.levels, size)

    @property
    def input_spec(self) -> Any:
        """What Keras checks inputs against: a single size; `_check_shapes` knows all."""
        return None if self.sizes else super().input_spec

    def _check_shapes(self, inputs: Mapping[str, Tensor]) -> None:
        shapes = tuple(level.shape for level in self.spec.levels)
        sides = tuple(inputs[f"z_{self.levels[-1]}"].shape[-3:-1])
        if sides in map(sides_of, self.sizes):
            shapes = self.shapes_at(sides)
        for name, shape in zip(self.levels, shapes, strict=True):
            expected = shape.of_sample(self.spec.in_channels)
            if tuple(inputs[f"z_{name}"].shape[1:]) != expected:
                raise checks.error(
                    f"`z_{name}` must have the shape (B, {', '.join(map(str, expected))})",
                    fix="resize the input, or build the network for this size",
                    shape=tuple(inputs[f"z_{name}"].shape),
                )

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "trainable":
            # TensorFlow skips the assignment of an unchanged value, and with it the flags of inner
            # layers: `unet.trainable = True` would leave a frozen level frozen.
            keras.Model.trainable.fset(self, value)
        else:
            super().__setattr__(name, value)

    def enable_lora(
        self, rank: int, *, levels: Sequence[str] | None = None, alpha: float | None = None
    ) -> list[str]:
        """Train only low-rank additions to the kernels, for a network without a model around it, as
        in `estimate_training`; else call `MatryoshkaDiffusion.enable_lora`. Arguments as in
        `lora.enable_lora`.

        Returns:
            Paths of the new weights.
        """
        from keras_mdm.models.lora import enable_lora

        return enable_lora(self, rank, levels=levels, alpha=alpha)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """As in Keras; a surrounding model's averages restart."""
        super().set_weights(weights)
        self.__dict__["_replaced"] = True

    def load_weights(self, filepath: Any, **kwargs: Any) -> None:
        """As in Keras; a surrounding model's averages restart."""
        super().load_weights(filepath, **kwargs)
        self.__dict__["_replaced"] = True

    def quantize(self, mode: Any = None, config: Any = None, **kwargs: Any) -> None:
        """Refused: averages, training and files need floating-point weights."""
        raise quantization(mode=mode)
