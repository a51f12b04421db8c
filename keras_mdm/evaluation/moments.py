"""Statistics of features of a set of pictures: streaming, mergeable, written to files."""

import dataclasses
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_mdm import checks
from keras_mdm.evaluation import batches
from keras_mdm.files import write_atomically

# Features that are kept besides mean and covariance, for measures of single pictures.
KEPT = 10_000
_VERSION = 1
_HASHES = 2**64


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Count, mean and covariance of a set's features in float64, and a fair sample of the features.

    Statistics of parts of a set can be merged: workers and restarts give the same as one pass. The
    sample holds the pictures whose content has the smallest hashes, so it does not depend on the
    order, and equal sets have equal samples.

    Attributes:
        features: name of the feature network, with its resize.
        count: number of pictures.
        mean: float64 (D,).
        scatter: float64 (D, D), the sum of (x - mean) (x - mean)^T.
        kept: float32 (n, D), features of at most `keep` pictures.
        hashes: uint64 (n,) of these pictures, ascending.
        fingerprint: of all pictures, whatever their order; `None` for files of other tools.
        keep: how many are kept.

    Reference: Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances (1979).
    """

    features: str
    count: int
    mean: np.ndarray
    scatter: np.ndarray
    kept: np.ndarray
    hashes: np.ndarray
    fingerprint: int | None
    keep: int = KEPT

    @property
    def width(self) -> int:
        """Number of features D."""
        return len(self.mean)

    @property
    def covariance(self) -> np.ndarray:
        """float64 (D, D), without bias."""
        return self.scatter / (self.count - 1)

    def merge(self, other: "Statistics") -> "Statistics":
        """Return the statistics of both sets together.

        Raises:
            ValueError: if they were made with different feature networks.
        """
        check_same_features(self, other)
        total = self.count + other.count
        if not total:
            return self
        apart = other.mean - self.mean
        share = other.count / total
        hashes = np.concatenate([self.hashes, other.hashes])
        order = np.argsort(hashes, kind="stable")[: self.keep]
        fingerprint = None
        if self.fingerprint is not None and other.fingerprint is not None:
            fingerprint = (self.fingerprint + other.fingerprint) % _HASHES
        return dataclasses.replace(
            self,
            count=total,
            mean=self.mean + share * apart,
            scatter=self.scatter
            + other.scatter
            + self.count * share * np.multiply.outer(apart, apart),
            kept=np.concatenate([self.kept, other.kept])[order],
            hashes=hashes[order],
            fingerprint=fingerprint,
        )


def nothing(features: Any, *, keep: int = KEPT) -> Statistics:
    """The statistics of no picture, to which those of batches are merged.

    Args:
        features: the feature network.
        keep: how many pictures' features to keep.
    """
    width = features.width
    return Statistics(
        features=features.name,
        count=0,
        mean=np.zeros(width),
        scatter=np.zeros((width, width)),
        kept=np.zeros((0, width), "float32"),
        hashes=np.zeros(0, "uint64"),
        fingerprint=0,
        keep=checks.integer("keep", keep, minimum=0),
    )


def features_of(features: Any, images: np.ndarray) -> np.ndarray:
    """Compute the features of pictures, (B, D) float32, and check both sides.

    Args:
        features: the feature network; if it has a true attribute `clips`, it sees clips.
        images: uint8 (B, H, W, 3), or (B, F, H, W, 3) for a network of clips.

    Raises:
        ValueError: if the pictures are not uint8 RGB, or a feature is not finite.
    """
    images = batches.checked(images, clips=bool(getattr(features, "clips", False)))
    if not len(images):
        return np.zeros((0, features.width), "float32")
    found = np.asarray(features(images), "float32")
    if found.shape != (len(images), features.width) or not np.isfinite(found).all():
        raise checks.error(
            "a feature network must return (B, width) finite numbers",
            fix="look at the pictures and at the weights of the network",
            network=features.name,
            shape=found.shape,
            width=features.width,
            finite=bool(np.isfinite(found).all()),
        )
    return found


def of_pictures(
    features: Any, images: np.ndarray, *, keep: int = KEPT, values: np.ndarray | None = None
) -> Statistics:
    """Compute the statistics of pictures.

    Args:
        features: the feature network.
        images: uint8 (B, H, W, 3), or (B, F, H, W, 3) for a network of clips.
        keep: how many pictures' features to keep.
        values: their features, if they are already known.

    Raises:
        ValueError: as in `features_of`.

    Example:

    >>> class Mean:
    ...     name, width = "mean colour", 3
    ...     def __call__(self, images):
    ...         return images.mean((1, 2)).astype("float32")
    >>> images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3)).astype("uint8")
    >>> parts = of_pictures(Mean(), images[:3]).merge(of_pictures(Mean(), images[3:]))
    >>> bool(np.allclose(parts.covariance, of_pictures(Mean(), images).covariance))
    True
    """
    empty = nothing(features, keep=keep)
    found = features_of(features, images) if values is None else values
    if not len(found):
        return empty
    digests = (hashlib.sha256(image.tobytes()).digest()[:8] for image in images)
    hashes = np.array([int.from_bytes(digest, "big") for digest in digests], "uint64")
    order = np.argsort(hashes, kind="stable")[: empty.keep]
    return dataclasses.replace(
        of_features(features.name, found),
        kept=found[order],
        hashes=hashes[order],
        fingerprint=sum(map(int, hashes)) % _HASHES,
        keep=empty.keep,
    )


def of_features(name: str, values: np.ndarray) -> Statistics:
    """The statistics of features that are already computed, (B, D); no picture is known."""
    wide = np.asarray(values, "float64")
    mean = wide.mean(0)
    wide = wide - mean
    return Statistics(
        features=name,
        count=len(wide),
        mean=mean,
        scatter=wide.T @ wide,
        kept=np.asarray(values, "float32"),
        hashes=np.zeros(len(wide), "uint64"),
        fingerprint=None,
        keep=len(wide),
    )


def parts(given: Any, batch: int = 256) -> Iterator[np.ndarray]:
    """Cut an array into batches; other iterables are taken as they are."""
    if isinstance(given, np.ndarray):
        for first in range(0, max(1, len(given)), batch):
            yield given[first : first + batch]
    else:
        yield from given


def check_same_features(first: Statistics, second: Statistics) -> None:
    """Raise unless both were made with the same network and resize."""
    if first.features != second.features or first.width != second.width:
        raise checks.error(
            "only features of one network and one resize can be compared",
            fix="compute both with the same feature network",
            first=f"{first.features} ({first.width})",
            second=f"{second.features} ({second.width})",
        )


def save(statistics: Statistics, path: str | os.PathLike) -> None:
    """Write statistics to an `.npz` file, which tools that read `mu` and `sigma` can read too."""
    about = {
        "version": _VERSION,
        "features": statistics.features,
        "count": statistics.count,
        "fingerprint": statistics.fingerprint,
        "keep": statistics.keep,
    }
    content = io.BytesIO()
    np.savez(
        content,
        mu=statistics.mean,
        sigma=statistics.covariance,
        kept=statistics.kept,
        hashes=statistics.hashes,
        about=np.array(json.dumps(about)),
    )
    write_atomically(Path(path), content.getvalue())


def load(path: str | os.PathLike, features: Any) -> Statistics:
    """Read statistics: files of `save`, and `.npz` files with `mu` and `sigma` of other tools.

    The files of ADM's evaluation suite and of clean-fid say neither which network made them nor of
    how many pictures; they are taken to be of `features`, and the count is 0 for unknown.

    Args:
        path: the file.
        features: the feature network that the other side is computed with.

    Raises:
        ValueError: if the file is damaged, holds other things, or is of another network.
    """
    fix = "pass a file with mu (D,) and sigma (D, D) of this network"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = set(arrays.files)
            if not {"mu", "sigma"} <= names:
                raise checks.error(
                    "a file of statistics must hold mu and sigma",
                    fix=fix,
                    path=str(path),
                    names=sorted(names),
                )
            about = json.loads(str(arrays["about"])) if "about" in names else {}
            mean, covariance = (np.asarray(arrays[key], "float64") for key in ("mu", "sigma"))
            kept = arrays["kept"] if "kept" in names else np.zeros((0, mean.size), "float32")
            hashes = arrays["hashes"] if "hashes" in names else np.zeros(0, "uint64")
    except (OSError, zipfile.BadZipFile, KeyError, EOFError, json.JSONDecodeError) as problem:
        raise checks.error(
            "statistics must be an .npz file that can be read", fix=fix, path=str(path)
        ) from problem
    width = features.width
    if mean.shape != (width,) or covariance.shape != (width, width):
        raise checks.error(
            f"the statistics must be of {features.name}, which has {width} features",
            fix=fix,
            path=str(Path(path)),
            mu=mean.shape,
            sigma=covariance.shape,
        )
    count = int(about.get("count", 0))
    statistics = Statistics(
        features=about.get("features", features.name),
        count=count,
        mean=mean,
        scatter=covariance * max(1, count - 1),
        kept=kept,
        hashes=hashes,
        fingerprint=about.get("fingerprint"),
        keep=int(about.get("keep", 0)),
    )
    check_same_features(statistics, nothing(features))
    return statistics
