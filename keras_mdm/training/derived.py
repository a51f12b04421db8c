"""Models made of a trained one: its inner levels alone, or all of them in other shapes."""

from collections.abc import Mapping, Sequence
from typing import Any

from keras_mdm import checks, models, named_arrays
from keras_mdm.conditioning.conditions import condition_names, dropped_with
from keras_mdm.levels import LevelShape, Size
from keras_mdm.models.lora import check_without_lora
from keras_mdm.models.nested_unet import check_nested
from keras_mdm.models.policies import network_policy
from keras_mdm.training import functions, usage
from keras_mdm.training.taking import StartReport, choose


def cut(model: Any, level: str) -> Any:
    """Take the inner levels up to `level` as a model of its own, to save, export or train on.

    The network's layers are shared, see `keras_mdm.cut`; averages, the null condition and measured
    deviations are copied. The new model is not compiled. A function for `level_weights` is left
    out, since it knows the levels of this model.

    Args:
        level: name of the level that becomes the highest one.

    Returns:
        A `MatryoshkaDiffusion`.

    Raises:
        ValueError: if the model has no such level.

    Example:

    >>> model.cut("64").save("model-64.keras")
    """
    model.refresh()
    unet = models.cut(model.unet, level)
    paths = {variable.path: variable.path for variable in unet.weights}
    return _derived(model, unet, {name: name for name in unet.levels}, paths)


def with_frames(model: Any, frames: int) -> Any:
    """Make a model of longer clips from the same parts, without training.

    The levels are connected again for a multiple of the frames, see `models.with_frames`. No frame
    count is built into the convolutions and the attention over time, so they run over more
    frames. A level that was one picture becomes several, each the first frame of its stretch.
    Weights and averages are copied; a function for `level_weights` is left out. A model may do
    badly at lengths that it was not trained for: look at the clips, and train further if needed.

    Args:
        frames: of the highest level; a multiple of the model's own.

    Returns:
        A `MatryoshkaDiffusion`, not compiled.

    Raises:
        ValueError: if the model has no clip level, or the number is not a multiple.

    Example:

    >>> model.with_frames(32).generate(["a pizza turning"])["32x64"].shape
    (1, 32, 64, 64, 3)
    """
    model.refresh()
    check_without_lora(model.unet, "with_frames")
    unet = models.with_frames(model.unet, frames)
    return _reconnected(model, unet)


def with_size(model: Any, size: Size) -> Any:
    """Make a model of pictures of another size or aspect from the same parts, without training.

    The levels are connected again, see `models.with_size`, all changed by the same factors.
    Weights and averages are copied, and each level keeps its schedule. At sizes that it was not
    trained for, a model often does well near the area of its own pictures; at several times that
    area it repeats what it knows. Look at the pictures, and train further if needed.

    Args:
        size: of the highest level: a number for squares, or `(height, width)`.

    Returns:
        A `MatryoshkaDiffusion`, not compiled.

    Raises:
        ValueError: if the network's resolutions cannot divide the size.

    Example:

    >>> model.with_size((48, 80)).generate(["a red car"])["h48w80"].shape
    (1, 48, 80, 3)
    """
    model.refresh()
    check_without_lora(model.unet, "with_size")
    return _reconnected(model, models.with_size(model.unet, size))


def with_dtype(model: Any, dtype: Any) -> Any:
    """Make a model of the same parts that computes in another type; weights stay float32.

    Args:
        model: the model.
        dtype: a policy of a network, such as "float32" or "mixed_bfloat16".

    Returns:
        A `MatryoshkaDiffusion`, not compiled; the model itself if it computes so already.

    Raises:
        ValueError: if there is no such policy, or the network is not built by `build_nested_unet`.
    """
    model.refresh()
    policy = network_policy(dtype)
    if policy.name == model.unet.policy.name:
        return model
    check_without_lora(model.unet, "with_dtype")
    check_nested(model.unet, "with_dtype")
    unet = type(model.unet)(model.unet.spec, dtype=policy, name=model.unet.name)
    unet.trained_alone = model.unet.trained_alone
    values = {variable.path: variable.value for variable in model.unet.weights}
    for variable in unet.weights:
        variable.assign(values[variable.path])
    paths = {path: path for path in values}
    return _derived(model, unet, {name: name for name in unet.levels}, paths)


def _reconnected(model: Any, unet: Any) -> Any:
    """The model around a network of the same parts in other shapes."""
    pairs = [
        (old.path, new.path)
        for mine, other in zip(model.unet.parts.values(), unet.parts.values(), strict=True)
        for old, new in zip(mine.variables, other.variables, strict=True)
    ]
    renamed = dict(zip(model.unet.levels, unet.levels, strict=True))
    return _derived(model, unet, renamed, dict(pairs))


