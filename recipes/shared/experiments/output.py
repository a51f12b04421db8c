"""What an experiment writes: all numbers as CSV, their means over the seeds as JSON and as a table,
and figures against FLOPs and against seconds."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_mdm as mdm
from shared.experiments.ledger import Ledger, write
from shared.experiments.planning import plan
from shared.experiments.setting import spread
from shared.experiments.trainings import progressive

COLUMNS = (
    *("experiment", "variant", "seed", "checkpoint", "step", "flop", "seconds"),
    *("kid", "kid_error", "best", "floor", "drawn", "real"),
    *("guidance", "r_precision", "r_precision_error"),
)
DISTANCE = "kernel distance x 1000, EfficientNet-Lite0"


def write_all(experiment: Any, variants: Sequence[Any], ledger: Ledger, directory: Path) -> None:
    """Write the files of an experiment, as far as it has got, and print its table."""
    records = ledger.of(experiment.name)
    if not records:
        return
    found = summary(records, [variant.name for variant in variants])
    stem = directory / experiment.name
    write(stem.with_suffix(".csv"), as_csv(records))
    write(stem.with_suffix(".json"), f"{json.dumps({'rows': found}, indent=1)}\n")
    words = {variant.name: variant.what for variant in variants}
    for against, unit, label in (
        ("flop", 1e12, "training, TFLOP"),
        ("seconds", 60.0, "training, minutes"),
    ):
        lines = lines_of(found, words, against, unit)
        if lines:
            picture = mdm.evaluation.chart.chart(lines, label, DISTANCE, note=experiment.title)
            write(directory / f"{experiment.name}-{against}.svg", picture)
    print(f"\n{as_table(found, words)}\n\n{stem}.csv, .json, -flop.svg, -seconds.svg", flush=True)


def summary(records: Sequence[Mapping[str, Any]], order: Sequence[str]) -> list[dict[str, Any]]:
    """Means over the seeds for every variant and checkpoint.

    The error is the standard error over the seeds; of a single seed, that of the distance itself,
    which says nothing about another training.
    """
    groups: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["variant"], record["checkpoint"]), []).append(record)
    rows = []
    for variant, share in sorted(
        (key for key in groups if key[0] in order), key=lambda key: (order.index(key[0]), key[1])
    ):
        group = groups[variant, share]
        mean, error = spread([each["kid"] for each in group])
        if math.isnan(error):
            error = group[0]["kid_error"]
        seconds = [each["seconds"] for each in group if each["seconds"] is not None]
        rows.append(
            {
                "variant": variant,
                "checkpoint": share,
                "seeds": len(group),
                "kid": round(mean, 3),
                "error": round(error, 3),
                "flop": sum(each["flop"] for each in group) / len(group),
                "seconds": round(spread(seconds)[0], 1) if seconds else None,
            }
        )
    return rows


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """All records of an experiment."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", restval="")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def lines_of(
    rows: Sequence[Mapping[str, Any]], words: Mapping[str, str], against: str, unit: float
) -> dict[str, list[Any]]:
    """The lines of a figure: variants in words, to their points."""
    lines: dict[str, list[Any]] = {}
    for row in rows:
        if row[against] is not None:
            dot = mdm.evaluation.chart.Dot(row[against] / unit, row["kid"], y_error=row["error"])
            lines.setdefault(words[row["variant"]], []).append(dot)
    return lines


def as_table(rows: Sequence[Mapping[str, Any]], words: Mapping[str, str]) -> str:
    """The means as a Markdown table, a column for each checkpoint."""
    shares = sorted({row["checkpoint"] for row in rows})
    head = " | ".join(f"{100 * share:g} % of the FLOPs" for share in shares)
    lines = [f"| | {head} | minutes | seeds |", "|---" * (len(shares) + 3) + "|"]
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = {row["checkpoint"]: row for row in rows if row["variant"] == name}
        cells = [
            f"{own[share]['kid']:.1f} +- {own[share]['error']:.1f}" if share in own else ""
            for share in shares
        ]
        last = own[max(own)]
        minutes = "" if last["seconds"] is None else f"{last['seconds'] / 60:.1f}"
        lines.append(f"| {words[name]} | {' | '.join(cells)} | {minutes} | {last['seeds']} |")
    return "\n".join(lines)


def print_paper(experiment: Any) -> None:
    """State the paper's full setting of every variant, at equal FLOPs; nothing is trained."""
    base = experiment.paper
    conditions = {"text_width": 2048} if base.tokens else {"num_classes": 1000}
    given = {"tokens": base.tokens, "conditions": conditions}
    budget = float(plan(progressive(base), budget=None, **given)[-1][-1].after)
    print(f"{experiment.title}: the paper's setting, {budget / 1e18:.4g} EFLOP per training.")
    print("Nothing is trained without --rehearse N.\n")
    head = ("variant", "levels", "steps", "batch, by highest level", "TFLOP per step", "changes")
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for variant in experiment.variants(base):
        planned = plan(variant.training, budget=budget, **given)
        for number, (stage, phases) in enumerate(
            zip(variant.training.stages, planned, strict=True)
        ):
            changes = {k: v for k, v in stage.scale.process.items() if base.process.get(k) != v}
            for each in phases:
                phase = each.phase
                groups = ", ".join(f"{level}: {rows}" for level, rows in phase.groups.items())
                cells = [
                    variant.what if not number else f"{variant.what}, upsampler",
                    ", ".join(phase.level_names),
                    str(phase.steps),
                    groups,
                    f"{each.flop / 1e12:.4g}",
                    ", ".join(f"{key} {value}" for key, value in changes.items()),
                ]
                print(f"| {' | '.join(cells)} |")
    print(f"\n{base.optimizer.__name__}; process {json.dumps(dict(base.process))}")
    print(f"drawn with {json.dumps(dict(base.sampling))}")
