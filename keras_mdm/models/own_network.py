"""Any Keras model as a network, described by its inputs and outputs."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import keras

from keras_mdm import checks
from keras_mdm.layers import ClassEmbedding
from keras_mdm.levels import LevelShape, Size
from keras_mdm.models.flags import freeze, frozen_in, layers_of
from keras_mdm.models.network import LevelNetwork
from keras_mdm.models.specs import LevelSpec, log2_ratio, parse_level

CONTRACT = (
    "pass a functional model with a dict of inputs, `z_<level>` for every level, `time` and "
    "conditions, and a dict of outputs by level name (see docs/extending.md)"
)
TEXT, POOLED, LABEL, TIME = ("text", "text_mask"), "pooled", "label", "time"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnFacts:
    """`NetworkFacts` of a network that was not built by this package."""

    levels: tuple[LevelSpec, ...]
    in_channels: int
    out_channels: int
    num_classes: int | None = None
    text_width: int | None = None
    pooled_width: int | None = None
    micro_conditions: tuple[str, ...] = ()


@keras.saving.register_keras_serializable("keras_mdm")
class OwnNetwork(LevelNetwork):
    """The user's Keras model as a network; `MatryoshkaDiffusion` wraps models by itself.

    The model must be functional. Its inputs are a dict of `z_<level>` `(B, [T,] H, W, C)` for every
    level; `time` `(B,)`; and, optionally, `text` `(B, L, D)` with `text_mask` `(B, L)`, `pooled`
    `(B, P)`, `label` `(B,)` (-1 for no class), and extra numbers `(B,)` by name (NaN where a batch
    has none). Levels are named by size ("64", "h48w80") or frames and size ("16x64"), and grow by a
    power of two from one to the next. The outputs are a dict of float32 predictions by level name.
    In mixed batches outer levels have fewer rows, those of the first samples.

    Its parts are its layers. For learning rates, freezing and LoRA, layers named `level_<level>` or
    `level_<level>_...` belong to that level, all others to the innermost.

    Args:
        network: the model.
        num_classes: number of classes of `label`; found automatically if a `ClassEmbedding` reads
            it.
        name: name of the wrapping model.
        remade: the model was just made from its configuration, so this need not be tried.

    Raises:
        ValueError: if inputs and outputs do not fit together, or the model cannot be rebuilt from
            its configuration with the same weights.

    Example:

    >>> z, time = keras.Input((8, 8, 3), name="z_8"), keras.Input((), name="time")
    >>> output = keras.layers.Conv2D(3, 3, padding="same", name="level_8")(z)
    >>> OwnNetwork(keras.Model({"z_8": z, "time": time}, {"8": output})).levels
    ('8',)
    """

    def __init__(
        self,
        network: keras.Model,
        *,
        num_classes: int | None = None,
        name: str = "own_network",
        remade: bool = False,
    ):
        taken, given = _structures(network)
        spec = _facts(taken, given, num_classes or _classes_of(network))
        if not remade:
            _check_remade(network)
        inputs = {
            key: keras.Input(t.shape[1:], dtype=t.dtype, name=key) for key, t in taken.items()
        }
        found = network(inputs)
        outputs = {level.name: found[level.name] for level in spec.levels}
        super().__init__(inputs, outputs, spec=spec, policy=_policy_of(network), name=name)
        self.network = network

    @property
    def parts(self) -> dict[str, keras.layers.Layer]:
        """The model's layers that have weights, by name."""
        return {layer.name: layer for layer in self.network.layers if layer.variables}

    def shapes_at(self, size: Size) -> tuple[LevelShape, ...]:
        """Refused: the user's model is connected for the sizes of its inputs."""
        raise checks.error(
            "only networks of build_nested_unet take pictures of several sizes",
            fix="leave the buckets out, or build the network from levels with your layers",
            size=size,
            network=self.network.name,
        )

    def recorded(self) -> dict[str, dict[str, Any]]:
        """Sizes and conditions; the shapes of the weights say the rest."""
        names = ("num_classes", "text_width", "pooled_width", "in_channels", "out_channels")
        facts = {name: getattr(self.spec, name) for name in names}
        levels = {
            f"level {level.name}": {"shape": list(level.input_shape(self.spec.in_channels))}
            for level in self.spec.levels
        }
        micro = {"micro_conditions": list(self.spec.micro_conditions)}
        return {**levels, "conditions": {**facts, **micro}}

    def get_config(self) -> dict:
        return {
            "network": keras.saving.serialize_keras_object(self.network),
            "num_classes": self.spec.num_classes,
            "name": self.name,
            "trained_alone": None if self.trained_alone is None else list(self.trained_alone),
            "frozen": frozen_in(self),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> "OwnNetwork":
        network = keras.saving.deserialize_keras_object(config["network"], custom_objects)
        own = cls(network, num_classes=config["num_classes"], name=config["name"], remade=True)
        own.trained_alone = config["trained_alone"]
        own.trainable = True
        freeze(own, config["frozen"])
        return own


def as_network(model: Any) -> LevelNetwork:
    """Wrap a Keras model as a network; a `LevelNetwork` is returned unchanged.

    Args:
        model: a `NestedUNet`, or a Keras model with the inputs and outputs of an `OwnNetwork`.

    Raises:
        ValueError: if it is neither.
    """
    return model if isinstance(model, LevelNetwork) else OwnNetwork(model)


def _structures(network: Any) -> tuple[dict, dict]:
    """Symbolic inputs and outputs of a model, by key."""
    structures = []
    for name in ("input", "output"):
        structure = getattr(network, name, None) if isinstance(network, keras.Model) else None
        if not isinstance(structure, Mapping):
            raise checks.error(
                "a network must be a functional Keras model with dicts of inputs and outputs",
                fix="make it with build_nested_unet, or " + CONTRACT,
                network=type(network).__name__,
                **{name: type(structure).__name__},
            )
        structures.append(dict(structure))
    return structures[0], structures[1]


def _facts(taken: Mapping, given: Mapping, num_classes: int | None) -> OwnFacts:
    """Describe a network by its inputs and outputs."""
    levels = _levels(taken, given)
    ranks = {TIME: 0, "text": 2, "text_mask": 1, POOLED: 1, LABEL: 0}
    strange = {
        key: tuple(tensor.shape)
        for key, tensor in taken.items()
        if not key.startswith("z_") and len(tensor.shape) != 1 + ranks.get(key, 0)
    }
    if TIME not in taken or strange or (TEXT[0] in taken) != (TEXT[1] in taken):
        raise checks.error(
            "besides its levels a network must take `time` (B,), and may take `text` (B, L, D) "
            "with `text_mask` (B, L), `pooled` (B, P), `label` (B,) and extra numbers (B,)",
            fix=CONTRACT,
            inputs={key: tuple(tensor.shape) for key, tensor in taken.items()},
        )
    if LABEL in taken and num_classes is None:
        raise checks.error(
            "the number of classes of a network with labels must be known",
            fix="read them with keras_mdm.layers.ClassEmbedding, or pass "
            "keras_mdm.models.OwnNetwork(network, num_classes=...)",
            num_classes=None,
        )
    ins = {taken[f"z_{level.name}"].shape[-1] for level in levels}
    outs = {given[level.name].shape[-1] for level in levels}
    wrong = {key: (tuple(t.shape), t.dtype) for key, t in given.items() if t.dtype != "float32"} | {
        level.name: tuple(given[level.name].shape)
        for level in levels
        if tuple(given[level.name].shape[1:-1]) != level.input_shape(1)[:-1]
    }
    if wrong or len(ins) > 1 or len(outs) > 1 or None in ins | outs:
        raise checks.error(
            "every output must be float32 and have the shape of its input, and all levels must "
            "have the same channels",
            fix='return predictions of the input\'s height and width, made with dtype="float32"',
            inputs={level.name: tuple(taken[f"z_{level.name}"].shape) for level in levels},
            outputs={key: (tuple(tensor.shape), tensor.dtype) for key, tensor in given.items()},
        )
    known = {*TEXT, TIME, POOLED, LABEL}
    return OwnFacts(
        levels=levels,
        in_channels=ins.pop(),
        out_channels=outs.pop(),
        num_classes=num_classes if LABEL in taken else None,
        text_width=taken["text"].shape[-1] if "text" in taken else None,
        pooled_width=taken[POOLED].shape[-1] if POOLED in taken else None,
        micro_conditions=tuple(
            key for key in taken if key not in known and not key.startswith("z_")
        ),
    )


def _levels(taken: Mapping, given: Mapping) -> tuple[LevelSpec, ...]:
    """The levels that inputs and outputs name, ascending."""
    names = [key.removeprefix("z_") for key in taken if key.startswith("z_")]
    try:
        levels = [parse_level(name) for name in names]
        fits = bool(levels) and set(names) == set(given) and [e.name for e in levels] == names
    except ValueError:
        fits = False
    if not fits:
        raise checks.error(
            "the levels that a network takes must be those that it returns, named by size, such as "
            '"64", or by frames and size, such as "16x64"',
            fix=CONTRACT,
            inputs=sorted(taken),
            outputs=sorted(given),
        )
    for level in levels:
        shape = tuple(taken[f"z_{level.name}"].shape)
        if shape[1:-1] != level.input_shape(1)[:-1]:
            raise checks.error(
                f"`z_{level.name}` must have the shape of its level's name",
                fix=f"make it with keras.Input({level.input_shape(shape[-1])})",
                shape=shape,
            )
    levels.sort(key=lambda level: (level.frames or 1, level.shape.height))
    for inner, outer in zip(levels, levels[1:], strict=False):
        space = log2_ratio(outer.shape.height, inner.shape.height)
        wide = log2_ratio(outer.shape.width, inner.shape.width)
        time = log2_ratio(outer.frames or 1, inner.frames or 1)
        becomes_image = inner.frames is not None and outer.frames is None
        ascends = space is not None and time is not None and (space > 0 or time > 0)
        if not ascends or wide != space or becomes_image:
            raise checks.error(
                "levels must ascend by a power of two from one to the next, in size or frames",
                fix="name them for example 64 and 256, or 64, 16x64 and 16x256",
                inner_level=inner.name,
                level=outer.name,
            )
    return tuple(levels)


def _classes_of(network: keras.Model) -> int | None:
    found = [layer for layer in layers_of(network) if isinstance(layer, ClassEmbedding)]
    return found[0].num_classes if len(found) == 1 else None


def _policy_of(network: keras.Model) -> keras.DTypePolicy:
    """The policy of ours with the dtypes in which a model computes and keeps its weights."""
    layers = [layer for layer in layers_of(network) if layer._trainable_variables]
    kept = {variable.dtype for variable in network.trainable_variables}
    computed = {layer.compute_dtype for layer in layers}
    if kept <= {"float32"} and computed <= {"float32", "bfloat16", "float16"}:
        half = computed - {"float32"}
        if len(half) < 2:
            return keras.DTypePolicy(f"mixed_{half.pop()}" if half else "float32")
    if kept == {"bfloat16"}:
        return keras.DTypePolicy("bfloat16")
    raise checks.error(
        "the weights of a network must be float32, and it must compute in a single dtype",
        fix='make its layers with dtype="float32" or "mixed_bfloat16"',
        weights=sorted(kept),
        computes=sorted(computed),
    )


def _check_remade(network: keras.Model) -> None:
    """Raise unless the model can be rebuilt from a file, with the same paths of weights.

    Averages, moments and checkpoints go by these paths, so this is checked before training.
    """
    try:
        written = json.loads(json.dumps(keras.saving.serialize_keras_object(network)))
        again = keras.saving.deserialize_keras_object(written)
        before, after = ([(v.path, v.shape) for v in each.weights] for each in (network, again))
    except Exception as problem:  # from the user's code
        raise checks.error(
            "Keras must be able to rebuild a network from its configuration, or files could not "
            "restore it",
            fix="decorate its own classes with @keras.saving.register_keras_serializable(), and "
            "give them a get_config with all arguments",
            network=network.name,
            problem=str(problem).partition("\n")[0],
        ) from problem
    if before != after:
        changed = [path for path, shape in before if (path, shape) not in after]
        raise checks.error(
            "weights must have the same paths and shapes wherever a network is made: averages, "
            "moments and checkpoints go by them",
            fix="name all layers inside your layers, as in keras.layers.Dense(8, name=...)",
            paths=changed[:3],
        )
