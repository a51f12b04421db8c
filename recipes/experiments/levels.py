"""Figure 8b: the number of nested levels.

    python recipes/experiments/levels.py

One level is the simple model of figure 4, two are 16 and 64, three are 16, 32 and 64. The third
level divides the blocks of the second, as in the paper's appendix A. The paper's figure is of CLIP
scores on CC12M.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cc12m_256  # noqa: E402
import emoji_text_to_image  # noqa: E402
from shared.experiments import trainings  # noqa: E402
from shared.experiments.driver import Experiment, Variant, run  # noqa: E402
from shared.scale import Scale  # noqa: E402
from shared.training import run as guarded  # noqa: E402


def variants(base: Scale) -> list[Variant]:
    """The lines of the figure."""
    return [
        Variant("levels-1", trainings.simple(base), "1 level"),
        Variant("levels-2", trainings.progressive(base), "2 levels"),
        Variant("levels-3", trainings.three_levels(base), "3 levels"),
    ]


EXPERIMENT = Experiment(
    name="levels",
    title="Figure 8b, nested levels",
    variants=variants,
    base=emoji_text_to_image.SCALE,
    paper=cc12m_256.paper(2),
)


def main() -> None:
    run(EXPERIMENT, __doc__)


if __name__ == "__main__":
    guarded(main)
