"""What each choice of the small recipes is worth: one change at a time from the MDM of figure 4.

    python recipes/experiments/ablations.py

    mixed-no        every sample at all levels, instead of a third at 16 only
    mixed-half      half of the samples at 16 only
    plain-output    outer levels predict v itself, as in the paper, instead of relative to a Wiener
                    estimate around the level below; so there is no learned deviation either
    paper-level     besides, the outer level does not see the level below
    shift           SNR / s^2 at higher levels, as in the paper; ours is SNR / s, as in the release
                    of 256
    eps-target      the loss compares eps, as in the release, instead of v
    levels-3        16, 32 and 64
    levels-3-plain  the same without the Wiener estimate, at both outer levels

With --scale paper the base is the paper's: there the shift is that of the release, and the rows
without the Wiener estimate have it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dataclasses  # noqa: E402

import cc12m_256  # noqa: E402
import emoji_text_to_image  # noqa: E402
import keras_mdm as mdm  # noqa: E402
from shared.experiments import trainings  # noqa: E402
from shared.experiments.driver import Experiment, Variant, run  # noqa: E402
from shared.experiments.planning import Training  # noqa: E402
from shared.scale import Scale, paper_level  # noqa: E402
from shared.training import run as guarded  # noqa: E402


def variants(base: Scale) -> list[Variant]:
    """The rows of the table."""
    low, high = base.phases[-1].level_names
    nested = base.phases[-1]

    def mixed(shares: bool | dict[str, float]) -> mdm.Phase:
        return dataclasses.replace(nested, mixed=shares)

    def phases(name: str, shares: bool | dict[str, float]) -> Training:
        scale = dataclasses.replace(base, phases=[*base.phases[:-1], mixed(shares)])
        return trainings.progressive(scale, name)

    wiener = bool(base.process.get("residual"))
    plain = {"residual": not wiener}
    output = "v instead of the residual" if wiener else "residual instead of v"
    power = 3.0 - base.process.get("shift_power", 2.0)
    made = {
        "mdm": (trainings.progressive(base), "MDM"),
        "mixed-no": (phases("mixed-no", False), "not mixed"),
        "mixed-half": (phases("mixed-half", {low: 0.5, high: 0.5}), "half at low resolution only"),
        "plain-output": (
            trainings.with_levels(base, "plain-output", trainings.paper_output, **plain),
            output,
        ),
        "paper-level": (
            trainings.with_levels(base, "paper-level", paper_level, **plain),
            f"{output}, level below not seen",
        ),
        "shift": (trainings.changed(base, "shift", shift_power=power), f"shift power {power:g}"),
        "eps-target": (trainings.changed(base, "eps-target", loss_target="eps"), "loss of eps"),
        "levels-3": (trainings.three_levels(base), "3 levels"),
        "levels-3-plain": (
            trainings.three_levels(
                trainings.with_levels(base, "", trainings.paper_output).stages[0].scale,
                "levels-3-plain",
                **plain,
            ),
            f"3 levels, {output}",
        ),
    }
    if not wiener:  # the paper's levels are such levels already
        del made["paper-level"]
    return [Variant(name, training, what) for name, (training, what) in made.items()]


EXPERIMENT = Experiment(
    name="ablations",
    title="Ablations",
    variants=variants,
    base=emoji_text_to_image.SCALE,
    paper=cc12m_256.paper(2),
)


def main() -> None:
    run(EXPERIMENT, __doc__)


if __name__ == "__main__":
    guarded(main)
