"""TensorBoard curves, pictures and texts at the global step, without duplicates after a restart."""

import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from keras_mdm import checks, distribute
from keras_mdm.callbacks import memory
from keras_mdm.callbacks.steps import StepCallback, shown_values
from keras_mdm.callbacks.tags import LAYOUT, MEASURED, tagged
from keras_mdm.files import unless_full
from keras_mdm.pictures.grids import encode_png
from keras_mdm.pictures.playing import encode_gif

_AGAIN = 60.0  # seconds without curves after the disk was full


class EventWriter:
    """Write what TensorBoard shows; on the first of several workers only.

    It uses TensorBoard's own file writer rather than `tf.summary`, which cannot write the mark that
    makes TensorBoard forget the steps of a killed run after its last checkpoint.

    Args:
        log_dir: the directory for TensorBoard to read.
        initial_step: events written before for later steps are hidden.

    Example:

    ```python
    writer = EventWriter("runs/x/logs", initial_step=500)
    writer.scalars(510, {"loss": 0.2})
    writer.close()
    ```
    """

    def __init__(self, log_dir: str | Path, *, initial_step: int = 0):
        checks.integer("initial_step", initial_step, minimum=0)
        self._file: EventFileWriter | None = None
        self._directory, self._full_since = str(log_dir), 0.0
        if not distribute.is_chief():
            return  # one of several workers writes
        self._safely(self._reopen)
        start = SessionLog(status=SessionLog.START)
        self._send(Event(wall_time=time.time(), step=initial_step + 1, session_log=start))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write one point of each curve."""
        metadata = scalar_metadata.create_summary_metadata("", "")
        self._add(
            step, [(tag, make_tensor_proto(np.float32(values[tag])), metadata) for tag in values]
        )

    def text(self, step: int, tag: str, text: str) -> None:
        """Write a text, shown as Markdown."""
        content = make_tensor_proto(np.array([text.encode()], dtype=object))
        self._add(step, [(tag, content, text_metadata.create_summary_metadata("", ""))])

    def layout(self) -> None:
        """Write what the page of custom scalars shows, which opens on the losses."""
        categories = [
            layout_pb2.Category(
                title=title,
                closed=title == MEASURED,
                chart=[
                    layout_pb2.Chart(
                        title=panel, multiline=layout_pb2.MultilineChartContent(tag=[pattern])
                    )
                    for _, panel, pattern in panels
                ],
            )
            for title, panels in itertools.groupby(LAYOUT, key=lambda row: row[0])
        ]
        content = layout_pb2.Layout(category=categories).SerializeToString()
        metadata = layout_metadata.create_summary_metadata()
        self._add(0, [(layout_metadata.CONFIG_SUMMARY_TAG, make_tensor_proto(content), metadata)])

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        """Write the arguments of a run, by which its page of hyper-parameters compares runs."""
        from tensorboard.plugins.hparams import summary_v2 as hparams

        plain = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in values.items()
            if value is not None
        }
        if self._file is not None and plain:
            summary = Summary.FromString(hparams.hparams_pb(plain).SerializeToString())
            self._send(Event(wall_time=time.time(), summary=summary))

    def image(self, step: int, tag: str, picture: np.ndarray) -> None:
        """Write one (H, W, C) uint8 picture."""
        self._encoded(step, tag, *picture.shape[:2], encode_png(picture))

    def clip(
        self, step: int, tag: str, frames: np.ndarray, *, frames_per_second: float = 8.0
    ) -> None:
        """Write one (T, H, W, C) uint8 clip, which plays among the pictures."""
        content = encode_gif(frames, frames_per_second=frames_per_second)
        self._encoded(step, tag, *np.shape(frames)[1:3], content)

    def _encoded(self, step: int, tag: str, height: int, width: int, encoded: bytes) -> None:
        # The plugin's tensor: width, height, then the encoded pictures, all as byte strings. The
        # plugin serves them in their own format, also GIF.
        content = [str(width).encode(), str(height).encode(), encoded]
        tensor = make_tensor_proto(np.array(content, dtype=object))
        metadata = image_metadata.create_summary_metadata("", "", converted_to_tensor=True)
        self._add(step, [(tag, tensor, metadata)])

    def flush(self) -> None:
        """Flush pending events to the file."""
        if self._file is not None:
            self._safely(self._file.flush)

    def close(self) -> None:
        """Write everything and close the file."""
        if self._file is not None:
            self._safely(self._file.close)

    def _add(self, step: int, values: list[tuple]) -> None:
        if self._file is None:
            return
        summary = Summary(value=[Summary.Value(tag=t, tensor=p, metadata=m) for t, p, m in values])
        self._send(Event(wall_time=time.time(), step=int(step), summary=summary))

    def _send(self, event: Event) -> None:
        if self._full_since and time.monotonic() - self._full_since > _AGAIN:
            self._full_since = 0.0
            self._safely(self._reopen)
        if self._file is not None and not self._full_since:
            self._safely(self._file.add_event, event)

    def _reopen(self) -> None:
        """TensorBoard's writer repeats an error for ever, but reads all files of a directory."""
        self._file = EventFileWriter(self._directory)

    def _safely(self, call: Callable[..., None], *args: Any) -> None:
        """A full disk costs events and a warning, not the run."""
        if self._full_since:
            return
        with unless_full("TensorBoard's file"):
            try:
                call(*args)
            except Exception:
                self._full_since = time.monotonic()
                raise


class TensorBoardLogger(StepCallback):
    """Curves of the loss, the loss per level, learning rate, gradient norm, speed and memory.

    They are called `loss/all`, `loss/64`, `optimizer/learning_rate`, `speed/images_per_second`,
    `memory/process` (GB) and so on; a page of custom scalars shows the losses of all levels first.

    Args:
        log_dir: directory of the events.
        every: write when a multiple of this many steps is reached.
        initial_step: steps made before this `fit`; later events of a killed run are hidden.

    Other callbacks, such as `SampleGrid`, may use `writer`. `close` closes it, not the end of
    `fit`, so that the callback serves several calls of `fit`.

    Example:

    ```python
    logger = TensorBoardLogger("runs/x/logs", every=50, initial_step=500)
    model.fit(dataset, callbacks=[Throughput(512, initial_step=500), logger])
    ```
    """

    chief_only = True

    def __init__(self, log_dir: str | Path, *, every: int = 10, initial_step: int = 0):
        super().__init__(initial_step=initial_step)
        self.every = checks.integer("every", every, minimum=1)
        self.writer = EventWriter(log_dir, initial_step=initial_step)
        self.writer.layout()

    def on_step_end(self, previous_step: int, logs: dict[str, Any]) -> None:
        if self.crossed(self.every, previous_step):
            self.writer.scalars(self.step, {**tagged(shown_values(logs)), **memory.measured()})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.writer.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()
