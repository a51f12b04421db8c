"""The training of an autoencoder, from its numbers and data to a file and what it loses."""

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

import keras_mdm as mdm
from shared import forecast, machine

SHOWN = 16
SPLITS = ("train", "validation")
# Pictures on which the scale of the codes is measured, and of those held out at most.
MEASURED, HELD_OUT = 2048, 1024
# Files of which none can be held out, and of which a thousandth is enough.
FEW, MANY = 100, 10_000


@dataclasses.dataclass(frozen=True)
class AutoencoderScale:
    """The numbers of the training of an autoencoder.

    Args:
        size: side of the pictures.
        steps: optimizer steps.
        batch_size: pictures per step.
        network: options of `KLAutoencoder`.
        learning_rate: of the optimizer, after `warmup_steps`.
        warmup_steps: steps of linear warm-up.
        final_learning_rate: share of the rate at the end of a half cosine; constant unless given.
        optimizer: makes the optimizer from a learning rate.
        checkpoint_every: steps between checkpoints.
    """

    size: int
    steps: int
    batch_size: int
    network: Mapping[str, Any]
    learning_rate: float
    warmup_steps: int
    final_learning_rate: float | None = None
    optimizer: Callable[..., mdm.optimizers.Optimizer] = mdm.optimizers.Adam
    checkpoint_every: int = 200

    def changed(self, arguments: argparse.Namespace) -> "AutoencoderScale":
        """The numbers that options name."""
        given = {"steps": "steps", "batch": "batch_size", "size": "size"}
        found = {field: getattr(arguments, option, None) for option, field in given.items()}
        return dataclasses.replace(self, **{k: v for k, v in found.items() if v is not None})

    def rate(self) -> keras.optimizers.schedules.LearningRateSchedule:
        """The learning rate by step."""
        phase = mdm.Phase(
            [self.size],
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
            final_learning_rate=self.final_learning_rate,
        )
        return phase.learning_rate_schedule()


class Drawings:
    """All embedded drawings, of which a tenth is held out by concept."""

    def __init__(self, size: int, seed: int):
        self.seed = seed
        train, held_out = (mdm.data.load_emoji(size, split=part) for part in SPLITS)
        self.train, self.held_out, self.identity = train.largest, held_out.largest, train.identity
        print(
            f"Small run on the built-in default: {len(train)} Twemoji drawings (CC BY 4.0, "
            f"Twitter and contributors), {len(held_out)} held out"
        )

    def batches(self, batch_size: int, first_step: int) -> tf.data.Dataset:
        """Endless batches from a step on."""
        given = {"batch_size": batch_size, "seed": self.seed, "first_step": first_step}
        return mdm.data.image_text_dataset(self.train, **given)

    def some(self) -> np.ndarray:
        """Pictures of the training, for the scale of the codes."""
        return self.train[:MEASURED]

    def kept(self) -> np.ndarray:
        """Pictures that the training does not see."""
        return self.held_out


