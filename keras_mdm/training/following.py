"""Changes of the network, by Keras or by hand, reach averages, sampler and training step.

Graphs are traced once and kept, and averages are variables of their own: both copy something that
layers and users may change at any time. So before it works, the model checks whether the network
still has the variables, layers and options that its graphs were traced with, and whether weights
were changed without a step. Averages and graphs follow the changes; those that they cannot follow
are refused.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.averages.model_file import place_earlier_averages
from keras_mdm.models import lora
from keras_mdm.models.flags import check_policies, is_lora, lora_kernel, quantization
from keras_mdm.optimizers import Optimizer
from keras_mdm.training import options

# Options of a `MatryoshkaDiffusion` that it does not keep under their names, and where they are
# kept. Nothing would read an attribute of such a name.
_ELSEWHERE = {
    **dict.fromkeys(("ema_decay", "ema_warmup"), "ema"),
    **dict.fromkeys(("null_text", "null_mask", "null_pooled"), "null_condition"),
    **dict.fromkeys(
        ("schedule", "num_steps", "shift_power", "prediction", "frame", "signal_scale"), "process"
    ),
    "residual": "residual_std",
}


def refresh(model: Any, *, contents: bool = True) -> None:
    """Bring averages and traced graphs up to date with the network, or refuse its changes.

    Everything that samples, trains, evaluates, saves or exports calls it first; it costs a walk
    over the layers and a pass over the weights.

    Args:
        contents: look for weights that were changed without a step, and restart their averages.

    Raises:
        ValueError: if a layer was quantized or computes in another type than it was built for,
            or no option makes the process.
    """
    if not tf.executing_eagerly() or model._held_still is not None:
        return  # the caller that traces, or that holds the model still, has checked
    check_policies(model.unet)
    built = construction(model)
    if built != model._built_of:
        _follow_network(model)
        model._built_of = built
        model.network_version += 1
        del model._graphs, model._inner_unets
    place_earlier_averages(model)
    changed = ()
    if contents:
        replaced = model.unet.__dict__.pop("_replaced", False)
        changed = model.averages.restart_changed(replaced=replaced)
    if changed:
        some = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
        print(
            f"{len(changed)} weights were changed outside training ({some}): their "
            "averages restart from them",
            file=sys.stderr,
            flush=True,
        )


@contextlib.contextmanager
def held_still(model: Any) -> Iterator[None]:
    """Look for changes of the network and its weights once, now, and not at every call inside.

    For programs that only draw: the pass over the weights before every picture takes as long as
    several steps of a small model. Do not train or change the model inside.

    Example:

    >>> with model.held_still():
    ...     images = [model.generate(["a red apple"], seed=seed) for seed in range(9)]
    """
    model.refresh()
    model._held_still = set()
    try:
        yield
    finally:
        model._held_still = None


def construction(model: Any) -> tuple:
    """Everything besides values that a traced graph of the sampler depends on."""
    process = model.process
    adapted = [(id(e), e.lora_rank, e.lora_alpha) for e in lora.adapted_layers(model.unet)]
    return (
        id(model.unet),
        [id(variable) for variable in model.unet.weights],
        adapted,
        model.output_limit,
        # Copies of what may be changed in place.
        dataclasses.replace(
            process,
            schedules=dict(process.schedules),
            signal_scale=dict(process.signal_scale),
        ),
    )


def _follow_network(model: Any) -> None:
    options.check_process(model, model.process)
    weights = model.unet.weights
    if [id(v) for v in weights] == [id(v) for v in model.averages.ema.variables]:
        return
    with model.distribute_strategy.scope():
        for left_over in model.averages.follow(weights):
            model._untrack_variable(left_over)


def follow_trainable(model: Any) -> None:
    """Have the optimizer hold all trainable weights: those that were unfrozen or came with LoRA
    join it, with moments of zero.

    Raises:
        ValueError: if nothing is trainable, or the optimizer cannot take more weights.
    """
    if not tf.executing_eagerly():
        return
    trainable = {id(v) for v in model.unet.trainable_variables}
    if not trainable:
        raise checks.error(
            "some part of the network must be trainable",
            fix="set `trainable` of a part, as in "
            "unet.parts[name].trainable = True, or call enable_lora",
            trainable=0,
        )
    optimizer = model.optimizer
    held = {id(v) for v in optimizer._trainable_variables}
    if not isinstance(optimizer, Optimizer):
        if not trainable <= held:
            raise checks.error(
                "an optimizer of Keras must know all trainable weights from the start",
                fix="compile the model again, or with one of keras_mdm.optimizers",
                unknown=len(trainable - held),
            )
        return
    # Weights frozen for a while keep their moments; kernels that LoRA replaces do not return.
    adapted = {id(lora_kernel(layer)) for layer in lora.adapted_layers(model.unet)}
    kept = trainable | (held - adapted)
    _hold(model, [v for v in model.unet.weights if id(v) in kept])


def _hold(model: Any, variables: Sequence[keras.Variable]) -> None:
    if [id(v) for v in variables] != [id(v) for v in model.optimizer._trainable_variables]:
        with model.distribute_strategy.scope():
            model.optimizer.follow(variables)


def training_key(model: Any) -> str:
    """Everything besides values that a traced training step depends on: a new key, a new step."""
    optimizer = model.optimizer
    config = {k: v for k, v in optimizer.get_config().items() if k != "learning_rate"}
    schedule = optimizer._learning_rate
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        schedule = None
    averages = [ema.traced_with() for ema in model.averages.by_name.values()]
    factors = getattr(optimizer, "_factor_by_row", np.zeros(0))
    moving = [(id(v), id(v.regularizer)) for v in model.unet.trainable_variables]
    held = [id(v) for v in optimizer._trainable_variables]
    parts = (id(optimizer), config, id(schedule), factors.tolist(), averages, moving, held)
    return repr((common_key(model), parts, model.micro_batches, model.recompute))


def common_key(model: Any) -> str:
    """Everything besides values that a traced step of evaluation depends on, except the kind of
    weights."""
    return repr(
        (
            model.network_version,
            model.loss_target,
            model.level_weights,
            model.loss_weighting,
            model.censored,
            model.times,
            model.cond_dropout,
            model.null_in_data,
            model.seed,
        )
    )


def check_attribute(name: str, value: Any) -> None:
    """Raise for options that a model does not keep under their names."""
    if name in _ELSEWHERE:
        raise checks.error(
            f"`{name}` is chosen when the model is made; after that, change "
            f"model.{_ELSEWHERE[name]}",
            fix=f"make a new model around the network, as in MatryoshkaDiffusion(model.unet, "
            f"{name}=...), and give it the averages with start_from(model)",
            **{name: value},
        )


def set_weights(model: Any, weights: Sequence[Any]) -> None:
    """As in Keras, for the network and everything else, averages included."""
    keras.Model.set_weights(model, weights)
    model.averages.mark()


def quantize(model: Any, mode: Any = None, config: Any = None, **kwargs: Any) -> None:
    """Refused: averages, training and files need floating-point weights."""
    raise quantization(mode=mode)


def enable_lora(
    model: Any, rank: int, *, levels: Sequence[str] | None = None, alpha: float | None = None
) -> list[str]:
    """Train only low-rank additions to the kernels, W + alpha / rank * A @ B.

    Everything else is frozen, so only the additions need gradients and moments. They are averaged
    like all weights. `save`, `export` and `merge_lora` add them to the kernels, of the weights and
    of all averages; checkpoints of a run hold them as they are.

    Args:
        rank: rank of the additions.
        levels: names of the levels to adapt; all unless given.
        alpha: the additions are multiplied by alpha / rank; `rank` unless given.

    Returns:
        Paths of the new weights.

    Raises:
        ValueError: if a level is unknown or adapted already, or the rank is not a positive
            integer.

    Example:

    >>> model = mdm.load("model.keras")
    >>> paths = model.enable_lora(4, levels=["64"])
    >>> model.compile(keras_mdm.optimizers.Adam(1e-4))

    Reference: Hu et al. 2021 (arXiv 2106.09685), section 4.1.
    """
    model.refresh()
    with model.distribute_strategy.scope():
        paths = lora.enable_lora(model.unet, rank, levels=levels, alpha=alpha)
    model.refresh()
    if model.compiled and isinstance(model.optimizer, Optimizer):
        _hold(model, model.unet.trainable_variables)
    return paths


def merge_lora(model: Any) -> None:
    """Add LoRA's products to the kernels, of the weights and of all averages, and remove LoRA:
    except for its values, the network is as before `enable_lora`.

    Raises:
        ValueError: if no layer has LoRA.
    """
    model.refresh()
    if not lora.adapted_layers(model.unet):
        raise checks.error(
            "at least one layer must have LoRA", fix="call enable_lora first", adapted_layers=0
        )
    model.averages.merge(model.unet)
    lora.remove_lora(model.unet)
    model.refresh(contents=False)
    model.averages.mark()
    if model.compiled and isinstance(model.optimizer, Optimizer):
        held = {id(v) for v in model.optimizer._trainable_variables}
        _hold(model, [v for v in model.unet.weights if id(v) in held])


def optimized(optimizer: keras.optimizers.Optimizer) -> list[str]:
    """Paths of the weights whose moments an optimizer holds, without those that LoRA added."""
    return [v.path for v in optimizer._trainable_variables if not is_lora(v.path)]
