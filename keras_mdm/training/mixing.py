"""How the samples of a mixed-resolution batch divide into groups by their highest level."""

from collections.abc import Mapping, Sequence

from keras_mdm import checks

# Of the samples that have a level at all, this share ends there: the release's 2:1.
HIGHEST_SHARE = 2 / 3


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
        ValueError: if a name is no level, a share is negative, the shares do not sum to one, or the
            highest level has none.
    """
    checks.known_keys("mixed", shares, levels)
    given = {
        level: checks.real(f"mixed[{level!r}]", shares[level], minimum=0.0, maximum=1.0)
        for level in levels
        if level in shares
    }
    if abs(sum(given.values()) - 1.0) > 1e-6 or not given.get(levels[-1]):
        raise checks.error(
            f"the shares of `mixed` must sum to one, and the level {levels[-1]!r} must have one",
            fix="write for example {'64': 1 / 3, '256': 2 / 3}",
            mixed=dict(shares),
            sum=sum(given.values()),
        )
    return {level: share for level, share in given.items() if share}


def group_sizes(shares: Mapping[str, float], batch_size: int) -> dict[str, int]:
    """Return whole numbers of samples that sum to the batch size and come closest to the shares.

    Args:
        shares: from `check_shares`.
        batch_size: samples of the global batch.

    Raises:
        ValueError: if a group would have no sample.

    Example:

    >>> group_sizes({"64": 1 / 3, "256": 2 / 3}, 16)
    {'64': 5, '256': 11}
    """
    exact = {level: share * batch_size for level, share in shares.items()}
    sizes = {level: int(rows + 1e-9) for level, rows in exact.items()}
    left = batch_size - sum(sizes.values())
    # Largest remainders first; of equal ones the higher level.
    order = sorted(reversed(sizes), key=lambda level: sizes[level] - exact[level])
    for level in order[:left]:
        sizes[level] += 1
    if 0 in sizes.values():
        raise checks.error(
            "every group of a mixed batch must have a sample",
            fix="take larger batches, other shares, or Phase(mixed=False)",
            batch_size=batch_size,
            shares=dict(shares),
            groups=sizes,
        )
    return sizes


def check_groups(shares: Mapping[str, float], batch_size: int, parts: int) -> None:
    """Raise unless every group can be cut into equal parts for replicas and micro-batches.

    Args:
        shares: from `check_shares`.
        batch_size: samples of the global batch.
        parts: replicas times micro-batches.
    """
    if _divides(shares, batch_size, parts):
        return
    nearest = next(
        size
        for distance in range(1, 2 * batch_size + 4 * parts * len(shares))
        for size in (batch_size - distance, batch_size + distance)
        if size > 0 and _divides(shares, size, parts)
    )
    raise checks.error(
        f"every group of a batch must be divisible by replicas x micro-batches, {parts}",
        fix=f"the nearest batch size that is: {nearest}",
        batch_size=batch_size,
        groups=group_sizes(shares, batch_size),
    )


def _divides(shares: Mapping[str, float], batch_size: int, parts: int) -> bool:
    if batch_size < len(shares):
        return False
    try:
        sizes = group_sizes(shares, batch_size)
    except ValueError:
        return False
    return all(rows % parts == 0 for rows in sizes.values())
