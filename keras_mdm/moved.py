"""Former paths of modules: importing an old path gives the module's successor."""

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "callbacks.checkpoint": "runs.writer",
    "callbacks.clips": "pictures.playing",
    "callbacks.images": "pictures.grids",
    "cli.quiet": "quiet",
    "data.animated_emoji": "data.emoji.animated",
    "data.beam": "data.pictures.beam",
    "data.catalogue": "data.emoji.catalogue",
    "data.clip_opening": "data.clips.opening",
    "data.clip_reader": "data.clips.reader",
    "data.clip_rule": "data.clips.rule",
    "data.clip_shards": "data.clips.shards",
    "data.folder": "data.pictures.folder",
    "data.image_rule": "data.pictures.rule",
    "data.image_shards": "data.pictures.shards",
    "data.images": "data.pictures.dataset",
    "data.mixing": "data.order.mixing",
    "data.motions": "data.emoji.motions",
    "data.moving_emoji": "data.emoji.moving",
    "data.picture_files": "data.pictures.files",
    "data.pipeline": "data.order.pipeline",
    "data.rasterise": "data.emoji.rasterise",
    "data.simple_concepts": "data.emoji.simple_concepts",
    "data.video_frames": "data.clips.frames",
    "data.video_tables": "data.clips.tables",
    "data.videos": "data.clips.files",
    "data.workers": "data.order.workers",
    "describe": "costs.describe",
    "estimate": "costs.estimate",
    "models.unallocated": "costs.unallocated",
    "optimizers.named_state": "named_arrays",
    "pixels": "pictures.pixels",
    "progressive": "runs.progressive",
    "training.averages": "averages.averages",
    "training.checkpoints": "runs.checkpoints",
    "training.conditions": "conditioning.conditions",
    "training.ema": "averages.ema",
    "training.finite": "finite",
    "training.generation": "sampling.generate",
    "training.graphs": "sampling.graphs",
    "training.guiding": "sampling.guiding",
    "training.learning_rates": "optimizers.learning_rates",
    "training.level_process": "diffusion.joint_process",
    "training.low_res": "conditioning.low_res",
    "training.model_file": "averages.model_file",
    "training.nulls": "conditioning.nulls",
    "training.power_ema": "averages.power_ema",
    "training.prompting": "sampling.prompts",
    "training.randomness": "randomness",
    "training.recompute": "models.recompute",
    "training.run_directory": "runs.directory",
    "training.sampling": "sampling.denoiser",
    "training.sampling_graph": "sampling.graph",
    "training.snapshot": "runs.snapshot",
    "training.starting": "sampling.starting",
}

# Names that moved elsewhere than the rest of their module.
LEFT = {"keras_mdm.training.power_ema": {"reconstruct": "keras_mdm.runs.reconstruct"}}


class _OldPaths:
    """Finds and loads the modules that `MOVED` lists."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: Any = None
    ) -> ModuleSpec | None:
        package, _, inner = name.partition(".")
        if package != "keras_mdm" or inner not in MOVED:
            return None
        return ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"keras_mdm.{MOVED[spec.name.partition('.')[2]]}")
        spec.loader_state = module.__spec__
        for name, home in LEFT.get(spec.name, {}).items():
            setattr(module, name, getattr(importlib.import_module(home), name))
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has put the old path into it.
        module.__spec__ = module.__spec__.loader_state


def follow_moved() -> None:
    """Make the old paths importable."""
    if not any(isinstance(finder, _OldPaths) for finder in sys.meta_path):
        sys.meta_path.append(_OldPaths())
