"""Pictures of a folder as the target of `keras-mdm evaluate`."""

import argparse
from pathlib import Path
from typing import Any

from keras_mdm import checks
from keras_mdm.cli.reference import read

_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def holds_pictures(target: str) -> bool:
    """Whether a target is a folder of pictures or videos. A run directory may hold some too."""
    path = Path(target)
    if not path.is_dir() or (path / "run.json").exists():
        return False
    from keras_mdm import data

    return any(p.suffix.lower() in _PICTURES for p in path.iterdir()) or data.holds_clips(path)


def of_folder(args: argparse.Namespace) -> tuple[dict[str, Any], list[str], str]:
    """Pictures of a folder, as a level of their size, or clips of the level in --levels."""
    from PIL import Image

    from keras_mdm import data
    from keras_mdm.cli import clips
    from keras_mdm.levels import LevelShape

    if args.levels and len(args.levels) > 1:
        raise checks.error(
            "the pictures of a folder are of one level",
            fix="pass one",
            levels=args.levels,
        )
    if args.levels and LevelShape.parse(args.levels[0]).frames:
        return clips.of_folder(args.target, args.levels[0], args.count)
    names = sorted(p for p in Path(args.target).iterdir() if p.suffix.lower() in _PICTURES)
    if not names:
        raise checks.error(
            "clips are of a level that --levels names",
            fix="pass for example --levels 16x64",
            target=args.target,
        )
    with Image.open(names[0]) as picture:
        width, height = picture.size
    level = LevelShape.parse(args.levels[0] if args.levels else str(height)).name
    if not args.levels and width != height:
        level = LevelShape(None, (height, width)).name
    source, rule = data.open_images(args.target), data.ImageRule(LevelShape.parse(level).size)
    return {level: read(source, rule, args.count)}, [level], "area"
