"""`keras-mdm evaluate`: how far drawn pictures are from real ones, at every level."""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mdm import checks
from keras_mdm.cli import models
from keras_mdm.cli.quiet import quiet_start

if TYPE_CHECKING:
    import numpy as np

MEASURES = ("kernel", "frechet", "precision", "recall", "density", "coverage")
EMOJI = "emoji"
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_AT_A_TIME = 256


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `evaluate` command to the subparsers of `keras-mdm`.

    Args:
        subparsers: from `ArgumentParser.add_subparsers`.

    Returns:
        The parser of the command; its defaults set `run`.
    """
    parser = subparsers.add_parser(
        "evaluate",
        help="measure how far drawn pictures are from real ones, at every level",
        description="Draws pictures with a model at all its levels in one pass, or reads those of "
        "a folder, and compares them with real pictures. Every level is also compared with the "
        "level below enlarged, which it has to beat. Prints a table and writes report.json. A "
        "command that was stopped continues with the pictures it lacks.",
    )
    parser.add_argument(
        "target",
        metavar="MODEL",
        help="a model as in `keras-mdm sample`, or a folder of pictures",
    )
    parser.add_argument(
        "--reference",
        required=True,
        metavar="SOURCE",
        help="real pictures: a source as in `keras-mdm data`, 'emoji' for the drawings of the "
        "quickstart, or an .npz file of statistics for a single level",
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        choices=MEASURES,
        default=["kernel", "precision", "recall"],
        help="(default: kernel precision recall)",
    )
    parser.add_argument(
        "--features",
        default="efficientnet-lite0",
        metavar="NET",
        help="efficientnet-lite0, or inception:FILE for the network of the FID papers "
        "(default: efficientnet-lite0)",
    )
    parser.add_argument("-n", "--count", type=int, default=500, help="pictures to draw (500)")
    parser.add_argument(
        "--real", type=int, metavar="N", help="real pictures to read (default: all)"
    )
    parser.add_argument("--levels", nargs="+", metavar="LEVEL", help="levels (default: all)")
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="file with a prompt per line (default: captions of the real pictures, shuffled)",
    )
    parser.add_argument("--steps", type=int, help="sampling steps (default: 50)")
    parser.add_argument("--sampler", help="as in `keras-mdm sample`")
    parser.add_argument(
        "--guidance",
        nargs="+",
        metavar="SCALE",
        help="guidance scale; LEVEL=SCALE pairs for a scale per level",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first picture and the prompts")
    parser.add_argument("--weights", default="ema", help="weights to draw with (ema)")
    parser.add_argument("--batch-size", type=int, default=32, help="pictures at a time (32)")
    parser.add_argument(
        "--few", action="store_true", help="accept fewer pictures than a metric needs"
    )
    parser.add_argument("--out", type=Path, default=Path("evaluation"), metavar="DIR")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm evaluate`.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        0.

    Raises:
        ValueError: before anything is drawn, if something does not fit.
    """
    checks.integer("count", args.count, minimum=1)
    if args.real is not None:
        checks.integer("real", args.real, minimum=1)
    with quiet_start():
        from keras_mdm import evaluation
        from keras_mdm.evaluation.samples import check_model
        from keras_mdm.files import write_atomically
    features = features_of(args.features)
    options = {"features": features, "measures": args.metrics, "few": args.few}
    if holds_pictures(args.target):
        drawn, levels, downsample = _folder(args)
        reference, _ = references(args, levels, downsample, features)
        report = evaluation.evaluate(drawn, reference, **options)
    else:
        model = models.load(args.target)
        check_model(model)
        levels = chosen_levels(args.levels, model.unet.levels)
        reference, captions = references(args, levels, model.downsample, features)
        request = evaluation.Request(
            args.count,
            **conditions(args, model, captions),
            seed=args.seed,
            batch_size=args.batch_size,
            options=sampling_options(args, model.unet.levels),
        )
        report = evaluation.evaluate(
            model, reference, request=request, directory=args.out / "pictures", **options
        )
    print(report)
    path = write_atomically(args.out / "report.json", report.to_json())
    print(f"\n{path}")
    return 0


def features_of(name: str) -> Any:
    """The feature network of `--features`."""
    from keras_mdm import evaluation

    kind, _, path = name.partition(":")
    if kind == "efficientnet-lite0" and not path:
        return evaluation.EfficientNetLite0()
    if kind == "inception" and path:
        return evaluation.FIDInception(path)
    raise checks.error(
        "--features must name a feature network",
        fix="pass efficientnet-lite0, or inception:FILE",
        features=name,
    )


def chosen_levels(wanted: list[str] | None, levels: tuple[str, ...]) -> list[str]:
    """The levels of `--levels`, in the model's order."""
    if wanted is not None:
        for level in wanted:
            checks.one_of("--levels", level, tuple(levels))
    return [level for level in levels if wanted is None or level in wanted]


