"""Command lines that show how each command is used, for the end of its help."""

import argparse
from collections.abc import Mapping, Sequence

HEAD = "examples:"
EXAMPLES: Mapping[str, Sequence[str]] = {
    "describe": (
        "keras-mdm describe 64 256 1024",
        "keras-mdm describe mdm_s64s256 --phases 64:500000x2048 256:500000x1026 --devices 8",
    ),
    "doctor": ("keras-mdm doctor", "keras-mdm doctor --only train-bfloat16 export --json"),
    "import": (
        "keras-mdm import vis_model_64x64.pth cc12m_64x64.yaml released.keras "
        "--text-encoder flan-t5-xl",
    ),
    "sample": (
        'keras-mdm sample runs/demo "a red apple" panda',
        "keras-mdm sample model.keras --prompts prompts.txt --guidance 16=3,64=1 --seed 7",
        "keras-mdm sample runs/classes --label cat dog --per-prompt 8 --out cats",
    ),
    "serve": (
        "keras-mdm serve runs/demo",
        "keras-mdm serve model.keras --port 9000 --max-steps 50",
        "KERAS_MDM_TOKEN=$(openssl rand -hex 16) keras-mdm serve model.keras --host 0.0.0.0",
    ),
    "evaluate": (
        "keras-mdm evaluate runs/demo --reference emoji --few -n 200",
        "keras-mdm evaluate runs/x --reference pictures --training pictures --out worth",
        "keras-mdm evaluate drawn_before --reference pictures --json",
    ),
    "cut": ("keras-mdm cut runs/demo 16 small.keras",),
    "export": (
        "keras-mdm export runs/demo exported",
        "keras-mdm export model.keras exported --dtype bfloat16 --denoiser",
    ),
    "assets": ("keras-mdm assets fetch minilm emoji", "keras-mdm assets list --json"),
    "data": (
        "keras-mdm data pictures --levels 16 64",
        "keras-mdm data tfds:cifar10 --records 0 --json",
    ),
    "prepare": (
        "keras-mdm prepare pictures shards --size 256",
        "keras-mdm prepare videos clips --frames 16 --stride 4",
    ),
    "embed": ("keras-mdm embed shards states --text-encoder flan-t5-xl",),
    "train": (
        "keras-mdm train emoji_text_to_image",
        "keras-mdm train folder --data pictures --levels 64 128 --dry-run",
    ),
    "launch": (
        "keras-mdm launch -n 2 train emoji_text_to_image --steps-scale 0.1",
        "keras-mdm launch -n 4 --restarts 3 my_training.py",
    ),
}


class Formatter(argparse.HelpFormatter):
    """Help whose examples keep their lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(HEAD) else super()._fill_text(text, width, indent)


def add_examples(parser: argparse.ArgumentParser) -> None:
    """Let the help of a command end with examples.

    Args:
        parser: of the command, the last word of its `prog`.
    """
    lines = EXAMPLES[parser.prog.split()[-1]]
    parser.epilog = "\n".join([HEAD, *(f"  {line}" for line in lines)])
    parser.formatter_class = Formatter
