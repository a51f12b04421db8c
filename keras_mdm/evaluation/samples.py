"""What a model draws, batch by batch into a directory, where a later start continues."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from keras_mdm import checks
from keras_mdm.evaluation.frames import frames_of
from keras_mdm.files import read_json, write_atomically
from keras_mdm.stages import channels_of, levels_of, stages_of

REQUEST = "request.json"
CONFIGURATION = "configuration"
# Parts of a configuration that change no picture, or are compared apart.
_ELSEWHERE = {"unet", "sampling", "class_names", "notes", "name", "dtype", "compile_config"}
_ELSEWHERE |= {"ema_decay", "ema_warmup", "power_emas", "buckets", "seed", "cond_dropout"}
_ELSEWHERE |= {"loss_target", "level_weights", "loss_weighting", "times"}


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be drawn.

    Attributes:
        count: number of pictures.
        prompts: one for each picture, or `None`.
        labels: one class for each picture, or `None`.
        seed: of the first picture; picture i has `seed + i`, whatever the batches are.
        batch_size: pictures drawn at a time.
        options: further options of `generate`.
    """

    count: int
    prompts: Sequence[str] | None = None
    labels: Sequence[int] | None = None
    seed: int = 0
    batch_size: int = 32
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.integer("count", self.count, minimum=1)
        checks.integer("batch_size", self.batch_size, minimum=1)
        for name in ("prompts", "labels"):
            given = getattr(self, name)
            if given is not None and len(given) < self.count:
                raise checks.error(
                    f"there must be one of `{name}` for each picture",
                    fix="pass more, or ask for fewer pictures",
                    count=self.count,
                    **{name: len(given)},
                )

    def identity(self, model: Any) -> dict[str, Any]:
        """What pictures already drawn must have been asked with; `count` and batches may grow."""
        options = {key: repr(value) for key, value in sorted(self.options.items())}
        found = {"model": weights_digest(model), "seed": self.seed, "options": options}
        own = [
            {
                key: repr(value)
                for key, value in getattr(stage, "sampling", {}).items()
                if key not in options
            }
            for stage in stages_of(model)
        ]
        found |= {"own": own} if any(own) else {}
        return {**found, CONFIGURATION: _configuration(model)}

    def conditions(self, rows: slice) -> dict[str, Any]:
        """Arguments of `generate` for some of the pictures."""
        given: dict[str, Any] = {
            "prompts": None if self.prompts is None else list(self.prompts[rows]),
            "labels": None if self.labels is None else list(self.labels[rows]),
        }
        if self.prompts is None and self.labels is None:
            given["num_images"] = len(range(*rows.indices(self.count)))
        return given


def _configuration(model: Any) -> list[dict[str, str]]:
    """Digests of what pictures of every stage follow from besides weights and options of
    drawing, by name."""
    found = []
    for stage in stages_of(model):
        try:
            config = stage.get_config()
        except (AttributeError, ValueError):  # functions without a name
            config = {}
        parts = {}
        for name, value in config.items():
            with contextlib.suppress(TypeError):  # not JSON: nothing that could be compared
                if name not in _ELSEWHERE:
                    parts[name] = json.dumps(value, sort_keys=True).encode()
        for name in ("null_condition", "residual_std"):
            values = getattr(stage, name, {}).values()
            parts[name] = b"".join(np.asarray(v, "float32").tobytes() for v in values)
        found.append({k: hashlib.blake2b(v, digest_size=8).hexdigest() for k, v in parts.items()})
    return found


def _different(now: list[dict[str, str]], before: Any) -> list[str]:
    """Parts of the configuration that changed; versions may know different ones."""
    if not isinstance(before, list) or len(before) != len(now):
        return []
    return [k for a, b in zip(now, before, strict=True) for k in a if b.get(k, a[k]) != a[k]]


def weights_digest(model: Any) -> str:
    """A digest of a model's weights and averages."""
    digest = hashlib.blake2b(digest_size=16)
    held = [v for stage in stages_of(model) for v in (*stage.unet.weights, *stage.ema.averages)]
    held += getattr(getattr(model, "codec", None), "weights", [])
    for variable in held:
        digest.update(np.ascontiguousarray(np.asarray(variable)).tobytes())
    return digest.hexdigest()


def check_model(model: Any) -> None:
    """Raise unless the model draws RGB pictures or clips."""
    channels = channels_of(model)
    if channels != 3:
        raise checks.error(
            "measures of pictures need a model of RGB pictures",
            fix="put a model of codes and its codec into a keras_mdm.latents.LatentDiffusion",
            levels=list(levels_of(model)),
            channels=channels,
        )


