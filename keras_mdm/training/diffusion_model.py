"""`MatryoshkaDiffusion`: a network with its diffusion process, its loss and its averages."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_mdm import checks
from keras_mdm.averages import model_file
from keras_mdm.averages.averages import Averages, set_average
from keras_mdm.averages.ema import ExponentialMovingAverage
from keras_mdm.averages.power_ema import PowerEMA
from keras_mdm.backends import require_tensorflow
from keras_mdm.conditioning.conditions import check_dropout
from keras_mdm.conditioning.low_res import check_channels
from keras_mdm.conditioning.null_values import null_values
from keras_mdm.diffusion import losses, schedules, thresholding
from keras_mdm.diffusion.joint_process import MOST_LEFT, LevelProcess
from keras_mdm.diffusion.parameterization import KINDS
from keras_mdm.finite import warn_of_weights
from keras_mdm.models.network import LevelNetwork
from keras_mdm.models.own_network import as_network
from keras_mdm.sampling import generate as drawing
from keras_mdm.sampling import graph, prompts
from keras_mdm.sampling.graphs import Graphs
from keras_mdm.training import derived, following, front_door, objective, residual_scale, steps
from keras_mdm.training.trainer import DistributedTrainer
from keras_mdm.untracked import Untracked


@keras.saving.register_keras_serializable("keras_mdm")
class MatryoshkaDiffusion(DistributedTrainer):
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
        unet: the network: of `build_nested_unet`, or any functional Keras model with its inputs
            and outputs, see `models.OwnNetwork`.
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
    >>> history = model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    >>> sorted(model.generate(labels=[1, 2], steps=2))
    ['16', '8']

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 3.
    """

    # Private state that is no part of the model.
    _encoder = Untracked()
    _graphs = Untracked(Graphs)  # of sampling, those that were used last
    _inner_unets = Untracked(dict)
    _built_of = Untracked(tuple)
    network_version = Untracked(int)  # rises with all that makes graphs out of date, values apart
    _test_batches = Untracked()  # counts the batches of one evaluation
    _earlier = Untracked()  # averages of a file of an earlier version, until they have a place
    _earlier_starts = Untracked()
    # Optimizer steps before the phase, and those of the phase: what `progress` is a share of.
    phase_span: tuple[int, int] | None = None

    def __init__(
        self,
        unet: keras.Model,
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
        unet = as_network(unet)
        check_channels(unet.spec)
        self.unet = unet
        schedule = schedules.get(schedule, num_steps)
        prediction = checks.one_of("prediction", prediction, KINDS)
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
        self.loss_target = checks.one_of("loss_target", loss_target or prediction, KINDS)
        self.level_weights = objective.check_level_weights(level_weights, unet.levels)
        losses.check_weighting(loss_weighting)
        self.loss_weighting = (
            dict(loss_weighting) if isinstance(loss_weighting, Mapping) else loss_weighting
        )
        self.times = checks.one_of("times", times, steps.TIMES)
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
        self.residual_std = residual_scale.add_weights(self, residual)
        self._encoder_identity = getattr(text_encoder, "identity", None)
        self._null = {}
        self.text_encoder = text_encoder
        values = null_values(unet.spec, text_encoder, null_text, null_mask, null_pooled)
        for condition, value in values.items():
            self._null[condition] = self._add_fixed(f"null_{condition}", value)
        self.averages = Averages(
            unet, self._average_of, widths=power_emas, decay=ema_decay, warmup=ema_warmup
        )
        names = ("loss", *(f"loss_{level}" for level in unet.levels))
        self._loss_trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self._step_trackers = {
            name: keras.metrics.Mean(name=name)
            for name in ("learning_rate", "gradient_norm", "skipped_in_a_row")
        }
        self._test_batches = keras.Variable(
            "zeros", shape=(), dtype="int64", trainable=False, name="test_batches"
        )
        self.built = True
        self.averages.mark()
        self._built_of = following.construction(self)

    def __setattr__(self, name: str, value: Any) -> None:
        following.check_attribute(name, value)
        super().__setattr__(name, value)
        if name == "trainable":  # TensorFlow drops what is there already, see `NestedUNet`
            self.unet.trainable = value

    # Where everything else lives. Keras' front door, with the data that a Keras user has:

    fit = front_door.fit
    evaluate = front_door.evaluate
    predict = front_door.predict
    train_on_batch = front_door.train_on_batch
    test_on_batch = front_door.test_on_batch
    export = front_door.export

    # A step of training and of evaluation, and the loss in it, equation 3:

    train_step = steps.train_step
    test_step = steps.test_step
    draw_noise = steps.draw_noise
    joint_loss = objective.joint_loss
    level_losses = objective.level_losses
    batch_loss = objective.batch_loss
    loss_normalizer = objective.loss_normalizer
    prepare = objective.prepare
    weights_at = objective.weights_at
    progress = objective.progress
    _shared_gradients = functools.cached_property(steps.shared_gradients)
    _shared_losses = functools.cached_property(steps.shared_losses)

    # Drawing pictures:

    generate = drawing.generate
    noise_for = drawing.noise_for
    noise_between = drawing.noise_between
    conditions_for = prompts.conditions_for
    negative_conditions = prompts.negative_conditions
    text_encoder = property(prompts.text_encoder, prompts.attach_text_encoder)
    text_encoder_identity = property(prompts.text_encoder_identity)
    network = graph.network
    bounded = graph.bounded
    sample_stretch = graph.sample_stretch
    comparable = graph.comparable
    set_average = set_average

    # The deviation of the detail, for the residual output:

    measure_residual = residual_scale.measure_residual
    check_ready = residual_scale.check_ready

    # What happens to the network, by Keras or by hand, reaches graphs, averages and optimizer:

    refresh = following.refresh
    follow_trainable = following.follow_trainable
    training_key = following.training_key
    testing_key = following.testing_key
    set_weights = following.set_weights
    quantize = following.quantize
    enable_lora = following.enable_lora
    merge_lora = following.merge_lora

    # Models made of this one:

    cut = derived.cut
    with_frames = derived.with_frames
    with_size = derived.with_size
    start_from = derived.start_from

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

    @property
    def process(self) -> LevelProcess:
        """The joint process of the levels. It may be replaced by one that the model's options
        make, such as one with another schedule; graphs and files follow."""
        return self._process

    @process.setter
    def process(self, process: LevelProcess) -> None:
        if hasattr(self, "_process"):
            following.check_process(self, process)
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

    def _add_fixed(self, name: str, value: Any) -> keras.Variable:
        """A weight that is not trained, in float32."""
        return self.add_weight(
            name=name,
            shape=np.shape(value),
            dtype="float32",
            initializer=lambda shape, dtype=None: np.asarray(value, "float32"),
            trainable=False,
            autocast=False,
        )

    def _computes_in_float16(self) -> bool:
        return self.unet.policy.compute_dtype == "float16"

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

    save_own_variables = model_file.save_own_variables

    def load_own_variables(self, store: Any) -> None:
        """Read averages and the null condition; a warning tells of NaN in them."""
        model_file.load_own_variables(self, store)
        warn_of_weights(self, self._trainable_variables + self._non_trainable_variables)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects=None) -> "MatryoshkaDiffusion":
        """Rebuild the model; the weights come from the file."""
        config = dict(config)
        unet = keras.saving.deserialize_keras_object(config.pop("unet"), custom_objects)
        return cls._around(unet, config)

    @classmethod
    def _around(cls, unet: LevelNetwork, config: Mapping[str, Any]) -> "MatryoshkaDiffusion":
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
            model._earlier_starts = [int(start) for start in starts]
        return model
