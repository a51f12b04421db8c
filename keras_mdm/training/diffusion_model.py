"""`MatryoshkaDiffusion`: a NestedUNet with its diffusion process, its loss and its averages."""

import dataclasses
import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.averages.averages import Averages
from keras_mdm.averages.ema import ExponentialMovingAverage
from keras_mdm.averages.model_file import ModelFileMixin
from keras_mdm.averages.power_ema import PowerEMA
from keras_mdm.backends import require_tensorflow
from keras_mdm.conditioning.conditions import check_dropout, check_null, check_null_pooled
from keras_mdm.conditioning.low_res import check_channels
from keras_mdm.diffusion import losses, schedules, thresholding
from keras_mdm.diffusion.joint_process import MOST_LEFT, LevelProcess
from keras_mdm.finite import warn_of_weights
from keras_mdm.models import NestedUNet
from keras_mdm.sampling.generate import GenerationMixin
from keras_mdm.training.derived import DerivedMixin
from keras_mdm.training.first_look import look_at
from keras_mdm.training.following import FollowingMixin
from keras_mdm.training.front_door import FrontDoor
from keras_mdm.training.objective import ObjectiveMixin, check_level_weights
from keras_mdm.training.steps import TIMES, StepMixin

PREDICTIONS = ("v", "eps", "x0")


