"""`generate`: from prompts, labels or tensors to pictures at every level."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from keras_mdm import checks
from keras_mdm.diffusion.samplers import Sampler
from keras_mdm.sampling import graph, guidances, starting
from keras_mdm.sampling.narrow import narrow_weights
from keras_mdm.sampling.options import Options
from keras_mdm.sampling.request import Request, resolve
from keras_mdm.sampling.stepping import start_noise, to_uint8


def generate(
    model: Any,
    prompts: Sequence[str] | Mapping[str, Any] | None = None,
    *,
    labels: Sequence[int | str] | None = None,
    num_images: int | None = None,
    num_images_per_prompt: int = 1,
    micro: Mapping[str, Any] | None = None,
    low_res: Any = None,
    low_res_noise: int | None = None,
    sampling: str | None = None,
    steps: int | None = None,
    outer_steps: int | Mapping[str, int] | None = None,
    sampler: str | Sampler | None = None,
    eta: float | None = None,
    grid: str | None = None,
    threshold: str | Callable[[Any], Any] | None = None,
    guidance: str | guidances.Guidance = "classifier_free",
    guidance_scale: float | Mapping[str, float] | None = None,
    negative_prompts: str | Sequence[str] | Mapping[str, Any] | None = None,
    guidance_interval: Sequence[float] | None = None,
    guidance_rescale: float | None = None,
    autoguidance: Any = None,
    split_guidance: bool = False,
    reconstruction: float = 0.0,
    seed: int | Sequence[int] = 0,
    noise: Mapping[str, Any] | None = None,
    init_image: Any = None,
    strength: float | None = None,
    mask: Any = None,
    hold: Mapping[str, Any] | None = None,
    stop_at: str | None = None,
    weights: str = "ema",
    batch_size: int = 32,
    jit_compile: bool = False,
    output: str = "uint8",
    return_steps: int = 0,
    callback: Callable[[int, int, dict], None] | None = None,
    progress: bool = True,
    dry_run: bool = False,
) -> Any:
    """Draw pictures or clips at all levels together.

    What is not given is as in the model's own `sampling`, and where that says nothing as below.

    Args:
        prompts: texts, one picture each; or a dict of tensors with the network's conditions
            (`text`, `text_mask`, `pooled`, `label`, micro-conditions), in which the key `prompts`
            holds texts to encode.
        labels: classes, one picture each, by number or by their name in the model's `class_names`;
            -1 for none. May be combined with prompts.
        num_images: number of pictures to draw without any condition.
        num_images_per_prompt: number of pictures per prompt, label or row; they are adjacent in the
            result.
        micro: micro-conditions by name, one number or one per prompt; the network's default unless
            given.
        low_res: pictures that a network with more in_channels than out_channels sees beside those
            it draws, one each, such as the pictures an upsampler enlarges. `(B, h, w, C)`, or
            `(B, t, h, w, C)` for clips; uint8 or float in [-1, 1], of any size.
        low_res_noise: how much noise these pictures get, as an index into the table of the training
            schedule, from 1 (hardly any) to its number of steps (nothing else); 1 unless given.
            Only for a network that is told, see `MatryoshkaDiffusion`. More noise lets the network
            correct more of what it sees.
        sampling: `"default"` (DDIM, 50 steps) or `"paper"` (DDPM, 250 steps, dynamic threshold):
            the defaults of `steps`, `sampler` and `threshold`. If given, the model's own `sampling`
            is ignored.
        steps: number of steps, at most as many as the training schedule has.
        outer_steps: number of the steps in which the levels above the innermost one are computed,
            spread evenly over all steps and always with the last; all steps unless given. In
            between they follow the level below and keep their detail, which saves their cost. A
            dict gives every outer level its own number, all steps for missing levels; a level is
            also computed with those above it. Only for models trained with mixed resolutions, see
            `cut`.
        sampler: `"ddim"`, `"ddpm"`, `"euler"`, `"euler_ancestral"`, `"heun"`, `"dpmpp_2m"`,
            `"dpmpp_2m_sde"` or `"unipc"`, or a `diffusion.Sampler` of your own. Heun evaluates the
            network twice per step.
        eta: DDIM's share of fresh noise; 0 unless given.
        grid: `"uniform"` (unless given), `"release"`, `"logsnr"` or `"karras"`, see `time_grid`.
        threshold: `"dynamic"`, `"dynamic_if"`, `"static"`, `"none"`, or a function of the estimates
            of one level; the model's own unless given. Required if `sampling` names a different
            one.
        guidance: how the two halves of guidance are combined into one estimate:
            `"classifier_free"`, or a function (conditional, away, at) -> clean data by level name,
            see `sampling.guidances`.
        guidance_scale: w of classifier-free guidance; 1 is the conditional model, 0 the
            unconditional one. 4 unless given (2 with `autoguidance`, and 1 for a model that was
            trained without dropping its conditions, where more gives a warning). A dict gives every
            level its own scale, 1 for missing levels; a number is distributed over the levels by
            the model's `guidance_shares`.
        negative_prompts: what to guide away from instead of "no prompt": one text for all pictures,
            one per prompt, or a dict as in `prompts`.
        guidance_interval: (lowest, highest) time, where 0 is clean and 1 is noise: only steps that
            begin inside are guided; the others cost half. All steps unless given.
        guidance_rescale: how far, in [0, 1], the guided output is scaled back to the conditional
            output's standard deviation; 0 unless given.
        autoguidance: a weaker network to guide away from under the same conditions: other weights
            of this model, such as `"raw"` or `"ema_0.05"`, a weaker `MatryoshkaDiffusion`, or a
            pair of such a model and the name of its weights.
        split_guidance: compute the two halves of guidance one after the other, in half the
            memory.
        reconstruction: weight of reconstruction guidance, with a mask or `hold`: moves the unknown
            pixels to where the network's own estimate agrees with the known ones, so that they fit
            together. 0 is off. Each step takes a gradient through the network.
        seed: a number: equal seeds give equal pictures, and picture i does not depend on the
            others; or one number per picture, each of which gives the first picture of that seed.
        noise: noise to start from instead of the seed's, `(B, [T,] H, W, C)` by level name, see
            `noise_for` and `noise_between`.
        init_image: pictures of the highest level to change, one for all or one each; uint8 or float
            in [-1, 1], resized to the level (by D^r from the size of a level above).
        strength: how far `init_image` is taken back to noise, in [0, 1]: the share of the steps
            that are taken. 0.7 unless given, 1 with a mask.
        mask: where `init_image` is redrawn (not 0) and kept (0), at the size of the highest level.
            To draw the picture's surroundings, put it on a larger canvas.
        hold: fixed pictures for lower levels, by level name, while the higher ones are drawn:
            super-resolution.
        stop_at: the highest level to draw; those above are not computed. Only for models trained
            with mixed resolutions, see `cut`.
        weights: `"ema"`, `"raw"`, or a power-function average such as `"ema_0.05"`.
        batch_size: number of pictures drawn at a time. Smaller batches are padded to one of a few
            sizes, at least two, so that a picture comes from the same kernels in any batch.
        jit_compile: compile the steps with XLA, again for every number of rows, of text tokens and
            of steps.
        output: `"uint8"`, or `"float32"` for the sampler's values without clipping.
        return_steps: number of intermediate estimates to return as well.
        callback: function (steps done, steps, estimates) called after every step of every
            batch; the estimates are uint8 `(B, [T,] H, W, C)` by level name.
        progress: show a progress bar.
        dry_run: check all arguments and draw nothing. The weights need no values, so samples that
            training will draw can be checked before it begins.

    Returns:
        dict by level name of uint8 `(B, H, W, C)`, or `(B, T, H, W, C)` for clips; empty with
        `dry_run`. With `return_steps` S, a pair of this dict and the estimates,
        `(S, B, [T,] H, W, C)` by level name, the last of which is the picture.

    Raises:
        ValueError: if an argument is out of range, a condition is missing or does not fit, or
            conditions, noise or weights are not finite.

    Example:

    >>> images = model.generate(["a red apple"], steps=50, guidance_scale=4.0, seed=0)
    >>> images["64"].shape
    (1, 64, 64, 3)

    Reference: Gu et al. 2023 (arXiv 2310.15111), appendix C; Ho and Salimans 2022 (arXiv
    2207.12598); Kynkaanniemi et al. 2024 (arXiv 2404.07724) for the interval.
    """
    given = {name: value for name, value in locals().items() if name != "model"}
    asked = resolve(model, Options(**given))
    return {} if dry_run else _draw(model, asked)


def _draw(model: Any, asked: Request) -> Any:
    """Draw the pictures of a request batch by batch, with intermediate estimates if requested."""
    options, multiplied = asked.options, asked.process.multiplied
    narrow = narrow_weights(model, asked.plan)
    pieces, kept = [], []
    batches = list(_batches(asked.count, options.batch_size))
    with tqdm(
        total=(asked.steps - asked.first) * len(batches),
        desc="sampling",
        unit="step",
        disable=None if options.progress else True,  # None: only on a terminal
    ) as bar:
        for begin, end, size in batches:
            chosen = np.minimum(np.arange(begin, begin + size), end - 1)
            rows = tf.nest.map_structure(
                lambda value, chosen=chosen: tf.convert_to_tensor(np.asarray(value)[chosen]),
                asked.rows,
            )
            state, estimates = graph.begin(model, asked, rows), []
            for begun, done, state in graph.stretches(model, asked, rows, state, narrow):  # noqa: B020
                bar.update(done - begun)
                if options.callback is None and done not in asked.marks:
                    continue
                found = state["x"] if done == asked.steps else state["x0"]
                seen = _rows(to_uint8(multiplied(found)), end - begin)
                estimates += [seen] * int(np.sum(asked.marks == done))
                if options.callback:
                    options.callback(done, asked.steps, seen)
            x = multiplied(state["x"])
            if options.return_steps and not estimates:  # strength 0: no step was taken
                estimates = [_rows(to_uint8(x), end - begin)] * options.return_steps
            x = to_uint8(x) if options.output == "uint8" else x
            pieces.append(_rows(x, end - begin))
            kept.append(_stacked(estimates))
    images = _joined(pieces, axis=0)
    return (images, _joined(kept, axis=1)) if options.return_steps else images


def noise_for(model: Any, seed: int | Sequence[int], num_images: int) -> dict[str, np.ndarray]:
    """Return the noise from which `generate` starts, to be changed and passed as `noise`.

    Args:
        seed: as in `generate`.
        num_images: number of pictures.

    Returns:
        dict by level name of `(B, [T,] H, W, C)` float32.
    """
    count = checks.integer("num_images", num_images, minimum=1)
    rows = starting.seeds_of(seed, count)
    found = start_noise(model.process, model.unet.spec.out_channels, *map(tf.constant, rows))
    return {name: value.numpy() for name, value in found.items()}


def noise_between(
    model: Any, first_seed: int, second_seed: int, num_images: int
) -> dict[str, np.ndarray]:
    """Return noise on the path from one seed to another, ends included: pictures that blend.

    Args:
        first_seed: seed of the first picture.
        second_seed: seed of the last picture.
        num_images: number of pictures, at least two.

    Returns:
        dict by level name of `(B, [T,] H, W, C)` float32, to be passed as `noise`.

    Example:

    >>> noise = model.noise_between(0, 1, num_images=8)
    >>> images = model.generate(["a red apple"] * 8, noise=noise)
    """
    count = checks.integer("num_images", num_images, minimum=2)
    ends = model.noise_for([first_seed, second_seed], 2)
    weight = tf.linspace(0.0, 1.0, count)
    return {
        name: starting.spherical(tf.constant(a), tf.constant(b), weight).numpy()
        for name, (a, b) in ends.items()
    }


def _batches(count: int, batch_size: int) -> Iterator[tuple[int, int, int]]:
    """(first row, row after the last, number of rows computed) of every batch."""
    for begin in range(0, count, batch_size):
        end = min(begin + batch_size, count)
        yield begin, end, min(_bucket(end - begin), max(batch_size, 2))


def _bucket(rows: int) -> int:
    """Round up to 2, 3, 4, 6, 8, 12, 16, 24, ... Never to 1: a single row uses other kernels."""
    size = 2
    while size < rows:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def _rows(values: Mapping[str, tf.Tensor], count: int) -> dict[str, np.ndarray]:
    return {name: value.numpy()[:count] for name, value in values.items()}


def _stacked(estimates: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([one[name] for one in estimates]) for name in (estimates or [{}])[0]}


def _joined(pieces: Sequence[Mapping[str, np.ndarray]], axis: int) -> dict[str, np.ndarray]:
    return {name: np.concatenate([one[name] for one in pieces], axis) for name in pieces[0]}
