"""What happens to the network, by Keras or by hand, reaches averages, sampler and training step.

Graphs are traced once and kept, averages are variables of their own: both are copies of something
that layers and users may change at any time. So the model looks before it works: whether the
network still has the variables, layers and options that its graphs were traced with, and whether
weights were changed without a step. What can be followed is followed, the rest is refused.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.diffusion.joint_process import LevelProcess
from keras_mdm.models import lora
from keras_mdm.models.flags import check_policies, is_lora, lora_kernel, quantization
from keras_mdm.optimizers import Optimizer

# Options of a `MatryoshkaDiffusion` that it does not keep under their names, and where they went.
# An attribute of such a name would be nobody's.
_ELSEWHERE = {
    **dict.fromkeys(("ema_decay", "ema_warmup"), "ema"),
    **dict.fromkeys(("null_text", "null_mask", "null_pooled"), "null_condition"),
    **dict.fromkeys(
        ("schedule", "num_steps", "shift_power", "prediction", "frame", "signal_scale"), "process"
    ),
    "residual": "residual_std",
}


class FollowingMixin:
    """Needs `unet`, `process`, `averages` and the options of a `MatryoshkaDiffusion`."""

    def refresh(self, *, contents: bool = True) -> None:
        """Bring averages and traced graphs up to date with the network, or refuse what it became.

        Everything that samples, trains, evaluates, saves or exports calls it first; it costs a walk
        over the layers and a pass over the weights.

        Args:
            contents: look for weights that were changed without a step; their averages begin anew.

        Raises:
            ValueError: if a layer was quantized or computes in another type than it was built for,
                or the process is one that no option makes.
        """
        if not tf.executing_eagerly():
            return  # whoever traces has looked
        check_policies(self.unet)
        built = self._construction()
        if built != self.__dict__.get("_built_of"):
            self._follow_network()
            self.__dict__["_built_of"] = built
            self.__dict__["_version"] = self.network_version + 1
            for graphs in ("_sampling_graphs", "_inner_unets"):
                self.__dict__.pop(graphs, None)
        self._place_earlier_averages()
        changed = ()
        if contents:
            replaced = self.unet.__dict__.pop("_replaced", False)
            changed = self.averages.restart_changed(replaced=replaced)
        if changed:
            some = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
            print(
                f"{len(changed)} weights were changed outside of the training ({some}): their "
                "averages begin anew from them",
                file=sys.stderr,
                flush=True,
            )

    @property
    def network_version(self) -> int:
        """Rises with everything that makes graphs of the network out of date, values apart."""
        return self.__dict__.get("_version", 0)

    def _construction(self) -> tuple:
        """What a traced graph of the sampler was made of, besides values."""
        process = self.process
        adapted = [(id(e), e.lora_rank, e.lora_alpha) for e in lora.adapted_layers(self.unet)]
        return (
            id(self.unet),
            [id(variable) for variable in self.unet.weights],
            adapted,
            self.output_limit,
            # Copies of what may be changed in place.
            dataclasses.replace(
                process,
                schedules=dict(process.schedules),
                signal_scale=dict(process.signal_scale),
            ),
        )

    def _follow_network(self) -> None:
        self._check_process(self.process)
        weights = self.unet.weights
        if [id(v) for v in weights] == [id(v) for v in self.averages.ema.variables]:
            return
        with self.distribute_strategy.scope():
            for left_over in self.averages.follow(weights):
                self._untrack_variable(left_over)

    def _check_process(self, process: LevelProcess) -> None:
        """Raise unless the options of a model make this process: a file holds the options."""
        levels = self.unet.levels
        again = None
        if tuple(process.levels) == tuple(levels):
            again = LevelProcess.create(
                levels,
                process.schedules[levels[0]],
                shift_power=self._config["shift_power"],
                prediction=process.prediction,
                use_residual=bool(self.residual_std),
                signal_scale=process.signal_scale,
                downsample=process.downsample,
                frame=process.frame,
            )
            again = dataclasses.replace(again, divide_targets=process.divide_targets)
        if process != again:
            raise checks.error(
                "the process of a model must be one that its options make: the innermost level's "
                "schedule, shifted for the others",
                fix="make a new model around the network, as in "
                "MatryoshkaDiffusion(model.unet, schedule=...), and give it the averages with "
                "start_from(model)",
                levels=process.levels,
                shift_power=self._config["shift_power"],
            )
        self._config["schedule"] = process.schedules[levels[0]].get_config()

    # Training

    def follow_trainable(self) -> None:
        """Have the optimizer hold what it is to move: weights that were unfrozen or came with LoRA
        join it, with moments of zero.

        Raises:
            ValueError: if nothing is trainable, or the optimizer cannot take more weights.
        """
        if not tf.executing_eagerly():
            return
        trainable = {id(v) for v in self.unet.trainable_variables}
        if not trainable:
            raise checks.error(
                "something of the network must be trainable",
                fix="set `trainable` of a part, as in "
                "unet.parts[name].trainable = True, or call enable_lora",
                trainable=0,
            )
        optimizer = self.optimizer
        held = {id(v) for v in optimizer._trainable_variables}
        if not isinstance(optimizer, Optimizer):
            if not trainable <= held:
                raise checks.error(
                    "an optimizer of Keras must know all trainable weights from the start",
                    fix="compile the model again, or with one of keras_mdm.optimizers",
                    unknown=len(trainable - held),
                )
            return
        # What is frozen for a while keeps its moments; what LoRA stands in for does not come back.
        adapted = {id(lora_kernel(layer)) for layer in lora.adapted_layers(self.unet)}
        kept = trainable | (held - adapted)
        self._hold([v for v in self.unet.weights if id(v) in kept])

    def _hold(self, variables: Sequence[keras.Variable]) -> None:
        if [id(v) for v in variables] != [id(v) for v in self.optimizer._trainable_variables]:
            with self.distribute_strategy.scope():
                self.optimizer.follow(variables)

    def training_key(self) -> str:
        """What a traced training step was made of, besides values: another one is another step."""
        optimizer = self.optimizer
        config = {k: v for k, v in optimizer.get_config().items() if k != "learning_rate"}
        schedule = optimizer._learning_rate
        if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            schedule = None
        averages = [ema.traced_with() for ema in self.averages.by_name.values()]
        factors = getattr(optimizer, "_factor_by_row", np.zeros(0))
        moving = [(id(v), id(v.regularizer)) for v in self.unet.trainable_variables]
        held = [id(v) for v in optimizer._trainable_variables]
        parts = (id(optimizer), config, id(schedule), factors.tolist(), averages, moving, held)
        return repr((self.testing_key(), parts, self.micro_batches, self.recompute))

    def testing_key(self) -> str:
        """What a traced step of evaluation was made of, besides values."""
        return repr(
            (
                self.network_version,
                self.evaluated_weights,
                self.loss_target,
                self.level_weights,
                self.loss_weighting,
                self.times,
                self.cond_dropout,
                self.null_in_data,
                self.seed,
            )
        )

    # Operations of Keras

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _ELSEWHERE:
            raise checks.error(
                f"`{name}` is chosen when the model is made; afterwards it belongs to "
                f"model.{_ELSEWHERE[name]}",
                fix=f"make a new model around the network, as in MatryoshkaDiffusion(model.unet, "
                f"{name}=...), and give it the averages with start_from(model)",
                **{name: value},
            )
        super().__setattr__(name, value)
        if name == "trainable":  # TensorFlow drops what is there already, see `NestedUNet`
            self.unet.trainable = value

    def set_weights(self, weights: Sequence[Any]) -> None:
        """As in Keras: of the network, and of everything else such as all averages."""
        super().set_weights(weights)
        self.averages.mark()

    def quantize(self, mode: Any = None, config: Any = None, **kwargs: Any) -> None:
        """Refused: averages, training and files are about floating-point weights."""
        raise quantization(mode=mode)

    def enable_lora(
        self, rank: int, *, levels: Sequence[str] | None = None, alpha: float | None = None
    ) -> list[str]:
        """Have only low-rank additions to the kernels be trained, W + alpha / rank * A @ B.

        Everything else is frozen, so that gradients and moments are needed of the additions alone.
        They are averaged as all weights are. `save`, `export` and `merge_lora` put them into the
        kernels, of the weights and of all averages; checkpoints of a run hold them as they are.

        Args:
            rank: rank of the additions.
            levels: names of the levels that are adapted; all unless given.
            alpha: the additions are multiplied by alpha / rank; `rank` unless given.

        Returns:
            Paths of the new weights.

        Raises:
            ValueError: if a level is unknown or adapted already, or the rank is no positive
                integer.

        Example:

        >>> model = mdm.load("model.keras")
        >>> paths = model.enable_lora(4, levels=["64"])
        >>> model.compile(keras_mdm.optimizers.Adam(1e-4))

        Reference: Hu et al. 2021 (arXiv 2106.09685), section 4.1.
        """
        self.refresh()
        with self.distribute_strategy.scope():
            paths = lora.enable_lora(self.unet, rank, levels=levels, alpha=alpha)
        self.refresh()
        if self.compiled and isinstance(self.optimizer, Optimizer):
            self._hold(self.unet.trainable_variables)
        return paths

    def merge_lora(self) -> None:
        """Put what LoRA adds into the kernels, of the weights and of all averages, and go on
        without: the network is as before `enable_lora`, but for the values.

        Raises:
            ValueError: if no layer has LoRA.
        """
        self.refresh()
        if not lora.adapted_layers(self.unet):
            raise checks.error(
                "some layer must have LoRA", fix="call enable_lora first", adapted_layers=0
            )
        self.averages.merge(self.unet)
        lora.remove_lora(self.unet)
        self.refresh(contents=False)
        self.averages.mark()
        if self.compiled and isinstance(self.optimizer, Optimizer):
            held = {id(v) for v in self.optimizer._trainable_variables}
            self._hold([v for v in self.unet.weights if id(v) in held])


def optimized(optimizer: keras.optimizers.Optimizer) -> list[str]:
    """Paths of the weights whose moments an optimizer holds, without those that LoRA added."""
    return [v.path for v in optimizer._trainable_variables if not is_lora(v.path)]
