"""What the recipes share: arguments, the embedded data set, pictures, the last page of a run."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from PIL import Image

import keras_mdm as mdm
from shared import options


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large a training is.

    Args:
        phases: keyword arguments of `Phase`, with the steps of a run at scale 1.
        network: options of `build_nested_unet`.
        process: options of `MatryoshkaDiffusion`.
        guided_levels: so many levels, from the innermost, get guidance.
        sampling: options of `generate`.
        tokens: length of a prompt; 0 for networks without text.
        checkpoint_every: steps between checkpoints.
        sample_every: steps between drawings.
    """

    phases: Sequence[Mapping[str, Any]]
    network: Mapping[str, Any]
    process: Mapping[str, Any]
    guided_levels: int
    sampling: Mapping[str, Any]
    tokens: int
    checkpoint_every: int
    sample_every: int


# Appendix B, what all experiments share.
PAPER_PHASE = {"learning_rate": 1e-4, "warmup_steps": 30_000}
PAPER_EMA = 0.9999
# Appendix C; the guidance of appendix F.
PAPER_SAMPLING = {"sampling": "paper", "guidance_scale": 7.0, "batch_size": 4}
PAPER_PROMPTS = Path(__file__).parent / "paper_prompts.txt"
# Figure 18.
PAPER_VIDEO_PROMPTS = Path(__file__).parent / "paper_video_prompts.txt"
# The captions of a set up to this size are encoded once, at the start of the run.
ENCODED_FIRST = 20_000


def parser(
    description: str,
    *,
    run_dir: str,
    data: str = "directory of your own pictures instead of emoji",
) -> argparse.ArgumentParser:
    """Make the argument parser with the options that all recipes have."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--data", help=data)
    made.add_argument("--run-dir", default=run_dir, help="directory of the run (%(default)s)")
    made.add_argument(
        "--no-samples", action="store_true", help="neither draw nor export at the end"
    )
    made.add_argument("--seed", type=int, default=0)
    policies = ("float32", "mixed_bfloat16", "mixed_float16")
    made.add_argument(
        "--dtype", choices=policies, default="mixed_bfloat16", help="dtype policy (%(default)s)"
    )
    made.add_argument(
        "--fresh", action="store_true", help="begin anew; an earlier run is moved aside, not lost"
    )
    made.add_argument(
        "--strategy",
        choices=("auto", "one"),
        default="auto",
        help="auto: all devices, and all workers of keras-mdm launch; one: a single device "
        "(%(default)s)",
    )
    made.add_argument("--dry-run", action="store_true", help="print the run, check the data, stop")
    options.add(made)
    return made


def strategy(arguments: argparse.Namespace) -> tf.distribute.Strategy | None:
    """The strategy that was asked for; before anything else touches TensorFlow, as several workers
    have to connect first."""
    if arguments.dry_run or arguments.strategy == "one":
        return None
    return mdm.distribute.strategy()


def text_encoder(folder: str | None, tokens: int) -> mdm.text.TextEncoder:
    """FLAN-T5 of a folder, or all-MiniLM-L6-v2 without one."""
    if folder:
        return mdm.text.FlanT5(folder, length=tokens)
    return mdm.text.MiniLM(length=tokens)


def states(
    source: Any, encoder: mdm.text.TextEncoder, arguments: argparse.Namespace
) -> mdm.text.TextEncoder | mdm.text.StoredStates:
    """What gives the states of captions: those of --embeddings, or of a small set those that are
    encoded now and kept in the run's folder, or the encoder itself."""
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


def add_max_skipped(made: argparse.ArgumentParser, what: str = "records") -> None:
    """Add the option for how much may be unusable."""
    made.add_argument(
        "--max-skipped",
        type=float,
        default=0.01,
        help=f"share of unusable {what} above which the run stops (%(default)s)",
    )


def add_text(made: argparse.ArgumentParser) -> None:
    """Add the options of recipes with text."""
    made.add_argument("--text-encoder", metavar="DIR", help="folder of a FLAN-T5 encoder")
    made.add_argument("--embeddings", metavar="DIR", help="states that keras-mdm embed has written")


