"""Evaluate a model or pictures against real ones: all levels from one sampling pass."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.evaluation import report, samples
from keras_mdm.evaluation.efficientnet import EfficientNetLite0
from keras_mdm.evaluation.frames import network_of
from keras_mdm.evaluation.picture_sets import Measured, check_classes, enlarged, measured
from keras_mdm.evaluation.worth import Worth, enlarged_name, table_of_worth, worth_of
from keras_mdm.stages import levels_of


@dataclasses.dataclass(frozen=True)
class Report:
    """Result of `evaluate`.

    Attributes:
        about: the feature network, seeds, options and what was compared.
        rows: the numbers.
        worth: every level beside the enlarged level below it; empty without the kernel distance.
    """

    about: Mapping[str, Any]
    rows: Sequence[report.Row]
    worth: Sequence[Worth] = ()

    def __str__(self) -> str:
        parts = [f"features: {self.about['features']}", report.table(self.rows)]
        return "\n\n".join([*parts, *([self.summary] if self.verdicts else [])])

    @property
    def verdicts(self) -> list[str]:
        """What the comparison of levels with the enlarged level below says in words."""
        return [one.verdict for one in self.worth if one.verdict]

    @property
    def summary(self) -> str:
        """What every level is worth: a table, and the comparisons in words."""
        return "\n\n".join([table_of_worth(self.worth), "\n".join(self.verdicts)]).rstrip()

    def to_json(self) -> str:
        """The report as JSON."""
        about = {**self.about, "verdicts": self.verdicts}
        return report.as_json(about, self.rows, self.worth)

    def value(self, subject: str, measure: str) -> float:
        """A number by subject and name of the measure."""
        (row,) = (r for r in self.rows if (r.subject, r.measure) == (subject, measure))
        return row.value


def evaluate(
    drawn: Any,
    reference: Mapping[str, Any],
    *,
    request: samples.Request | None = None,
    directory: str | Path | None = None,
    features: Any = None,
    measures: Sequence[str] = ("kernel", "precision", "recall"),
    texts: Mapping[str, Any] | None = None,
    few: bool = False,
    progress: bool = True,
) -> Report:
    """Compare what a model draws, or pictures or clips, with real ones.

    A model draws all levels in one pass. Every level is compared with the real pictures of its
    size, and so is every level enlarged to the one above it: an outer level is worth its pixels if
    it is nearer to the real pictures than the enlargement. Levels with names such as `16x64` hold
    clips.

    Args:
        drawn: a `MatryoshkaDiffusion` or a `Cascade`, or {level: uint8 (n, H, W, 3), or
            (n, F, H, W, 3) for clips, or an iterable of these}.
        reference: {level: real pictures of its size, in the same forms, or `moments.Statistics`, or
            what `measured` made of them}.
        request: what a model draws.
        directory: where its pictures are kept; a later call continues there.
        features: a feature network of pictures or of clips; `EfficientNetLite0` by default. What a
            level of the other kind is seen by, `frames.network_of` says.
        measures: "kernel" (the unbiased squared MMD with the cubic kernel, KID), "frechet" (FID;
            of clips, FVD), "precision", "recall", "density", "coverage", "inception-score".
        texts: by level, how well what a model draws fits its prompts is measured
            (`fit_text_measure`, or `ClipFeatures.score_of`).
        few: accept fewer pictures than a measure needs (`report.LEAST`).
        progress: show a progress bar.

    Returns:
        A `Report`; its `str` is a table.

    Raises:
        ValueError: before anything is drawn, if the levels or the numbers of pictures do not fit.

    Example:

    >>> class Mean:
    ...     name, width = "mean colour", 3
    ...     def __call__(self, images):
    ...         return images.mean((1, 2)).astype("float32") / 100
    >>> images = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3)).astype("uint8")
    >>> found = evaluate({"8": images[:150]}, {"8": images[150:]}, features=Mean())
    >>> abs(found.value("8", "kernel distance x 1000")) < 1
    True

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 4.1.
    """
    if not measures and not texts:
        raise checks.error("`measures` must name at least one", fix="pass one", measures=measures)
    report.check_enough(measures, {}, few=few)
    if not isinstance(drawn, Mapping):
        if request is None or directory is None:
            raise checks.error(
                "a model needs a request and a directory for its pictures",
                fix="pass request=samples.Request(count=...) and directory=...",
                request=request,
                directory=directory,
            )
        check(drawn, measures, [request], few=few)
    known = list(drawn) if isinstance(drawn, Mapping) else list(levels_of(drawn))
    levels = [level for level in known if level in reference]
    if not levels:
        raise checks.error(
            "there must be real pictures of at least one level",
            fix="pass reference={level: pictures}",
            reference=sorted(reference),
            drawn=known,
        )
    features = features or EfficientNetLite0()
    networks = {level: network_of(features, level) for level in levels}
    classes = report.CLASSES in measures
    for network in networks.values() if classes else ():
        check_classes(network)
    real = {level: measured(networks[level], reference[level], classes=classes) for level in levels}
    for level in levels:
        report.check_enough(measures, {f"real[{level!r}]": real[level].statistics.count}, few=few)
    about: dict[str, Any] = {}
    if request is None or directory is None or isinstance(drawn, Mapping):
        found = {n: measured(networks[n], drawn[n], classes=classes) for n in levels}
    else:
        batches = samples.draw(drawn, request, directory, progress=progress)
        found = _of_batches(networks, batches, known, texts or {}, classes)
        about = {"seed": request.seed, "options": {k: str(v) for k, v in request.options.items()}}
    return _report(found, real, networks, measures, few, about)


def check(
    model: Any,
    measures: Sequence[str],
    requests: Iterable[samples.Request],
    *,
    few: bool = False,
    networks: Iterable[Any] = (),
) -> None:
    """Raise if a model cannot be measured in this way, before anything is read or drawn.

    Args:
        model: the model.
        measures: as for `evaluate`.
        requests: what it would draw.
        few: as for `evaluate`.
        networks: the feature networks of its levels.
    """
    samples.check_model(model)
    for network in networks if report.CLASSES in measures else ():
        check_classes(network)
    for request in requests:
        report.check_enough(measures, {"count": request.count}, few=few)


def _of_batches(
    networks: Mapping[str, Any],
    batches: Iterable[Mapping[str, np.ndarray]],
    levels: Sequence[str],
    texts: Mapping[str, Any],
    classes: bool,
) -> dict[str, Measured]:
    """Statistics by subject: the levels, and the levels enlarged to the next."""
    found: dict[str, Measured] = {}

    def add(subject: str, images: np.ndarray) -> None:
        level = subject.rsplit(" ", 1)[-1]
        if subject not in found:
            found[subject] = Measured(networks[level], text=texts.get(level), classes=classes)
        found[subject].add(images)

    for batch in batches:
        for number, level in enumerate(levels):
            if level not in networks:
                continue
            add(level, batch[level])
            if number:
                below = levels[number - 1]
                *frames, height, width, _ = batch[level].shape[1:]
                add(
                    enlarged_name(below, level),
                    enlarged(batch[below], height, width, *frames),
                )
    return found


def _report(
    found: Mapping[str, Measured],
    real: Mapping[str, Measured],
    networks: Mapping[str, Any],
    measures: Sequence[str],
    few: bool,
    about: Mapping[str, Any],
) -> Report:
    floors = {level: report.floors_of(r.statistics, measures) for level, r in real.items()}
    rows: list[report.Row] = []
    for subject, one in found.items():
        level = subject.rsplit(" ", 1)[-1]
        other = real[level]
        rows += report.measure(
            subject,
            one.statistics,
            other.statistics,
            networks[level],
            measures=measures,
            floors=floors[level],
            few=few,
        )
        rows += one.rows(subject, other)
    about = {
        "features": "; ".join(dict.fromkeys(network.name for network in networks.values())),
        "fingerprints": {
            "drawn": {subject: one.statistics.fingerprint for subject, one in found.items()},
            "real": {level: one.statistics.fingerprint for level, one in real.items()},
        },
        **about,
    }
    distances = {report.name_of("kernel", network) for network in networks.values()}
    return Report(about, rows, worth_of(rows, distances))
