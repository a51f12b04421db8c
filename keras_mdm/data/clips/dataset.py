"""Endless batches of clips from files, decoded in parallel, a pure function of the step."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.data.clips.rule import ClipRule
from keras_mdm.data.encoding import Encoder, check_encoder, encoding
from keras_mdm.data.order.batches import Batch, Reading, Shuffled
from keras_mdm.data.order.workers import fraction


class ClipSource(Protocol):
    """What batches of clips are made from: `VideoFiles`, `ClipShards`, or your own.

    Attributes:
        captions: one text per record.
    """

    captions: Sequence[str]

    def __len__(self) -> int: ...

    def check(self, rule: ClipRule) -> None:
        """Raise if the records cannot give clips of a rule."""
        ...

    def read_usable(
        self, row: int, rule: ClipRule, *, place: float | None, mirror: bool
    ) -> tuple[np.ndarray, int]:
        """Return the clip of a record, or of the next usable one, and the record that was read."""
        ...


def is_clip_source(source: Any) -> bool:
    """Whether batches of clips can be made from something."""
    return hasattr(source, "read_usable") and hasattr(source, "captions")


def clip_dataset(
    source: ClipSource,
    rule: ClipRule,
    *,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    text: tuple[np.ndarray, np.ndarray] | None = None,
    encoder: Encoder | None = None,
    worker: tuple[int, int] = (0, 1),
    parallel_reads: int = tf.data.AUTOTUNE,
    repeat: bool = True,
) -> tf.data.Dataset:
    """Return training batches of clips, or of single pictures from them, endless by default.

    The order is that of `ordered_dataset`. Mirroring and random places depend on the position in it
    only, so a run that resumes sees what it would have seen. A record that gives no clip is listed
    in the source's `skipped` and replaced by the next one that does, always the same. If more than
    its `max_skipped` of the records give none, the run ends.

    Args:
        source: where the clips come from.
        rule: which frames of a video, and their size.
        batch_size: samples per step, over all replicas.
        seed: decides the order, the mirroring and, with `start="random"`, the places.
        first_step: the step of the first batch, for resuming.
        text: states (n, L, D) and mask (n, L) of all captions, for example from `encode_cached`.
        encoder: encodes the captions of every batch instead, for sets whose states do not fit into
            memory; see `keras_mdm.text.StoredStates` for captions that are encoded already.
        worker: (index, number of workers), see `keras_mdm.distribute.worker`: this worker then
            reads and decodes its own samples only, as in `image_dataset`. By default every worker
            reads whole batches and keeps its part.
        parallel_reads: clips decoded at a time.
        repeat: as in `image_dataset`.

    Returns:
        A dataset of dicts: "video" uint8 (B, T, S, S, C), or "image" (B, S, S, C) for a rule
        without frames, "text" (B, L, D) and "text_mask" (B, L) if asked for, "sample" int64 (B,).

    Raises:
        ValueError: if an argument is out of range, or the source cannot give clips of the rule.

    Example:

    ```python
    videos = find_videos("clips")
    batches = clip_dataset(videos, ClipRule(64), batch_size=8, seed=0, encoder=MiniLM())
    ```

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix E.
    """
    reading = Reading(batch_size, seed, first_step, worker, parallel_reads, repeat)
    _check(source, rule, text, encoder)

    def make(row: int, position: int) -> tuple[tuple[np.ndarray], int]:
        place = fraction(seed, "place", position) if rule.start == "random" else None
        mirror = rule.flip and fraction(seed, "mirror", position) < 0.5
        clip, found = source.read_usable(row, rule, place=place, mirror=mirror)
        return (clip,), found

    key = "image" if rule.frames is None else "video"
    frames = () if rule.frames is None else (rule.frames,)
    shape = (*frames, rule.size, rule.size, rule.channels)
    return reading.dataset(
        Shuffled(len(source), seed),
        make,
        {key: tf.TensorSpec(shape, tf.uint8)},
        together=1,
        finish=_texts(source.captions, text, encoder),
    )


def _check(source: Any, rule: Any, text: Any, encoder: Any) -> None:
    if not is_clip_source(source):
        raise checks.error(
            "`source` must be a source of clips",
            fix="pass what open_clips, find_videos or load_animated_emoji returned",
            source=source,
        )
    if not isinstance(rule, ClipRule):
        raise checks.error("`rule` must be a ClipRule", fix="pass ClipRule(64)", rule=rule)
    if text is not None and not (isinstance(text, tuple) and len(text) == 2):
        raise checks.error(
            "`text` must be a pair of states and mask",
            fix="pass what encode_cached returned",
            text=type(text).__name__,
        )
    check_encoder(encoder)
    if text is not None and encoder is not None:
        raise checks.error(
            "captions must be either encoded already or encoded here",
            fix="pass either text or encoder",
            text=True,
            encoder=type(encoder).__name__,
        )
    if text is not None and not len(text[0]) == len(text[1]) == len(source):
        raise checks.error(
            "`text` must hold one row per record",
            fix="encode source.captions",
            states=len(text[0]),
            mask=len(text[1]),
            records=len(source),
        )
    source.check(rule)


def _texts(captions: Sequence[str], text: Any, encoder: Any) -> Callable[[Batch], Batch]:
    """Function that replaces the row numbers of a batch by the states of their captions."""
    if encoder is not None:
        return encoding(encoder, "row", lambda rows: [captions[row] for row in rows])
    tables = {}
    if text is not None:
        with tf.device("CPU"):
            tables = {"text": tf.constant(text[0]), "text_mask": tf.constant(text[1])}

    def gather(batch: Batch) -> Batch:
        kept = {name: value for name, value in batch.items() if name != "row"}
        return kept | {name: tf.gather(table, batch["row"]) for name, table in tables.items()}

    return gather
