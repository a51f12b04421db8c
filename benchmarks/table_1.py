"""The commands for the paper's table 1, as docs/evaluation.md names them, run in miniature.

    python benchmarks/table_1.py
    python benchmarks/table_1.py --tiny --steps 3

The commands are read from the document. Only what is not available is replaced: networks of the
paper's levels with a sixteenth of the channels and no training stand for the runs; Inception
weights are random, in the form of the PyTorch port's file for ImageNet and of the frozen graph of
2015 for COCO; statistics of a few generated pictures are in the form of ADM's file and in our own;
captions are in the form of COCO's annotations. So the numbers mean nothing, but files, options and
names are those of the real measurement. With --tiny the levels are 8 and 32 instead of 64 and 256.
"""

import argparse
import json
import re
import shlex
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

import keras_mdm as mdm
from keras_mdm import evaluation
from keras_mdm.cli import main as cli
from keras_mdm.interop.torch_writer import write_state_dict

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "evaluation.md"
HEADING = "## The paper's table 1"
REAL, CAPTIONS, CLASSES = 24, 40, 10
_ROW = re.compile(r"^\| (?P<number>[^|`]*\d) \| `(?P<command>[^`]*)` \|", re.MULTILINE)


class Command(NamedTuple):
    """A number of the paper, and the words of the command that would reproduce it."""

    number: str
    words: list[str]


def commands(text: str) -> list[Command]:
    """The commands of the document, with those written as `... --guidance 1.2` in full."""
    section = text.split(HEADING)[1].split("\n## ")[0]
    found: list[Command] = []
    for row in _ROW.finditer(section):
        words = shlex.split(row["command"])
        if words[0] == "...":
            before = found[-1].words
            begin = before.index(words[1])
            words = [*before[:begin], *words[1:], *before[begin + len(words) - 1 :]]
        found.append(Command(row["number"], words))
    return found


