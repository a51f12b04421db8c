"""The prompts or classes of `keras-mdm evaluate`, and how well pictures fit them."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_mdm import checks
from keras_mdm.cli.reference import Real, emoji_drawings, is_emoji

TEXT = "text"  # the metric


def conditions(args: argparse.Namespace, model: Any, captions: list[str] | None) -> dict[str, Any]:
    """Prompts or labels for all pictures, drawn by the seed. A model of texts and classes gets
    texts alone: which class fits a text is not known."""
    import numpy as np

    from keras_mdm.stages import stages_of

    rng = np.random.default_rng(checks.seed(args.seed))
    spec = stages_of(model)[0].unet.spec
    if args.prompts:
        return {"prompts": chosen_prompts(str(args.prompts), args.count, rng)}
    if spec.text_width is not None or spec.pooled_width is not None:
        if not captions:
            raise checks.error(
                "a model of texts needs prompts, and the real pictures have no captions",
                fix="pass --prompts FILE with a prompt per line",
                reference=args.reference,
            )
        rounds = -(-args.count // len(captions))
        order = np.concatenate([rng.permutation(len(captions)) for _ in range(rounds)])
        return {"prompts": [captions[row] for row in order[: args.count]]}
    if spec.num_classes is not None:
        return {"labels": rng.integers(0, spec.num_classes, args.count).tolist()}
    return {}


def chosen_prompts(source: str, count: int, rng: Any) -> list[str]:
    """Prompts out of a text file, in its order; out of a table or a source, drawn at random.

    Args:
        source: a text file with a prompt per line, a table of captions, or a source of captioned
            pictures.
        count: number of pictures to draw; no prompt is used twice.
        rng: draws. A larger `count` begins with the same prompts.

    Raises:
        ValueError: if it is none of these, or has fewer prompts.
    """
    texts, shuffled = _texts_of(source)
    if len(texts) < count:
        raise checks.error(
            "--prompts must hold a prompt for each picture",
            fix="pass more prompts, or draw fewer pictures with -n",
            prompts=source,
            found=len(texts),
            count=count,
        )
    return [texts[row] for row in rng.permutation(len(texts))[:count]] if shuffled else texts


def _texts_of(source: str) -> tuple[list[str], bool]:
    """All prompts, and whether some of them are to be drawn at random."""
    from keras_mdm import data
    from keras_mdm.data.sources import file_bytes, kinds
    from keras_mdm.data.sources.texts import printable

    if is_emoji(source):
        return list(emoji_drawings(source, {"16": 16}, "area").captions), True
    is_file = file_bytes.is_file(source)
    if is_file and not data.is_caption_table(source) and kinds.shard_kind(source) is None:
        return lines_of(source), False
    left_out: list[data.Skipped] = []
    if is_file and data.is_caption_table(source):
        texts = data.captions_of_table(source, skipped=left_out.append)
    else:
        try:
            opened = data.open_images(source, max_skipped=1.0)
        except ValueError as problem:
            raise checks.error(
                "--prompts must be a text file with a prompt per line, a table of captions, or "
                "captioned pictures as in `keras-mdm data`",
                fix="check the path",
                prompts=source,
                problem=str(problem),
            ) from problem
        texts = list(data.captions_of(opened, skipped=left_out.append))
    if left_out:
        name, reason = left_out[0]
        words = f"{len(left_out)} records of --prompts give none, the first one {name}: {reason}"
        print(printable(words), file=sys.stderr, flush=True)
    return texts, True


def lines_of(path: str) -> list[str]:
    """The prompts of a text file, one per line.

    Args:
        path: the file, in UTF-8 or UTF-16.

    Raises:
        ValueError: if it is no such file.
    """
    from keras_mdm.data.sources.texts import is_text, text_of

    problem: OSError | None = None
    try:
        text = text_of(Path(path).read_bytes())
    except OSError as found:
        problem, text = found, "\0"
    if "\0" in text or not is_text(text):
        raise checks.error(
            "--prompts must be a text file in UTF-8 with a prompt per line",
            fix="check the path, or write the file again",
            prompts=path,
            problem=str(problem or "other bytes"),
        ) from problem
    return [line.strip() for line in text.splitlines() if line.strip()]


def text_measures(
    args: argparse.Namespace,
    real: Real,
    levels: list[str],
    given: Mapping[str, Any],
    features: Any,
) -> dict[str, Any]:
    """Measures of texts for all levels, if they are asked for: the CLIP score, or R-precision by a
    scorer trained on the real pictures."""
    from keras_mdm import evaluation, text

    if TEXT not in args.metrics:
        return {}
    networks = {level: evaluation.network_of(features, level) for level in levels}
    if "prompts" in given and isinstance(features, evaluation.ClipFeatures):
        moving = [level for level in levels if networks[level] is not features]
        if moving:
            raise checks.error(
                "the CLIP score is one of pictures",
                fix="choose levels of pictures with --levels, or another network with --features",
                levels=moving,
            )
        return dict.fromkeys(levels, features.score_of(given["prompts"][: args.count]))
    if "prompts" not in given or not real.captions:
        raise checks.error(
            "the metric text needs prompts, and real pictures with captions",
            fix="leave it out of --metrics",
            reference=args.reference,
        )
    encoder = text.MiniLM()
    found = {}
    for level in levels:
        images, captions = real.pairs(level)
        found[level] = evaluation.fit_text_measure(
            networks[level], encoder, images, captions, given["prompts"][: args.count]
        )
    return found
