"""The user's layers in place of ours: how they are recorded, made and built.

A place such as a level's `resblock` takes a layer class that is registered with Keras, or a
`functools.partial` of one with its options. It is kept as plain values (the registered name and the
options), so that a configuration goes to JSON and back.
"""

import collections
import contextlib
import dataclasses
import functools
import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

import keras
from keras.src.backend.common import global_state  # private, of Keras 3.15: the names it gave

from keras_mdm import checks

REGISTER = "decorate the class with @keras.saving.register_keras_serializable()"
# These follow from a layer's place: its name gives the weights' paths, its seed their values.
_OF_THE_PLACE = {"name", "seed"}
_COUNTS = "object_name_uids"


class UnknownLayer(ValueError):
    """A configuration names a class that is not registered here."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A place in the network for a layer of ours or the user's own.

    Args:
        name: name of the argument that chooses the layer.
        ours: the default class.
        needs: keywords that the user's constructor must take, besides `name` and `dtype`.

    Example:

    >>> import functools
    >>> from keras_mdm.layers import ResBlock
    >>> place = Place("resblock", ResBlock)
    >>> place.described(functools.partial(ResBlock, groups=16))
    {'layer': 'keras_mdm>ResBlock', 'options': {'groups': 16}}
    """

    name: str
    ours: type
    needs: tuple[str, ...] = ()

    def described(self, layer: Any) -> dict[str, Any] | None:
        """Describe a layer for this place as plain values.

        Args:
            layer: a registered layer class, a `functools.partial` of one with keywords, an earlier
                result of this function, or `None` for our class.

        Returns:
            `{"layer": registered name, "options": keywords as JSON values}`, or `None`.

        Raises:
            ValueError: if `layer` is none of these, its class is not registered with Keras, or its
                options cannot be stored as JSON.
        """
        return described(self.name, layer)

    def make(self, own: Mapping[str, Any] | None, **given: Any) -> keras.layers.Layer:
        """Make the layer.

        Args:
            own: what `described` returned.
            **given: keywords for our class. The user's class gets those that its constructor, or a
                base class's, names.

        Raises:
            ValueError: if the class is unknown, or does not take a required keyword.
        """
        if own is None:
            return self.ours(**given)
        cls = keras.saving.get_registered_object(own["layer"])
        if cls is None:
            raise UnknownLayer(
                checks.error(
                    f"the class of `{self.name}` must be registered before the network is made",
                    fix=f"{REGISTER} and import its module first",
                    **{self.name: own["layer"]},
                )
            )
        known = _keywords(cls)
        lacking = {"name", "dtype", *self.needs} - known
        if "frames" in lacking and given.get("frames") is None:
            lacking.discard("frames")  # image levels have none
        if lacking:
            raise checks.error(
                f"the constructor of {cls.__name__} must take {', '.join(sorted(lacking))}",
                fix="add them; **kwargs passed to super().__init__ take name and dtype",
                takes=sorted(known),
            )
        taken = {key: value for key, value in given.items() if key in known}
        taken |= keras.saving.deserialize_keras_object(dict(own["options"]))
        names: dict[str, int] = collections.defaultdict(int)
        with _numbered_by(names):
            layer = cls(**taken)
        layer.__dict__["_names_inside"] = names  # past Keras' tracking
        return layer

    def build(self, layer: Any, own: Mapping[str, Any] | None, *shapes: Any, channels: int) -> None:
        """Build a layer that preserves height and width.

        The user's layer is called on symbols, as Keras does in a model, so it needs no `build` and
        may create its weights anywhere.

        Args:
            layer: from `make`.
            own: what `described` returned.
            *shapes: shapes of the call's arguments; `None` for omitted ones.
            channels: number of channels that the result must have.

        Raises:
            ValueError: if the user's layer returns another shape.
        """
        if own is None:
            layer.build(*shapes)
            return
        # The rows of an argument are samples or frames, so their number is never fixed.
        dtype = layer.compute_dtype
        symbols = [s and keras.KerasTensor((None, *s[1:]), dtype=dtype) for s in shapes]
        result = self.call(layer, own, *symbols)
        _check_shape(layer, "the result", result, (*shapes[0][1:-1], channels))

    def call(self, layer: Any, own: Mapping[str, Any] | None, *args: Any, **given: Any) -> Any:
        """Call a layer on symbols; this may be its first call.

        Args:
            layer: from `make`.
            own: what `described` returned.
            *args: positional arguments of the call.
            **given: its keyword arguments.
        """
        if own is None:
            return layer(*args, **given)
        names = layer.__dict__.get("_names_inside", collections.defaultdict(int))
        with _numbered_by(names):
            return layer(*args, **given)