def start_from(model: Any, trained: Any, *, skip: Sequence[str] = ()) -> StartReport:
    """Take the weights and averages of a trained model whose levels this one has.

    This does for models of different runs what growth does between two phases: the trained
    model's levels are the inner ones of this model, or all of them. Its defaults of sampling, names
    of classes and notes are taken where this model has none. With a residual output the
    measured deviations of those levels are taken too, since their weights depend on them. Averages
    continue from the trained model's, at its age; a power-function average that it lacks begins
    with its `ema`, and like all of them forgets its start during training.

    Args:
        trained: the model to begin with, such as `keras_mdm.load` returned.
        skip: parts that stay new and may differ: names of parts of the network, such as
            "class_embedding" for other classes; or paths of weights, their beginnings or
            patterns, such as "level_64/conv_in" or "*/text_kv". All else is taken.

    Returns:
        Names of the new weights, which keep their initial values. Printing the result says what
        was taken, what is new and what was left behind, part by part.

    Raises:
        ValueError: before anything is taken, naming all differences and what to skip. Except for
            what `skip` names, levels must have the trained model's names and options, and
            channels, classes and text must agree.

    Example:

    >>> model.start_from(mdm.load("runs/cc12m_256"))
    >>> print(five_classes.start_from(three_classes, skip=["class_embedding"]))
    taken: level_8 (34), level_8_embedding (4); new: class_embedding (1); left behind: \
class_embedding (1)

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix B.
    """
    if not isinstance(trained, type(model)) and not isinstance(model, type(trained)):
        raise checks.error(
            "`trained` must be a MatryoshkaDiffusion",
            fix="pass what keras_mdm.load returned",
            trained=type(trained).__name__,
        )
    for each in (model, trained):
        each.refresh()
        check_without_lora(each.unet, "start_from")
    kept, report = choose(model.unet, trained.unet, skip)
    theirs = {variable.path: variable.value for variable in trained.unet.weights}
    named_arrays.assign(kept, {path: theirs[path] for path in kept}, what="trained model")
    theirs_by_name = trained.averages.by_name
    older = trained.averages.age - model.averages.age
    for name, ema in model.averages.by_name.items():
        source, averages = theirs_by_name.get(name, trained.ema), ema.by_path()
        found = source.by_path()
        held = [path for path in averages if path in found and path in kept]
        # They count on, or the next steps would replace them; those of new weights count as before.
        starts = dict(zip(found, source.starts, strict=True))
        pairs = zip(averages, ema.starts, strict=True)
        ema.starts = [starts[p] if p in kept else start + older for p, start in pairs]
        held, found = ({path: each[path] for path in held} for each in (averages, found))
        named_arrays.assign(held, found, what="averages")
    model.averages.age += older
    taken = {path.partition("/")[0] for path in kept}
    for level, value in trained.residual_std.items():
        # The deviation belongs to the weights of its level.
        if level in model.residual_std and f"level_{level}_down" in taken:
            model.residual_std[level].assign(value.value)
    usage.take_over(model, usage.config(trained), classes="class_embedding" in taken)
    model.averages.mark()
    return report


def _derived(
    model: Any, unet: models.NestedUNet, levels: Mapping[str, str], paths: Mapping[str, str]
) -> Any:
    """The model around another network that shares some of its weights.

    Args:
        unet: the network, weights in place.
        levels: new name of every level that stays.
        paths: new path of every variable that stays.
    """
    with functions.as_they_are():
        config = {k: v for k, v in model.get_config().items() if k != "unet"}
    if callable(config["level_weights"]):  # it knows the old names of the levels
        config["level_weights"] = {}
    names = ["level_weights", "guidance_shares", "signal_scale"]
    if "num_steps" not in config["schedule"]:
        names.append("schedule")
    for name in names:
        if isinstance(config[name], Mapping):
            config[name] = {levels[k]: v for k, v in config[name].items() if k in levels}
    weights = config["level_weights"]
    if isinstance(weights, Mapping) and not any(weights.get(k, 1.0) for k in levels.values()):
        config["level_weights"] = {}  # of levels that are gone; nothing could be trained
    if isinstance(config["cond_dropout"], Mapping):
        known = {dropped_with(name) for name in condition_names(unet.spec)}
        config["cond_dropout"] = {k: v for k, v in config["cond_dropout"].items() if k in known}
    top = list(levels)[-1]
    same = LevelShape.parse(levels[top]).size == LevelShape.parse(top).size
    config["buckets"] = model.process.up_to(top).sizes if same else ()
    old_path = {new: old for old, new in paths.items()}
    kept = [old_path[variable.path] for variable in unet.weights]
    config |= usage.of_levels(usage.config(model), levels)
    derived = model._around(unet, config)
    derived.downsample = model.downsample
    for old, new in levels.items():
        if new in derived.residual_std:
            derived.residual_std[new].assign(model.residual_std[old].value)
    for name, null in derived.null_condition.items():
        null.assign(model.null_condition[name].value)
    for name, ema in model.averages.by_name.items():
        _copy_averages(ema, derived.averages.by_name[name], kept)
    derived.averages.age = model.averages.age
    derived.averages.mark()
    derived.text_encoder = model.text_encoder
    return derived


def _copy_averages(source: Any, target: Any, paths: list[str]) -> None:
    """Copy the averages of the variables at `paths` to those of `target`, in its order."""
    rows = {variable.path: row for row, variable in enumerate(source.variables)}
    target.starts = [source.starts[rows[path]] for path in paths]
    for path, average in zip(paths, target.averages, strict=True):
        average.assign(source.averages[rows[path]].value)
