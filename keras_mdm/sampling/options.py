"""The options of `generate` as one record."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_mdm.diffusion.samplers import Sampler
from keras_mdm.sampling import guidances


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments of `generate`, under their names there; those that models have defaults of are
    `None` until these are filled in, see `defaults`."""

    prompts: Sequence[str] | Mapping[str, Any] | None
    labels: Sequence[int] | None
    num_images: int | None
    num_images_per_prompt: int
    micro: Mapping[str, Any] | None
    low_res: Any
    low_res_noise: int | None
    sampling: Any
    steps: int | None
    outer_steps: int | Mapping[str, int] | None
    sampler: str | Sampler | None
    eta: Any
    grid: Any
    threshold: str | Callable[[Any], Any] | None
    guidance: str | guidances.Guidance
    guidance_scale: float | Mapping[str, float] | None
    negative_prompts: str | Sequence[str] | Mapping[str, Any] | None
    guidance_interval: Sequence[float] | None
    guidance_rescale: Any
    autoguidance: Any
    split_guidance: bool
    reconstruction: float
    seed: int | Sequence[int]
    noise: Mapping[str, Any] | None
    init_image: Any
    strength: float | None
    mask: Any
    hold: Mapping[str, Any] | None
    stop_at: str | None
    weights: str
    batch_size: int
    jit_compile: bool
    output: str
    return_steps: int
    callback: Callable[[int, int, dict], None] | None
    progress: bool
    dry_run: bool
