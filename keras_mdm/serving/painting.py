"""What draws for a server: a model with what may be asked of it."""

import contextlib
import dataclasses
import secrets
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from keras_mdm import checks
from keras_mdm.conditioning import nulls
from keras_mdm.conditioning.conditions import NO_CLASS
from keras_mdm.conditioning.low_res import low_res_channels
from keras_mdm.levels import LevelShape
from keras_mdm.sampling import defaults, guiding, starting
from keras_mdm.serving.limits import Limits
from keras_mdm.serving.texts import Texts
from keras_mdm.serving.wishes import Wish
from keras_mdm.stages import channels_of, levels_of, stages_of

OnStep = Callable[[int, int, Mapping[str, np.ndarray]], None]
Drawn = tuple[dict[str, np.ndarray], tuple[str, ...]]
MOST_STEPS = 100
STAGES = ("low", "high")  # of a cascade, as in its `generate`
# Seeds that are drawn for clients: numbers that JavaScript holds exactly.
SEEDS = 2**31


@dataclasses.dataclass(frozen=True)
class Order:
    """A wish that was checked against a model.

    Args:
        wish: what the client asked for, with its seed and, if it has one, the number of its class.
        options: options of `generate` that a batch has in common.
        key: equal for orders that may share a batch.
        parameters: everything needed to draw the picture again, as plain values by field.
    """

    wish: Wish
    options: dict[str, Any]
    key: Hashable
    parameters: dict[str, Any]


class Painter(Protocol):
    """What a `SamplingQueue` draws with."""

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        """The context in which the sampling thread draws."""

    def rehearsal(self, wanted: str) -> Iterator[Order]:
        """Orders to draw before the first request: "none", "plain" or "all" graphs."""

    def key(self, order: Any) -> Hashable:
        """Equal for orders that may share a batch."""

    def order(self, wish: Wish) -> Order:
        """Check a wish; raises `ValueError`. Called by any thread."""

    def paint(self, orders: Sequence[Any], on_step: OnStep) -> list[Drawn]:
        """Draw orders of equal keys: pictures by level and notes of each. May be ended by what
        `on_step` raises."""

    def described(self) -> dict[str, Any]:
        """What clients may know: `fields`, `levels`, `defaults`, and more."""


def painter_of(model: Any, *, limits: Limits | None = None, weights: str = "ema") -> "ModelPainter":
    """Prepare a model for serving.

    Args:
        model: a `MatryoshkaDiffusion`, a `Cascade` or a `LatentDiffusion` that draws pictures or
            clips.
        limits: of the server.
        weights: as in `generate`.

    Raises:
        ValueError: if it cannot be served, or has no such weights.
    """
    return ModelPainter(model, limits=limits or Limits(), weights=weights)


