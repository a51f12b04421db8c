"""Token ids of the official tokenizer, for those who have T5's vocabulary."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from golden_cases.case import Case, Check, difference
from keras_mdm.text.t5_tokenizer import T5Tokenizer


def check(case: Case, vocabulary: Path) -> Iterator[Check]:
    """Compare single prompts, padded batches, and a prompt that is too long.

    Args:
        case: a case of the kind "tokens".
        vocabulary: T5's `spiece.model`.
    """
    settings = case.settings
    tokenizer = T5Tokenizer(
        vocabulary.read_bytes(),
        length=settings["max_token_length"],
        max_characters=settings["max_caption_length"],
    )
    for name in ("pad", "eos"):
        found = {"pad": tokenizer.pad, "eos": tokenizer.end}[name]
        yield Check("tokens", f"{name} {found}", abs(found - settings[name]), 0.0)
    for prompt in (*settings["prompts"], settings["long"]):
        found = tokenizer.encode([prompt["text"]])[0]
        same = found.tolist() == prompt["ids"]
        yield Check("tokens", f"{prompt['text'][:30]!r}", 0.0 if same else np.inf, 0.0)
    for batch in settings["batches"]:
        error = difference(tokenizer.encode(batch["texts"]), batch["ids"])
        yield Check("tokens", f"batch of {len(batch['texts'])}", error, 0.0)
