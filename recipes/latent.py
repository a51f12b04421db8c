"""Latent diffusion, the paper's baseline: one level over the codes of an autoencoder.

    python recipes/latent.py
    python recipes/latent.py --factor 8
    python recipes/latent.py --data SOURCE --autoencoder kl-f4/model.ckpt --condition class

First comes the autoencoder: recipes/autoencoder.py, or with --autoencoder a file of the authors of
latent diffusion, a run or a file of ours, or hub:PRESET for the one of keras-hub's Stable Diffusion
(keras_mdm.latents.load_codec). Codes have about unit scale by channel. The network is that of the
innermost level; for factor 8 its codes are half as large, and it does not halve them after the
first block (appendix D.2): `resolutions=(32, 32, 16)`. Pictures are decoded before they are shown
and measured, and RUN/latent.keras holds both networks.

                    without arguments                   with --data SOURCE
    pictures        64                                  256
    codes           16 x 16 x 3; 8 x 8 x 4              64 x 64 x 3; 32 x 32 x 4 (appendix D.2)
    level           16; 8, not halved first             64; 32, not halved first: MDM-S64
    batch           32                                  256 with --condition class, 1024 with text
    steps           1200                                500K (appendix B, the phase at 256)
    data            251 Twemoji drawings (CC BY 4.0)    ImageNet; CC12M
    autoencoder     recipes/autoencoder.py, trained     kl-f4, kl-f8 (Rombach et al. 2022)
                    first unless it has run
    text            all-MiniLM-L6-v2, 32 tokens         FLAN-T5 XL with --text-encoder DIR, else
                                                        all-MiniLM-L6-v2; 128 tokens
    optimizer       Muon, clip 2; the rate falls        Adam (0.9, 0.99), 1e-4, 30K steps of
                    along half a cosine                 warm-up, clip 2, EMA 0.9999 (appendix B)
    sampling        DDPM, 10 steps, guidance 2          DDPM, 250 steps, guidance 2.5 with class,
                                                        7 with text; no threshold: codes have none
    hardware        2 CPU cores                         8 or 32 A100 in the paper; not run here
    hours           not run; 150 steps: 5 minutes on    not given in the paper, not run here
                    a core that other work shared
    paper's metric  -                                   figure 4, curves only: FID worse than MDM's

The paper says of its latent models only that they have the hyper-parameters of the other baselines;
the steps and batches here are those of the phase at 256.
recipes/README.md has the figures and times of what was run.
"""

import argparse
import subprocess
import sys
from functools import partial
from pathlib import Path

import keras_mdm as mdm
from shared import options
from shared.codes import FILE, Codes
from shared.plan import choose
from shared.scale import Scale
from shared.training import run, train

RESOLUTIONS = {4: (16, 8, 4), 8: (8, 8, 4)}
INNER = {
    "channels": (64, 128, 256),
    "blocks": (1, 1, 1),
    "attention": (0, 1, 1),
    "heads": 4,
    "attention_ffn": False,
}
PAPER_RESOLUTIONS = {4: (64, 32, 16), 8: (32, 32, 16)}
PAPER_INNER = {"channels": (256, 512, 768), "blocks": (2, 2, 2), "attention": (0, 1, 5)}
PAPER_BATCH = {"class": 256, "text": 1024, "none": 256}
PAPER_GUIDANCE = {"class": 2.5, "text": 7.0, "none": 1.0}
# A model of codes returns them without clipping.
NOTED = {"output": "float32"}


def small(factor: int, condition: str) -> Scale:
    """The numbers for two cores."""
    resolutions = RESOLUTIONS[factor]
    return Scale(
        phases=[
            mdm.Phase(
                [mdm.LevelSpec(resolutions[0], resolutions=resolutions, **INNER)],
                steps=1200,
                batch_size=32,
                learning_rate=1.5e-3,
                warmup_steps=50,
                final_learning_rate=0.05,
            )
        ],
        network={"text_blocks": 0} if condition == "text" else {},
        process={"threshold": "none", "ema_decay": 0.995, "loss_weighting": "min_snr"},
        guided_levels=1,
        sampling={"sampler": "ddpm", "steps": 10, "guidance_scale": 2.0, "batch_size": 64},
        optimizer=mdm.optimizers.Muon,
        tokens=32 if condition == "text" else 0,
        checkpoint_every=200,
        sample_every=300,
        noted=NOTED,
    )


