"""`keras-mdm evaluate`: how far drawn pictures are from real ones, at every level."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from keras_mdm import checks
from keras_mdm.cli import asked, drawn, memorised, models, prompts
from keras_mdm.cli.reference import references
from keras_mdm.quiet import quiet_start

# Repeated here, so that `--help` does not start TensorFlow.
CLASSES = "inception-score"
MEASURES = ("kernel", "frechet", "precision", "recall", "density", "coverage", CLASSES)


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
        help="a model as in `keras-mdm sample`, or a folder of pictures or clips",
    )
    parser.add_argument(
        "--reference",
        required=True,
        metavar="SOURCE",
        help="real pictures: a source as in `keras-mdm data`, 'emoji' for the drawings of the "
        "quickstart ('openmoji' or 'fluent' in another style, 'emoji:held-out' for concepts that "
        "it does not train on); for clips a folder of videos or prepared clips; or an .npz file of "
        "statistics for a single level",
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        choices=(*MEASURES, prompts.TEXT),
        default=["kernel", "precision", "recall"],
        help="out of %(choices)s; inception-score needs a network with classes; text is how often "
        "a picture fits its own prompt best among 100, by a scorer trained on the real pictures "
        "and their captions, or with clip:FOLDER the CLIP score (default: kernel precision recall)",
    )
    parser.add_argument(
        "--features",
        default="efficientnet-lite0",
        metavar="NET",
        help="efficientnet-lite0, which sees clips frame by frame; inception:FILE for the network "
        "of the FID papers, i3d:FOLDER for that of the FVD papers (trusted-inception: or "
        "trusted-i3d: if you vouch for the weights); keras-inception:FILE; clip:FOLDER or "
        "dino:FOLDER for a preset of keras-hub (default: efficientnet-lite0)",
    )
    parser.add_argument("-n", "--count", type=int, default=500, help="pictures to draw (500)")
    parser.add_argument(
        "--real", type=int, metavar="N", help="real pictures to read, spread evenly (all)"
    )
    parser.add_argument(
        "--stride", type=int, default=4, help="of real clips, take every Nth frame (4)"
    )
    parser.add_argument("--levels", nargs="+", metavar="LEVEL", help="levels (default: all)")
    _add_drawing(parser)
    memorised.add_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the first picture and the prompts")
    parser.add_argument("--weights", default="ema", help="weights to draw with (ema)")
    parser.add_argument("--batch-size", type=int, default=32, help="pictures at a time (32)")
    parser.add_argument(
        "--few", action="store_true", help="accept fewer pictures than a metric needs"
    )
    parser.add_argument("--out", type=Path, default=Path("evaluation"), metavar="DIR")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print every report as a line of JSON instead of a table",
    )
    parser.set_defaults(run=run)
    return parser


def _add_drawing(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a model draws, and how."""
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="a text file with a prompt per line, in this order; or drawn from the captions of "
        "a table (.csv, .tsv, .jsonl, .json, .parquet) or of a source as in `keras-mdm data` "
        "(default: captions of the real pictures, shuffled)",
    )
    parser.add_argument(
        "--steps", type=int, help="sampling steps (default: the model's own, or 50)"
    )
    parser.add_argument("--outer-steps", type=int, metavar="N", help="as in `keras-mdm sample`")
    parser.add_argument("--sampler", help="as in `keras-mdm sample`")
    parser.add_argument(
        "--guidance",
        nargs="+",
        metavar="SCALE",
        help="guidance scale; LEVEL=SCALE pairs for a scale per level (default: the model's)",
    )
    parser.add_argument(
        "--low-res-noise",
        type=int,
        metavar="N",
        help="for a cascade: noise added to the small pictures before they are enlarged, from 1 "
        "(hardly any, the default) to the training steps (1000)",
    )
    parser.add_argument(
        "--sweep",
        nargs="+",
        type=float,
        metavar="SCALE",
        help="evaluate at several guidance scales, each in its own folder, and write "
        "sweep.csv and sweep.svg, distance against text score",
    )


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm evaluate`.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        0.

    Raises:
        ValueError: before anything is drawn, if something does not fit.
    """
    for report, path in reports(args):
        if args.json:
            print(json.dumps({"file": str(path), **json.loads(report.to_json())}), flush=True)
        else:
            print(f"{report}\n\n{path}", flush=True)
    return 0


def reports(args: argparse.Namespace, *, model: Any = None) -> Iterator[tuple[Any, Path]]:
    """Measure, and write what was found.

    Args:
        args: the parsed arguments of `add_parser`.
        model: the model that `args.target` names, if it is in memory.

    Yields:
        An `evaluation.Report` and its file; several with `--sweep`.

    Raises:
        ValueError: before anything is drawn, if something does not fit.
    """
    checks.integer("count", args.count, minimum=1)
    if args.real is not None:
        checks.integer("real", args.real, minimum=1)
    with quiet_start():
        from keras_mdm.files import write_atomically
    features = asked.features_of(args.features)
    measures = [name for name in args.metrics if name != prompts.TEXT]
    if model is None and drawn.holds_pictures(args.target):
        found = _of_folder(args, features, measures)
    else:
        found = _of_model(args, features, measures, model)
    for folder, report in found:
        yield report, write_atomically(args.out / folder / "report.json", report.to_json())


def _of_folder(
    args: argparse.Namespace, features: Any, measures: list[str]
) -> Iterator[tuple[str, Any]]:
    """("", report) on the pictures of a folder."""
    from keras_mdm import evaluation

    unfit = {"metrics": prompts.TEXT in args.metrics, "sweep": bool(args.sweep)}
    if any(unfit.values()):
        raise checks.error(
            "the metric text and --sweep need the model that drew the pictures",
            fix="evaluate that model",
            target=args.target,
            metrics=args.metrics,
            sweep=args.sweep,
        )
    pictures, levels, downsample = drawn.of_folder(args)
    real = references(
        args.reference, levels, downsample, features, count=args.real, stride=args.stride
    )
    known = memorised.known(args, levels, downsample, features)
    options = {"features": features, "measures": measures, "few": args.few}
    report = evaluation.evaluate(pictures, real.pictures, **options)
    if known:
        again = memorised.opened(args.target, levels, downsample, count=args.count)
        report = memorised.measured(report, known, again, features, args.out)
    yield "", report


def _of_model(
    args: argparse.Namespace, features: Any, measures: list[str], model: Any
) -> Iterator[tuple[str, Any]]:
    """(folder in --out, report) of what a model draws, one for each scale of guidance."""
    from keras_mdm import evaluation
    from keras_mdm.evaluation.samples import check_model
    from keras_mdm.stages import levels_of, stages_of

    model = _loaded(args.target) if model is None else model
    check_model(model)
    process = stages_of(model)[-1].process
    levels = asked.chosen_levels(args.levels, levels_of(model))
    networks = {level: evaluation.network_of(features, level) for level in levels}
    clips = {"frame": process.frame, "stride": args.stride}
    real = references(
        args.reference, levels, process.downsample, features, count=args.real, **clips
    )
    given = prompts.conditions(args, model, real.captions)
    requests = {
        folder: evaluation.Request(
            args.count, **given, seed=args.seed, batch_size=args.batch_size, options=sampling
        )
        for folder, sampling in asked.samplings(args, model).items()
    }
    evaluation.check(model, measures, requests.values(), few=args.few, networks=networks.values())
    for request in requests.values():
        # Wrong options are found before the first picture, and before its folder is made.
        one = request.conditions(slice(0, 1))
        model.generate(**one, **request.options, seed=request.seed, dry_run=True)
    known = memorised.known(args, levels, process.downsample, features)
    options = {"features": features, "measures": measures, "few": args.few}
    options["texts"] = prompts.text_measures(args, real, levels, given, features)
    real_sets = {
        name: evaluation.measured(networks[name], pictures, classes=CLASSES in measures)
        for name, pictures in real.pictures.items()
    }
    swept = {}
    for folder, request in requests.items():
        directory = args.out / folder / "pictures"
        report = evaluation.evaluate(
            model, real_sets, request=request, directory=directory, **options
        )
        if known:
            again = memorised.of_directory(directory, args.count)
            report = memorised.measured(report, known, again, features, args.out / folder)
        if args.sweep:
            swept[request.options["guidance_scale"]] = report
        yield folder, report
    if args.sweep:
        told = sys.stderr if args.json else sys.stdout
        texts = options["texts"]
        _write_sweep(args.out, swept, networks[levels[-1]], measures, texts, told)


def _loaded(target: str) -> Any:
    """The model to draw with; raises for one whose run says that it draws codes."""
    from keras_mdm.runs.loading import recorded_output

    model = models.load(target)
    if not hasattr(model, "codec") and recorded_output(target) == "float32":
        raise checks.error(
            "measures of pictures need a model of pictures, and this run's draws codes",
            fix="evaluate the model with its autoencoder, such as latent.keras in the run",
            target=target,
        )
    return model


def _write_sweep(
    directory: Path,
    reports: Mapping[float, Any],
    features: Any,
    measures: Sequence[str],
    texts: Mapping[str, Any],
    told: TextIO,
) -> None:
    """Write the numbers of all scales as a table, and the trade-off as a picture, and tell where
    they are."""
    from keras_mdm.evaluation import report, sweep
    from keras_mdm.files import write_atomically

    distances = [name for name in ("frechet", "kernel") if name in measures] or measures
    distance = report.name_of(distances[0], features) if distances else None
    text = next((text.name for text in texts.values()), None)
    picture = sweep.curve(reports, distance=distance, text=text)
    for name, content in (("sweep.csv", sweep.table(reports)), ("sweep.svg", picture)):
        print(write_atomically(directory / name, content), file=told)