def sampling_options(args: argparse.Namespace, levels: tuple[str, ...]) -> dict[str, Any]:
    """Options of `generate` from the command line; those not given are left to it."""
    guidance: Any = None
    if args.guidance:
        pairs = [word.rpartition("=") for word in args.guidance]
        try:
            scales = {level: float(scale) for level, _, scale in pairs}
        except ValueError as problem:
            raise checks.error(
                "--guidance must be a number, or LEVEL=NUMBER for every level",
                fix=f"pass for example --guidance 3, or --guidance {levels[0]}=3",
                guidance=args.guidance,
            ) from problem
        if "" in scales and len(pairs) == 1:
            guidance = scales[""]
        else:
            checks.known_keys("--guidance", scales, levels)
            guidance = {level: scales.get(level, 1.0) for level in levels}
    given = {
        "steps": args.steps,
        "sampler": args.sampler,
        "guidance_scale": guidance,
        "weights": args.weights,
    }
    return {key: value for key, value in given.items() if value is not None}


def conditions(args: argparse.Namespace, model: Any, captions: list[str] | None) -> dict[str, Any]:
    """Prompts or labels for all pictures: as the model was trained, drawn by the seed."""
    import numpy as np

    rng = np.random.default_rng(checks.seed(args.seed))
    spec = model.unet.spec
    if args.prompts:
        lines = Path(args.prompts).read_text(encoding="utf-8-sig").splitlines()
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


def references(
    args: argparse.Namespace, levels: list[str], downsample: Any, features: Any
) -> tuple[Mapping[str, Any], list[str] | None]:
    """Real pictures by level, each read when it is needed, and their captions."""
    from keras_mdm import data
    from keras_mdm.evaluation import moments
    from keras_mdm.levels import LevelShape

    if args.reference.endswith(".npz"):
        if len(levels) > 1:
            raise checks.error(
                "a file of statistics is of one level",
                fix="choose the level with --levels",
                levels=levels,
            )
        return {levels[0]: moments.load(args.reference, features)}, None
    if callable(downsample):
        raise checks.error(
            "real pictures of lower levels need a D^r that has a name",
            fix="evaluate from Python: keras_mdm.evaluation.evaluate(model, {level: pictures})",
            downsample=downsample,
        )
    sizes = {level: LevelShape.parse(level).size for level in levels}
    if args.reference == EMOJI:
        squares = {level: size for level, size in sizes.items() if isinstance(size, int)}
        if len(squares) < len(sizes):
            raise checks.error(
                "the drawings of the quickstart are squares",
                fix="pass --reference SOURCE with pictures of these proportions",
                levels=levels,
            )
        drawings = data.load_emoji(
            list(squares.values()), downsample=downsample, concepts="simple", split="train"
        )
        rows = slice(args.real)
        pictures = {level: drawings.images[size][rows] for level, size in squares.items()}
        return pictures, list(drawings.captions)
    source = data.open_images(args.reference)
    highest = sizes[levels[-1]]
    rules = {
        level: data.ImageRule(size, of=None if size == highest else highest, downsample=downsample)
        for level, size in sizes.items()
    }
    captions = list(data.captions_of(source))
    return {level: _read(source, rule, args.real) for level, rule in rules.items()}, captions


def _read(source: Any, rule: Any, count: int | None) -> "Iterator[np.ndarray]":
    """Real pictures of a source as a level sees them, in batches."""
    import os
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from keras_mdm.data import Skipped
    from keras_mdm.data.pictures.rule import decode

    skipped: list[Any] = []
    rows = range(len(source) if count is None else min(count, len(source)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(rows), _AT_A_TIME):
            part = rows[first : first + _AT_A_TIME]

            def work(row: int) -> Any:
                return source.attempt(row, lambda r: decode(source.read(r).data, rule)[0])

            found: list[np.ndarray] = []
            for one in pool.map(work, part):
                (skipped if isinstance(one, Skipped) else found).append(one)
            if found:
                yield np.stack(found)
    if skipped:
        name, reason = skipped[0]
        words = f"{len(skipped)} of {len(rows)} real pictures were skipped"
        print(f"{words}, the first one {name}: {reason}", file=sys.stderr, flush=True)


def holds_pictures(target: str) -> bool:
    """Whether a target is a folder of pictures. A run directory may hold some too."""
    path = Path(target)
    if not path.is_dir() or (path / "run.json").exists():
        return False
    return any(p.suffix.lower() in _PICTURES for p in path.iterdir())


def _folder(args: argparse.Namespace) -> tuple[dict[str, Any], list[str], str]:
    """Pictures of a folder, as a level of their size."""
    from PIL import Image

    from keras_mdm import data
    from keras_mdm.levels import LevelShape

    source = data.open_images(args.target)
    names = sorted(p for p in Path(args.target).iterdir() if p.suffix.lower() in _PICTURES)
    with Image.open(names[0]) as picture:
        width, height = picture.size
    if args.levels and len(args.levels) > 1:
        raise checks.error(
            "the pictures of a folder are of one level",
            fix="pass one",
            levels=args.levels,
        )
    level = LevelShape.parse(args.levels[0] if args.levels else str(height)).name
    if not args.levels and width != height:
        level = LevelShape(None, (height, width)).name
    rule = data.ImageRule(LevelShape.parse(level).size)
    return {level: _read(source, rule, args.count)}, [level], "area"
