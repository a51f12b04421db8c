"""How the drawing in a clip moves: displacement, scale and rotation from frame to frame.

For clips of one thing on white. Nothing is learned: the position is the centre of the non-white
pixels, the size their root mean square radius, and the turn the shift that best matches one frame,
sampled on circles around its centre, with the next.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from keras_mdm import checks

# Quantities of a track, in this order.
COLUMNS = ("right", "down", "log_scale", "angle")

# Pixels closer to white than this are paper, since generated pictures are a little uneven.
_PAPER = 24.0
_ANGLES, _RADII = 72, 12
# Largest turn from one frame to the next; it keeps symmetrical drawings from jumping.
_LARGEST_TURN = np.pi / 4


class Recognised(NamedTuple):
    """Which motions clips show, and how much of them.

    Attributes:
        names: the nearest motion of each clip.
        amounts: (n,) how far each clip goes along the requested motion: 1 as far as it should, 0
            not at all, negative the wrong way.
    """

    names: tuple[str, ...]
    amounts: np.ndarray


def track(clips: np.ndarray) -> np.ndarray:
    """Follow the drawing through every clip.

    Args:
        clips: uint8 (n, T, S, S, 3), on white.

    Returns:
        float64 (n, T, 4), relative to the first frame: the displacement of the drawing to the right
        and downwards, in widths of the picture, the logarithm of its scale, and its clockwise turn
        in radians. A white clip does not move.

    Raises:
        ValueError: if the clips have another shape or type.

    Example:

    >>> clips = np.full((1, 2, 16, 16, 3), 255, np.uint8)
    >>> clips[0, 0, 4:8, 2:6] = clips[0, 1, 4:8, 6:10] = 0
    >>> track(clips)[0, 1, :2].round(2).tolist()
    [0.25, 0.0]
    """
    clips = np.asarray(clips)
    if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[-1] != 3 or not clips.size:
        raise checks.error(
            "`clips` must be uint8 (n, T, S, S, 3)",
            fix="pass what `generate` returns for a clip level",
            shape=clips.shape,
            dtype=str(clips.dtype),
        )
    return np.stack([_track(clip) for clip in clips])


def _track(clip: np.ndarray) -> np.ndarray:
    ink = 255.0 - clip.astype(float)  # (T, S, S, 3)
    ink *= ink.mean(axis=-1, keepdims=True) > _PAPER
    weight = ink.mean(axis=-1)
    mass = weight.sum(axis=(1, 2))
    if np.any(mass == 0.0):
        return np.zeros((len(clip), len(COLUMNS)))
    place = np.arange(clip.shape[1]) + 0.5
    right = (weight * place).sum(axis=(1, 2)) / mass
    down = (weight * place[:, None]).sum(axis=(1, 2)) / mass
    squares = (place - right[:, None, None]) ** 2 + (place[:, None] - down[:, None, None]) ** 2
    radius = np.sqrt((weight * squares).sum(axis=(1, 2)) / mass)
    rings = [_rings(*frame) for frame in zip(ink, right, down, radius, strict=True)]
    turns = [0.0, *(_turn(*pair) for pair in zip(rings, rings[1:], strict=False))]
    size = clip.shape[1]
    return np.stack(
        [
            (right - right[0]) / size,
            (down - down[0]) / size,
            np.log(radius / radius[0]),
            np.cumsum(turns),
        ],
        axis=1,
    )


def _rings(ink: np.ndarray, right: float, down: float, radius: float) -> np.ndarray:
    """The picture on circles around its centre, (radii, angles, 3); angles go clockwise."""
    angles = np.arange(_ANGLES) * (2.0 * np.pi / _ANGLES)
    radii = radius * np.linspace(0.3, 1.8, _RADII)[:, None]
    columns = right + radii * np.cos(angles) - 0.5
    rows = down + radii * np.sin(angles) - 0.5
    left, top = np.floor(columns).astype(int), np.floor(rows).astype(int)
    x, y = (columns - left)[..., None], (rows - top)[..., None]

    def at(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        size = len(ink)
        inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
        return ink[row.clip(0, size - 1), column.clip(0, size - 1)] * inside[..., None]

    upper = (1.0 - x) * at(top, left) + x * at(top, left + 1)
    lower = (1.0 - x) * at(top + 1, left) + x * at(top + 1, left + 1)
    # Outer circles are longer and count for more.
    return ((1.0 - y) * upper + y * lower) * np.sqrt(radii)[..., None]


def _turn(before: np.ndarray, after: np.ndarray) -> float:
    """Clockwise turn in radians from one frame to the next, from the peak of the correlation."""
    spectrum = np.fft.rfft(after, axis=1) * np.conj(np.fft.rfft(before, axis=1))
    match = np.fft.irfft(spectrum.sum(axis=(0, 2)), n=_ANGLES)
    step = 2.0 * np.pi / _ANGLES
    reach = int(_LARGEST_TURN / step)
    near = match[np.arange(-reach - 1, reach + 2)]
    best = 1 + int(np.argmax(near[1:-1]))
    left, middle, right = near[best - 1 : best + 2]
    curve = left - 2.0 * middle + right
    # The top of the parabola through three points; a flat match (a disc) has no turn.
    part = 0.0 if abs(curve) < 1e-9 * max(abs(middle), 1.0) else 0.5 * (left - right) / curve
    return (best - 1 - reach + float(np.clip(part, -0.5, 0.5))) * step


def recognise(
    tracks: np.ndarray, motions: Mapping[str, np.ndarray], asked: Sequence[str]
) -> Recognised:
    """Name the motion of every clip: the nearest of the given ones.

    For comparison every quantity is divided by its largest change over all motions, so that half a
    picture to the right and a third of a turn weigh the same.

    Args:
        tracks: (n, T, 4), from `track`.
        motions: (T, 4) by name: the exact tracks.
        asked: the motion that each clip should show.

    Returns:
        Names and amounts.

    Raises:
        ValueError: if the numbers of frames differ, or a requested motion is unknown.

    Example:

    >>> right = np.array([[0, 0, 0, 0], [0.5, 0, 0, 0]])
    >>> recognise(0.8 * right[None], {"right": right, "left": -right}, ("right",))
    Recognised(names=('right',), amounts=array([0.8]))
    """
    tracks = np.asarray(tracks, float)
    for name in asked:
        checks.one_of("asked", name, tuple(motions))
    exact = np.stack([np.asarray(motions[name], float) for name in motions])  # (m, T, 4)
    if tracks.ndim != 3 or tracks.shape[1:] != exact.shape[1:] or len(tracks) != len(asked):
        raise checks.error(
            "tracks and motions must have the same frames, and every clip its motion",
            fix="make the motions for the length of the clips",
            tracks=tracks.shape,
            motions=exact.shape,
            asked=len(asked),
        )
    exact = exact - exact[:, :1]
    unit = np.abs(exact).max(axis=(0, 1))
    unit = np.where(unit > 0.0, unit, np.inf)
    flat = (tracks / unit).reshape(len(tracks), -1)
    wanted = (exact / unit).reshape(len(exact), -1)
    distance = ((flat[:, None] - wanted[None]) ** 2).sum(axis=-1)
    names = tuple(motions)
    own = wanted[[names.index(name) for name in asked]]
    length = np.maximum((own**2).sum(axis=-1), 1e-12)
    return Recognised(
        tuple(names[row] for row in distance.argmin(axis=1)), (flat * own).sum(axis=-1) / length
    )


def summary(found: Recognised, asked: Sequence[str]) -> dict[str, dict[str, float]]:
    """Shares and amounts by motion, and over all clips.

    Args:
        found: from `recognise`.
        asked: the motion that each clip should show.

    Returns:
        dict by motion, and "all", of "clips", "recognised" (share whose nearest motion is the one
        requested) and "amount" (mean).
    """
    right = np.array([name == wanted for name, wanted in zip(found.names, asked, strict=True)])
    rows = {"all": np.ones(len(asked), bool)}
    rows |= {name: np.array([wanted == name for wanted in asked]) for name in sorted(set(asked))}
    return {
        name: {
            "clips": int(mask.sum()),
            "recognised": float(right[mask].mean()),
            "amount": float(found.amounts[mask].mean()),
        }
        for name, mask in rows.items()
    }


def table(summaries: Mapping[str, Mapping[str, Mapping]], motions: Sequence[str]) -> str:
    """Summaries side by side as lines of text: share recognised, and mean amount.

    Args:
        summaries: by title.
        motions: order of the columns.
    """
    width = max(len(title) for title in summaries)
    columns = ("all", *motions)
    lines = ["share recognised (mean amount, 1 = as asked)"]
    lines.append(" " * width + "".join(f"  {name:>13}" for name in columns))
    for title, rows in summaries.items():
        cells = [
            f"{rows[name]['recognised']:.2f} ({rows[name]['amount']:.2f})" if name in rows else "-"
            for name in columns
        ]
        lines.append(f"{title:<{width}}" + "".join(f"  {cell:>13}" for cell in cells))
    return "\n".join(lines)
