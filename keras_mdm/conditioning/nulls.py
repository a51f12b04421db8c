"""Which conditions training left out, so that sampling may leave them out, too."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_mdm.conditioning.conditions import NO_CLASS, condition_names

# Conditions that can be "none", in the order in which messages name them.
LARGE = ("text", "pooled", "label")
# Prompts encoded in other batches differ from the stored null by rounding.
_ROUNDING = 1e-4


def large_conditions(spec: Any) -> tuple[str, ...]:
    """The conditions of a network that classifier-free guidance drops.

    Args:
        spec: the network.
    """
    names = condition_names(spec)
    return tuple(name for name in LARGE if name in names)


def was_trained(model: Any, missing: Iterable[str]) -> bool:
    """Whether training had samples that lacked exactly these of the large conditions.

    Args:
        model: a `MatryoshkaDiffusion`.
        missing: names of the conditions that are left out.

    Returns:
        True if `cond_dropout` makes such samples, or the data is declared to hold some.
    """
    rates, missing = model.cond_dropout, set(missing)
    names = large_conditions(model.unet.spec)
    if not names or model.null_in_data:
        return True
    if isinstance(rates, Mapping):  # each is dropped independently; at rate 0 unless named
        dropped, kept = missing & set(names), set(names) - missing
        return all(rates.get(n, 0.0) > 0.0 for n in dropped) and all(
            rates.get(n, 0.0) < 1.0 for n in kept
        )
    if not missing:
        return rates < 1.0
    return missing == set(names) and rates > 0.0


def trained_null(model: Any) -> bool:
    """Whether training had samples without conditions, which guidance leads away from.

    Args:
        model: a `MatryoshkaDiffusion`.
    """
    return was_trained(model, large_conditions(model.unet.spec))


def missing_sets(model: Any, conditions: Mapping[str, np.ndarray]) -> set[frozenset[str]]:
    """The sets of large conditions that rows lack.

    Args:
        model: a `MatryoshkaDiffusion`.
        conditions: conditions of all rows, as returned by `conditions_for`.
    """
    lacking = {}
    null = {name: np.asarray(value) for name, value in model.null_condition.items()}
    if "label" in conditions:
        lacking["label"] = np.asarray(conditions["label"]) == NO_CLASS
    if "pooled" in conditions:
        lacking["pooled"] = _close(conditions["pooled"], null["pooled"])
    if "text" in conditions:
        mask, tokens = np.asarray(conditions["text_mask"]), int(null["text_mask"].sum())
        marked = null["text"][null["text_mask"] > 0]
        lacking["text"] = mask.sum(axis=1) == tokens
        for row in np.flatnonzero(lacking["text"]):
            states = np.asarray(conditions["text"][row])[mask[row] > 0]
            lacking["text"][row] = _close(states.reshape(1, -1), marked.reshape(-1))[0]
    rows = zip(*lacking.values(), strict=True)
    return {
        frozenset(n for n, is_null in zip(lacking, row, strict=True) if is_null) for row in rows
    }


def warn_of_untrained(
    model: Any,
    scale: float,
    conditions: Mapping[str, np.ndarray],
    away: Mapping[str, np.ndarray] | None,
) -> None:
    """Warn of combinations of conditions that the network has never seen.

    Args:
        model: a `MatryoshkaDiffusion`.
        scale: guidance scale; 1 for none.
        conditions: conditions of all rows.
        away: what classifier-free guidance leads away from; empty for "no prompt", `None` if it
            leads away from something else.
    """
    names = large_conditions(model.unet.spec)
    if scale != 1.0 and away is not None:
        unseen = missing_sets(model, away) if away else {frozenset(names)}
        unseen = [missing for missing in unseen if not was_trained(model, missing)]
        if unseen:
            warnings.warn(
                f"guidance_scale={scale:g} leads away from what the network makes "
                f"{_words(unseen[0])}, which training never showed it "
                f"(cond_dropout={model.cond_dropout}): the pictures are likely to be wrong. Pass "
                "guidance_scale=1, or train with cond_dropout=0.1; if the data itself holds such "
                "samples, make the model with null_in_data=True",
                stacklevel=4,
            )
    unseen = [m for m in missing_sets(model, conditions) if not was_trained(model, m)]
    if unseen:
        fix = (
            "Train with a smaller cond_dropout"
            if not unseen[0]
            else "Pass all of them, or train with cond_dropout={"
            + ", ".join(f'"{name}": 0.1' for name in names)
            + "}; if the data itself holds such samples, make the model with null_in_data=True"
        )
        warnings.warn(
            f"pictures are drawn {_words(unseen[0])}, which training never showed the network "
            f"(cond_dropout={model.cond_dropout}): they are likely to be wrong. {fix}",
            stacklevel=4,
        )


def _words(missing: Iterable[str]) -> str:
    found = [name for name in LARGE if name in missing]
    return f"without {' and '.join(found)}" if found else "with all conditions"


def _close(rows: Any, row: np.ndarray) -> np.ndarray:
    return np.all(np.abs(np.asarray(rows) - row) <= _ROUNDING, axis=-1)