def described(place: str, layer: Any) -> dict[str, Any] | None:
    """`Place.described` for the place of that name."""
    if layer is None:
        return None
    if isinstance(layer, Mapping) and set(layer) == {"layer", "options"}:
        return {"layer": layer["layer"], "options": dict(layer["options"])}
    cls, options = layer, {}
    if isinstance(layer, functools.partial) and not layer.args:
        cls, options = layer.func, dict(layer.keywords)
    if not isinstance(cls, type) or not issubclass(cls, keras.layers.Layer):
        raise checks.error(
            f"`{place}` must be a layer class",
            fix="pass the class, or functools.partial(TheClass, option=...) for its options",
            **{place: layer},
        )
    name = keras.saving.get_registered_name(cls)
    if keras.saving.get_registered_object(name) is not cls:
        raise checks.error(
            f"the class of `{place}` must be registered with Keras, so that files can name it",
            fix=REGISTER,
            **{place: cls.__qualname__},
        )
    checks.known_keys(f"options of {place}", options, _keywords(cls) - _OF_THE_PLACE)
    try:
        plain = json.loads(json.dumps(keras.saving.serialize_keras_object(options)))
        keras.saving.deserialize_keras_object(plain)
    except Exception as problem:  # from the user's code
        raise checks.error(
            f"the options of `{place}` must be values that a file can hold",
            fix="pass numbers, text, lists, or objects that are registered with Keras",
            options=options,
        ) from problem
    return {"layer": name, "options": plain}


def check_level(level: Any, z: Any, result: Any, *, out_channels: int, channels: int) -> None:
    """Raise unless the user's innermost level returned what the network needs.

    Args:
        level: the layer.
        z: its input.
        result: what it returned.
        out_channels: channels of the prediction.
        channels: channels of the features.
    """
    if not isinstance(result, Mapping) or not {"output", "features"} <= set(result):
        raise checks.error(
            f"{type(level).__name__} must return a dict of `output` and `features`",
            fix="return both: the prediction, and the state for the level outside",
            returned=sorted(result) if isinstance(result, Mapping) else type(result).__name__,
        )
    sides = tuple(z.shape[1:-1])
    _check_shape(level, "`output`", result["output"], (*sides, out_channels))
    _check_shape(level, "`features`", result["features"], (*sides, channels))
    if result["output"].dtype != "float32":
        raise checks.error(
            f"`output` of {type(level).__name__} must be float32: a rounded prediction makes "
            "every picture grainy",
            fix='make the last layer with dtype="float32"',
            dtype=result["output"].dtype,
        )


def _check_shape(layer: Any, what: str, result: Any, expected: tuple) -> None:
    shape = getattr(result, "shape", None)
    if shape is None or tuple(shape)[1:] != expected:
        raise checks.error(
            f"{what} of {type(layer).__name__} must have the shape "
            f"(B, {', '.join(map(str, expected))})",
            fix="keep height and width, and return as many channels as the constructor was given",
            returned=type(result).__name__ if shape is None else tuple(shape),
        )


def _keywords(cls: type) -> set[str]:
    """Keywords that a constructor takes itself or passes on to a base class."""
    found: set[str] = set()
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        found |= {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
        if base is keras.layers.Layer or all(p.kind != p.VAR_KEYWORD for p in parameters):
            break
    return found - {"self"}


@contextlib.contextmanager
def _numbered_by(names: dict[str, int]) -> Iterator[None]:
    """Have Keras number unnamed layers with separate counts.

    Keras counts them over the whole program. But weights are identified by their paths, which must
    be the same wherever the network is made. With a count per user's layer, paths depend on that
    layer alone.
    """
    before = global_state.get_global_attribute(_COUNTS)
    global_state.set_global_attribute(_COUNTS, names)
    try:
        yield
    finally:
        global_state.set_global_attribute(_COUNTS, before)
