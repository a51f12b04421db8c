"""Exported models as what draws for a server: TensorFlow alone, no keras_mdm model."""

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.conditioning.low_res import LOW_RES_NOISE
from keras_mdm.export import described
from keras_mdm.levels import LevelShape
from keras_mdm.sampling.low_res_noise import LEAST
from keras_mdm.serving.limits import Limits
from keras_mdm.serving.painting import MOST_STEPS, SEEDS, Drawn, OnStep, Order, level_facts
from keras_mdm.serving.wishes import Wish

_DEFAULT, _LABELS, _PREVIEW = "serving_default", "labels", "sample_"
_GRAPH = "saved_model.pb"
# Names of inputs that the API has, too.
_KNOWN = ("prompt", "negative_prompt", "label", "steps", "guidance_scale", "seed")


def find_export(path: str | os.PathLike) -> Path | None:
    """The version of an exported model that a path means: the newest of a directory of versions.

    Args:
        path: any path.

    Returns:
        The directory of the version, or `None` if the path is no exported model.
    """
    path = Path(path)
    if (path / _GRAPH).is_file():
        return path
    if not path.is_dir():
        return None
    found = [p for p in path.iterdir() if p.name.isdecimal() and (p / _GRAPH).is_file()]
    return max(found, key=lambda version: int(version.name), default=None)