@keras.saving.register_keras_serializable("keras_mdm")
class MatryoshkaDiffusion(
    GenerationMixin,
    DerivedMixin,
    ObjectiveMixin,
    StepMixin,
    FollowingMixin,
    ModelFileMixin,
    FrontDoor,
):
    """A Matryoshka diffusion model: train it with `fit`, sample it with `generate`.

    Batches are dicts: `image` `(B, H, W, C)` or `video` `(B, T, H, W, C)` of the highest level,
    uint8 or float32 in [-1, 1]; `text` `(B, L, D)` with `text_mask` `(B, L)`, or `label` `(B,)`
    (-1 = no class), as the network was built; `low_res` `(B, h, w, C)` of any size, if the network
    has that many in_channels more than out_channels; micro-conditions `(B,)`; optionally `sample`
    `(B,)` int64, the global position of every sample, which keys its noise, and `sample_weight`
    `(B,)`, which its loss is multiplied by. `fit` takes Keras' (x, y) as well. A mixed-resolution
    batch is a dict of such batches by the highest level of their samples: in
    `{"64": {"image": (B0, 64, 64, 3), ...}, "256": {"image": (B1, 256, 256, 3), ...}}` the level 64
    is trained on B0 + B1 samples and 256 on B1, each loss a mean over its own.

    Args:
        unet: the network.
        schedule: name of a noise schedule or a `Schedule`, of the innermost level.
        num_steps: number N of training steps, for a schedule given by name; 1000 unless given. A
            schedule that leaves much of the pictures at its end is warned of.
        shift_power: p of the shift SNR / s^p of a level s times larger than the innermost.
        prediction: what the network predicts: `"v"`, `"eps"` or `"x0"`.
        loss_target: what the loss compares; `prediction` unless given.
        level_weights: weight of a level's loss by its name, 1 unless given; `"highest"` for the
            loss of the highest level alone; or a function from the progress in the phase, a scalar
            tensor in [0, 1], to weights by name (it is not saved with the model).
        loss_weighting: weight of the noise levels: `"none"`, `"vdm"`, `"min_snr"`, `"p2"` or
            `"sigmoid"`, or a dict of the name under "kind" and options; see `losses.weighting`.
        times: `"uniform"`, one independent time per sample; or `"stratified"`, one from each of as
            many equal intervals as the global batch has samples.
        downsample: how the data of lower levels is made, `"area"` or `"bilinear"`.
        frame: which frame of a group of frames stands for it at a level with fewer: `"first"`,
            `"middle"` or `"average"`.
        residual: outer levels predict relative to a Wiener estimate around the picture below.
            `True` needs `measure_residual` before training; a dict gives the standard deviation of
            the detail by level name.
        threshold: how `generate` and the export keep estimates inside the range of pictures:
            `"dynamic"`, `"dynamic_if"`, `"static"` or `"none"`. Dynamic ones divide by what an
            estimate overshoots, static clips; drawings on pure white need the static one.
        guidance_shares: how much of the guidance a level gets when sampling, by its name: its scale
            is 1 + share * (guidance_scale - 1). 1 unless given; 0 leaves a level to the model as it
            is, which costs no detail where the levels below are guided.
        signal_scale: what the data of a level is divided by inside of the process, by level name;
            1 unless given. Another way to lower the signal-to-noise ratio than a shift.
        output_limit: bounds the network's output smoothly, by limit * tanh(output / limit); 0 for
            no bound.
        text_encoder: turns prompts into states; not part of the model, only its identity is saved.
        null_text: `(L, D)` states of "no prompt"; of the encoder's empty prompt unless given.
        null_mask: `(L,)` mask of `null_text`.
        null_pooled: `(P,)`, pooled vector of "no prompt"; the encoder's, or zeros, unless given.
        cond_dropout: share of training samples that lose their prompt and class; or a dict of
            shares by condition (`"text"`, `"pooled"`, `"label"`, micro-conditions), drawn
            independently, where those that are left out are never dropped. `generate` guides only
            what was trained so, and warns of conditions that it never saw left out.
        null_in_data: the data itself holds samples without prompt or class (-1), as that of the
            released models does: guidance works without `cond_dropout`.
        ema_decay: decay of the averaged weights that `generate` uses.
        ema_warmup: let the decay rise from 0 at the beginning.
        power_emas: relative widths of further averages, with a power-function profile; two, such as
            (0.05, 0.1), let `runs.reconstruct` make any other after the training. Each takes
            the memory of the weights.
        seed: seed of noise, times and dropout.
        name: name of the model.

    Raises:
        ValueError: if an argument is out of range or does not fit the network.

    Example:

    >>> unet = build_nested_unet([LevelSpec(8, channels=(32, 64)), 16], num_classes=10)
    >>> model = MatryoshkaDiffusion(unet)
    >>> model.compile(optimizer=keras_mdm.optimizers.Adam(1e-4))
    >>> batch = {"image": np.zeros((4, 16, 16, 3), "uint8"), "label": np.arange(4)}
    >>> history = model.fit(tf.data.Dataset.from_tensors(batch))
    >>> sorted(model.generate(labels=[1, 2], steps=2))
    ['16', '8']

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 3.
    """

    def __init__(
        self,
        unet: NestedUNet,
        *,
        schedule: Any = "cosine",
        num_steps: int | None = None,
        shift_power: float = 2.0,
        prediction: str = "v",
        loss_target: str | None = None,
        level_weights: Mapping[str, float] | str | Callable[[Any], Mapping] | None = None,
        loss_weighting: str | Mapping[str, Any] = "none",
        times: str = "uniform",
        downsample: str = "area",
        frame: str = "first",
        residual: bool | Mapping[str, float] = False,
        threshold: str = "dynamic",
        guidance_shares: Mapping[str, float] | None = None,
        signal_scale: Mapping[str, float] | None = None,
        output_limit: float = 0.0,
        text_encoder: Any = None,
        null_text: Any = None,
        null_mask: Any = None,
        null_pooled: Any = None,
        cond_dropout: float | Mapping[str, float] = 0.1,
        null_in_data: bool = False,
        ema_decay: float = 0.9999,
        ema_warmup: bool = True,
        power_emas: Sequence[float] = (),
        seed: int = 0,
        name: str = "matryoshka_diffusion",
    ):
        require_tensorflow(type(self).__name__)
        super().__init__(name=name)
        if not isinstance(unet, NestedUNet):
            raise checks.error(
                "`unet` must be a NestedUNet",
                fix="make it with build_nested_unet",
                type=type(unet).__name__,
            )
        check_channels(unet.spec)
        self.unet = unet
        schedule = schedules.get(schedule, num_steps)
        prediction = checks.one_of("prediction", prediction, PREDICTIONS)
        checks.known_keys("signal_scale", signal_scale or {}, unet.levels)
        scale = {
            level: checks.real(f"signal_scale[{level!r}]", value, minimum=1e-3)
            for level, value in (signal_scale or {}).items()
        }
        if scale and residual:
            raise checks.error(
                "the residual output is defined for data that is not divided",
                fix="leave signal_scale or residual out",
                signal_scale=scale,
            )
        self.output_limit = checks.real("output_limit", output_limit, minimum=0.0)
        self.process = LevelProcess.create(
            unet.levels,
            schedule,
            shift_power=checks.real("shift_power", shift_power, minimum=0.0),
            prediction=prediction,
            use_residual=bool(residual),
            signal_scale=scale,
            downsample=downsample,
            frame=frame,
        )
        level, left = self.process.signal_left()
        if left > MOST_LEFT:
            warnings.warn(
                f"the schedule {schedule.name!r} of {schedule.num_steps} steps leaves {left:.3f} "
                f"of the pictures' amplitude at its end (level {level}), and sampling starts from "
                "noise without any: brightness and colours are likely to be wrong. Use more steps, "
                "larger ones, or a table whose last entry is below 0.01",
                stacklevel=2,
            )
        self.loss_target = checks.one_of("loss_target", loss_target or prediction, PREDICTIONS)
        self.level_weights = check_level_weights(level_weights, unet.levels)
        losses.check_weighting(loss_weighting)
        self.loss_weighting = (
            dict(loss_weighting) if isinstance(loss_weighting, Mapping) else loss_weighting
        )
        self.times = checks.one_of("times", times, TIMES)
        self.threshold = checks.one_of("threshold", threshold, thresholding.NAMES)
        checks.known_keys("guidance_shares", guidance_shares or {}, unet.levels)
        self.guidance_shares = {
            level: checks.real(f"guidance_shares[{level!r}]", share, minimum=0.0)
            for level, share in (guidance_shares or {}).items()
        }
        self.cond_dropout = check_dropout(cond_dropout, unet.spec)
        self.null_in_data = checks.one_of("null_in_data", null_in_data, (False, True))
        self.seed = checks.seed(seed)
        self._config = {
            "schedule": schedule.get_config(),
            "shift_power": float(shift_power),
        }
        self._add_residual(residual)
        self._add_null(text_encoder, null_text, null_mask, null_pooled)
        self.averages = Averages(
            unet, self._average_of, widths=power_emas, decay=ema_decay, warmup=ema_warmup
        )
        names = ("loss", *(f"loss_{level}" for level in unet.levels))
        self._loss_trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self._step_trackers = {
            name: keras.metrics.Mean(name=name)
            for name in ("learning_rate", "gradient_norm", "skipped_in_a_row")
        }
        # Counts the batches of one evaluation; past Keras' tracking: it is no part of the model.
        self.__dict__["_test_batches"] = keras.Variable(
            "zeros", shape=(), dtype="int64", trainable=False, name="test_batches"
        )
        self.built = True
        self.averages.mark()
        self.__dict__["_built_of"] = self._construction()

    # Parts

    @property
    def ema(self) -> ExponentialMovingAverage:
        """The average with a decay, `weights="ema"`."""
        return self.averages.ema

    @property
    def power_emas(self) -> dict[str, PowerEMA]:
        """The power-function averages by name, such as "ema_0.05"."""
        return self.averages.power

    def _average_of(self, variable: keras.Variable, prefix: str) -> keras.Variable:
        self._tracker.unlock()  # LoRA's weights join later
        return self.add_weight(
            name=f"{prefix}__" + variable.path.replace("/", "__"),
            shape=variable.shape,
            dtype="float32",
            # A copy: on the CPU the two might share their memory.
            initializer=lambda shape, dtype=None: np.asarray(variable).astype("float32", copy=True),
            trainable=False,
            autocast=False,
        )

    def _add_residual(self, residual: bool | Mapping[str, float]) -> None:
        self.residual_std = {}
        if not residual:
            return
        if self.process.prediction != "v":
            raise checks.error(
                "the residual output is defined for v-prediction",
                fix='pass prediction="v", or residual=False',
                prediction=self.process.prediction,
            )
        outer = self.unet.levels[1:]
        given = residual if isinstance(residual, Mapping) else {}
        checks.known_keys("residual", given, outer)
        for level in outer:
            value = given.get(level, math.nan)
            if not math.isnan(value):
                checks.real(f"residual[{level!r}]", value, minimum=1e-6)
            self.residual_std[level] = self.add_weight(
                name=f"residual_std_{level}",
                shape=(),
                dtype="float32",
                initializer=keras.initializers.Constant(value),
                trainable=False,
                autocast=False,
            )

    def _add_null(
        self, text_encoder: Any, null_text: Any, null_mask: Any, null_pooled: Any
    ) -> None:
        self._encoder_identity = getattr(text_encoder, "identity", None)
        self._null = {}
        spec = self.unet.spec
        if not spec.text_width and not spec.pooled_width:
            if text_encoder is not None:
                raise checks.error(
                    "a text encoder needs a network with text",
                    fix="build the network with text_width=encoder.width",
                    text_width=None,
                )
            return
        self.text_encoder = text_encoder
        values = {}
        if spec.text_width:
            if null_text is None and text_encoder is not None:
                null_text, null_mask = text_encoder.null()
            text, mask = check_null(spec, null_text, null_mask)
            values = {"text": text, "text_mask": mask}
        if spec.pooled_width:
            if null_pooled is None and text_encoder is not None:
                null_pooled = text_encoder.pool([""])[0]
            values["pooled"] = check_null_pooled(spec, null_pooled)
        for name, value in values.items():
            weight = self.add_weight(
                name=f"null_{name}",
                shape=value.shape,
                dtype="float32",
                initializer="zeros",
                trainable=False,
                autocast=False,
            )
            weight.assign(value)
            self._null[name] = weight

    @property
    def process(self) -> LevelProcess:
        """The joint process of the levels. It may be replaced by one that the model's options
        make, such as one with another schedule; graphs and files follow."""
        return self._process

    @process.setter
    def process(self, process: LevelProcess) -> None:
        if hasattr(self, "_process"):
            self._check_process(process)
        self._process = process

    @property
    def downsample(self) -> str:
        """D^r in space, which belongs to `process`; set it before training."""
        return self.process.downsample

    @downsample.setter
    def downsample(self, kind: str) -> None:
        self.process = dataclasses.replace(self.process, downsample=kind)

    @property
    def null_condition(self) -> dict[str, Any]:
        """States and mask of "no prompt"; empty for networks without text."""
        return dict(self._null)

    @property
    def metrics(self) -> list:
        """Mean of every logged value since the epoch began."""
        return [*self._loss_trackers.values(), *self._step_trackers.values()]

    def _computes_in_float16(self) -> bool:
        return self.unet.policy.compute_dtype == "float16"

    # Residual output

    def measure_residual(
        self, dataset: Any, batches: int = 8, *, only_missing: bool = False
    ) -> dict[str, float]:
        """Measure the standard deviation of the detail x - u over data, and keep it.

        Args:
            dataset: iterable of batches.
            batches: how many of them to use.
            only_missing: leave levels alone that have a value; what a trained level adds to its
                Wiener estimate belongs to the value it was trained with.

        Returns:
            The measured standard deviation by level name; empty if there is nothing to measure.

        Raises:
            ValueError: if the dataset is empty.
        """
        checks.integer("batches", batches, minimum=1)
        names = self._unmeasured() if only_missing else list(self.residual_std)
        if not names:
            return {}
        squares, rows = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
        for batch in itertools.islice(dataset, batches):
            look_at(self, batch)
            x0, _ = self.prepare(batch)
            for below, shape in zip(self.process.shapes, self.process.shapes[1:], strict=False):
                if shape.name in squares:
                    count = int(x0[shape.name].shape[0])  # in a mixed batch the first rows
                    u = self.process.enlarged(x0[below.name][:count], below, shape)
                    mean = float(tf.reduce_mean(tf.square(x0[shape.name] - u)))
                    squares[shape.name] += count * mean
                    rows[shape.name] += count
        if not all(rows.values()):
            raise checks.error("the dataset must not be empty", fix="pass data", batches=0)
        measured = {
            name: max(math.sqrt(total / rows[name]), 1e-6) for name, total in squares.items()
        }
        for name, value in measured.items():
            self.residual_std[name].assign(value)
        return measured

    def _unmeasured(self) -> list[str]:
        return [name for name, weight in self.residual_std.items() if np.isnan(np.asarray(weight))]

    def check_ready(self) -> None:
        """Raise if the model still needs `measure_residual`."""
        missing = self._unmeasured()
        if missing:
            raise checks.error(
                "the residual output needs the standard deviation of the detail",
                fix="call model.measure_residual(dataset) first, or pass residual={level: s}",
                missing=missing,
            )

    # Saving

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> dict:
        """The network's outputs, by level name."""
        return self.unet(inputs, training=training)

    def get_config(self) -> dict[str, Any]:
        """Everything that is not a weight; of the text encoder only the identity."""
        return {
            "unet": keras.saving.serialize_keras_object(self.unet),
            **self._config,
            "ema_decay": self.ema.decay,
            "ema_warmup": self.ema.warmup,
            "prediction": self.process.prediction,
            "loss_target": self.loss_target,
            "level_weights": {} if callable(self.level_weights) else self.level_weights,
            "loss_weighting": self.loss_weighting,
            "times": self.times,
            "downsample": self.downsample,
            "frame": self.process.frame,
            "residual": self.process.use_residual,
            "threshold": self.threshold,
            "guidance_shares": self.guidance_shares,
            "signal_scale": dict(self.process.signal_scale),
            "output_limit": self.output_limit,
            "null_length": self._null["text"].shape[0] if "text" in self._null else None,
            "cond_dropout": self.cond_dropout,
            "null_in_data": self.null_in_data,
            "seed": self.seed,
            "text_encoder": self._encoder_identity,
            "divide_targets": self.process.divide_targets,
            "power_emas": [ema.width for ema in self.power_emas.values()],
            "name": self.name,
        }

    def load_own_variables(self, store: Any) -> None:
        """Read averages and the null condition; a warning tells of NaN in them."""
        super().load_own_variables(store)
        warn_of_weights(self, self._trainable_variables + self._non_trainable_variables)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects=None) -> "MatryoshkaDiffusion":
        """Rebuild the model; the weights come from the file."""
        config = dict(config)
        unet = keras.saving.deserialize_keras_object(config.pop("unet"), custom_objects)
        return cls._around(unet, config)

    @classmethod
    def _around(cls, unet: NestedUNet, config: Mapping[str, Any]) -> "MatryoshkaDiffusion":
        """The model of a configuration, around a network."""
        config = dict(config)
        identity = config.pop("text_encoder")
        length = config.pop("null_length")
        starts = config.pop("ema_starts", None)  # of files of earlier versions
        divide_targets = config.pop("divide_targets", True)
        config["schedule"] = schedules.Schedule.from_config(config["schedule"])
        # Files of earlier versions: only imported models have the table in float32.
        config.setdefault("null_in_data", config["schedule"].single)
        if length is not None:  # a place for the saved null
            config["null_text"] = np.zeros((length, unet.spec.text_width))
        model = cls(unet, **config)
        model._encoder_identity = identity
        if not divide_targets:
            model.process = dataclasses.replace(model.process, divide_targets=False)
        if starts is not None:  # what joined in a later phase counts its own steps
            model.__dict__["_earlier_starts"] = [int(start) for start in starts]
        return model