class ModelPainter:
    """Draws with `generate`.

    Args:
        model: see `painter_of`.
        limits: of the server.
        weights: as in `generate`.
    """

    def __init__(self, model: Any, *, limits: Limits, weights: str = "ema"):
        first, *_ = self.stages = stages_of(model)
        if low_res_channels(first.unet.spec):
            raise checks.error(
                "a model that enlarges pictures cannot be served by itself",
                fix="serve a Cascade of the model that draws the small pictures and this one",
                model=type(model).__name__,
            )
        self.model, self.limits, self.weights = model, limits, weights
        for stage in self.stages:
            stage.averages.check(weights)
        self.levels, self.channels = levels_of(model), channels_of(model)
        # What the signature names is what the class can do: a cascade and a model of codes cannot
        # do everything.
        self._single = self.stages[0] is model
        self._coded = hasattr(model, "codec")
        self._shapes = {level: LevelShape.parse(level) for level in self.levels}
        self.clips = bool(self._shapes[self.levels[-1]].frames)
        self.texts = Texts(first)
        self._checking = threading.Lock()
        self.defaults = self._defaults()
        self.most_steps = self._most_steps()
        self.fields = self._fields()

    # What there is

    def _defaults(self) -> dict[str, Any]:
        """What holds without a wish; of a cascade, what both of its models have."""
        stage = self.stages[0]
        own = stage.sampling
        named = defaults.PRESETS[own.get("sampling", "default")]
        found: dict[str, Any] = {}
        if len({defaults.steps_of(each) for each in self.stages}) == 1:
            found["steps"] = defaults.steps_of(stage)
        found["sampler"] = own.get("sampler", named["sampler"])
        scale = guiding.own_scale(stage)
        if self._guided(stage) and len({_hashable(guiding.own_scale(s)) for s in self.stages}) == 1:
            names = dict(zip(stage.unet.levels, self.levels, strict=False))
            if isinstance(scale, Mapping):
                scale = {names[level]: value for level, value in scale.items()}
            found["guidance_scale"] = scale
        if len(self.levels) > 1:
            found["level"] = self.levels[-1]
        if not self.clips and (self._single or self._coded):
            found["strength"] = starting.STRENGTH
        return found

    def _fields(self) -> tuple[str, ...]:
        spec, found = self.stages[0].unet.spec, ["seed", "steps", "sampler"]
        if self.texts.wanted:
            found += ["prompt", "negative_prompt"]
        found += ["label"] if spec.num_classes else []
        found += ["guidance_scale"] if self._guided(self.stages[0]) else []
        found += ["level"] if len(self.levels) > 1 else []
        if "strength" in self.defaults:
            found += ["init_image", "strength"] + (["mask"] if self._single else [])
        return tuple(found)

    @staticmethod
    def _guided(stage: Any) -> bool:
        return bool(nulls.large_conditions(stage.unet.spec))

    def _most_steps(self) -> int:
        limit = min(s.process.schedules[s.unet.levels[0]].num_steps for s in self.stages)
        own = max(defaults.steps_of(stage) for stage in self.stages)
        wanted = max(MOST_STEPS, own) if self.limits.steps is None else self.limits.steps
        return min(limit, wanted)

    def described(self) -> dict[str, Any]:
        """See `Painter`."""
        stage = self.stages[0]
        samplers = [self.defaults["sampler"], *self.limits.samplers]
        return {
            "fields": list(self.fields),
            "levels": [level_facts(shape) for shape in self._shapes.values()],
            "channels": self.channels,
            "clips": self.clips,
            "previews": not self._coded,
            "classes": stage.unet.spec.num_classes,
            "class_names": stage.class_names and list(stage.class_names),
            "defaults": dict(self.defaults),
            "samplers": list(dict.fromkeys(samplers)),
            "limits": {**self.limits.described(), "steps": self.most_steps},
            "notes": {name: value for each in self.stages for name, value in each.notes.items()},
        }

    # Orders

    def key(self, order: Order) -> Hashable:
        """See `Painter`."""
        return order.key

    def order(self, wish: Wish) -> Order:
        """See `Painter`."""
        seed = secrets.randbelow(SEEDS) if wish.seed is None else wish.seed
        wish = dataclasses.replace(wish, seed=seed)
        if wish.level is not None:
            checks.one_of("level", wish.level, self.levels)
        self._check_steps(wish.steps)
        allowed = (self.defaults["sampler"], *self.limits.samplers)
        if wish.sampler is not None:
            checks.one_of("sampler", wish.sampler, tuple(dict.fromkeys(allowed)))
        options = self._options(wish)
        first = self.stages[0]
        if wish.label is not None:
            _, found = first.conditions_for(None, labels=[wish.label])
            wish = dataclasses.replace(wish, label=int(found["label"][0]))
        wish = self._with_pictures(wish, options)
        self._try(wish, options)
        return Order(wish, options, self._key(wish, options), self._parameters(wish))

    def _check_steps(self, steps: int | None) -> None:
        if steps is not None and checks.integer("steps", steps, minimum=1) > self.most_steps:
            raise checks.error(
                f"`steps` must be at most {self.most_steps} on this server",
                fix=f"ask for {self.most_steps} or fewer",
                steps=steps,
            )

    def _options(self, wish: Wish) -> dict[str, Any]:
        """The options of `generate` that a batch has in common."""
        options = {
            "steps": wish.steps,
            "sampler": None if wish.sampler == self.defaults["sampler"] else wish.sampler,
            "guidance_scale": wish.guidance_scale,
            "strength": wish.strength,
        }
        if self._single and wish.level not in (None, self.levels[-1]):
            # Levels above are not computed where the one asked for was trained to do without.
            if self.model.unet.runs_alone(wish.level):
                options["stop_at"] = wish.level
        return {name: value for name, value in options.items() if value is not None}

    def _with_pictures(self, wish: Wish, options: Mapping[str, Any]) -> Wish:
        """The wish with its mask at the size of the highest level that is drawn."""
        if wish.mask is None:
            return wish
        if wish.init_image is None:
            raise checks.error(
                "`strength` and `mask` need an `init_image` to change",
                fix="send init_image",
                init_image=None,
            )
        from PIL import Image

        shape = self._shapes[options.get("stop_at", self.levels[-1])]
        mask = Image.fromarray(wish.mask).resize((shape.width, shape.height), Image.Resampling.BOX)
        return dataclasses.replace(wish, mask=np.asarray(mask))

    def _try(self, wish: Wish, options: Mapping[str, Any]) -> None:
        """Have `generate` check everything but the texts, which it would encode."""
        given: dict[str, Any] = {**options, **self._starts([wish]), "seed": [wish.seed]}
        given |= {"num_images": 1, "weights": self.weights}
        if wish.negative_prompt is not None:
            given |= self._negative({}, options)
        with self._checking, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are noted when the picture is drawn
            self.model.generate(dry_run=True, **given)

    @staticmethod
    def _starts(wishes: Sequence[Wish]) -> dict[str, Any]:
        """The pictures that a batch begins from."""
        found = {}
        for name in ("init_image", "mask"):
            values = [getattr(wish, name) for wish in wishes]
            if values[0] is not None:
                found[name] = np.stack(values)
        return found

    def _key(self, wish: Wish, options: Mapping[str, Any]) -> Hashable:
        values = {name: _hashable(value) for name, value in options.items()}
        shapes = [None if v is None else v.shape for v in (wish.init_image, wish.mask)]
        return (*sorted(values.items()), *shapes)

    def _parameters(self, wish: Wish) -> dict[str, Any]:
        found = {**self.defaults}
        if wish.init_image is None:
            found.pop("strength", None)
        elif wish.mask is not None:
            found["strength"] = 1.0
        for field in dataclasses.fields(wish):
            value = getattr(wish, field.name)
            if isinstance(value, np.ndarray):
                found[field.name] = list(value.shape)
            elif value is not None:
                found[field.name] = value
        return found

    # Drawing

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """See `Painter`: nothing about the models changes while they are served."""
        with contextlib.ExitStack() as stack:
            for stage in self.stages:
                stack.enter_context(stage.held_still())
            yield

    def rehearsal(self, wanted: str) -> Iterator[Order]:
        """See `Painter`."""
        if wanted == "none":
            return
        plain = Wish(seed=0, prompt="a picture" if self.texts.wanted else None)  # loads the encoder
        yield self.order(plain)
        if wanted == "plain":
            return
        top = self._shapes[self.levels[-1]]
        if "guidance_scale" in self.fields:
            yield self.order(Wish(seed=0, guidance_scale=1.0))
        if "init_image" in self.fields:
            picture = np.zeros((top.height, top.width, self.channels), "uint8")
            yield self.order(Wish(seed=0, init_image=picture))
            if "mask" in self.fields:
                mask = np.zeros((top.height, top.width), "uint8")
                mask[: top.height // 2] = 1
                yield self.order(Wish(seed=0, init_image=picture, mask=mask))

    def paint(self, orders: Sequence[Order], on_step: OnStep) -> list[Drawn]:
        """See `Painter`."""
        wishes, options = [order.wish for order in orders], dict(orders[0].options)
        notes = self.texts.learn(
            text for wish in wishes for text in (wish.prompt, wish.negative_prompt)
        )
        by_stage = _merged(self._conditions(wishes, options), self._callbacks(on_step))
        options |= {**by_stage, **self._starts(wishes)}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            drawn = self.model.generate(
                seed=[wish.seed for wish in wishes],
                weights=self.weights,
                batch_size=self.limits.batch,
                progress=False,
                **options,
            )
        said = tuple(str(warning.message) for warning in caught)
        return [
            (
                # Copies: a row would keep its whole batch in memory.
                {k: drawn[k][row].copy() for k in self._shown(wish) if k in drawn},
                (*said, *(notes[t] for t in (wish.prompt, wish.negative_prompt) if t in notes)),
            )
            for row, wish in enumerate(wishes)
        ]

    def _shown(self, wish: Wish) -> tuple[str, ...]:
        last = self.levels.index(wish.level) if wish.level else len(self.levels) - 1
        return self.levels[: last + 1]

    def _guides(self, stage: Any, options: Mapping[str, Any]) -> bool:
        """Whether a stage draws with guidance."""
        scale = options.get("guidance_scale", guiding.own_scale(stage))
        if isinstance(scale, Mapping):
            # Of a cascade each level belongs to one model; the levels of codes have other names.
            levels = scale if len(self.stages) == 1 else stage.unet.levels
            scales = [scale.get(level, 1.0) for level in levels]
        else:
            scales = [scale]
        return any(scale != 1.0 for scale in scales)

    def _negative(self, prompts: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """Negative prompts for the stages that are guided; the others could only refuse them."""
        guided = [self._guides(stage, options) for stage in self.stages]
        if len(guided) == 1 or not any(guided):
            return {"negative_prompts": prompts}
        names = [name for name, guides in zip(STAGES, guided, strict=True) if guides]
        return {name: {"negative_prompts": prompts} for name in names}

    def _conditions(self, wishes: Sequence[Wish], options: Mapping[str, Any]) -> dict[str, Any]:
        """Prompts and classes of all rows, and what to guide away from: always given, so that rows
        with and without a negative prompt share a graph and a batch."""
        found: dict[str, Any] = {}
        if self.texts.wanted:
            found["prompts"] = self.texts.rows([wish.prompt for wish in wishes])
            if any(self._guides(stage, options) for stage in self.stages):
                away = self.texts.rows([wish.negative_prompt for wish in wishes])
                found |= self._negative(away, options)
        if "label" in self.fields:
            found["labels"] = [NO_CLASS if wish.label is None else wish.label for wish in wishes]
        return found or {"num_images": len(wishes)}

    def _callbacks(self, on_step: OnStep) -> dict[str, Any]:
        if self._coded:  # a model of codes has no pictures in between
            return {}
        if self._single:
            return {"callback": on_step}
        # One stage after the other, each of which may have steps of its own.
        count = len(self.stages)

        def part(number: int) -> OnStep:
            return lambda done, steps, levels: on_step(number * steps + done, count * steps, levels)

        return {"low": {"callback": part(0)}, "high": {"callback": part(1)}}


def _merged(options: dict[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Options of both; those of one stage side by side."""
    merged = {name: {**options.get(name, {}), **others[name]} for name in others if name in STAGES}
    return {**options, **others, **merged}


def level_facts(shape: LevelShape) -> dict[str, Any]:
    """What clients know of a level."""
    return {
        "name": shape.name,
        "height": shape.height,
        "width": shape.width,
        "frames": shape.frames,
    }


def _hashable(value: Any) -> Hashable:
    return tuple(sorted(value.items())) if isinstance(value, Mapping) else value