def draw(
    model: Any, request: Request, directory: str | Path, *, progress: bool = True
) -> Iterator[dict[str, np.ndarray]]:
    """Draw the pictures that the directory lacks, and return all of them batch by batch.

    `directory/LEVEL/00000.png` is the first picture of a level; a clip is one picture too, with its
    frames below each other. Every file is written as a whole,
    so a draw that was stopped continues with the missing pictures, and the pictures do not depend
    on where it was stopped.

    Args:
        model: a `MatryoshkaDiffusion`, `Cascade` or `LatentDiffusion` of RGB pictures or clips.
        request: what to draw.
        directory: where to.
        progress: show a progress bar.

    Returns:
        An iterator over {level: uint8 (B, H, W, 3), or (B, F, H, W, 3) for a level of clips}.

    Raises:
        ValueError: if the directory holds pictures of another model or request.
    """
    check_model(model)
    directory = Path(directory)
    _begin(directory, request, model)
    return _batches(model, request, directory, progress)


def _begin(directory: Path, request: Request, model: Any) -> None:
    path, wanted = directory / REQUEST, request.identity(model)
    texts = None if request.prompts is None else list(request.prompts)
    labels = None if request.labels is None else [int(label) for label in request.labels]
    wanted |= {"prompts": texts, "labels": labels}
    if not path.exists():
        if directory.exists() and any(directory.iterdir()):
            raise checks.error(
                "a directory for pictures must be new, or hold those of the same request",
                fix="pass another directory",
                directory=str(directory),
            )
        write_atomically(path, json.dumps(wanted, ensure_ascii=False))
        return
    found = read_json(path, what="the request", fix="delete the directory of the pictures")
    for key in ("prompts", "labels"):
        a, b = found.get(key), wanted[key]
        if a is not None and b is not None:  # more may be asked for later
            common = min(len(a), len(b))
            found[key] = wanted[key] if a[:common] == b[:common] else a
    changed = _different(wanted.pop(CONFIGURATION), found.get(CONFIGURATION))
    different = [key for key in wanted if found.get(key) != wanted[key]] + changed
    if different:
        raise checks.error(
            "the pictures in this directory were drawn by another model or with other options",
            fix="pass another directory, or delete this one",
            directory=str(directory),
            different=different,
        )


def picture_path(directory: Path, level: str, number: int) -> Path:
    """Where the picture of a level lies."""
    return directory / level / f"{number:05d}.png"


def _batches(
    model: Any, request: Request, directory: Path, progress: bool
) -> Iterator[dict[str, np.ndarray]]:
    levels = levels_of(model)
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=request.count, unit="picture", disable=not progress, desc="drawing") as bar,
    ):
        for first in range(0, request.count, request.batch_size):
            rows = slice(first, min(first + request.batch_size, request.count))
            numbers = range(rows.start, rows.stop)
            paths = {
                level: [picture_path(directory, level, n) for n in numbers] for level in levels
            }
            if all(path.exists() for level in levels for path in paths[level]):
                yield {
                    level: np.stack([cut(one, level) for one in pool.map(_read, paths[level])])
                    for level in levels
                }
            else:
                drawn = model.generate(
                    **request.conditions(rows),
                    **request.options,
                    seed=[request.seed + number for number in numbers],
                    batch_size=request.batch_size,
                    progress=False,
                )
                for level in levels:
                    list(pool.map(_write, paths[level], drawn[level]))
                yield {level: drawn[level] for level in levels}
            bar.update(len(numbers))


def cut(strip: np.ndarray, level: str) -> np.ndarray:
    """The frames (F, H, W, 3) of a clip that lie below each other; a picture stays as it is.

    Raises:
        ValueError: if the rows do not divide into the frames of the level.
    """
    frames = frames_of(level)
    if frames is None:
        return strip
    if len(strip) % frames:
        raise checks.error(
            f"a clip of level {level!r} must be a picture of {frames} frames below each other",
            fix="pass the folder of this level",
            height=len(strip),
        )
    return strip.reshape(frames, -1, *strip.shape[1:])


def _write(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    pixels = pixels.reshape(-1, *pixels.shape[-2:])  # frames below each other
    write_atomically(path, lambda target: Image.fromarray(pixels).save(target, compress_level=1))


def _read(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