def make_files(directory: Path, *, tiny: bool) -> dict[str, str]:
    """Make files of the right form.

    Args:
        directory: where to.
        tiny: levels 8 and 32 instead of 64 and 256.

    Returns:
        {what the document calls a file: its path}; the document calls both networks the same.
    """
    sys.path.insert(0, str(ROOT / "tests" / "evaluation"))
    from inception_weights import frozen_graph, random_state

    directory.mkdir(parents=True, exist_ok=True)
    state, size = random_state(), 32 if tiny else 256
    port = directory / "pt_inception-2015-12-05-6726825d.pth"
    write_state_dict(state, port)
    graph = frozen_graph(state).write(directory / "classify_image_graph_def.pb")
    rng = np.random.default_rng(0)
    images = (
        rng.integers(0, 256, (REAL, 4, 4, 3), "uint8").repeat(size // 4, 1).repeat(size // 4, 2)
    )

    # ADM's file holds pictures, and statistics of two layers.
    values = evaluation.FIDInception(port)(images).astype("float64")
    adm = directory / "VIRTUAL_imagenet256_labeled.npz"
    spatial = {"mu_s": np.zeros(2023), "sigma_s": np.eye(2023)}
    mean = {"mu": values.mean(0), "sigma": np.cov(values, rowvar=False)}
    np.savez(adm, arr_0=images, **mean, **spatial)

    # The statistics of COCO are made from its pictures by this package.
    folder = directory / "val2014"
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"COCO_val2014_{number:012d}.png")
    read = mdm.data.load_folder(folder, size=size, progress=False).images[size]
    whole = evaluation.moments.of_pictures(evaluation.FIDInception(graph), read)
    coco = directory / "coco-256.npz"
    evaluation.moments.save(whole, coco)

    captions = directory / "captions_val2014.json"
    annotations = [
        {"image_id": n // 5, "id": n, "caption": f"A picture of {n} squares."}
        for n in range(CAPTIONS)
    ]
    captions.write_text(json.dumps({"images": [], "annotations": annotations}))
    return {
        "runs/imagenet_256": str(_model(directory / "imagenet_256.keras", tiny, text=False)),
        "runs/cc12m_256": str(_model(directory / "cc12m_256.keras", tiny, text=True)),
        "VIRTUAL_imagenet256_labeled.npz": str(adm),
        "coco-256.npz": str(coco),
        "captions_val2014.json": str(captions),
        "imagenet inception": f"inception:{port}",
        "cc12m inception": f"inception:{graph}",
    }


def _model(path: Path, tiny: bool, *, text: bool) -> Path:
    """A network that was not trained, with the recipe's conditions and process."""
    encoder = mdm.text.MiniLM(length=16) if text else None
    given = {"text_width": encoder.width} if encoder else {"num_classes": CLASSES}
    if tiny:
        inner = mdm.LevelSpec(
            8, channels=(32,), blocks=(1,), attention=(1,), heads=1, use_mid_block=False
        )
        outer = mdm.LevelSpec(32, channels=(16, 16, 16), blocks=(1, 1, 1), groups=8)
        network = mdm.build_nested_unet([inner, outer], **given)
    else:
        network = mdm.presets.build("mdm_s64s256", width=1 / 16, **given)
    # At its start a network draws the same whatever it is asked for: a little noise on all weights.
    rng = np.random.default_rng(0)
    for variable in network.trainable_variables:
        value = np.asarray(variable)
        variable.assign(value + rng.normal(0.0, 0.05, value.shape).astype(value.dtype))
    process = mdm.presets.diffusion("mdm_s64s256")
    mdm.MatryoshkaDiffusion(network, text_encoder=encoder, **process).save(path)
    return path


def miniature(
    command: Command, files: dict[str, str], out: Path, *, count: int, steps: int, tiny: bool
) -> list[str]:
    """The words of a command with the files and numbers of the rehearsal."""
    kind = "cc12m" if "runs/cc12m_256" in command.words else "imagenet"
    words = [files.get(word, word) for word in command.words[1:]]
    words = [files[f"{kind} inception"] if word == "inception:FILE" else word for word in words]
    words[words.index("-n") + 1] = str(count)
    words[words.index("--steps") + 1] = str(steps)
    if tiny:
        words[words.index("--levels") + 1] = "32"
    return [*words, "--few", "--out", str(out)]


def rehearse(directory: Path, *, count: int, steps: int, tiny: bool) -> list[tuple[str, int, dict]]:
    """Run all commands of the document.

    Returns:
        (number of the paper, exit status, the row of the report) of each.
    """
    files, found = make_files(directory, tiny=tiny), []
    for number, command in enumerate(commands(DOCUMENT.read_text(encoding="utf-8"))):
        out = directory / f"evaluation-{number}"
        words = miniature(command, files, out, count=count, steps=steps, tiny=tiny)
        status = cli.main(words)
        rows = json.loads((out / "report.json").read_text())["rows"] if not status else [{}]
        found.append((command.number, status, rows[0]))
    return found


def main() -> int:
    """Rehearse, and print each number with its name."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/table_1"), metavar="DIR")
    parser.add_argument("--count", type=int, default=8, help="pictures to draw (%(default)s)")
    parser.add_argument("--steps", type=int, default=250, help="sampling steps (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="levels 8 and 32")
    arguments = parser.parse_args()
    start = time.perf_counter()
    found = rehearse(
        arguments.out, count=arguments.count, steps=arguments.steps, tiny=arguments.tiny
    )
    print("\n| number of the paper | exit status | rehearsed as | value | n drawn |")
    print("|---|---|---|---|---|")
    for number, status, row in found:
        value = f"{row.get('value', float('nan')):.4g}"
        print(f"| {number} | {status} | {row.get('measure')} | {value} | {row.get('drawn')} |")
    print(f"\n{time.perf_counter() - start:.0f} s")
    return max(status for _, status, _ in found)


if __name__ == "__main__":
    sys.exit(main())
