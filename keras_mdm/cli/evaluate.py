"""`keras-mdm evaluate`: how far drawn pictures are from real ones, at every level."""

import argparse
import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mdm import checks
from keras_mdm.cli import models
from keras_mdm.cli.quiet import quiet_start
from keras_mdm.cli.reference import Real, read, references

if TYPE_CHECKING:
    pass

MEASURES = ("kernel", "frechet", "precision", "recall", "density", "coverage")
TEXT = "text"
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


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
        choices=(*MEASURES, TEXT),
        default=["kernel", "precision", "recall"],
        help="out of %(choices)s; text is how often a picture fits its own prompt best among 100, "
        "by a scorer trained on the real pictures and their captions, or with clip:FOLDER the CLIP "
        "score (default: kernel precision recall)",
    )
    parser.add_argument(
        "--features",
        default="efficientnet-lite0",
        metavar="NET",
        help="efficientnet-lite0; inception:FILE for the network of the FID papers; clip:FOLDER or "
        "dino:FOLDER for a preset of keras-hub (default: efficientnet-lite0)",
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
    parser.add_argument(
        "--sweep",
        nargs="+",
        type=float,
        metavar="SCALE",
        help="evaluate at several guidance scales, each in its own folder, and write sweep.csv",
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
    measures = [name for name in args.metrics if name != TEXT]
    reports: dict[str, Any] = {}
    options: dict[str, Any] = {"features": features, "measures": measures, "few": args.few}
    if holds_pictures(args.target):
        if TEXT in args.metrics:
            raise checks.error(
                "the metric text needs the prompts of the pictures",
                fix="evaluate the model that drew them",
                model=args.target,
            )
        drawn, levels, downsample = _folder(args)
        real = references(args.reference, levels, downsample, features, count=args.real)
        report = evaluation.evaluate(drawn, real.pictures, **options)
    else:
        model = models.load(args.target)
        check_model(model)
        levels = chosen_levels(args.levels, model.unet.levels)
        real = references(args.reference, levels, model.downsample, features, count=args.real)
        given = conditions(args, model, real.captions)
        requests = {
            folder: evaluation.Request(
                args.count, **given, seed=args.seed, batch_size=args.batch_size, options=sampling
            )
            for folder, sampling in samplings(args, model.unet.levels).items()
        }
        evaluation.check(model, measures, requests.values(), few=args.few)
        for request in requests.values():
            # Wrong options are found before the first picture, and before its folder is made.
            one = request.conditions(slice(0, 1))
            model.generate(**one, **request.options, seed=request.seed, dry_run=True)
        options["texts"] = text_measures(args, real, levels, given, features)
        known = {name: evaluation.measured(features, p) for name, p in real.pictures.items()}
        for folder, request in requests.items():
            out = args.out / folder
            report = evaluation.evaluate(
                model, known, request=request, directory=out / "pictures", **options
            )
            reports[folder] = report
            path = write_atomically(out / "report.json", report.to_json())
            print(f"{report}\n\n{path}", flush=True)
        if args.sweep:
            print(write_sweep(reports, args.out / "sweep.csv"))
        return 0
    path = write_atomically(args.out / "report.json", report.to_json())
    print(f"{report}\n\n{path}")
    return 0


def samplings(args: argparse.Namespace, levels: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Options of `generate` by the folder of their pictures: one, or one for each scale."""
    if not args.sweep:
        return {"": sampling_options(args, levels)}
    if args.guidance:
        raise checks.error(
            "--guidance and --sweep exclude each other",
            fix="leave one of them out",
            guidance=args.guidance,
            sweep=args.sweep,
        )
    for scale in args.sweep:
        checks.real("--sweep", scale, minimum=0.0)
    return {
        f"guidance-{scale:g}": {**sampling_options(args, levels), "guidance_scale": scale}
        for scale in args.sweep
    }


def write_sweep(reports: Mapping[str, Any], path: Path) -> Path:
    """Write the numbers of all scales as a table with a row for each scale and subject."""
    from keras_mdm.files import write_atomically

    text = io.StringIO()
    writer = csv.writer(text)
    names = list(dict.fromkeys(row.measure for one in reports.values() for row in one.rows))
    writer.writerow(["guidance", "pictures", *names])
    for folder, one in reports.items():
        for subject in dict.fromkeys(row.subject for row in one.rows):
            values = {row.measure: row.value for row in one.rows if row.subject == subject}
            scale = folder.removeprefix("guidance-")
            writer.writerow([scale, subject, *(values.get(name, "") for name in names)])
    return write_atomically(path, text.getvalue())


def features_of(name: str) -> Any:
    """The feature network of `--features`."""
    from keras_mdm import evaluation

    kind, _, path = name.partition(":")
    if kind == "efficientnet-lite0" and not path:
        return evaluation.EfficientNetLite0()
    known = {
        "inception": evaluation.FIDInception,
        "clip": evaluation.ClipFeatures,
        "dino": evaluation.DinoFeatures,
    }
    if kind in known and path:
        return known[kind](path)
    raise checks.error(
        "--features must name a feature network",
        fix="pass efficientnet-lite0, inception:FILE, clip:FOLDER or dino:FOLDER",
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
    return {level: read(source, rule, args.count)}, [level], "area"
