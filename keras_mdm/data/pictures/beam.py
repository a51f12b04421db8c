"""Preparation on many machines: the shards of `prepare_images` as an Apache Beam pipeline."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from keras_mdm import checks
from keras_mdm.data import sharding
from keras_mdm.data.pictures.shards import ImagePreparation
from keras_mdm.data.sources.examples import ExampleImages


def prepare_with_beam(
    source: str | os.PathLike,
    directory: str | os.PathLike,
    *,
    options: Any = None,
    **preparation: Any,
) -> ExampleImages:
    """Like `prepare_images`, with shards written by the workers of a Beam runner.

    A shard is one element of the pipeline: calling again does not repeat finished shards, and a
    shard that a runner tries twice is written once. All workers must reach source and directory by
    the same paths, for example on a network file system.

    Args:
        source: a path for `open_images`.
        directory: receives the shards and `manifest.json`.
        options: `apache_beam.options.pipeline_options.PipelineOptions`, or a list of flags such as
            `["--runner=FlinkRunner", "--flink_master=HOST:8081"]`; by default the local runner.
        **preparation: arguments of `ImagePreparation`.

    Returns:
        The shards, open.

    Raises:
        ValueError: if Beam is not installed, and where `prepare_images` raises it.

    Example:

    >>> prepare_with_beam("cc12m", "shards", size=256)  # doctest: +SKIP
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as problem:
        raise checks.error(
            "Apache Beam must be installed", fix="run `pip install apache-beam`", missing="beam"
        ) from problem
    job = ImagePreparation(os.fspath(source), directory, **preparation)
    target = sharding.claim(directory, job.plan)
    if options is None or isinstance(options, list | tuple):
        options = PipelineOptions(list(options or ()))
    with sharding.take_turn_in(target):
        with beam.Pipeline(options=options) as pipeline:
            # Reshuffled, or a runner would fuse all shards into one piece of work.
            _ = (
                pipeline
                | "shards" >> beam.Create(range(job.count))
                | "spread" >> beam.Reshuffle()
                | "write" >> beam.Map(_write, job)
            )
        # The notes beside the shards say what was written, by this call or an earlier one.
        with ThreadPoolExecutor(1) as pool:
            return job.finish([job.write(number, pool) for number in range(job.count)])


def _write(number: int, job: ImagePreparation) -> int:
    """Write one shard; this runs on a worker."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return job.write(number, pool)["records"]
