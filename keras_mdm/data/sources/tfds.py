"""Data sets of TensorFlow Datasets that were prepared on this machine."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_mdm import checks
from keras_mdm.data.base import Skipped
from keras_mdm.data.skipping import MAX_SKIPPED
from keras_mdm.data.sources import kinds, listing
from keras_mdm.data.sources.examples import ExampleImages
from keras_mdm.data.sources.strings import Listed
from keras_mdm.data.sources.tfds_features import candidates_of, captions_of, choose, names_of


class TfdsImages(ExampleImages):
    """A split of a prepared data set of TFDS: `imagenet2012`, `coco_captions`, and others.

    Its files are read directly, at random, whether they are TFRecord or ArrayRecord.

    Args:
        name: name of the data set, with a config if it has several (`imagenet_resized/64x64`), or
            the folder in which it was prepared.
        split: as in TFDS, such as `"train"` or `"train[:10%]"`.
        data_dir: where TFDS keeps data sets; by default where TFDS does by default.
        **options: arguments of `ExampleImages`. Features are found by their types. Among several
            pictures, classes or texts, the one with a usual name is taken, else one of the data
            set's `supervised_keys`, else, for pictures and classes, the first by name. `image`,
            `label` and `caption` choose others.

    Raises:
        ValueError: if there is no such data set or split, or it is not prepared.

    Example:

    >>> source = TfdsImages("imagenet2012", split="train")  # doctest: +SKIP
    """

    def __init__(
        self,
        name: str | os.PathLike,
        *,
        split: str = "train",
        data_dir: str | os.PathLike | None = None,
        max_skipped: float = MAX_SKIPPED,
        **options: Any,
    ):
        builder = _builder(os.fspath(name), data_dir)
        instructions = _split(builder, split).file_instructions
        ranges = [
            # A take of -1 means all remaining records.
            (part.skip, part.skip + part.take if part.take >= 0 else part.examples_in_shard)
            for part in instructions
        ]
        candidates, keys = candidates_of(builder.info.features), builder.info.supervised_keys
        first = {part: choose(part, candidates[part], keys) for part in ("image", "label")}
        given = {part: name for part, name in options.items() if part in candidates and name}
        self._usual = {**self._usual, "caption": captions_of(candidates["caption"], keys)}
        names = candidates["label"].get({**first, **given}["label"], ())
        super().__init__(
            [os.fspath(part.filename) for part in instructions],
            ranges=ranges,
            max_skipped=max_skipped,
            **{"label_names": names, **options, **first, **given},
        )
        self.builder_name = f"{builder.info.full_name} {split}"
        self.choices = {"split": split, **self.choices}
        # If there is only one picture or class, the identity stays as it always was.
        changed = {part for part, name in first.items() if given.get(part, name) != name}
        several = {part for part in first if len(candidates[part]) > 1}
        self._other = {
            part: name
            for part, name in self.choices.items()
            if part in changed | several or (part in self._other and part == "caption")
        }
        self.unused = (
            *self.unused,
            *(
                Skipped(f"feature {name}", f"is not read: {part}={name!r} chooses it")
                for part, names in candidates.items()
                for name in sorted(names)
                if name != self.choices.get(part)
            ),
        )
        known = {name for names in candidates.values() for name in names}
        self.unused += tuple(
            Skipped(f"feature {name}", "is not read: it is neither picture, class nor caption")
            for name in sorted(names_of(builder.info.features) - known - {self._names["key"]})
        )
        files, self.found = _account(builder, split, instructions)
        self.unused += tuple(files)


def _account(builder: Any, split: str, parts: Sequence[Any]) -> tuple[Listed, Counter]:
    """The files of a data set that are not read, and how many there are of each kind."""
    used = {os.path.basename(part.filename) for part in parts}
    splits = builder.info.splits
    of = {file: name for name in sorted(splits) for file in splits[name].filenames}

    def reason(path: str) -> str:
        name = of.get(path)
        if name is None:
            return kinds.reason_of(os.path.basename(path))
        return f"belongs to the split {name}, {split} is read"

    def is_used(folder: str, names: Sequence[str]) -> list[bool]:
        # TFDS describes the data in .json files, and names classes in others.
        return [not folder and (n in used or n.endswith((".json", ".labels.txt"))) for n in names]

    return listing.account(os.fspath(builder.data_dir), is_used, reason)


def _builder(name: str, data_dir: str | os.PathLike | None) -> Any:
    """What TFDS knows about a prepared data set."""
    import tensorflow_datasets as tfds

    try:
        if (Path(name) / "dataset_info.json").is_file():
            builder = tfds.builder_from_directory(name)
        else:
            builder = tfds.builder(name, data_dir=data_dir)
    # TFDS has many kinds of errors, all about this name.
    except Exception as problem:
        raise checks.error(
            "there must be such a data set",
            fix="see tensorflow.org/datasets/catalog, or pass the folder of a prepared one",
            name=name,
            reason=str(problem).partition("\n")[0],
        ) from problem
    if not builder.info.splits:
        raise checks.error(
            "the data set must be prepared on this machine",
            fix=f"run: tfds build {name}, or in Python "
            f"tensorflow_datasets.builder({name!r}).download_and_prepare()",
            name=name,
            data_dir=str(builder.data_dir),
        )
    return builder


def _split(builder: Any, split: str) -> Any:
    try:
        return builder.info.splits[split]
    except Exception as problem:
        raise checks.error(
            "the data set must have such a split",
            fix=f"pass one of {sorted(builder.info.splits)}",
            split=split,
        ) from problem
