"""How the samples of a mixed-resolution batch divide into groups by their highest level."""

import functools
import math
from collections.abc import Mapping, Sequence

from keras_mdm import checks

# Of the samples that have a level, this share have it as their highest: the release's 2:1.
HIGHEST_SHARE = 2 / 3

# Groups are multiples of one number, so that they divide over replicas and micro-batches. It
# follows from the batch alone, so a run can move to another machine. The parts to aim at are those
# of the paper's 32 devices with two micro-batches each ...
PARTS_WANTED, REPLICAS_WANTED = 64, 32
# ... as long as no group's share of the batch is off by more than the first of these. The second
# holds where the replicas could not be had otherwise (a batch of 128 in three groups).
LARGEST_ERROR, LARGEST_ERROR_FOR_REPLICAS = 1 / 10, 1 / 6
# Groups coarser than that are taken as long as the error stays below this: they allow smaller
# micro-batches.
SMALL_ERROR = 1 / 16


def default_shares(levels: Sequence[str]) -> dict[str, float]:
    """Return the shares of a batch by highest level: 2/3 for the highest, and 2/3 of the rest for
    each one below, the lowest taking what is left.

    Args:
        levels: level names, ascending.

    Example:

    >>> {level: round(share, 3) for level, share in default_shares(["64", "256"]).items()}
    {'64': 0.333, '256': 0.667}
    """
    shares, left = {}, 1.0
    for level in reversed(levels[1:]):
        shares[level] = HIGHEST_SHARE * left
        left -= shares[level]
    shares[levels[0]] = left
    return {level: shares[level] for level in levels}


def check_shares(shares: Mapping[str, float], levels: Sequence[str]) -> dict[str, float]:
    """Return shares by ascending level, levels without samples left out, checked.

    Args:
        shares: by the highest level of the samples.
        levels: level names, ascending.

    Raises:
        ValueError: if a name is not a level, a share is negative, the shares do not sum to one, or
            the highest level has none.
    """
    checks.known_keys("mixed", shares, levels)
    given = {
        level: checks.real(f"mixed[{level!r}]", shares[level], minimum=0.0, maximum=1.0)
        for level in levels
        if level in shares
    }
    if abs(sum(given.values()) - 1.0) > 1e-6 or not given.get(levels[-1]):
        raise checks.error(
            f"the shares of `mixed` must sum to one, and level {levels[-1]!r} must have a share",
            fix="write for example {'64': 1 / 3, '256': 2 / 3}",
            mixed=dict(shares),
            sum=sum(given.values()),
        )
    return {level: share for level, share in given.items() if share}


def group_sizes(shares: Mapping[str, float], batch_size: int) -> dict[str, int]:
    """Return whole numbers of samples that sum to the batch size and come close to the shares.

    Shares are targets. All sizes are multiples of one number, `common_multiple`, which depends on
    batch and shares and not on the machine: 1, 8 or 32 replicas train on the same batch, with and
    without micro-batches.

    Args:
        shares: from `check_shares`.
        batch_size: samples of the global batch.

    Raises:
        ValueError: if a group would have no sample.

    Example:

    >>> group_sizes({"64": 1 / 3, "256": 2 / 3}, 1024)
    {'64': 384, '256': 640}
    """
    if batch_size < len(shares):
        raise checks.error(
            "every group of a mixed batch must have a sample",
            fix=f"take batches of at least {len(shares)}, other shares, or Phase(mixed=False)",
            batch_size=batch_size,
            shares=dict(shares),
        )
    multiple = common_multiple(tuple(shares.values()), batch_size)
    units = _whole(tuple(shares.values()), batch_size // multiple)
    return {level: multiple * count for level, count in zip(shares, units, strict=True)}


@functools.cache
def common_multiple(shares: tuple[float, ...], batch_size: int) -> int:
    """The number that all groups of a batch are multiples of.

    Args:
        shares: ascending by level, summing to one.
        batch_size: samples of the global batch, at least one per group.
    """
    best, found = (0, False, 0.0), 1
    for multiple in (n for n in range(1, batch_size + 1) if batch_size % n == 0):
        count = batch_size // multiple
        if count < len(shares):
            break
        units = _whole(shares, count)
        error = max(abs(n / count - share) for n, share in zip(units, shares, strict=True))
        parts = math.gcd(multiple, PARTS_WANTED)
        limit = LARGEST_ERROR
        if error > limit and parts >= REPLICAS_WANTED:
            parts, limit = REPLICAS_WANTED, LARGEST_ERROR_FOR_REPLICAS
        # Two or three units must be the shares themselves.
        if multiple > 1 and error > (limit if count > 3 else SMALL_ERROR) + 1e-9:
            continue
        small = error <= SMALL_ERROR
        rank = (parts, small, multiple if small else -error)
        if rank > best:
            best, found = rank, multiple
    return found


def _whole(shares: tuple[float, ...], count: int) -> list[int]:
    """`count` units dealt out by shares, at least one to each."""
    exact = [share * count for share in shares]
    sizes = [max(1, int(rows + 1e-9)) for rows in exact]
    while sum(sizes) > count:  # the smallest got more than their share
        richest = max(range(len(sizes)), key=lambda i: (sizes[i] > 1, sizes[i] - exact[i]))
        sizes[richest] -= 1
    # Largest remainders first; the higher level first among equals.
    order = sorted(reversed(range(len(sizes))), key=lambda i: sizes[i] - exact[i])
    for place in order[: count - sum(sizes)]:
        sizes[place] += 1
    return sizes


def check_counts(counts: Mapping[str, int], levels: Sequence[str], batch_size: int) -> None:
    """Raise unless numbers of samples by highest level make up a batch.

    Args:
        counts: by level name.
        levels: level names, ascending.
        batch_size: samples of the global batch.
    """
    if sum(counts.values()) != batch_size or min(counts.values()) < 0:
        raise checks.error(
            "the numbers of samples in `mixed` must sum to the batch size",
            fix="change one of the two, or give shares that sum to 1.0",
            mixed=dict(counts),
            sum=sum(counts.values()),
            batch_size=batch_size,
        )
    check_shares({k: n / batch_size for k, n in counts.items()}, levels)


def check_groups(groups: Mapping[str, int], shares: Mapping[str, float], parts: int) -> None:
    """Raise unless every group can be cut into equal parts for replicas and micro-batches.

    Args:
        groups: samples by their highest level.
        shares: the shares that were rounded to these groups.
        parts: replicas times micro-batches.
    """
    if not any(rows % parts for rows in groups.values()):
        return
    batch_size = sum(groups.values())
    smallest = _smallest_batch(shares, parts, 1)
    fix = f"the smallest batch that works: {smallest}"
    if smallest < batch_size:
        fix += f"; the next from {batch_size}: {_smallest_batch(shares, parts, batch_size)}"
    raise checks.error(
        f"every group of a batch must be divisible by replicas x micro-batches, {parts}",
        fix=fix,
        batch_size=batch_size,
        groups=dict(groups),
    )


def _smallest_batch(shares: Mapping[str, float], parts: int, least: int) -> int:
    """The smallest batch of at least `least` samples whose groups divide into parts."""
    batch_size = max(len(shares), -(-least // parts)) * parts
    while any(rows % parts for rows in group_sizes(shares, batch_size).values()):
        batch_size += parts
    return batch_size