class Files:
    """Pictures in files, of which one in twenty is held out, of many one in a thousand as in
    appendix E."""

    def __init__(self, arguments: argparse.Namespace, size: int):
        whole = mdm.data.open_images(arguments.data, max_skipped=arguments.max_skipped)
        if len(whole) < FEW:
            self.source = held = whole
            said = "too few to hold any out, so measured on all"
        else:
            share = 1e-3 if len(whole) >= MANY else 0.05
            self.source, held = (mdm.data.split(whole, part, share=share) for part in SPLITS)
            said = f"{len(held)} held out"
        self.held, self.seed = held, arguments.seed
        self.rule = mdm.data.ImageRule(size, flip=arguments.flip)
        print(f"{len(self.source)} pictures of {arguments.data}, {said}")

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must find unchanged."""
        return {**self.source.identity, "size": self.rule.size, "flip": self.rule.flip}

    def batches(self, batch_size: int, first_step: int) -> tf.data.Dataset:
        """Endless batches from a step on."""
        given = {"batch_size": batch_size, "seed": self.seed, "first_step": first_step}
        return mdm.data.image_dataset(self.source, self.rule, **given)

    def some(self) -> np.ndarray:
        """Pictures of the training, for the scale of the codes."""
        return self._read(self.source, MEASURED)

    def kept(self) -> np.ndarray:
        """Pictures that the training does not see; of a small set, its first ones."""
        return self._read(self.held, HELD_OUT)

    def _read(self, source: Any, count: int) -> np.ndarray:
        count = min(count, len(source))
        given = {"batch_size": min(32, len(source)), "seed": self.seed}
        made = mdm.data.image_dataset(source, self.rule, **given)
        batches = made.take(-(-count // given["batch_size"]))  # the last one may begin anew
        return np.concatenate([batch["image"].numpy() for batch in batches])[:count]


def train(
    arguments: argparse.Namespace, scale: AutoencoderScale, strategy: Any = None
) -> Path | None:
    """Train an autoencoder, say what it loses on held-out pictures, and show some.

    Args:
        arguments: of the recipe.
        scale: its numbers.
        strategy: to train under; that of the machine unless given.

    Returns:
        The file of the autoencoder; `None` with --dry-run.
    """
    keras.config.set_dtype_policy(arguments.dtype)
    strategy = strategy or machine.strategy(arguments)
    small = arguments.data is None
    data = Drawings(scale.size, arguments.seed) if small else Files(arguments, scale.size)

    def make_model() -> Any:
        model = mdm.latents.KLAutoencoder(seed=arguments.seed, **scale.network)
        model.compile(scale.optimizer(scale.rate(), clip_norm=2.0))
        return model

    if arguments.dry_run:
        describe(arguments, scale, make_model(), data)
        return None
    run_dir = Path(arguments.run_dir)
    forecast.say_autoencoder(
        arguments,
        make_model(),
        size=scale.size,
        steps=scale.steps,
        batch_size=scale.batch_size,
        devices=getattr(strategy, "num_replicas_in_sync", 1),
    )
    model = mdm.fit_autoencoder(
        make_model,
        lambda first_step: data.batches(scale.batch_size, first_step),
        data.some,
        steps=scale.steps,
        batch_size=scale.batch_size,
        run_dir=run_dir,
        fresh=arguments.fresh,
        data=data.identity,
        strategy=strategy,
        checkpoint_every=scale.checkpoint_every,
        arguments=vars(arguments),
    )
    finish(model, data.kept(), run_dir)
    return run_dir / mdm.latents.loading.RUN_FILE


def describe(arguments: argparse.Namespace, scale: AutoencoderScale, model: Any, data: Any) -> None:
    """Print what a run would do."""
    facts = {
        "arguments": vars(arguments),
        "data": data.identity,
        "steps": scale.steps,
        "batch_size": scale.batch_size,
        "network": model.get_config(),
        "parameters": model.count_params(),
        "codes": [scale.size // model.factor] * 2 + [model.channels],
    }
    print(json.dumps(facts, default=str))


def finish(model: Any, pictures: np.ndarray, run_dir: Path) -> None:
    """Compare held-out pictures with their reconstructions, and show the first beside them."""
    parts = [pictures[first : first + 32] for first in range(0, len(pictures), 32)]
    codes = [model.encode(part) for part in parts]
    found = np.concatenate([mdm.latents.to_pictures(model, part) for part in codes])
    features = mdm.evaluation.EfficientNetLite0()
    measured = mdm.evaluation.reconstruction(pictures, found, features=features)
    floor = mdm.evaluation.real_floor(features(pictures)) if len(pictures) > 5 else None
    (run_dir / "reconstruction.txt").write_text(f"{measured}\n")
    # Spread over the set, which may be in the order of its classes.
    rows = np.unique(np.linspace(0, len(pictures) - 1, SHOWN).astype(int))
    both = np.concatenate([pictures[rows], found[rows]])
    picture = mdm.callbacks.image_grid(both, columns=len(rows))
    Image.fromarray(picture).save(run_dir / "reconstructions.png")
    print(f"\nPictures and their reconstructions:\n\n{measured}")
    if floor is not None:
        print(f"\nOne half of the pictures from the other: {floor}")
    print(f"\nPicture      {run_dir / 'reconstructions.png'}")
    print(f"Autoencoder  {run_dir / mdm.latents.loading.RUN_FILE}")
