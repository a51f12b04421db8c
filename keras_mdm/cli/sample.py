"""`keras-mdm sample`: pictures from a trained model, as PNG files."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mdm import checks
from keras_mdm.cli import given, labels, models, written
from keras_mdm.cli.asked import guidance_of
from keras_mdm.cli.kinds import KINDS, kind_of
from keras_mdm.cli.prompts import lines_of

if TYPE_CHECKING:
    from keras_mdm.cascade import Cascade
    from keras_mdm.latents import LatentDiffusion
    from keras_mdm.training import MatryoshkaDiffusion

    Model = MatryoshkaDiffusion | Cascade | LatentDiffusion

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
        "Clips are written as GIF files too, and grid.gif plays all of them. Every file says what "
        "it was drawn from.",
        epilog="examples: keras-mdm sample runs/demo 'red apple' panda --seed 3 | keras-mdm sample "
        "runs/demo --prompts prompts.txt --guidance 16=3,64=1 | keras-mdm sample runs/demo 'green "
        "apple' --init apple.png --strength 0.6",
    )
    models.add_argument(parser)
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to draw")
    parser.add_argument(
        "--prompts",
        dest="prompts_from",
        metavar="FILE",
        help="a text file with a prompt per line; - for standard input",
    )
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
        type=lambda word: word.split(","),
        metavar="SCALE",
        help="guidance scale, or one per level as in 16=3,64=1 (default: the model's own, or 4; 1 "
        "for a model whose conditions were never dropped)",
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
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("samples"),
        metavar="DIR",
        help="where the files go; none is replaced (%(default)s)",
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="pictures drawn at a time (default: 32)"
    )
    parser.add_argument("--json", action="store_true", help="print files and options as JSON")
    parser.set_defaults(run=run, more_words="prompts")
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
    checks.integer("--per-prompt", args.per_prompt, minimum=1)
    prompts = _prompts(args)
    if prompts and args.label:
        raise checks.error(
            "prompts and labels exclude each other",
            fix="leave one of them out",
            prompts=prompts,
            label=args.label,
        )
    first = written.first_number(args.out)
    model = models.load(args.model)
    kind = kind_of(model, args.kind, run=args.model)
    if args.text_encoder:
        given.attach(model, args.text_encoder)
    captions = prompts or labels.titles(args.label or (), model) or ["sample"]
    captions = [caption for caption in captions for _ in range(args.per_prompt)]
    options = _options(args, model)
    about = _about(args, model, options)
    models.say_sampling(model)
    if args.low_res:
        count = len(captions) // args.per_prompt
        options["low_res"] = given.seen_picture(args.low_res, model, count)
    if args.init:
        options["init_image"] = given.start(args.init, model, kind)
    if kind == "codes":
        options["output"] = "float32"
    images = model.generate(
        prompts or None,
        labels=args.label,
        num_images=None if prompts or args.label else 1,
        num_images_per_prompt=args.per_prompt,
        seed=args.seed,
        **options,
    )
    if kind == "codes":
        paths = written.write_codes(images, captions, args.out, first=first)
    else:
        paths = written.write(images, captions, args.out, first=first, about=about)
        paths += written.play(
            images,
            captions,
            args.out,
            ending=args.clips,
            speed=args.fps,
            first=first,
            about=about,
        )
    if args.json:
        print(json.dumps({"files": [str(path) for path in paths], **about}, default=str))
    else:
        print(*paths, sep="\n")
    return 0


def _prompts(args: argparse.Namespace) -> list[str]:
    """The prompts of the command line, then those of --prompts."""
    prompts = list(args.prompts)
    if args.prompts_from == "-":
        prompts += [line.strip() for line in sys.stdin if line.strip()]
    elif args.prompts_from:
        prompts += lines_of(args.prompts_from)
    if args.prompts_from and not prompts:
        raise checks.error(
            "--prompts must hold a prompt per line", fix="write some", prompts=args.prompts_from
        )
    return prompts


def _about(args: argparse.Namespace, model: "Model", options: dict[str, Any]) -> dict[str, Any]:
    """What repeats these pictures: the command, and what it came to."""
    from keras_mdm import __version__
    from keras_mdm.stages import stages_of

    stages = stages_of(model)
    own = stages[0].sampling if len(stages) == 1 else {}
    words = sys.argv[1:] if Path(sys.argv[0]).name == "keras-mdm" else []
    return {
        "keras_mdm": __version__,
        "model": args.model,
        "seed": args.seed,
        **({"command": shlex.join(["keras-mdm", *words])} if words else {}),
        "options": {**own, **options},
    }


def _options(args: argparse.Namespace, model: "Model") -> dict[str, Any]:
    """Options of `generate` that are given; a cascade does not have all of them."""
    from keras_mdm.stages import levels_of

    asked = {
        "negative_prompts": args.negative,
        "low_res_noise": args.low_res_noise,
        "grid": args.grid,
        "stop_at": args.stop_at,
        "strength": args.strength,
        "steps": args.steps,
        "outer_steps": args.outer_steps,
        "sampler": args.sampler,
        "guidance_scale": guidance_of(args.guidance, levels_of(model)),
        "weights": args.weights,
        "batch_size": args.batch_size,
    }
    return {name: value for name, value in asked.items() if value is not None}
