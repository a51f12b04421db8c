"""What Prometheus reads of a server."""

from collections.abc import Mapping
from typing import Any

from keras_mdm.serving.extra import needed

_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300)
_OUTCOMES = ("done", "failed", "cancelled", "refused")


class Metrics:
    """Counts of one server, in a registry of its own.

    Args:
        batch: the most pictures in a batch.

    Raises:
        ValueError: if prometheus-client is not installed.
    """

    def __init__(self, batch: int):
        with needed():
            from prometheus_client import (
                CollectorRegistry,
                Counter,
                Gauge,
                Histogram,
                PlatformCollector,
                ProcessCollector,
            )
        self._registry = CollectorRegistry()
        own: Mapping[str, Any] = {"registry": self._registry, "namespace": "keras_mdm"}
        self._jobs = Counter("jobs", "Pictures asked for, by what came of it", ["outcome"], **own)
        for outcome in _OUTCOMES:
            self._jobs.labels(outcome)
        self._answers = Counter("answers", "Answers to requests, by HTTP status", ["status"], **own)
        self._gauges = {
            name: Gauge(name, f"Pictures that are {name} now", **own)
            for name in ("waiting", "drawing")
        }
        sizes = sorted({1, 2, 4, 8, 16, 32, batch})
        self._histograms = {
            "seconds_waiting": Histogram(
                "waiting_seconds", "From a request to its batch", buckets=_SECONDS, **own
            ),
            "seconds_drawing": Histogram(
                "drawing_seconds", "Seconds of a batch", buckets=_SECONDS, **own
            ),
            "batch": Histogram("batch_pictures", "Pictures of a batch", buckets=sizes, **own),
        }
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def observe(self, name: str, value: float) -> None:
        """See `SamplingQueue`."""
        if name in self._gauges:
            self._gauges[name].set(value)
        elif name in self._histograms:
            self._histograms[name].observe(value)
        else:
            self._jobs.labels(name).inc(value)

    def answered(self, status: int) -> None:
        """A request was answered."""
        self._answers.labels(status).inc()

    def text(self) -> tuple[bytes, str]:
        """The metrics and their content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_LATEST
