"""What a model takes from a trained one: everything, or everything except named parts."""

import dataclasses
import fnmatch
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from keras_mdm import checks
from keras_mdm.models.network import NetworkFacts

# Options of the network that show in shapes or names of weights, unless these are new.
_SHAPED = ("num_classes", "text_width", "pooled_width", "in_channels", "out_channels")
_SHAPED += ("text_projection", "text_blocks", "micro_conditions")


class StartReport(list):
    """Names of the new weights, as a list; attributes name the others.

    Args:
        new: paths of the weights that keep their initial values.
        taken: paths of the weights that were taken over.
        left: paths of the trained model's weights that were not.

    Example:

    >>> print(StartReport(["class_embedding/table"], ["level_8/conv_in/kernel"], []))
    taken: level_8 (1); new: class_embedding (1); left behind: nothing
    """

    def __init__(self, new: Iterable[str], taken: Iterable[str], left: Iterable[str]):
        super().__init__(sorted(new))
        self.taken, self.left = sorted(taken), sorted(left)

    @property
    def new(self) -> list[str]:
        """The list itself."""
        return list(self)

    def __str__(self) -> str:
        kinds = {"taken": self.taken, "new": self.new, "left behind": self.left}
        return "; ".join(f"{kind}: {_by_part(paths)}" for kind, paths in kinds.items())


def _by_part(paths: Sequence[str]) -> str:
    counts = Counter(path.partition("/")[0] for path in paths)
    return ", ".join(f"{part} ({count})" for part, count in counts.items()) or "nothing"


def choose(unet: Any, trained: Any, skip: Sequence[str]) -> tuple[dict[str, Any], StartReport]:
    """Find what a network takes from a trained one, without changing either.

    Args:
        unet: the new network.
        trained: the trained network.
        skip: parts that are new, see `MatryoshkaDiffusion.start_from`.

    Returns:
        (variables of `unet` to set, by path; the report).

    Raises:
        ValueError: naming all differences that `skip` does not cover, or entries of `skip` that
            match nothing.
    """
    if isinstance(skip, str) or not all(isinstance(name, str) for name in skip):
        raise checks.error(
            "`skip` must be a list of names of parts", fix='pass ["class_embedding"]', skip=skip
        )
    mine, theirs = ({v.path: v for v in each.weights} for each in (unet, trained))
    paths = mine.keys() | theirs.keys()
    unknown = [name for name in skip if not any(_covers(name, path) for path in paths)]
    if unknown:
        raise checks.error(
            "`skip` must name parts of one of the networks, or the beginning of paths of weights",
            fix=f"choose among {sorted({path.partition('/')[0] for path in paths})}",
            unknown=unknown,
        )
    new = {path for path in paths if any(_covers(name, path) for name in skip)}
    found = differences(unet.spec, trained.spec)
    # If `skip` names nothing, networks with different options are different, whatever their shapes.
    open_ones = [d for d in found if not (skip and _is_covered(d, unet, trained, new))]
    grown = {path for path in mine if unet.level_of(path.partition("/")[0]) not in trained.levels}
    unlike = _unlike(mine, theirs, new | grown)
    if open_ones or unlike:
        advice = _advice(found, mine, theirs, grown)
        raise checks.error(
            "the trained model must have the levels and conditions of the new one, which "
            "may have more levels outside them"
            + (", except in the parts that `skip` names" if skip else ""),
            fix="build the new model with these, start from another one"
            + (f", or leave parts new with skip={advice}" if advice else ""),
            differences=[difference.text for difference in open_ones] or unlike,
        )
    kept = {path: mine[path] for path in mine if path in theirs and path not in new}
    return kept, StartReport(mine.keys() - kept.keys(), kept, theirs.keys() - kept.keys())


@dataclasses.dataclass(frozen=True)
class Difference:
    """An option in which two networks differ.

    Args:
        field: name of the option.
        level: name of the level that it belongs to, if any.
        text: both values.
    """

    field: str
    level: str | None
    text: str


def differences(spec: NetworkFacts, trained: NetworkFacts) -> list[Difference]:
    """Options in which a trained network differs from the inner levels of a new one.

    Args:
        spec: of the new network.
        trained: of the trained one.
    """
    names = ["num_classes", "text_width", "pooled_width", "time_width"]
    names += ["in_channels", "out_channels"]
    if spec.text_width and trained.text_width:
        names += ["text_projection", "text_blocks"]
    # A network not built by this package tells less; shapes and names of weights tell the rest.
    names = [name for name in names if hasattr(spec, name) and hasattr(trained, name)]
    pairs = [(name, None, getattr(spec, name), getattr(trained, name)) for name in names]
    levels, before = ([level.name for level in each.levels] for each in (spec, trained))
    if levels[: len(before)] != before:
        pairs.append(("levels", None, levels, before))
    known = {level.name: level for level in trained.levels}
    for level in spec.levels:
        other = known.get(level.name, level)
        if level.channels is None or other.channels is None:
            continue
        for field in (field.name for field in dataclasses.fields(level)):
            pairs.append((field, level.name, getattr(level, field), getattr(other, field)))
    return [
        Difference(
            field,
            level,
            f"{field}{f' of level {level}' if level else ''}: {new!r} here, {old!r} trained",
        )
        for field, level, new, old in pairs
        if new != old
    ]


def _covers(name: str, path: str) -> bool:
    """Whether `name`, a part, a beginning of a path or a pattern for one, covers a weight."""
    pieces = path.split("/")
    beginnings = ("/".join(pieces[: i + 1]) for i in range(len(pieces)))
    return any(fnmatch.fnmatchcase(beginning, name) for beginning in beginnings)


def _is_covered(difference: Difference, unet: Any, trained: Any, new: Collection[str]) -> bool:
    """Whether a difference concerns nothing that is taken. Shapes are compared elsewhere."""
    if difference.field in _SHAPED:
        return True
    if difference.level is None:
        return False
    parts = {
        part
        for each in (unet, trained)
        for part in each.parts
        if part.startswith("level_") and each.level_of(part) == difference.level
    }
    paths = {v.path for each in (unet, trained) for v in each.weights}
    return all(path in new for path in paths if path.partition("/")[0] in parts)


def _unlike(mine: Mapping[str, Any], theirs: Mapping[str, Any], new: Collection[str]) -> list[str]:
    """Weights that are not new and have another shape, or exist in only one network."""
    shapes = [
        f"{path}: {tuple(mine[path].shape)} here, {tuple(value.shape)} trained"
        for path, value in theirs.items()
        if path in mine and path not in new and mine[path].shape != value.shape
    ]
    alone = [f"{path}: only here" for path in mine.keys() - theirs.keys() - set(new)]
    alone += [f"{path}: only trained" for path in theirs.keys() - mine.keys() - set(new)]
    return shapes + sorted(alone)


def _advice(
    found: Sequence[Difference], mine: Mapping[str, Any], theirs: Mapping[str, Any], grown: set[str]
) -> list[str]:
    """Parts that would have to be new, if nothing else differs; for parts in which only a few
    weights differ, beginnings of their paths."""
    if any(difference.field not in _SHAPED for difference in found):
        return []
    alone = (mine.keys() ^ theirs.keys()) - grown
    unlike = {p for p in mine.keys() & theirs.keys() if mine[p].shape != theirs[p].shape}
    differing = alone | unlike
    same = {path.partition("/")[0] for path in (mine.keys() | theirs.keys()) - differing}
    heads = {
        path.rpartition("/")[0] if path.partition("/")[0] in same else path.partition("/")[0]
        for path in differing
    }
    return sorted(heads)
