"""The text encoder of a run, the states of its captions, and the prompts that are drawn."""

import argparse
import json
from pathlib import Path
from typing import Any

import keras_mdm as mdm
from shared import rehearsal_data

HERE = Path(__file__).parent
PAPER_PROMPTS = HERE / "paper_prompts.txt"
# Figure 18.
PAPER_VIDEO_PROMPTS = HERE / "paper_video_prompts.txt"
# The guidance of the paper's prompts: appendix F, figure 18.
PAPER_GUIDANCE = 7.0
# Prompts for the embedded drawings, as far as a run has them.
PROMPTS = [
    *("red heart", "green heart", "blue circle", "yellow square", "red apple", "banana"),
    *("strawberry", "watermelon", "pizza", "hamburger", "carrot", "sunflower", "tulip"),
    *("sun", "rainbow", "star", "grinning face", "loudly crying face", "tiger face", "panda"),
    *("frog", "tropical fish", "penguin", "octopus", "automobile", "airplane", "sailboat"),
    *("rocket", "american football", "baseball", "guitar", "Christmas tree"),
]
# The captions of a set up to this size are encoded once, at the start of the run.
ENCODED_FIRST = 20_000


def encoder(arguments: argparse.Namespace, tokens: int) -> mdm.text.TextEncoder | None:
    """FLAN-T5 from the folder --text-encoder, or all-MiniLM-L6-v2 without one; in a rehearsal its
    replacement; none for networks without text."""
    if not tokens:
        return None
    if getattr(arguments, "rehearse", None):
        return rehearsal_data.WordStates(tokens)
    folder = getattr(arguments, "text_encoder", None)
    if folder:
        return mdm.text.FlanT5(folder, length=tokens)
    return mdm.text.MiniLM(length=tokens)


def states(
    source: Any, encoder: mdm.text.TextEncoder, arguments: argparse.Namespace
) -> mdm.text.TextEncoder | mdm.text.StoredStates:
    """The source of the captions' states: those of --embeddings; for a small set, states encoded
    now and kept in the run's folder; or the encoder itself."""
    if arguments.embeddings:
        stored = mdm.text.StoredStates(arguments.embeddings)
        if stored.identity != json.loads(json.dumps(encoder.identity)):
            raise ValueError(
                "the stored states must be those of the run's text encoder. Received: "
                f"embeddings={stored.identity}, encoder={encoder.identity}. To fix it: "
                "pass --text-encoder, or embed again"
            )
        return stored
    if len(source) > ENCODED_FIRST:
        return encoder
    folder = Path(arguments.run_dir) / "embeddings"
    return mdm.text.embed(encoder, mdm.data.captions_of(source), folder, total=len(source))
