"""Data that a rehearsal generates for the usual pipeline: pictures, clips, states of texts."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import keras_mdm as mdm

PICTURES, CLASSES = 320, 10
# A clip of 16 takes every fourth frame, so it needs 61.
CLIPS, FRAMES = 64, 64
COLOURS = ("red", "green", "blue", "yellow", "black", "white", "brown", "grey")
THINGS = ("clouds", "hills", "waves", "leaves", "smoke")
# Seconds that other workers wait for the one that makes the data.
PATIENCE = 120.0
NOTE = "complete.json"


class WordStates:
    """Replaces FLAN-T5 XL: tokens of its width that depend only on the words, a few per text.

    Args:
        length: maximum number of tokens of a text.
    """

    width = 2048
    pads = False

    def __init__(self, length: int):
        self.length = length

    @property
    def identity(self) -> dict[str, Any]:
        """The identity that a model saves."""
        return {"name": "rehearsal", "width": self.width, "length": self.length}

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """States (B, L, D) and mask (B, L), where L is that of the longest text."""
        words = [[*text.split(), "</s>"][: self.length] for text in texts]
        longest = max(map(len, words))
        states = np.zeros((len(texts), longest, self.width), np.float32)
        mask = np.zeros((len(texts), longest), np.float32)
        for row, tokens in enumerate(words):
            states[row, : len(tokens)] = [self._state(token) for token in tokens]
            mask[row, : len(tokens)] = 1.0
        return states, mask

    def null(self) -> tuple[np.ndarray, np.ndarray]:
        """States and mask of the empty text."""
        states, mask = self.encode([""])
        return states[0], mask[0]

    def _state(self, word: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
        # The standard deviation of FLAN-T5's states is about a tenth.
        return 0.1 * np.random.default_rng(seed).standard_normal(self.width, np.float32)


def make(folder: Path, kind: str, level: mdm.LevelSpec, tokens: int) -> dict[str, str]:
    """Write the data of a rehearsal, unless it exists; one of several workers does it.

    Args:
        folder: where to write.
        kind: "class", "text" or "video".
        level: the highest, for the size of pictures and the length of clips.
        tokens: maximum number of tokens of a text.

    Returns:
        Options of the recipe: `data`, and with text `embeddings`.
    """
    facts = {"kind": kind, "size": level.size, "frames": level.frames, "tokens": tokens}
    note = folder / NOTE
    if not note.is_file() and mdm.distribute.is_chief():
        began = time.perf_counter()
        folder.mkdir(parents=True, exist_ok=True)
        {"class": _classes, "text": _captioned, "video": _videos}[kind](folder, level)
        if kind != "class":
            captions = _captions(PICTURES if kind == "text" else CLIPS)
            mdm.text.embed(WordStates(tokens), captions, folder / "states", progress=False)
        note.write_text(json.dumps(facts))
        print(f"data of the rehearsal: {folder}, {time.perf_counter() - began:.0f} s")
    deadline = time.monotonic() + PATIENCE
    while not note.is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    found = json.loads(note.read_text())
    if found != facts:
        raise ValueError(
            f"the data beside the run must belong to the rehearsal. Received: {found} in "
            f"{folder}, needed: {facts}. To fix it: remove the folder, or pass another "
            "--run-dir"
        )
    read = {"class": "pictures", "text": "shards", "video": "clips"}[kind]
    states = {} if kind == "class" else {"embeddings": str(folder / "states")}
    return {"data": str(folder / read), **states}


def _classes(folder: Path, level: mdm.LevelSpec) -> None:
    """A folder of PNG files per class, like ImageNet."""
    for number, picture in enumerate(_pictures(PICTURES, level.size)):
        name = f"{COLOURS[number % CLASSES % 8]}_{THINGS[number % CLASSES % 5]}"
        file = folder / "pictures" / name / f"{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)


def _captioned(folder: Path, level: mdm.LevelSpec) -> None:
    """Shards as `keras-mdm prepare` makes them from pictures with captions."""
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    for number, picture in enumerate(_pictures(PICTURES, level.size)):
        Image.fromarray(picture).save(pictures / f"{number:04}.png")
    for number, caption in enumerate(_captions(PICTURES)):
        (pictures / f"{number:04}.txt").write_text(caption)
    mdm.data.prepare_images(
        pictures,
        folder / "shards",
        size=level.size,
        captions=True,
        records_per_shard=128,
        progress=False,
    )


def _videos(folder: Path, level: mdm.LevelSpec) -> None:
    """Shards as `keras-mdm prepare` makes them from videos: drifting pictures, as animations."""
    videos = folder / "videos"
    videos.mkdir(exist_ok=True)
    captions = _captions(CLIPS)
    for number, picture in enumerate(_pictures(CLIPS, level.size)):
        frames = [Image.fromarray(np.roll(picture, n // 4, axis=number % 2)) for n in range(FRAMES)]
        file = videos / f"{number:04}.webp"
        frames[0].save(file, save_all=True, append_images=frames[1:], lossless=True, quality=0)
        file.with_suffix(".txt").write_text(captions[number])
    mdm.data.prepare_clips(
        mdm.data.find_videos(videos),
        folder / "clips",
        rule=mdm.data.ClipRule(level.size, level.frames),
        clips_per_shard=32,
        progress=False,
    )


def _captions(count: int) -> list[str]:
    """Texts of four words."""
    return [f"{COLOURS[n % 8]} {THINGS[n // 8 % 5]} number {n}" for n in range(count)]


def _pictures(count: int, size: int) -> Iterator[np.ndarray]:
    """Random pictures with the spectrum of photographs, whose amplitudes fall as 1/f."""
    along = np.fft.fftfreq(size)
    frequency = np.maximum(np.hypot(along[:, None], along[None]), 1.0 / size)[..., None]
    random = np.random.default_rng(0)
    for _ in range(count):
        noise = np.fft.fft2(random.standard_normal((size, size, 3)), axes=(0, 1))
        picture = np.fft.ifft2(noise / frequency, axes=(0, 1)).real
        picture = 128.0 + 50.0 * (picture - picture.mean()) / picture.std()
        yield np.clip(picture, 0, 255).astype(np.uint8)
