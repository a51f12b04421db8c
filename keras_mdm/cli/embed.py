"""`keras-mdm embed`: the captions of a data set, encoded once."""

import argparse
from collections import Counter

from keras_mdm.quiet import quiet_start


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `embed` command to the subparsers of `keras-mdm`.

    Args:
        subparsers: from `ArgumentParser.add_subparsers`.

    Returns:
        The parser of the command; its defaults set `run`.
    """
    parser = subparsers.add_parser(
        "embed",
        help="encode the captions of a data set once, for training",
        description="Encodes all captions with a frozen text encoder and packs their states into "
        "files, in half precision and without padding. Estimates the size first. The "
        "same command continues where it was stopped, and adds new captions.",
    )
    parser.add_argument(
        "source",
        metavar="DATA",
        help="pictures, as for `keras-mdm data`; or a folder of videos or of prepared clips",
    )
    parser.add_argument("out", metavar="OUT", help="folder for the states")
    parser.add_argument(
        "--text-encoder",
        metavar="DIR",
        help="folder of a FLAN-T5 encoder (default: all-MiniLM-L6-v2)",
    )
    parser.add_argument(
        "--length",
        type=int,
        default=128,
        help="maximum number of tokens in a caption (%(default)s)",
    )
    parser.add_argument(
        "--kind",
        choices=("auto", "pictures", "videos"),
        default="auto",
        help="what DATA holds; auto: videos if a file is a video or the clips were prepared "
        "(%(default)s)",
    )
    parser.add_argument(
        "--captions",
        help="for videos: CSV file with the columns file,caption or WebVid's; 'names' for "
        "the files' names; default: the CSV file in the folder, or text files beside "
        "the videos",
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm embed` and print the result.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        0.

    Raises:
        ValueError: if the data holds no captions, or OUT is for another encoder.
    """
    with quiet_start():
        from keras_mdm import data, text
        from keras_mdm.data.sources.texts import printable

    kind = args.kind
    if kind == "auto":
        kind = "videos" if args.captions or data.holds_clips(args.source) else "pictures"
    # Unusable files only show when they are read.
    if kind == "videos":
        source = data.open_clips(args.source, captions=args.captions, max_skipped=1.0)
    else:
        source = data.open_images(args.source, max_skipped=1.0)
    encoder = (
        text.FlanT5(args.text_encoder, length=args.length)
        if args.text_encoder
        else text.MiniLM(length=args.length)
    )
    left_out, first = Counter(), {}

    def skipped(entry: data.Skipped) -> None:
        left_out[entry.reason] += 1
        first.setdefault(entry.reason, entry.file)

    texts = data.captions_of(source, skipped=skipped)
    stored = text.embed(encoder, texts, args.out, total=len(source))
    for reason, count in left_out.most_common(20):
        print(printable(f"{count} records give no caption: {reason}, such as {first[reason]}"))
    print(f"states of {len(stored)} texts\n{args.out}")
    return 0