def paper(factor: int, condition: str) -> Scale:
    """The paper's numbers."""
    resolutions = PAPER_RESOLUTIONS[factor]
    return Scale(
        phases=[
            mdm.Phase(
                [mdm.LevelSpec(resolutions[0], resolutions=resolutions, **PAPER_INNER)],
                steps=500_000,
                batch_size=PAPER_BATCH[condition],
                learning_rate=1e-4,
                warmup_steps=30_000,
            )
        ],
        network={},
        process={
            "schedule": "cosine",
            "prediction": "v",
            "loss_target": "v",
            "threshold": "none",
            "ema_decay": 0.9999,
        },
        guided_levels=1,
        sampling={
            "sampling": "paper",
            "threshold": "none",
            "guidance_scale": PAPER_GUIDANCE[condition],
            "batch_size": 4,
        },
        tokens=128 if condition == "text" else 0,
        checkpoint_every=1000,
        sample_every=10_000,
        validate_every=5000,
        noted=NOTED,
    )


def trained_autoencoder(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Path:
    """The run of the small autoencoder, which is trained now unless that was done."""
    directory = Path(arguments.run_dir).with_name(f"autoencoder_f{arguments.factor}")
    file = directory / mdm.latents.loading.RUN_FILE
    if file.is_file() or arguments.dry_run:
        return file
    if mdm.distribute.workers() > 1:
        parser.error("train the autoencoder first: python recipes/autoencoder.py")
    # In a process of its own: it trains under a strategy of its own.
    words = ["--factor", str(arguments.factor), "--run-dir", str(directory)]
    words += ["--dtype", arguments.dtype, "--seed", str(arguments.seed)]
    recipe = Path(__file__).with_name("autoencoder.py")
    print(f"First the autoencoder: {recipe.name} {' '.join(words)}", flush=True)
    done = subprocess.run([sys.executable, str(recipe), *words], check=False)
    if done.returncode or not file.is_file():
        sys.exit(done.returncode or "the autoencoder was not finished; the same command continues")
    return file


def opened(path: Path | str, factor: int) -> object:
    """The codec of a file; for a dry run before there is one, an untrained one in its place."""
    if Path(path).name == mdm.latents.loading.RUN_FILE and not Path(path).is_file():
        print(f"{path} will be trained first; codes of an untrained autoencoder stand in for its")
        ones = (1,) * (3 if factor == 4 else 4)
        return mdm.latents.KLAutoencoder(factor, width=32, multipliers=ones, blocks=1)
    return mdm.latents.load_codec(path)


def data_of(*given: object, autoencoder: Path | str, factor: int, condition: str) -> Codes:
    """The codes of a run; made late, since several workers have to connect first."""
    codec = opened(autoencoder, factor)
    if codec.factor != factor:
        raise ValueError(
            f"the autoencoder must have the run's factor. Received: {codec.factor}, --factor "
            f"{factor}. To fix it: pass --factor {codec.factor}, or another --autoencoder"
        )
    return Codes(*given, codec=codec, condition=condition)


def main() -> None:
    parser = options.picture_parser(__doc__, run_dir="runs/latent_f4")
    options.add_text(parser)
    options.add_start(parser)
    parser.add_argument(
        "--factor",
        type=int,
        choices=(4, 8),
        default=4,
        help="how many times smaller codes are than pictures (%(default)s)",
    )
    parser.add_argument(
        "--autoencoder",
        metavar="FILE|RUN|hub:PRESET",
        help="what makes the codes; without it and without --data, it is trained first",
    )
    parser.add_argument(
        "--condition", choices=("text", "class", "none"), default="text", help="(%(default)s)"
    )
    arguments = parser.parse_args()
    if arguments.run_dir == parser.get_default("run_dir"):
        arguments.run_dir = f"runs/latent_f{arguments.factor}"
    made = arguments.factor, arguments.condition
    scale = choose(parser, arguments, small(*made), paper(*made))
    if arguments.data and not arguments.autoencoder:
        parser.error("--data needs --autoencoder: a file, a run, or hub:PRESET")
    for option in ("text_encoder", "embeddings"):
        if arguments.condition != "text" and getattr(arguments, option):
            word = f"--{option.replace('_', '-')}"
            parser.error(
                f"{word} is about captions: leave it out with --condition {arguments.condition}"
            )
    path = arguments.autoencoder or trained_autoencoder(parser, arguments)
    # The channels of the network are those of the codes, see `Codes.conditions`.
    data = partial(
        data_of, autoencoder=path, factor=arguments.factor, condition=arguments.condition
    )
    train(
        arguments,
        scale,
        data,
        as_drawn=lambda data, model, run_dir: data.finished(model, run_dir),
        finished=FILE,
    )


if __name__ == "__main__":
    run(main)
