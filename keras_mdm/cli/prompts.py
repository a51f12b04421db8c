"""The prompts or classes of `keras-mdm evaluate`, and how well pictures fit them."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_mdm import checks
from keras_mdm.cli.reference import Real

TEXT = "text"  # the metric


def conditions(args: argparse.Namespace, model: Any, captions: list[str] | None) -> dict[str, Any]:
    """Prompts or labels for all pictures: as the model was trained, drawn by the seed."""
    import numpy as np

    rng = np.random.default_rng(checks.seed(args.seed))
    spec = model.unet.spec
    if args.prompts:
        try:
            lines = Path(args.prompts).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as problem:
            raise checks.error(
                "--prompts must be a text file in UTF-8 with a prompt per line",
                fix="check the path, or write the file again",
                prompts=str(args.prompts),
                problem=str(problem),
            ) from problem
        prompts = [line.strip() for line in lines if line.strip()]
        return {"prompts": prompts}
    if spec.text_width is not None:
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
    clip = isinstance(features, evaluation.ClipFeatures)
    if "prompts" in given and clip:
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
            features, encoder, images, captions, given["prompts"][: args.count]
        )
    return found
