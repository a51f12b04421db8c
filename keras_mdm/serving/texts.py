"""Prompts of a server: encoded once, put together with "no prompt" for the rows without one."""

import collections
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from keras_mdm.conditioning.conditions import condition_names

# Texts whose states are kept. Those of a large encoder have a megabyte each.
_KEPT = 64
_NAMES = ("text", "text_mask", "pooled")


class Texts:
    """States of texts for one model; used by the sampling thread alone.

    Args:
        stage: a `MatryoshkaDiffusion`.
    """

    def __init__(self, stage: Any):
        self._stage = stage
        names = condition_names(stage.unet.spec)
        # Whether the model takes texts.
        self.wanted = "text" in names or "pooled" in names
        self._known: collections.OrderedDict[str, dict[str, np.ndarray]]
        self._known = collections.OrderedDict()
        self._notes: dict[str, str] = {}

    def learn(self, texts: Iterable[str | None]) -> dict[str, str]:
        """Encode texts that are not known.

        Args:
            texts: of one batch; `None` and what is known already costs nothing.

        Returns:
            What the encoder had to say of each, such as that it was cut.
        """
        needed = list(dict.fromkeys(text for text in texts if text is not None))
        for text in needed:
            if text in self._known:
                self._known.move_to_end(text)
        new = [text for text in needed if text not in self._known]
        if new:
            said = self._encode(new)
            if said and len(new) > 1:  # of which one? It may show a text to its own client only
                for text in new:
                    self._note(text, self._encode([text]))
            else:
                self._note(new[0], said)
        while len(self._known) > max(_KEPT, len(needed)):
            forgotten, _ = self._known.popitem(last=False)
            self._notes.pop(forgotten, None)
        return {text: self._notes[text] for text in needed if text in self._notes}

    def _encode(self, texts: Sequence[str]) -> str:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _, found = self._stage.conditions_for(list(texts))
        for row, text in enumerate(texts):
            self._known[text] = {n: v[row] for n, v in found.items() if n in _NAMES}
        return " ".join(str(warning.message) for warning in caught)

    def _note(self, text: str, said: str) -> None:
        if said:
            self._notes[text] = said

    def rows(self, texts: Sequence[str | None]) -> dict[str, np.ndarray]:
        """The conditions of rows of texts that are known; `None` is "no prompt".

        Args:
            texts: one for each row.

        Returns:
            `text` `(B, L, D)` and `text_mask` `(B, L)`, `pooled` `(B, P)`, as the model has them.
        """
        null = {name: np.asarray(v) for name, v in self._stage.null_condition.items()}
        found = [null if text is None else self._known[text] for text in texts]
        rows = {name: [each[name] for each in found] for name in found[0] if name in _NAMES}
        if "text" in rows:
            length = max(len(mask) for mask in rows["text_mask"])
            for name in ("text", "text_mask"):
                rows[name] = [_padded(value, length) for value in rows[name]]
        dtypes = {name: np.result_type(*(value.dtype for value in v)) for name, v in rows.items()}
        return {name: np.stack([v.astype(dtypes[name]) for v in rows[name]]) for name in rows}


def _padded(value: np.ndarray, length: int) -> np.ndarray:
    return np.pad(value, [(0, length - len(value))] + [(0, 0)] * (value.ndim - 1))
