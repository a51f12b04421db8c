"""Prompts on their way into an encoder: checks, a separate thread, warnings about what is cut."""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from keras_mdm import checks


def check_texts(texts: Sequence[str]) -> list[str]:
    """Return `texts` as a list, or raise unless it is a sequence of strings."""
    # A single string is also a sequence of strings: its letters.
    listed = None if isinstance(texts, str | bytes) else list(texts)
    if listed is None or not all(isinstance(text, str) for text in listed):
        strange = (
            texts if listed is None else [text for text in listed if not isinstance(text, str)]
        )
        raise checks.error(
            "`texts` must be a list of strings",
            fix="pass ['a red apple'], with brackets for a single prompt too",
            texts=strange if listed is None else strange[:3],
        )
    return listed


def in_own_thread(work: Callable[[], Any]) -> Any:
    """Run `work` outside the caller's Keras and TensorFlow context.

    Both keep strategies, dtype policies, scopes and name counters per thread. In a fresh thread the
    encoder's variables are not mirrored, and building them does not renumber the caller's layers.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(work).result()


def warn_of_cuts(lost: Sequence[tuple[str, str]], total: int, length: int) -> None:
    """Warn about prompts that were too long, showing what was lost.

    Args:
        lost: the kept part and the lost part of every prompt that was cut.
        total: number of prompts.
        length: the most tokens of a prompt.
    """
    if not lost:
        return
    shown = "; ".join(f"{kept.rstrip()!r} lost {rest!r}" for kept, rest in lost[:3])
    more = f", and {len(lost) - 3} more" if len(lost) > 3 else ""
    warnings.warn(
        f"{len(lost)} of {total} prompts are longer than {length} tokens and were cut: "
        f"{shown}{more}. Pass a larger `length` to keep all words.",
        stacklevel=4,
    )
