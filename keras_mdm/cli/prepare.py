"""`keras-mdm prepare`: the clips of a folder of videos, cut and packed for training."""

import argparse

from keras_mdm.cli.quiet import quiet_start


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the `prepare` command to the subparsers of `keras-mdm`.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` returned.

    Returns:
        The parser of the command; its defaults set `run`.
    """
    parser = subparsers.add_parser(
        "prepare",
        help="cut the clips out of a folder of videos and pack them into shards",
        description="Decodes one clip per video, crops and resizes it, and packs the clips with "
        "their captions into shards that training reads without decoding video. The same command "
        "again goes on where it was stopped. Files that give no clip are counted and listed.",
    )
    parser.add_argument("source", metavar="VIDEOS", help="folder of videos")
    parser.add_argument("out", metavar="OUT", help="folder for the shards")
    parser.add_argument("--size", type=int, default=256, help="height and width (%(default)s)")
    parser.add_argument("--frames", type=int, default=16, help="frames per clip (%(default)s)")
    parser.add_argument(
        "--stride", type=int, default=4, help="every how manyth frame is taken (%(default)s)"
    )
    parser.add_argument(
        "--captions",
        help="CSV file with the columns file,caption or WebVid's; 'names' for the files' names; "
        "else the CSV file in the folder, or text files beside the videos",
    )
    parser.add_argument(
        "--clips-per-shard", type=int, default=1024, help="videos per shard (%(default)s)"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Carry out `keras-mdm prepare` and print what came of it.

    Args:
        args: the parsed arguments of `add_parser`.

    Returns:
        0.

    Raises:
        ValueError: if the folder holds no usable videos, or OUT is for other ones.
    """
    with quiet_start():
        from keras_mdm import data

    rule = data.ClipRule(args.size, args.frames, args.stride)
    videos = data.find_videos(args.source, captions=args.captions)
    shards = data.prepare_clips(videos, args.out, rule=rule, clips_per_shard=args.clips_per_shard)
    skipped = data.skipped_clips(args.out)
    for entry in skipped[:20]:
        print(f"skipped {entry.file}: {entry.reason}")
    if len(skipped) > 20:
        print(f"and {len(skipped) - 20} more, see {args.out}/skipped.csv")
    print(
        f"{len(shards)} clips of {rule.frames} x {rule.size} in {args.out}, "
        f"{len(skipped)} files skipped"
    )
    return 0
