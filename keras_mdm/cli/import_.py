"""`keras-mdm import`: the authors' released checkpoints as models of this package."""

import argparse
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mdm import checks
from keras_mdm.files import temporary_directory, write_atomically
from keras_mdm.quiet import quiet_start

if TYPE_CHECKING:
    from keras_mdm.training import MatryoshkaDiffusion


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `import` command to the subparsers of `keras-mdm`.

    Args:
        subparsers: from `ArgumentParser.add_subparsers`.

    Returns:
        The parser of the command; its defaults set `run`.
    """
    parser = subparsers.add_parser(
        "import",
        help="turn a released checkpoint into a model",
        description="Reads a checkpoint of the authors' implementation and its configuration and "
        "writes a model that samples, fine-tunes, grows and exports. PyTorch is not needed, and "
        "nothing in the checkpoint is run.",
    )
    parser.add_argument("weights", metavar="WEIGHTS.pth", help="such as vis_model_64x64.pth")
    parser.add_argument("config", metavar="CONFIG.yaml", help="such as cc12m_64x64.yaml")
    parser.add_argument("out", metavar="OUT.keras", type=Path, help="the model")
    parser.add_argument(
        "--size", type=int, help="height of the largest pictures (default: the configuration's)"
    )
    parser.add_argument(
        "--text-encoder",
        type=Path,
        metavar="DIR",
        help="folder with the Hugging Face files of its text encoder (google/flan-t5-xl for "
        "the released models); needed for prompts",
    )
    parser.add_argument(
        "--text-dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="precision of the text encoder's weights; bfloat16 halves the memory",
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm import` and print what was imported.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        0.

    Raises:
        ValueError: if a file cannot be read, or weights and configuration do not match.
    """
    if args.out.suffix != ".keras":
        raise checks.error(
            "the model's file must end in .keras", fix="write OUT.keras", out=str(args.out)
        )
    with quiet_start():
        from keras_mdm.interop import load_ml_mdm_diffusion
        from keras_mdm.interop.mdm_files import read_config
        from keras_mdm.text import FlanT5
    encoder = args.text_encoder and FlanT5(args.text_encoder, dtype=args.text_dtype)
    config = read_config(args.config)
    print(f"reading {args.weights}", flush=True)
    model = load_ml_mdm_diffusion(
        args.weights,
        config=config,
        size=_size(args.size, config),
        text_encoder=encoder or None,
    )
    print(summary(model), flush=True)
    write_atomically(args.out, lambda path: _save_sparingly(model, path))
    print(args.out)
    return 0


def _save_sparingly(model: "MatryoshkaDiffusion", path: Path) -> None:
    """Write a `.keras` archive through a directory; Keras would hold all of it in memory."""
    with temporary_directory(path) as scratch:
        directory = scratch / "model"
        model.save(directory, zipped=False)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(directory.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(directory))


def _text_line(model: "MatryoshkaDiffusion") -> str:
    width = model.unet.spec.text_width
    if not width:
        return "text: none"
    if model.text_encoder is None:
        return f"text: width {width}, no encoder: prompts need one, pass --text-encoder DIR"
    identity = model.text_encoder.identity
    return f"text: width {width}, encoder {identity['name']} in {identity['dtype']}"


def _size(given: int | None, config: dict[str, Any]) -> int:
    if given is not None:
        return given
    for size in (
        (config.get("reader_config") or {}).get("image_size"),
        config.get("sample_image_size"),
    ):
        if checks.is_int(size) and size > 0:
            return size
    raise checks.error(
        "the configuration must name the size of the pictures",
        fix="pass --size, the height of the largest pictures",
        image_size=None,
    )


def summary(model: "MatryoshkaDiffusion") -> str:
    """Levels, parameters and schedule of a model, one line each.

    Args:
        model: the model.
    """
    unet, process = model.unet, model.process
    names = {
        level.name: f"{' '.join(map(str, level.resolutions))}, channels "
        f"{' '.join(map(str, level.channels))}"
        for level in unet.spec.levels
    }
    lines = [f"level {name}: resolutions {names[name]}" for name in reversed(unet.levels)]
    schedule = process.schedules[unet.levels[0]]
    lines += [
        f"parameters: {unet.count_params():,}",
        _text_line(model),
        f"schedule: {schedule.num_steps} steps, predicts {process.prediction}, loss on "
        f"{model.loss_target}, shift power {model.get_config()['shift_power']:g}, threshold "
        f"{model.threshold}",
    ]
    return "\n".join(lines)
