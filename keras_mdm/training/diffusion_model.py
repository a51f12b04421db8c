"""`MatryoshkaDiffusion`: a network with its diffusion process, its loss and its averages."""

import dataclasses
import functools
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
from keras_mdm.diffusion.joint_process import LevelProcess
from keras_mdm.diffusion.losses import Weighting
from keras_mdm.diffusion.parameterization import KINDS
from keras_mdm.diffusion.pyramid import Downsampling
from keras_mdm.diffusion.thresholding import Threshold, check_censored
from keras_mdm.finite import warn_of_weights
from keras_mdm.models.own_network import as_network
from keras_mdm.sampling import generate as drawing
from keras_mdm.sampling import graph, prompts
from keras_mdm.sampling.graphs import Graphs
from keras_mdm.training import (
    derived,
    following,
    front_door,
    objective,
    options,
    residual_scale,
    steps,
    usage,
)
from keras_mdm.training.trainer import DistributedTrainer
from keras_mdm.untracked import Untracked


@keras.saving.register_keras_serializable("keras_mdm")
class MatryoshkaDiffusion(DistributedTrainer):
    """A Matryoshka diffusion model: train it with `fit`, sample it with `generate`.

    Batches are dicts: `image` `(B, H, W, C)` or `video` `(B, T, H, W, C)` of the highest level,
    uint8 or float32 in [-1, 1]; `text` `(B, L, D)` with `text_mask` `(B, L)`, or `label` `(B,)`
    (-1 = no class), as the network was built; `low_res` `(B, h, w, C)` of any size, if the network
    has C more in_channels than out_channels; micro-conditions `(B,)`; optionally `sample`
    `(B,)` int64, the global position of every sample, which keys its noise, and `sample_weight`
    `(B,)`, which multiplies its loss. `fit` takes Keras' (x, y) as well. A mixed-resolution
    batch is a dict of such batches by the highest level of their samples: in
    `{"64": {"image": (B0, 64, 64, 3), ...}, "256": {"image": (B1, 256, 256, 3), ...}}` the level 64
    is trained on B0 + B1 samples and 256 on B1; the loss of a level is a mean over its samples.

    If the levels have a micro-condition `low_res_noise`, as in
    `LevelSpec(64, micro_conditions={"low_res_noise": 0.0})`, the enlarged `low_res` gets noise of
    the highest level's schedule, of an amount drawn for every sample, and the network is told how
    much: noise augmentation (appendix D.1). `generate` has the amount as an argument.

    A function among the options is saved by its name in Keras, see
    `keras.saving.register_keras_serializable`; `save`, `get_config` and runs refuse functions
    without one.

    Args:
        unet: the network: from `build_nested_unet`, or any functional Keras model with the same
            inputs and outputs, see `models.OwnNetwork`.
        schedule: noise schedule of the innermost level, a name or a `Schedule`; or one for every
            level by its name, such as `{"64": "cosine", "256": "cosine-shift4"}`, where "-shift4"
            divides SNR by 4^2. Entries of levels that the network lacks are ignored.
        num_steps: number N of training steps, for schedules given by name; 1000 unless given.
            Schedules that leave much of the pictures at their end cause a warning.
        shift_power: p of the shift SNR / s^p of a level s times larger than the innermost; only for
            a single schedule.
        prediction: what the network predicts: `"v"`, `"eps"` or `"x0"`.
        loss_target: what the loss compares; `prediction` unless given.
        level_weights: weights of the losses by level name, 1 unless given; `"highest"` for the
            loss of the highest level alone; or a function from the progress in the phase, a scalar
            tensor in [0, 1], to weights by name.
        loss_weighting: weight of the noise levels: `"none"`, `"vdm"`, `"min_snr"`, `"p2"` or
            `"sigmoid"`, or a dict of options with the name under "kind"; or a function (schedule,
            t, target) -> weights `(B,)`, called with the schedule of every level; see
            `losses.weighting`.
        censored: estimates beyond white or black cost nothing where the data is white or black,
            see `losses.censored`. For drawings; needs a threshold that clips: `"static"`, or a
            function.
        times: `"uniform"`, one independent time per sample; or `"stratified"`: [0, 1] is cut into
            as many equal intervals as the global batch has samples, with one time from each.
        downsample: how the data of lower levels is made, `"area"` or `"bilinear"`; or a function
            (x, from_shape, to_shape) -> x of `LevelShape`s, which reduces frames too.
        frame: which frame represents a group of frames at a level with fewer: `"first"`,
            `"middle"` or `"average"`.
        residual: outer levels predict relative to a Wiener estimate around the picture below.
            `True` needs `measure_residual` before training; a dict gives the standard deviation of
            the detail by level name.
        threshold: how `generate` and the export keep estimates inside the range of pictures:
            `"dynamic"`, `"dynamic_if"`, `"static"` or `"none"`, or a function x0 -> x0 of a level.
            The dynamic ones divide by the overshoot of an estimate, the static one clips; drawings
            on pure white need the static one.
        guidance_shares: share of the guidance that a level gets when sampling, by level name: its
            scale is 1 + share * (guidance_scale - 1). 1 unless given; 0 leaves a level unguided,
            which costs no detail where the levels below are guided.
        signal_scale: divisor of a level's data inside the process, by level name; 1 unless given.
            Like a shift, it lowers the signal-to-noise ratio.
        output_limit: bounds the network's output smoothly, by limit * tanh(output / limit); 0 for
            no bound.
        text_encoder: turns prompts into states; not part of the model, only its identity is saved.
        null_text: `(L, D)` states of "no prompt"; those of the encoder's empty prompt unless given.
        null_mask: `(L,)` mask of `null_text`.
        null_pooled: `(P,)`, pooled vector of "no prompt"; the encoder's, or zeros, unless given.
        cond_dropout: share of training samples that lose their prompt and class; or a dict of
            shares by condition (`"text"`, `"pooled"`, `"label"`, micro-conditions), drawn
            independently; conditions without a share are never dropped. `generate` guides only by
            conditions that were dropped in training, and warns of the others.
        null_in_data: the data itself holds samples without prompt or class (-1), as for the
            released models: guidance then works without `cond_dropout`.
        ema_decay: decay of the averaged weights that `generate` uses.
        ema_warmup: let the decay rise from 0 at the beginning.
        power_emas: relative widths of further averages, with a power-function profile; from two,
            such as (0.05, 0.1), `runs.reconstruct` can make any other after training. Each takes
            as much memory as the weights.
        buckets: further sizes `(height, width)` of the highest level, those of
            `ImageRule(buckets=...)`. Each batch has one of them. All levels change alike, and keep
            their schedules and weights; buckets should have about the area of the level. Each is
            traced once.
        seed: seed of noise, times and dropout.
        sampling: how this model draws best: defaults of `generate`, such as `{"steps": 25,
            "guidance_scale": 3.0}`, see `sampling` below. Commands and exports use them, too.
        class_names: names of the classes, in order.
        notes: what else there is to say of the model, for the card of `save_preset`: texts under
            "data", "licence", "attribution", "training" and names of your own.
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

    # Private state that is not part of the model.
    _encoder = Untracked()
    _graphs = Untracked(Graphs)  # of sampling, the last ones used
    _inner_unets = Untracked(dict)
    _built_of = Untracked(tuple)
    _usage = Untracked(dict)
    _held_still = Untracked()  # inside `held_still`, the names of weights found finite
    network_version = Untracked(int)  # rises with every change that outdates graphs, except values
    _test_batches = Untracked()  # counts the batches of one evaluation
    _earlier = Untracked()  # averages from a file of an earlier version, until they have a place
    _earlier_starts = Untracked()
    # Optimizer steps before the phase and within it, from which `progress` is computed.
    phase_span: tuple[int, int] | None = None
    phase_weights: Any = None  # the level weights that came with the phase

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
        loss_weighting: Weighting = "none",
        censored: bool = False,
        times: str = "uniform",
        downsample: Downsampling = "area",
        frame: str = "first",
        residual: bool | Mapping[str, float] = False,
        threshold: str | Threshold = "dynamic",
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
        buckets: Sequence[Any] = (),
        seed: int = 0,
        sampling: Mapping[str, Any] | None = None,
        class_names: Sequence[str] | None = None,
        notes: Mapping[str, Any] | None = None,
        name: str = "matryoshka_diffusion",
    ):
        require_tensorflow(type(self).__name__)
        super().__init__(name=name)
        unet = as_network(unet)
        check_channels(unet.spec)
        self.unet = unet
        self.output_limit = checks.real("output_limit", output_limit, minimum=0.0)
        self.process = options.make_process(
            unet.levels,
            schedule,
            num_steps=num_steps,
            shift_power=shift_power,
            prediction=prediction,
            residual=residual,
            signal_scale=signal_scale,
            downsample=downsample,
            frame=frame,
            buckets=buckets,
        )
        # Only a single schedule is shifted.
        self._shift_power = None if isinstance(schedule, Mapping) else float(shift_power)
        unet.sizes = self.process.sizes
        self.loss_target = checks.one_of("loss_target", loss_target or prediction, KINDS)
        self.level_weights = objective.check_level_weights(level_weights, unet.levels)
        self.loss_weighting = options.check_weighting(loss_weighting, self.process)
        self.times = checks.one_of("times", times, steps.TIMES)
        self.threshold = options.check_threshold(threshold)
        self.censored = check_censored(censored, self.threshold)
        self.guidance_shares = options.by_level(
            "guidance_shares", guidance_shares, unet.levels, minimum=0.0
        )
        self.cond_dropout = check_dropout(cond_dropout, unet.spec)
        self.null_in_data = checks.one_of("null_in_data", null_in_data, (False, True))
        self.seed = checks.seed(seed)
        self.sampling, self.class_names, self.notes = sampling, class_names, notes
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

    # Methods defined in other modules. Keras' own, for the data that a Keras user has:

    fit = front_door.fit
    evaluate = front_door.evaluate
    predict = front_door.predict
    train_on_batch = front_door.train_on_batch
    test_on_batch = front_door.test_on_batch
    export = front_door.export

    # A step of training or evaluation, and its loss, equation 3:

    train_step = steps.train_step
    test_step = steps.test_step
    size_of = steps.size_of
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

    # What its users have to know, and the files that hold all of it:

    sampling = property(usage.sampling, usage.set_sampling)
    class_names = property(usage.class_names, usage.set_class_names)
    notes = property(usage.notes, usage.set_notes)
    save_preset = front_door.save_preset
    from_preset = classmethod(front_door.from_preset)

    # The deviation of the detail, for the residual output:

    measure_residual = residual_scale.measure_residual
    check_ready = residual_scale.check_ready

    # Changes of the network, by Keras or by hand, reach graphs, averages and optimizer:

    refresh = following.refresh
    held_still = following.held_still
    follow_trainable = following.follow_trainable
    training_key = following.training_key
    testing_key = following.common_key
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
        """The joint process of the levels. It may be replaced by another that options can make,
        such as one with another schedule; graphs and files follow."""
        return self._process

    @process.setter
    def process(self, process: LevelProcess) -> None:
        before = getattr(self, "_process", None)
        if before is not None:
            options.check_process(self, process)
        self._process = process
        if before is not None:
            try:
                self.sampling = self.sampling  # they may have more steps than it
            except ValueError:
                self._process = before
                raise

    @property
    def downsample(self) -> Downsampling:
        """D^r in space, which belongs to `process`; set it before training."""
        return self.process.downsample

    @downsample.setter
    def downsample(self, kind: Downsampling) -> None:
        self.process = dataclasses.replace(self.process, downsample=kind)

    @property
    def buckets(self) -> tuple:
        """Further sizes of the highest level that batches may have."""
        return self.process.sizes

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

    get_config = options.get_config
    from_config = classmethod(options.from_config)
    _around = classmethod(options.around)
    save_own_variables = model_file.save_own_variables

    def load_own_variables(self, store: Any) -> None:
        """Read averages and the null condition; NaN in them causes a warning."""
        model_file.load_own_variables(self, store)
        warn_of_weights(self, self._trainable_variables + self._non_trainable_variables)
