"""Data sets of TensorFlow Datasets that are prepared on this machine."""

import os
from pathlib import Path
from typing import Any

from keras_mdm import checks
from keras_mdm.data.skipping import MAX_SKIPPED
from keras_mdm.data.sources.examples import ExampleImages


class TfdsImages(ExampleImages):
    """A split of a prepared data set of TFDS: `imagenet2012`, `coco_captions`, and others.

    Its files are read directly, at random, whether they are TFRecord or ArrayRecord.

    Args:
        name: of the data set, with a config if it has several (`imagenet_resized/64x64`), or the
            folder that it was prepared in.
        split: as in TFDS, such as `"train"` or `"train[:10%]"`.
        data_dir: where TFDS keeps data sets; its default unless given.
        **options: of `ExampleImages`. Features are found by their types and names.

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
        import tensorflow_datasets as tfds

        name = os.fspath(name)
        try:
            if (Path(name) / "dataset_info.json").is_file():
                builder = tfds.builder_from_directory(name)
            else:
                builder = tfds.builder(name, data_dir=data_dir)
        # TFDS has many errors, all about this one name.
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
        try:
            chosen = builder.info.splits[split]
        except Exception as problem:
            raise checks.error(
                "the data set must have such a split",
                fix=f"pass one of {sorted(builder.info.splits)}",
                split=split,
            ) from problem
        instructions = chosen.file_instructions
        ranges = [
            # A take of -1 is all that is left.
            (part.skip, part.skip + part.take if part.take >= 0 else part.examples_in_shard)
            for part in instructions
        ]
        features = _features(builder.info.features)
        super().__init__(
            [os.fspath(part.filename) for part in instructions],
            ranges=ranges,
            max_skipped=max_skipped,
            **{**features, **options},
        )
        self.builder_name = f"{builder.info.full_name} {split}"


def _features(features: Any) -> dict[str, Any]:
    """Names of the features for picture and class, by their types."""
    import tensorflow_datasets as tfds

    found: dict[str, Any] = {}
    for name, feature in features.items() if hasattr(features, "items") else ():
        if isinstance(feature, tfds.features.Image):
            found.setdefault("image", name)
        elif isinstance(feature, tfds.features.ClassLabel):
            found.setdefault("label", name)
            found.setdefault("label_names", tuple(feature.names))
    return found