class ExportPainter:
    """Draws with a signature of a SavedModel that `export_saved_model` wrote.

    Pictures in between are not known: the low level is drawn by itself first, where the export has
    a signature for it. A batch that has begun to draw ends.

    Args:
        directory: a version, see `find_export`.
        limits: of the server.

    Raises:
        ValueError: if an earlier version of keras_mdm wrote it, or it needs inputs that a client
            cannot send, such as the states of a text encoder.
    """

    def __init__(self, directory: Path, *, limits: Limits):
        self.limits = limits
        facts = described.read(directory)
        import tensorflow_text  # noqa: F401  (operations of tokenizers, which the graph may hold)

        self._loaded = tf.saved_model.load(str(directory))  # owns the variables of the graphs
        self._signatures = dict(self._loaded.signatures)
        self._draw = self._signature()
        self._inputs = self._draw.structured_input_signature[1]
        self.levels = tuple(facts["levels"])
        self._shapes = {level: LevelShape.parse(level) for level in self.levels}
        self._facts = facts
        self.fields = tuple(name for name in _KNOWN if name in self._inputs)
        limit = MOST_STEPS if limits.steps is None else limits.steps
        self.most_steps = min(facts["most_steps"], max(limit, facts["defaults"]["steps"]))
        self.defaults = {k: v for k, v in facts["defaults"].items() if k in self.fields}
        if len(self.levels) > 1:
            self.fields += ("level",)
            self.defaults["level"] = self.levels[-1]

    def _signature(self) -> Any:
        """The signature whose inputs clients can send."""
        strange: set[str] = set()
        for name in (_DEFAULT, _LABELS):
            graph = self._signatures.get(name)
            if graph is None:
                continue
            specs = graph.structured_input_signature[1]
            # What is left may be micro-conditions, one number each.
            others = {k for k, v in specs.items() if k not in _KNOWN and v.shape.rank != 1}
            if not others:
                return graph
            strange |= others
        raise checks.error(
            "an exported model that is served must take prompts, classes or neither",
            fix="export it with its text encoder inside, or serve the model itself",
            inputs=sorted(strange),
        )

    def described(self) -> dict[str, Any]:
        """See `Painter`."""
        top = self._draw.structured_outputs[self.levels[-1]]
        return {
            "fields": list(self.fields),
            "levels": [level_facts(shape) for shape in self._shapes.values()],
            "channels": top.shape[-1],
            "clips": bool(self._shapes[self.levels[-1]].frames),
            "previews": self._preview() is not None,
            "classes": self._facts.get("classes") if "label" in self.fields else None,
            "class_names": self._facts.get("class_names"),
            "defaults": dict(self.defaults),
            "samplers": [],
            "limits": {**self.limits.described(), "steps": self.most_steps},
            "notes": self._facts["notes"],
        }

    def _preview(self) -> Any:
        """The signature of the lowest level, if the export has one and there are others."""
        graph = self._signatures.get(f"{_PREVIEW}{self.levels[0]}")
        fits = graph is not None and graph.structured_input_signature[1] == self._inputs
        return graph if fits and len(self.levels) > 1 else None

    # Orders

    def key(self, order: Order) -> Hashable:
        """See `Painter`."""
        return order.key

    def order(self, wish: Wish) -> Order:
        """See `Painter`."""
        steps = self.defaults["steps"] if wish.steps is None else wish.steps
        least = self._facts.get("least_steps", 1)  # earlier exports do not say it
        if checks.integer("steps", steps, minimum=least) > self.most_steps:
            raise checks.error(
                f"`steps` must be at most {self.most_steps} on this server",
                fix=f"ask for {self.most_steps} or fewer",
                steps=steps,
            )
        level = self.levels[-1] if wish.level is None else wish.level
        checks.one_of("level", level, self.levels)
        scale = wish.guidance_scale
        if "guidance_scale" in self.fields:
            scale = self.defaults["guidance_scale"] if scale is None else scale
            if isinstance(scale, dict):
                raise checks.error(
                    "`guidance_scale` of an exported model must be one number",
                    fix="send a number, or serve the model itself",
                    guidance_scale=scale,
                )
            scale = checks.real("guidance_scale", scale, minimum=0.0)
        seed = secrets.randbelow(SEEDS) if wish.seed is None else wish.seed
        wish = dataclasses.replace(
            wish, steps=steps, seed=seed, level=level, guidance_scale=scale, label=self._label(wish)
        )
        values = dataclasses.asdict(wish).items()
        parameters = {name: value for name, value in values if value is not None}
        return Order(wish, {}, (steps,), parameters)

    def _label(self, wish: Wish) -> int | None:
        names, label = self._facts.get("class_names") or [], wish.label
        if isinstance(label, str):
            checks.one_of("label", label, names)
            return names.index(label)
        count = self._facts.get("classes")
        if label is not None and count is not None and not -1 <= label < count:
            raise checks.error(
                f"`label` must be from -1 to {count - 1}", fix="send one of these", label=label
            )
        return label

    # Drawing

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """See `Painter`."""
        yield

    def rehearsal(self, wanted: str) -> Iterator[Order]:
        """See `Painter`."""
        if wanted != "none":
            yield self.order(Wish(seed=0))

    def paint(self, orders: Sequence[Order], on_step: OnStep) -> list[Drawn]:
        """See `Painter`."""
        wishes = [order.wish for order in orders]
        # A single row would use other kernels than the rows of a batch.
        padded = [*wishes, *wishes[-1:] * (_size(len(wishes)) - len(wishes))]
        inputs = {name: self._rows(name, spec, padded) for name, spec in self._inputs.items()}
        graph, steps = self._preview(), wishes[0].steps or 1
        if graph is not None:
            low = self.levels[0]
            on_step(steps // 2, steps, {low: graph(**inputs)[low].numpy()[: len(wishes)]})
        found = self._draw(**inputs)
        drawn = {level: found[level].numpy() for level in self.levels}
        return [
            ({level: drawn[level][row].copy() for level in self._shown(wish)}, ())
            for row, wish in enumerate(wishes)
        ]

    def _shown(self, wish: Wish) -> tuple[str, ...]:
        return self.levels[: self.levels.index(wish.level or self.levels[-1]) + 1]

    @staticmethod
    def _rows(name: str, spec: tf.TensorSpec, wishes: Sequence[Wish]) -> tf.Tensor:
        none = {tf.string: "", tf.int32: -1}.get(spec.dtype, np.nan)
        none = LEAST if name == LOW_RES_NOISE else none
        values = [getattr(wish, name, None) for wish in wishes]
        return tf.constant([none if value is None else value for value in values], spec.dtype)


def _size(rows: int) -> int:
    """The next of 2, 4, 8, ..."""
    return max(2, 1 << (rows - 1).bit_length())
