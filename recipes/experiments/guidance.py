"""Figure 8c: classifier-free guidance trades likeness to the data for fit of the prompts.

    python recipes/experiments/guidance.py

The finished MDM of figure 4 draws the same prompts from the same noise at each guidance scale, with
the shares of the quickstart. The paper has FID against CLIP score, zero-shot on COCO; here it is
the kernel distance against R-precision: how often a picture fits its own prompt better than 99
others, by a retrieval scorer that is trained on the real drawings.
"""

import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cc12m_256  # noqa: E402
import emoji_text_to_image  # noqa: E402
import keras_mdm as mdm  # noqa: E402
from shared.experiments import output, trainings  # noqa: E402
from shared.experiments.driver import Experiment, Loop, Variant, run  # noqa: E402
from shared.experiments.ledger import Ledger, write  # noqa: E402
from shared.experiments.setting import spread  # noqa: E402
from shared.scale import Scale  # noqa: E402
from shared.training import run as guarded  # noqa: E402

NAME = "guidance"
SCALES = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)


def variants(base: Scale) -> list[Variant]:
    """The one training of this experiment."""
    return [Variant("mdm", trainings.progressive(base), "MDM")]


def draw_all(loop: Loop, made: list[Variant]) -> None:
    """Draw with every seed's model at all scales."""
    measure, source = loop.measure, loop.data.source
    text = mdm.evaluation.fit_text_measure(
        measure.features,
        loop.data.encoder,
        source.largest,
        source.captions,
        list(measure.subjects.prompts),
    )
    for variant in made:
        for seed in loop.seeds:
            keys = {w: (NAME, f"{variant.name}, guided", seed, f"guidance {w:g}") for w in SCALES}
            missing = [w for w, key in keys.items() if key not in loop.ledger]
            if not missing:
                continue
            model = mdm.load(loop.model_file(variant.training, seed))
            model.text_encoder = loop.data.encoder
            for scale in missing:
                loop.require_time()
                images = measure.draw(model, guidance_scale=scale)
                values = mdm.evaluation.moments.features_of(measure.features, images)
                fit = text.score(values)
                names = ("experiment", "variant", "seed", "checkpoint")
                record = {
                    **dict(zip(names, keys[scale], strict=True)),
                    "training": f"{variant.training.name}, guided",
                    "digest": variant.training.digest(),
                    "guidance": scale,
                    "r_precision": round(float(fit.value), 5),
                    "r_precision_error": round(float(fit.standard_error), 5),
                    "r_precision_real": round(float(text.real), 5),
                    "others": text.others,
                    **measure(images),
                }
                loop.ledger.add(record)
                print(f"seed {seed}, guidance {scale:g}: {record['kid']}", flush=True)


def report(ledger: Ledger, directory: Path) -> None:
    """Write the curve, and print its table."""
    records = [record for record in ledger.of(NAME) if "guidance" in record]
    if not records:
        return
    dots, rows = [], []
    for scale in SCALES:
        own = [record for record in records if record["guidance"] == scale]
        if not own:
            continue
        found = {}
        for name in ("kid", "r_precision"):
            mean, error = spread([record[name] for record in own])
            found[name] = (mean, own[0][f"{name}_error"] if math.isnan(error) else error)
        (kid, kid_error), (fit, fit_error) = found["kid"], found["r_precision"]
        dots.append(mdm.evaluation.chart.Dot(fit, kid, fit_error, kid_error, f"{scale:g}"))
        rows.append({"guidance": scale, "seeds": len(own), **found})
        print(f"guidance {scale:g}: {kid:.1f} +- {kid_error:.1f}, {fit:.3f} +- {fit_error:.3f}")
    write(directory / f"{NAME}-sweep.json", f"{json.dumps({'rows': rows}, indent=1)}\n")
    label = f"R-precision of {records[0]['others'] + 1}"
    picture = mdm.evaluation.chart.chart(
        {"MDM": dots}, label, output.DISTANCE, note="Figure 8c; at the points: guidance"
    )
    write(directory / f"{NAME}-sweep.svg", picture)


EXPERIMENT = Experiment(
    name=NAME,
    title="Figure 8c, guidance",
    variants=variants,
    base=emoji_text_to_image.SCALE,
    paper=cc12m_256.paper(2),
    then=draw_all,
    report=report,
)


def main() -> None:
    run(EXPERIMENT, __doc__)


if __name__ == "__main__":
    guarded(main)