def require_files(made: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End with an error if a run on the drawings in memory is given what data in files has.

    Args:
        made: the parser.
        arguments: what it parsed.
    """
    for option in ("embeddings", "flip", "max_skipped", "captions", "stride", "clips", "short"):
        value, default = getattr(arguments, option, None), made.get_default(option)
        if value != default:
            word = f"--{option.replace('_', '-')}"
            made.error(
                f"{word} is about data in files, and the small run has drawings in memory (got "
                f"{value}): pass --data as well, or leave {word} out"
            )


def load_data(
    directory: str | None, *, sizes: Sequence[int], downsample: str = "area"
) -> mdm.data.CaptionedImages:
    """Load your own pictures, or the embedded emoji, at all sizes of the levels."""
    if directory is not None:
        data = mdm.data.load_folder(directory, size=sizes, downsample=downsample)
        print(f"{len(data)} pictures of {directory}")
    else:
        data = mdm.data.load_emoji(sizes, downsample=downsample, concepts="simple", split="train")
        print(
            f"Small run on the embedded default: {len(data)} Twemoji drawings (CC BY 4.0, "
            "Twitter and contributors), far below the paper's scale"
        )
    report_skipped(data)
    return data


def write_emoji(folder: Path, size: int) -> Path:
    """Write the drawings as a plain folder of pictures whose names are their captions."""
    data = mdm.data.load_emoji((size,), concepts="simple", split="train")
    folder.mkdir(parents=True, exist_ok=True)
    for picture, caption in zip(data.largest, data.captions, strict=True):
        Image.fromarray(picture).save(folder / f"{caption.replace(' ', '_')}.png")
    print(
        f"Small run on the embedded default: {len(data)} Twemoji drawings (CC BY 4.0, Twitter and "
        f"contributors) written to {folder}"
    )
    return folder


def report_skipped(data: mdm.data.CaptionedImages) -> None:
    """Name the files that could not be read."""
    if data.skipped:
        print(f"{len(data.skipped)} pictures were skipped:")
        for file, reason in data.skipped:
            print(f"  {file}: {reason}")


def make_model(
    unet: mdm.NestedUNet,
    phase: mdm.Phase,
    arguments: argparse.Namespace,
    process: Mapping[str, Any],
    *,
    encoder: mdm.text.TextEncoder | None = None,
    guided_levels: int = 1,
) -> mdm.MatryoshkaDiffusion:
    """Make the model of a phase, not yet compiled.

    Args:
        unet: its network.
        phase: the phase.
        arguments: of the recipe.
        process: options of `MatryoshkaDiffusion`.
        encoder: of the texts.
        guided_levels: so many levels, from the innermost, get guidance. It decides what is drawn,
            and that is decided at low levels; at higher ones of a small model it would only blow up
            the difference of two estimates into a grain on flat areas.
    """
    return mdm.MatryoshkaDiffusion(
        unet,
        text_encoder=encoder,
        guidance_shares=dict.fromkeys(phase.level_names[guided_levels:], 0.0),
        seed=arguments.seed,
        **process,
    )


def compiled(
    model: mdm.MatryoshkaDiffusion, phase: mdm.Phase, **training: Any
) -> mdm.MatryoshkaDiffusion:
    """Compile a model with the optimizer of appendix B; `training` are options of `compile`, of
    which `recompute` may name levels of later phases."""
    recompute = [name for name in training.pop("recompute", ()) if name in phase.level_names]
    optimizer = mdm.optimizers.Adam(phase.learning_rate_schedule(), clip_norm=2.0)
    model.compile(optimizer, recompute=recompute, **training)
    return model


def fit(
    phases: Sequence[mdm.Phase],
    make_model: Callable[[mdm.Phase], mdm.MatryoshkaDiffusion],
    data: Any,
    make_dataset: Callable[[mdm.Phase, int], tf.data.Dataset],
    arguments: argparse.Namespace,
    **more: Any,
) -> mdm.MatryoshkaDiffusion:
    """Train as the arguments say.

    Args:
        phases: as in `fit_progressively`, as are the next.
        make_model: see `phases`.
        data: has an `identity`.
        make_dataset: see `phases`.
        arguments: of the recipe.
        **more: further options of `fit_progressively`.
    """
    return mdm.fit_progressively(
        phases,
        make_model,
        make_dataset,
        run_dir=arguments.run_dir,
        fresh=arguments.fresh,
        data=data.identity,
        arguments=vars(arguments),
        **options.fit_options(arguments),
        **more,
    )


def draws(arguments: argparse.Namespace) -> bool:
    """Whether this process draws and exports at the end: of several workers one does."""
    return mdm.distribute.is_chief() and not arguments.no_samples


def print_run(arguments: argparse.Namespace, phases: Sequence[mdm.Phase], **facts: object) -> None:
    """Print what a run resolves to, as JSON lines."""
    print(json.dumps({"arguments": vars(arguments), **facts}, default=str))
    for phase in phases:
        print(json.dumps(phase.table_row()))


def run(main: Callable[[], None]) -> None:
    """Run a recipe; a wrong argument is one line, not a traceback."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be any bytes
    try:
        main()
    except ValueError as problem:
        sys.exit(f"error: {problem}")
    except tf.errors.OpError as problem:
        # An error inside of a pipeline, wrapped: what was raised stands in one of its lines.
        told = [line for line in str(problem).splitlines() if "ValueError: " in line]
        if not told:
            raise
        sys.exit(f"error: {told[0].partition('ValueError: ')[2]}")
