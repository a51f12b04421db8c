"""`keras-mdm sample`: pictures from a trained model, as PNG files."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mdm import checks
from keras_mdm.cli import labels, models
from keras_mdm.cli.kinds import KINDS, kind_of

if TYPE_CHECKING:
    import numpy as np

    from keras_mdm.cascade import Cascade
    from keras_mdm.latents import LatentDiffusion
    from keras_mdm.training import MatryoshkaDiffusion

    Model = MatryoshkaDiffusion | Cascade | LatentDiffusion

LONGEST_NAME = 60
GRID_FILE = "grid.png"
# Repeated here, so that `--help` does not start TensorFlow.
SAMPLERS = ("ddim", "ddpm", "euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc")
GRIDS = ("uniform", "release", "logsnr", "karras")


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `sample` command to the subparsers of `keras-mdm`.

    Args:
        subparsers: from `ArgumentParser.add_subparsers`.

    Returns:
        The parser of the command; its defaults set `run`.
    """
    parser = subparsers.add_parser(
        "sample",
        help="draw pictures with a trained model",
        description="Draws one picture per prompt or label at all levels of a model. Writes a PNG "
        "file per picture and level (the frames of a clip side by side), and grid.png with all. "
        "Clips are written as GIF files too, and grid.gif plays all of them.",
    )
    models.add_argument(parser)
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to draw")
    parser.add_argument(
        "--label",
        type=labels.class_of,
        nargs="+",
        metavar="CLASS",
        help="classes to draw, by number or name; -1 for none",
    )
    parser.add_argument(
        "--text-encoder",
        type=Path,
        metavar="DIR",
        help="folder of the model's FLAN-T5 encoder, if the model was imported without one "
        "or it cannot be found",
    )
    parser.add_argument(
        "--steps", type=int, help="sampling steps (default: the model's own, or 50)"
    )
    parser.add_argument(
        "--outer-steps",
        type=int,
        metavar="N",
        help="how many of the steps compute the levels above the innermost one, which then keep "
        "their detail in between (default: the model's own, or all)",
    )
    parser.add_argument(
        "--guidance",
        type=float,
        help="guidance scale (default: the model's own, or 4; 1 for a model whose conditions were "
        "never dropped)",
    )
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal pictures")
    parser.add_argument("--negative", metavar="PROMPT", help="what to guide away from")
    parser.add_argument("--per-prompt", type=int, default=1, metavar="N", help="pictures of each")
    parser.add_argument("--sampler", choices=SAMPLERS, help="default: the model's own, or ddim")
    parser.add_argument(
        "--grid",
        choices=GRIDS,
        help="which times to visit (default: the model's own, or uniform)",
    )
    parser.add_argument(
        "--stop-at", metavar="LEVEL", help="the highest level to draw, for quick previews"
    )
    parser.add_argument(
        "--low-res",
        type=Path,
        metavar="IMAGE",
        help="the picture that an upsampler enlarges, or that the model sees beside the noise",
    )
    parser.add_argument(
        "--low-res-noise",
        type=int,
        metavar="N",
        help="noise that an upsampler or a cascade adds to that picture, from 1 (hardly any, the "
        "default) to the training steps (1000), if it was trained so",
    )
    parser.add_argument("--init", type=Path, metavar="IMAGE", help="a picture to change")
    parser.add_argument(
        "--strength", type=float, help="how much of it changes, 0 to 1 (default: 0.7)"
    )
    parser.add_argument(
        "--weights",
        default="ema",
        help="ema (default), raw, or a power-function average of the model such as ema_0.05",
    )
    parser.add_argument(
        "--clips",
        choices=("gif", "mp4"),
        default="gif",
        help="file format of clips (%(default)s; mp4 needs PyAV)",
    )
    parser.add_argument("--fps", type=float, default=8.0, help="frames per second (%(default)g)")
    parser.add_argument(
        "--as",
        dest="kind",
        choices=KINDS,
        help="write PNG files, or the codes of an autoencoder as .npy files (default: by the "
        "model's number of channels)",
    )
    parser.add_argument("--out", type=Path, default=Path("samples"), metavar="DIR")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm sample` and print the paths of the files.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        0.

    Raises:
        ValueError: if the model cannot be loaded, or the conditions do not fit it.
    """
    if args.prompts and args.label:
        raise checks.error(
            "prompts and labels exclude each other",
            fix="leave one of them out",
            prompts=args.prompts,
            label=args.label,
        )
    model = models.load(args.model)
    kind = kind_of(model, args.kind, run=args.model)
    if args.text_encoder:
        attach(model, args.text_encoder)
    captions = args.prompts or labels.titles(args.label or (), model) or ["sample"]
    captions = [caption for caption in captions for _ in range(args.per_prompt)]
    options = _options(args)
    models.say_sampling(model)
    if args.low_res:
        options["low_res"] = seen_picture(args.low_res, model, len(captions) // args.per_prompt)
    if args.init:
        options["init_image"] = _start(args.init, model, kind)
    if kind == "codes":
        options["output"] = "float32"
    images = model.generate(
        args.prompts or None,
        labels=args.label,
        num_images=None if args.prompts or args.label else 1,
        num_images_per_prompt=args.per_prompt,
        seed=args.seed,
        **options,
    )
    if kind == "codes":
        for path in write_codes(images, captions, args.out):
            print(path)
        return 0
    paths = write(images, captions, args.out)
    for path in paths + play(images, captions, args.out, ending=args.clips, speed=args.fps):
        print(path)
    return 0


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Options of `generate` that are given; a cascade does not have all of them."""
    given = {
        "negative_prompts": args.negative,
        "low_res_noise": args.low_res_noise,
        "grid": args.grid,
        "stop_at": args.stop_at,
        "strength": args.strength,
        "steps": args.steps,
        "outer_steps": args.outer_steps,
        "sampler": args.sampler,
        "guidance_scale": args.guidance,
        "weights": args.weights,
    }
    return {name: value for name, value in given.items() if value is not None}


def _start(path: Path, model: "Model", kind: str) -> "np.ndarray":
    """Read the file of --init: a picture, or the codes of one."""
    import numpy as np

    from keras_mdm.stages import channels_of

    if kind == "pictures":
        return read_picture(path, channels_of(model))
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as problem:
        raise checks.error(
            "--init must be a .npy file of codes for a model of codes",
            fix="pass one that `keras-mdm sample` wrote",
            init=str(path),
        ) from problem


def seen_picture(path: Path, model: "Model", count: int) -> "np.ndarray":
    """Read the picture of --low-res and repeat it for every prompt.

    Args:
        path: the file.
        model: a model that sees a picture.
        count: number of prompts.

    Raises:
        ValueError: if the model does not see a picture that a file can hold.
    """
    import numpy as np

    from keras_mdm.pictures.pixels import PICTURE_CHANNELS
    from keras_mdm.stages import stages_of

    spec = stages_of(model)[0].unet.spec  # a cascade makes its small pictures itself
    channels = spec.in_channels - spec.out_channels
    if channels not in PICTURE_CHANNELS:
        raise checks.error(
            "--low-res needs a model that sees a picture of 1, 3 or 4 channels",
            fix="leave it out, or call `generate(low_res=...)`",
            in_channels=spec.in_channels,
            out_channels=spec.out_channels,
        )
    return np.repeat(read_picture(path, channels, "--low-res")[None], count, axis=0)


def read_picture(path: Path, channels: int = 3, option: str = "--init") -> "np.ndarray":
    """Read a picture file as training does, uint8 (H, W, C).

    Args:
        path: the file.
        channels: of the model.
        option: the option that named it, for errors.

    Raises:
        ValueError: if it is not a picture.
    """
    from keras_mdm import data

    try:
        return data.read_picture(path, channels=channels)
    except data.Unusable as problem:
        raise checks.error(
            f"{option} must be a picture file",
            fix="pass a PNG or JPEG file",
            file=str(path),
            problem=str(problem),
        ) from problem


def attach(model: "Model", folder: Path) -> None:
    """Give a model its FLAN-T5 encoder from a folder.

    Args:
        model: the model.
        folder: the encoder's files.

    Raises:
        ValueError: if the model was made with another encoder, or with none.
    """
    from keras_mdm.text import FlanT5

    wanted = dict(model.text_encoder_identity or {})
    kept = {name: wanted[name] for name in ("length", "max_characters", "dtype") if name in wanted}
    encoder = FlanT5(folder, **(kept if wanted.get("name") == FlanT5.name else {}))
    if encoder.identity != wanted:
        raise checks.error(
            "the text encoder must be the model's own, because guidance starts from its "
            "empty prompt",
            fix="pass the folder that the model was imported with, or import it again with "
            "--text-encoder",
            wanted=wanted or None,
            found=encoder.identity,
        )
    model.text_encoder = encoder


def write(
    images: Mapping[str, "np.ndarray"], captions: Sequence[str], directory: Path
) -> list[Path]:
    """Write pictures of all levels as PNG files, and a grid with the captions.

    Args:
        images: uint8 `(B, H, W, C)`, or clips `(B, T, H, W, C)`, by level name; 1, 3 or 4 channels.
        captions: B texts.
        directory: made if it does not exist; files of the same name are replaced.

    Returns:
        The paths: per caption `<number>-<caption>_<level>.png`, ascending levels, then the grid.
    """
    from keras_mdm.pictures.grids import captioned_grid, encode_png, image_grid

    directory.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for index, caption in enumerate(captions):
        for level, batch in images.items():
            pictures[f"{index:03d}-{slug(caption)}_{level}.png"] = image_grid(
                batch[index : index + 1], columns=1
            )
    pictures[GRID_FILE] = captioned_grid(images, captions)
    for name, picture in pictures.items():
        (directory / name).write_bytes(encode_png(picture))
    return [directory / name for name in pictures]


def write_codes(
    codes: Mapping[str, "np.ndarray"], captions: Sequence[str], directory: Path
) -> list[Path]:
    """Write codes of all levels as .npy files.

    Args:
        codes: float32 `(B, H, W, C)` by level name.
        captions: B texts.
        directory: see `write`.

    Returns:
        The paths.
    """
    import numpy as np

    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, caption in enumerate(captions):
        for level, batch in codes.items():
            paths.append(directory / f"{index:03d}-{slug(caption)}_{level}.npy")
            np.save(paths[-1], batch[index])
    return paths


def play(
    images: Mapping[str, "np.ndarray"],
    captions: Sequence[str],
    directory: Path,
    *,
    ending: str,
    speed: float,
) -> list[Path]:
    """Write the clips among the results as files that play, and a grid of all.

    Args:
        images: as in `write`.
        captions: B texts.
        directory: where to write.
        ending: "gif" or "mp4".
        speed: frames per second.

    Returns:
        The paths; none for pictures.
    """
    from keras_mdm.pictures.playing import animated_grid, write_clip

    clips = {
        f"{index:03d}-{slug(caption)}_{level}": batch[index]
        for index, caption in enumerate(captions)
        for level, batch in images.items()
        if batch.ndim == 5
    }
    if clips:
        size = max(96, *(batch.shape[-3] for batch in images.values()))
        clips[Path(GRID_FILE).stem] = animated_grid(images, captions, size=size)
    return [
        write_clip(directory / f"{name}.{ending}", frames, frames_per_second=speed)
        for name, frames in clips.items()
    ]


def slug(caption: str) -> str:
    """Letters and digits of a caption, joined by hyphens: a name that every file system takes.

    Example:

    >>> slug("A red apple, 3/4 view")
    'a-red-apple-3-4-view'
    """
    words = re.findall(r"\w+", caption.lower())
    return "-".join(words)[:LONGEST_NAME].strip("-") or "picture"
