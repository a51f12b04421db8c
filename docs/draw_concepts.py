"""Draws the figures of docs/concepts.md into docs/images.

    python docs/draw_concepts.py        # needs the drawings: keras-mdm assets fetch emoji

`pyramid.png`: one drawing at three levels, with noise; `schedules.svg`: signal-to-noise ratio by
level; `nested_unet.svg`: which part works at which resolution.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import keras_mdm as mdm
from keras_mdm.evaluation.chart import Dot, chart
from keras_mdm.models.resolve import resolve

IMAGES = Path(__file__).parent / "images"
SIZES, TIMES, SHOWN, GAP = (16, 32, 64), (0.0, 0.25, 0.5, 0.75, 1.0), 128, 6
INDENT = 44  # of a row of boxes against the one above
INK, FILL, OUTER = "#333", "#e8eef7", "#fdf0d5"


def pyramid() -> Image.Image:
    """Rows are levels, columns times: the same t is more noise at a lower level of equal power."""
    data = mdm.data.load_emoji(SIZES, concepts="simple")
    row = data.captions.index("red apple")
    shapes = [level.shape for level in resolve([SIZES[0], *SIZES[1:]]).levels]
    schedules = mdm.diffusion.schedules.of_levels("cosine", shapes, power=2.0)
    step, left = SHOWN + GAP, 52
    page = Image.new("RGB", (left + step * len(TIMES), 24 + step * len(SIZES)), "white")
    pen = ImageDraw.Draw(page)
    for y, size in enumerate(SIZES):
        clean = data.images[size][row].astype("float32") / 127.5 - 1.0
        noise = np.random.default_rng(size).normal(size=clean.shape)
        pen.text((6, 24 + y * step + SHOWN // 2), f"{size}", fill=INK)
        for x, t in enumerate(TIMES):
            logsnr = float(schedules[str(size)].logsnr(np.float32(min(max(t, 1e-4), 0.9999))))
            alpha = np.sqrt(1.0 / (1.0 + np.exp(-logsnr)))
            noisy = alpha * clean + np.sqrt(1.0 - alpha**2) * noise
            pixels = np.clip(np.round((noisy + 1.0) * 127.5), 0, 255).astype("uint8")
            shown = Image.fromarray(pixels).resize((SHOWN, SHOWN), Image.Resampling.NEAREST)
            page.paste(shown, (left + x * step, 24 + y * step))
            if not y:
                pen.text((left + x * step + SHOWN // 2 - 16, 6), f"t = {t:g}", fill=INK)
    return page


def schedules() -> str:
    """Logarithm of the signal-to-noise ratio by level, for both powers."""
    t = np.linspace(0.02, 0.98, 33, dtype="float32")
    shapes = [level.shape for level in resolve([64, 256, 1024]).levels]
    lines = {}
    for power in (2.0, 1.0):
        made = mdm.diffusion.schedules.of_levels("cosine", shapes, power=power)
        for name, schedule in made.items():
            if name != "64" or power == 2.0:
                word = name if name == "64" else f"{name}, power {power:g}"
                found = np.asarray(schedule.logsnr(t))
                lines[word] = [Dot(float(x), float(y)) for x, y in zip(t, found, strict=True)]
    return chart(lines, "t", "log SNR", note="cosine schedule, levels 64, 256, 1024")


def nested_unet() -> str:
    """Boxes from the highest resolution, outside, to the lowest, and back up."""
    rows = [("256", OUTER), ("128", OUTER), ("64", FILL), ("32", FILL), ("16", FILL)]
    width, height, box, top = 720, 56, (118, 32), 46
    parts = []
    for depth, (name, colour) in enumerate(rows):
        y = top + depth * height
        for side in (0, 1):
            x = 40 + depth * INDENT if not side else width - 40 - box[0] - depth * INDENT
            parts.append(
                f'<rect x="{x}" y="{y}" width="{box[0]}" height="{box[1]}" rx="4" fill="{colour}" '
                f'stroke="{INK}"/><text x="{x + box[0] / 2}" y="{y + 21}" text-anchor="middle">'
                f"blocks at {name}</text>"
            )
            if depth + 1 < len(rows):
                start = x + box[0] / 2
                end = start + (INDENT if not side else -INDENT)
                ends = (start, y + box[1], end, y + height)
                x1, y1, x2, y2 = ends if not side else (end, y + height, start, y + box[1])
                parts.append(
                    f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{INK}" '
                    'marker-end="url(#end)"/>'
                )
        inner = 40 + depth * INDENT + box[0], width - 40 - box[0] - depth * INDENT
        dashes = "" if depth + 1 == len(rows) else ' stroke-dasharray="4 4"'
        parts.append(
            f'<line x1="{inner[0]}" y1="{y + 16}" x2="{inner[1]}" y2="{y + 16}" stroke="{INK}"'
            f'{dashes} marker-end="url(#end)"/>'
        )
    for depth, level in ((0, "256"), (2, "64")):
        x, y = 32 + depth * INDENT, top + depth * height + 21
        if not depth:  # no room at the sides
            x, y = 40, top - 9
        begin, end = ("start", "end") if not depth else ("end", "start")
        parts.append(f'<text x="{x}" y="{y}" text-anchor="{begin}">z of {level}</text>')
        parts.append(
            f'<text x="{width - x}" y="{y}" text-anchor="{end}">prediction of {level}</text>'
        )
    whole = top + len(rows) * height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {whole}" '
        f'font-family="sans-serif" font-size="13" fill="{INK}"><rect width="{width}" '
        f'height="{whole}" fill="white"/><defs><marker id="end" viewBox="0 0 8 8" refX="7" '
        'refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z"/></marker>'
        "</defs>"
        f'<g fill="{INK}">{"".join(parts)}</g></svg>\n'
    )


if __name__ == "__main__":
    pyramid().save(IMAGES / "pyramid.png")
    (IMAGES / "schedules.svg").write_text(schedules())
    (IMAGES / "nested_unet.svg").write_text(nested_unet())
