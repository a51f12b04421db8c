"""Figure 4: simple, cascaded and Matryoshka models at equal training FLOPs.

    python recipes/experiments/convergence.py
    python recipes/experiments/convergence.py --scale paper

All variants have the same blocks, optimizer, loss options, sampler, data and measure. Where the
nest has several levels, the simple model has one plain UNet with the same blocks, and so has the
cascade's upsampler, which besides sees the small picture. The nest's own options that need a level
below (residual output, learned deviation, view of the level below) are those of the quickstart.

    simple                plain UNet at 64
    nested-highest-only   the nest with the loss of 64 alone, and the paper's output of v itself,
                          as nothing can be relative to a level that has no loss
    cascaded              16 as in the nest's first phase, and an upsampler with noise augmentation;
                          drawn with noise 100 and 500, at the end 1, 100, 500, 700 and 1000: the
                          best counts
    latent-f4             the nest's innermost network on codes of an autoencoder, which is trained
                          first on the same pictures, outside the budget
    mdm-at-once           all levels from the first step
    mdm                   16 first, then both: progressive training

The paper measures FID on ImageNet and CC12M; here it is the
kernel distance on drawings. docs/results.md has the results.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import autoencoder  # noqa: E402
import emoji_text_to_image  # noqa: E402
import imagenet_256  # noqa: E402
from shared.experiments import trainings  # noqa: E402
from shared.experiments.driver import Experiment, Variant, run  # noqa: E402
from shared.scale import Scale  # noqa: E402
from shared.training import run as guarded  # noqa: E402


def variants(base: Scale) -> list[Variant]:
    """The lines of the figure."""
    return [
        Variant("mdm", trainings.progressive(base), "MDM"),
        Variant("mdm-at-once", trainings.at_once(base), "MDM, not progressive"),
        Variant("simple", trainings.simple(base), "simple DM"),
        Variant("latent-f4", trainings.latent(base), "latent DM"),
        Variant("cascaded", trainings.cascaded(base), "cascaded DM"),
        Variant("nested-highest-only", trainings.highest_only(base), "nest, highest loss only"),
    ]


EXPERIMENT = Experiment(
    name="convergence",
    title="Figure 4, convergence",
    variants=variants,
    base=emoji_text_to_image.SCALE,
    paper=imagenet_256.PAPER,
    autoencoders=autoencoder.SMALL,
)


def main() -> None:
    run(EXPERIMENT, __doc__)


if __name__ == "__main__":
    guarded(main)
