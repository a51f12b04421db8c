"""The autoencoder of latent models: trained once for a directory of experiments, on its pictures.

Its arithmetic is not in the budget of a latent model, as the paper takes published autoencoders.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

import keras_mdm as mdm
from shared.autoencoding import AutoencoderScale
from shared.experiments.fitting import Deadline
from shared.experiments.ledger import write
from shared.experiments.study import Study

FACTS = "reconstruction.json"


def miniature(whole: AutoencoderScale, replicas: int) -> AutoencoderScale:
    """Two steps of a narrow network: for rehearsals."""
    network = {"factor": whole.network["factor"], "width": 8, "blocks": 1, "groups": 4}
    changes: dict[str, Any] = {"steps": 2, "batch_size": 4 * replicas, "warmup_steps": 0}
    return dataclasses.replace(whole, network=network, **changes)


def trained(
    scale: AutoencoderScale,
    pictures: np.ndarray,
    identity: Any,
    run_dir: Path,
    strategy: Any,
    deadline: float | None = None,
) -> Any:
    """Train the autoencoder, or continue, or read the finished one.

    Args:
        scale: its numbers.
        pictures: uint8 (N, S, S, 3).
        identity: of the pictures.
        run_dir: of its run.
        strategy: the distribution strategy; the current one with `None`.
        deadline: see `Deadline`.
    """

    def make_model() -> Any:
        model = mdm.latents.KLAutoencoder(seed=0, **scale.network)
        model.compile(scale.optimizer(scale.rate(), clip_norm=2.0))
        return model

    return mdm.fit_autoencoder(
        make_model,
        lambda first_step: mdm.data.image_text_dataset(
            pictures, batch_size=scale.batch_size, seed=0, first_step=first_step
        ),
        lambda: pictures,
        steps=scale.steps,
        batch_size=scale.batch_size,
        run_dir=run_dir,
        data=identity,
        strategy=strategy,
        callbacks=[Deadline(deadline)],
        checkpoint_every=scale.checkpoint_every,
    )


def encoded(study: Study, size: int, codec: Any) -> Study:
    """The study of codes: a picture of `size` becomes one of `size // codec.factor`."""
    pictures = study.source.images[size]
    codes = np.concatenate([np.asarray(codec.encode(part), "float32") for part in parts(pictures)])
    return dataclasses.replace(study, codec=codec, codes={size // codec.factor: codes})


def measure(codec: Any, pictures: np.ndarray, distance: Any, run_dir: Path) -> None:
    """Say what the autoencoder itself loses, which no latent model can win back.

    Args:
        codec: the autoencoder.
        pictures: uint8 (N, S, S, 3).
        distance: function of pictures to a record with "kid", such as `Measure`.
        run_dir: of its run, where the facts are written.
    """
    file = run_dir / FACTS
    if not file.exists():
        found = [mdm.latents.to_pictures(codec, codec.encode(part)) for part in parts(pictures)]
        drawn = np.concatenate(found)
        squares = (drawn.astype("float32") - pictures) ** 2
        ratios = 10.0 * np.log10(255.0**2 / np.maximum(squares.mean((1, 2, 3)), 1e-3))
        facts = {"psnr": round(float(ratios.mean()), 3), **distance(drawn)}
        write(file, f"{json.dumps(facts, indent=1)}\n")
    print(f"autoencoder: {file.read_text().strip()}", flush=True)


def parts(values: np.ndarray) -> list[np.ndarray]:
    """Batches of an array."""
    return [values[first : first + 64] for first in range(0, len(values), 64)]
