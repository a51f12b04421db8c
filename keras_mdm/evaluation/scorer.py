"""A retrieval scorer for pictures and texts, trained in seconds: the stand-in for CLIP."""

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm import checks, files
from keras_mdm.evaluation.contrastive import fit_heads
from keras_mdm.evaluation.feature_sets import checked, checked_pairs, unit

_FORMAT = "keras_mdm.TextScorer 1"
_ARRAYS = ("picture_weight", "picture_bias", "text_weight", "text_bias", "scale")


class TextScorer:
    """Two linear heads that map the features of pictures and texts to common directions.

    Train it on real pictures with captions; `r_precision` of what it returns for drawn pictures and
    their prompts then tells how well these fit. On the pictures of its own training it is nearly
    perfect, and on unknown concepts much worse, so it ranks models on concepts that it knows. It is
    not CLIP: its numbers compare only with those of the same scorer.

    Args:
        network: name of the feature network that made the features, its `name`.
        encoder: identity of the text encoder that made the states, its `identity`.
        width: of the common space.
        steps: of training, on batches of 256 pairs.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> meaning = rng.normal(size=(300, 8))
    >>> features, states = meaning @ rng.normal(size=(8, 40)), meaning @ rng.normal(size=(8, 20))
    >>> scorer = TextScorer("network", {"name": "encoder"}, width=16)
    >>> scorer = scorer.fit(features, states, seed=0)
    >>> r_precision(scorer.pictures(features), scorer.texts(states)).value > 0.9
    True

    Reference: Radford et al., arXiv 2103.00020, section 2.3 (the loss).
    """

    def __init__(
        self, network: str, encoder: Mapping[str, Any], *, width: int = 256, steps: int = 400
    ):
        if not isinstance(network, str) or not network or not isinstance(encoder, Mapping):
            raise checks.error(
                "`network` must be a name and `encoder` a mapping",
                fix="pass the `name` of the feature network and the `identity` of the encoder",
                network=network,
                encoder=encoder,
            )
        self.network = network
        self.encoder = _plain(encoder)
        self.width = checks.integer("width", width, minimum=1)
        self.steps = checks.integer("steps", steps, minimum=1)
        self._heads: dict[str, np.ndarray] | None = None

    def fit(
        self,
        features: np.ndarray,
        states: np.ndarray,
        seed: int = 0,
        *,
        mask: np.ndarray | None = None,
    ) -> "TextScorer":
        """Train both heads from the start; the same call gives the same heads.

        Args:
            features: (N, D) features of pictures, at least 8.
            states: (N, L, W) token states of their texts, or (N, W) sentence states.
            seed: of the starting weights and of the order.
            mask: (N, L), 0 at padding; needed for token states.

        Returns:
            The scorer itself.

        Raises:
            ValueError: if the arrays do not belong together or are not finite.
        """
        seed = checks.seed(seed)
        x, y = checked_pairs(
            8, one_width=False, features=features, states=sentence_states(states, mask)
        )
        self._heads = fit_heads(x, y, width=self.width, steps=self.steps, seed=seed)
        return self

    def pictures(self, features: np.ndarray) -> np.ndarray:
        """Return directions (N, width) float32 of the features (N, D) of pictures."""
        return self._apply("picture", "features", features)

    def texts(self, states: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Return directions (N, width) float32 of texts, given as in `fit`."""
        return self._apply("text", "states", sentence_states(states, mask))

    @property
    def temperature(self) -> float:
        """The learned divisor of the cosines in the loss."""
        return 1.0 / float(self._fitted()["scale"])

    def save(self, path: str | os.PathLike) -> Path:
        """Write the heads and what they were trained for to a `.npz` file, and return its path."""
        heads = self._fitted()
        path = Path(path)
        if path.suffix != ".npz":
            raise checks.error(
                "`path` must end with .npz", fix="rename the file", path=os.fspath(path)
            )
        about = {
            "format": _FORMAT,
            "network": self.network,
            "encoder": self.encoder,
            "steps": self.steps,
        }
        arrays: dict[str, Any] = {**heads, "about": np.array(json.dumps(about, sort_keys=True))}
        return files.write_atomically(path, lambda file: np.savez(file, **arrays))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        network: str | None = None,
        encoder: Mapping[str, Any] | None = None,
    ) -> "TextScorer":
        """Read what `save` wrote.

        Args:
            path: the file.
            network: name of the feature network that will be used, or `None` to take the scorer's.
            encoder: identity of the text encoder that will be used, or `None` to take the scorer's:
                `keras_mdm.text.from_identity(scorer.encoder)`.

        Raises:
            ValueError: if the file is damaged, or the scorer was trained for another network or
                encoder.
            OSError: if it cannot be read.
        """
        about, heads = _read(Path(path))
        wanted = {"network": network, "encoder": None if encoder is None else _plain(encoder)}
        other = [name for name, value in wanted.items() if value not in (None, about[name])]
        if other:
            raise checks.error(
                "a scorer must be used with the feature network and the encoder of its training",
                fix="use those, or train a scorer for the ones at hand",
                **{f"{name}_of_training": about[name] for name in other},
                **{f"{name}_at_hand": wanted[name] for name in other},
            )
        width = heads["picture_bias"].size
        scorer = cls(about["network"], about["encoder"], width=width, steps=about["steps"])
        scorer._heads = heads
        return scorer

    def _fitted(self) -> dict[str, np.ndarray]:
        if self._heads is None:
            raise checks.error(
                "the scorer must be trained first", fix="call `fit` or `load`", trained=False
            )
        return self._heads

    def _apply(self, head: str, name: str, given: np.ndarray) -> np.ndarray:
        heads = self._fitted()
        weight, bias = heads[f"{head}_weight"], heads[f"{head}_bias"]
        (x,) = checked(1, one_width=True, **{name: given})
        if x.shape[1] != len(weight):
            raise checks.error(
                f"`{name}` must be as wide as in training, {len(weight)}",
                fix="use the feature network and the encoder of the training",
                **{name: x.shape},
            )
        return unit(name, x @ weight + bias).astype("float32")


def sentence_states(states: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Return the mean (N, W) of token states (N, L, W) where the mask (N, L) is not 0.

    Without a mask, `states` must be (N, W) already and are returned unchanged.
    """
    states = np.asarray(states)
    if mask is None and states.ndim == 2:
        return states
    if mask is None or states.ndim != 3 or np.shape(mask) != states.shape[:2]:
        raise checks.error(
            "`states` must be (N, L, W) with a mask (N, L), or (N, W) without one",
            fix="pass both results of the encoder's `encode`",
            states=states.shape,
            mask=None if mask is None else np.shape(mask),
        )
    kept = np.asarray(mask) != 0
    if empty := int(np.sum(~kept.any(axis=1))):
        raise checks.error(
            "every text must have a token", fix="look at the masks", texts_without=empty
        )
    # Padding may hold anything, even what is not finite.
    tokens = np.where(kept[:, :, None], states, 0.0).astype("float64")
    return tokens.sum(axis=1) / kept.sum(axis=1, keepdims=True)


def _plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as it comes back from JSON."""
    try:
        return json.loads(json.dumps(dict(identity), sort_keys=True))
    except TypeError as problem:
        raise checks.error(
            "`encoder` must hold only what JSON can: texts, numbers, lists",
            fix="pass the `identity` of the encoder",
            encoder=dict(identity),
        ) from problem


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    problem = None
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as found:
            heads = {name: found[name] for name in _ARRAYS}
            about = json.loads(str(found["about"]))
        if about["format"] != _FORMAT:
            problem = f"its format is {about['format']!r}"
        elif not _whole(about, heads):
            problem = "its arrays do not fit together"
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as found_problem:
        problem = str(found_problem)
    if problem:
        raise checks.error(
            "the file must be a whole one that `TextScorer.save` wrote",
            fix="train the scorer again",
            path=str(path),
            problem=problem,
        )
    return about, heads


def _whole(about: dict[str, Any], heads: dict[str, np.ndarray]) -> bool:
    known = isinstance(about["network"], str) and isinstance(about["encoder"], dict)
    shapes = all(
        heads[f"{head}_weight"].ndim == 2
        and heads[f"{head}_weight"].shape[1:] == heads[f"{head}_bias"].shape
        for head in ("picture", "text")
    )
    finite = all(value.dtype == "float32" and np.isfinite(value).all() for value in heads.values())
    same = heads["picture_bias"].shape == heads["text_bias"].shape
    return known and checks.is_int(about["steps"]) and shapes and finite and same
