"""Folders that `prepare_images` wrote."""

import json
from typing import Any

from keras_mdm import checks
from keras_mdm.data import sharding
from keras_mdm.data.sources import file_bytes, kinds, listing
from keras_mdm.data.sources.examples import ExampleImages
from keras_mdm.data.sources.strings import Listed
from keras_mdm.files import parse_json


def manifest_of(folder: str) -> dict[str, Any] | None:
    """What `prepare_images` wrote about a folder; `None` if there is no such file.

    Args:
        folder: the folder.

    Raises:
        ValueError: if the file is damaged.
    """
    path = file_bytes.join(folder, sharding.MANIFEST)
    if not file_bytes.is_file(path):
        return None
    with file_bytes.open_file(path) as file:
        content = file.read()
    if not file_bytes.exists(file_bytes.join(folder, sharding.PLAN)):
        try:
            listed = json.loads(content)
        except (ValueError, RecursionError):
            return None
        if not isinstance(listed, dict) or "shards" not in listed:
            return None
    return parse_json(
        content,
        path,
        what="the manifest of prepared data",
        fix=sharding.MANIFEST_FIX,
        keys={"shards": sharding.SHARDS},
    )


def open_prepared(folder: str, manifest: dict[str, Any], options: dict[str, Any]) -> ExampleImages:
    """Open the shards that a manifest of `prepare_images` lists, and list the files beside them.

    Args:
        folder: the folder.
        manifest: from `manifest_of`.
        options: arguments of `ExampleImages`.

    Raises:
        ValueError: if the folder holds clips.
    """
    if not isinstance(manifest.get("label_names"), list):
        raise checks.error(
            "the folder must hold pictures",
            fix="prepared clips are opened with open_clips",
            source=folder,
        )
    shards = [shard["file"] for shard in manifest["shards"]]
    files = [file_bytes.join(folder, shard) for shard in shards]
    source = ExampleImages(files, label_names=manifest["label_names"], **options)
    own = [*shards, sharding.MANIFEST, sharding.PLAN, sharding.SKIPPED]
    own += [f"{shard.partition('.')[0]}.json" for shard in shards]  # what is known about each

    def reason(path: str) -> str:
        shard = kinds.shard_kind(path) == "ArrayRecord"
        return (
            "is a shard that the manifest does not list" if shard else listing.beside_shards(path)
        )

    left, source.found = listing.account(folder, listing.listed(own), reason)
    source.unused = Listed((*source.unused, *left))
    return source
