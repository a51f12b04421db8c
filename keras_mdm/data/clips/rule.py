"""Which frames of a video make a clip, and what is done to them."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from keras_mdm import checks
from keras_mdm.data.reduction import still_frame
from keras_mdm.data.skipping import Unusable
from keras_mdm.diffusion.pyramid import DOWNSAMPLING, FRAMES
from keras_mdm.pictures.pixels import PICTURE_CHANNELS

STARTS = ("fixed", "random")
SHORT = ("spread", "skip")
# Values that older rules, without these fields, amount to.
_BEFORE = {"short": "skip", "of": None, "downsample": "area", "frame": "first", "channels": 3}


class UnusableVideo(Unusable):
    """A file that gives no clip; the message says why."""


@dataclass(frozen=True)
class ClipRule:
    """Which frames of a video make its clip, and what is done to them.

    The defaults are the paper's: one clip of 16 frames, every fourth frame, from a place that is
    fixed for each video, mirrored at random, centre crop.

    Args:
        size: height and width in pixels.
        frames: length of the clip; `None` for a single picture, the `frame` of the clip.
        stride: distance between frames of the clip, in frames of the video.
        start: "fixed" takes the place from a hash of the video's key, so that a video has one clip;
            "random" draws a new place each time.
        flip: mirror half of the clips, at random.
        span: length of the clip that a picture is taken from, so that `frames=None` gives exactly
            the `frame` of the clip of `frames=span`.
        short: what happens to a video with too few frames: "spread" spreads all its frames evenly
            over the clip, as the paper's source does; "skip" leaves it out.
        of: size of the process's highest level, if it is larger than `size`: frames are resized to
            `of` and reduced from there, as in training.
        downsample: how they are reduced, the process's `"area"` or `"bilinear"`.
        frame: which part of its clip a picture shows, the process's `"first"`, `"middle"` or
            `"average"`; it does not change clips.
        channels: 3 for RGB, 1 for grey, 4 for RGB with the transparency that animations may have.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> ClipRule(64).picture().frames is None
    True

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix E, after Guo et al. 2023 (arXiv
    2307.04725), whose reader spreads the frames of short videos.
    """

    size: int
    frames: int | None = 16
    stride: int = 4
    start: str = "fixed"
    flip: bool = True
    span: int | None = None
    short: str = "spread"
    of: int | None = None
    downsample: str = "area"
    frame: str = "first"
    channels: int = 3

    def __post_init__(self) -> None:
        checks.integer("size", self.size, minimum=1)
        if self.frames is not None:
            frames = checks.integer("frames", self.frames, minimum=2)
            if frames & (frames - 1):
                raise checks.error(
                    "`frames` must be a power of two",
                    fix="clip levels halve their frames down to one: pass 8, 16 or 32",
                    frames=frames,
                )
        checks.integer("stride", self.stride, minimum=1)
        checks.one_of("channels", self.channels, PICTURE_CHANNELS)
        checks.one_of("start", self.start, STARTS)
        if not isinstance(self.flip, bool):
            raise checks.error("`flip` must be True or False", fix="pass one", flip=self.flip)
        if self.span is not None:
            checks.integer("span", self.span, minimum=1)
        checks.one_of("short", self.short, SHORT)
        checks.one_of("downsample", self.downsample, DOWNSAMPLING)
        checks.one_of("frame", self.frame, FRAMES)
        if self.of is not None and checks.integer("of", self.of, minimum=1) % self.size:
            raise checks.error(
                "`of` must be a multiple of `size`",
                fix="pass the size of the highest level, or None",
                of=self.of,
                size=self.size,
            )

    def picture(self, size: int | None = None) -> Self:
        """The rule for the `frame` of the same clips, optionally in another size."""
        return dataclasses.replace(
            self, size=size or self.size, frames=None, span=self.span or self.frames
        )

    @property
    def facts(self) -> dict[str, Any]:
        """The fields as plain values, for notes. Newer fields are left out at the value that stands
        for older rules, so that the notes of these stay the same."""
        fields = dataclasses.asdict(self)
        return {k: v for k, v in fields.items() if k not in _BEFORE or v != _BEFORE[k]}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """The rule that a note describes."""
        return cls(**{**_BEFORE, **facts})

    @property
    def drawn(self) -> int:
        """The size to which frames are resized before they are reduced."""
        return self.of or self.size

    @property
    def reach(self) -> int:
        """Number of frames of the video from the first to the last frame of its clip."""
        return ((self.frames or self.span or 1) - 1) * self.stride + 1

    @property
    def least(self) -> int:
        """Number of frames that a video must have."""
        return min(2, self.reach) if self.short == "spread" else self.reach

    def wanted(self, count: int, place: float) -> Sequence[int]:
        """Numbers of the frames that make the clip.

        Args:
            count: number of frames of the video.
            place: in [0, 1), where in the video the clip begins.

        Raises:
            UnusableVideo: if the video is too short.
        """
        clip = self.frames or self.span or 1
        if count < self.least:
            needed = f"for {clip} at a stride of {self.stride}"
            needed = "for a clip" if self.short == "spread" else needed
            raise UnusableVideo(
                f"has {count} frame{'s' * (count != 1)}, {self.least} are needed {needed}"
            )
        if count < self.reach:
            # If the video has fewer frames than the clip, some come twice.
            return self.kept(np.linspace(0, count - 1, clip, dtype=int).tolist())
        first = int(place * (count - self.reach + 1))
        return self.kept(range(first, first + self.reach, self.stride))

    def kept(self, clip: Any) -> Any:
        """Keep the entries of the frames that are needed: all of them, or one for a picture.

        Args:
            clip: one entry per frame: a sequence, or an array whose first axis is time.
        """
        if self.frames is not None or self.frame == "average":
            return clip
        taken = len(clip) // 2 if self.frame == "middle" else 0
        return clip[taken : taken + 1]

    def joined(self, clip: np.ndarray) -> np.ndarray:
        """The clip, or, for a picture, the one frame that represents it.

        Args:
            clip: uint8 (T, H, W, C), the frames that `kept` returned.

        Returns:
            uint8 (T, H, W, C), or (1, H, W, C) for a rule without `frames`.
        """
        if self.frames is not None or len(clip) == 1:
            return clip
        return still_frame(clip, self.frame)[None]
