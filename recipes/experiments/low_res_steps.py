"""Figure 8a: how long the low resolution is trained before the others are added.

    python recipes/experiments/low_res_steps.py

The paper trains the low resolution longer and the rest as before. Here the whole budget is the
same, so what the first phase gets, the second one loses. Factor 1 is the quickstart's first phase,
a third of the budget.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import emoji_text_to_image  # noqa: E402
import imagenet_256  # noqa: E402
from shared.experiments import trainings  # noqa: E402
from shared.experiments.driver import Experiment, Variant, run  # noqa: E402
from shared.scale import Scale  # noqa: E402
from shared.training import run as guarded  # noqa: E402

FACTORS = (0.0, 0.5, 1.0, 1.5, 2.0)


def variants(base: Scale) -> list[Variant]:
    """The lines of the figure."""
    found = []
    for factor in FACTORS:
        name = "mdm" if factor == 1.0 else f"low-res-{factor:g}"
        made = trainings.with_low_steps(base, name, factor)
        steps = round(base.phases[0].steps * factor)
        found.append(Variant(name, made, f"{steps} low-resolution steps"))
    return found


EXPERIMENT = Experiment(
    name="low_res_steps",
    title="Figure 8a, low-resolution training",
    variants=variants,
    base=emoji_text_to_image.SCALE,
    paper=imagenet_256.PAPER,
)


def main() -> None:
    run(EXPERIMENT, __doc__)


if __name__ == "__main__":
    guarded(main)
