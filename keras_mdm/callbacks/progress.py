"""A progress bar for one phase of training."""

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from tqdm.auto import tqdm

from keras_mdm import checks, distribute
from keras_mdm.callbacks.steps import StepCallback, shown_values

_SHORT = {
    "learning_rate": "lr",
    "gradient_norm": "norm",
    "images_per_second": "images/s",
    "tflops": "TFLOP/s",
}


class ProgressBar(StepCallback):
    """One bar over all steps of a phase: losses per level, images per second, time left.

    On a terminal and in a notebook it is a tqdm bar. To a file or a pipe it prints a line every
    `interval` seconds (and one at the end) instead of thousands of carriage returns. Pass
    `verbose=0` to `fit`.

    Args:
        total: the phase's number of steps.
        description: text in front of the bar.
        initial_step: steps made before, when the phase is continued.
        quiet: print nothing.
        interval: seconds between two lines when the output is not a terminal.
        stream: where to write; standard error by default.
        clock: function that gives seconds.

    Example:

    ```python
    model.fit(dataset, verbose=0, callbacks=[ProgressBar(5000, description="phase 1 [64]")])
    ```
    """

    chief_only = True

    def __init__(
        self,
        total: int,
        *,
        description: str = "",
        initial_step: int = 0,
        quiet: bool = False,
        interval: float = 10.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__(initial_step=initial_step)
        self.total = checks.integer("total", total, minimum=1)
        self.description = description
        self.quiet = quiet
        self.interval = checks.real("interval", interval, minimum=0.0)
        self._stream, self._clock = stream, clock
        self._bar: tqdm | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._begin_time = self._clock()
        self._line_time, self._line_step = self._begin_time, -1
        self._traced: tuple[int, float] | None = None
        self._last_values: dict[str, float] = {}
        stream = self._stream or sys.stderr
        self.quiet = self.quiet or not distribute.is_chief()
        notebook = self._stream is None and "ipykernel" in sys.modules
        if not self.quiet and (notebook or stream.isatty()):
            self._bar = tqdm(
                total=self.total,
                initial=self.step,
                desc=self.description or None,
                file=stream,
                dynamic_ncols=True,
                unit="step",
            )

    def on_step_end(self, previous_step: int, logs: dict[str, Any]) -> None:
        if self.quiet:
            return
        self._last_values = shown_values(logs)
        now = self._clock()
        if self._traced is None:  # the first execution compiles, so its time does not count
            self._traced = self.step, now
        if self._bar is not None:
            self._bar.set_postfix_str(format_values(self._last_values), refresh=False)
            self._bar.update(self.step - previous_step)
        elif now - self._line_time >= self.interval:
            self._print_line(now)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif not self.quiet and self._line_step != self.step:
            self._print_line(self._clock())

    def _print_line(self, now: float) -> None:
        self._line_time, self._line_step = now, self.step
        first_step, first_time = self._traced or (self.step, now)
        parts = [f"{self.step}/{self.total}", format_values(self._last_values)]
        if first_step < self.step < self.total:
            left = (now - first_time) / (self.step - first_step) * (self.total - self.step)
            parts.append(f"{tqdm.format_interval(left)} left")
        elif self.step >= self.total:
            parts.append(f"took {tqdm.format_interval(now - self._begin_time)}")
        line = "  ".join(part for part in (self.description, *parts) if part)
        print(line, file=self._stream or sys.stderr, flush=True)


def format_values(values: dict[str, float]) -> str:
    """Write values briefly: `loss 0.123 (64 0.101, 256 0.145) lr 0.0001 norm 0.52 31 images/s`.

    Example:

    >>> format_values({"loss": 0.1234, "loss_64": 0.1, "images_per_second": 31.4})
    'loss 0.123 (64 0.1) 31.4 images/s'
    """
    levels = [
        f"{key.removeprefix('loss_')} {value:.3g}"
        for key, value in values.items()
        if key.startswith("loss_")
    ]
    parts = [f"loss {values['loss']:.3g}"] if "loss" in values else []
    parts += [f"({', '.join(levels)})"] if levels else []
    for key, short in _SHORT.items():
        if key in values:
            number = f"{values[key]:.3g}"
            parts.append(f"{number} {short}" if short.endswith("/s") else f"{short} {number}")
    return " ".join(parts)
