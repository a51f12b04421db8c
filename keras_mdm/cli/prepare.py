"""`keras-mdm prepare`: pictures and clips, cut and packed for training."""

import argparse
from typing import Any

from keras_mdm.quiet import quiet_start


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `prepare` command to the subparsers of `keras-mdm`.

    Args:
        subparsers: from `ArgumentParser.add_subparsers`.

    Returns:
        The parser of the command; its defaults set `run`.
    """
    parser = subparsers.add_parser(
        "prepare",
        help="crop, resize and pack pictures or clips into shards that read fast",
        description="Crops, resizes and re-encodes pictures, or cuts one clip out of each video, "
        "and packs them with their captions into shards that training reads at random. "
        "The same command continues where it was stopped. Unusable files are counted "
        "and listed in skipped.csv.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder of videos; or pictures as for `keras-mdm data`",
    )
    parser.add_argument("out", metavar="OUT", help="folder for the shards")
    parser.add_argument(
        "--kind",
        choices=("auto", "pictures", "videos"),
        default="auto",
        help="what SOURCE holds; auto: videos if a file is a video (%(default)s)",
    )
    parser.add_argument("--size", type=int, default=256, help="height and width (%(default)s)")
    parser.add_argument(
        "--max-skipped",
        type=float,
        default=0.01,
        help="share of unusable pictures or videos above which the command stops (%(default)s)",
    )
    parser.add_argument(
        "--channels",
        type=int,
        choices=(1, 3, 4),
        default=3,
        help="3 for RGB, 1 for grey, 4 for RGB with its transparency (%(default)s)",
    )
    pictures = parser.add_argument_group("pictures")
    pictures.add_argument(
        "--format",
        choices=("jpeg", "png", "webp"),
        default="jpeg",
        help="format of the pictures in the shards: JPEG of quality 95, or lossless (%(default)s)",
    )
    pictures.add_argument(
        "--records-per-shard", type=int, default=8192, help="records per shard (%(default)s)"
    )
    pictures.add_argument(
        "--beam",
        nargs=argparse.REMAINDER,
        metavar="FLAG",
        help="must come last: run as an Apache Beam pipeline with these flags, such as "
        "--runner=FlinkRunner",
    )
    clips = parser.add_argument_group("videos")
    clips.add_argument("--frames", type=int, default=16, help="frames per clip (%(default)s)")
    clips.add_argument("--stride", type=int, default=4, help="take every Nth frame (%(default)s)")
    clips.add_argument(
        "--short",
        choices=("spread", "skip"),
        default="spread",
        help="for videos with too few frames: use all frames, spread evenly, or skip the "
        "video (%(default)s)",
    )
    clips.add_argument(
        "--captions",
        help="CSV file with the columns file,caption or WebVid's; 'names' for the files' "
        "names; default: the CSV file in the folder, or text files beside the videos",
    )
    clips.add_argument(
        "--clips-per-shard", type=int, default=1024, help="videos per shard (%(default)s)"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm prepare` and print the result.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        0.

    Raises:
        ValueError: if no file is usable, too many are not, or OUT holds something else.
    """
    with quiet_start():
        from keras_mdm import data
        from keras_mdm.data.sources.texts import printable

    kind = args.kind
    if kind == "auto":
        kind = "videos" if args.captions or data.holds_videos(args.source) else "pictures"
    made = _clips(args, data) if kind == "videos" else _pictures(args, data)
    skipped = data.read_skipped(args.out)
    for entry in skipped[:20]:
        print(printable(f"skipped {entry.file}: {entry.reason}"))
    if len(skipped) > 20:
        print(f"and {len(skipped) - 20} more, see {args.out}/skipped.csv")
    print(f"{made}, {len(skipped)} skipped\n{args.out}")
    return 0


def _clips(args: argparse.Namespace, data: Any) -> str:
    rule = data.ClipRule(
        args.size, args.frames, args.stride, short=args.short, channels=args.channels
    )
    videos = data.find_videos(args.source, captions=args.captions, max_skipped=args.max_skipped)
    shards = data.prepare_clips(videos, args.out, rule=rule, clips_per_shard=args.clips_per_shard)
    return f"{len(shards)} clips of {rule.frames} x {rule.size}"


def _pictures(args: argparse.Namespace, data: Any) -> str:
    options = {
        "size": args.size,
        "image_format": args.format,
        "channels": args.channels,
        "records_per_shard": args.records_per_shard,
        "max_skipped": args.max_skipped,
    }
    if args.beam is not None:
        shards = data.prepare_with_beam(args.source, args.out, options=args.beam, **options)
    else:
        shards = data.prepare_images(args.source, args.out, **options)
    return f"{len(shards)} pictures of {args.size}"
