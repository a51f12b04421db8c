"""Outer levels in steps in which only the levels below them are computed.

Between two evaluations of an outer level its estimate of the clean data is the picture of the level
below as it is now, enlarged (U), plus the detail of its own last estimate:

    x0_r(t) = U x0_{r-1}(t) + d,    d = x0_r(t') - U x0_{r-1}(t'),    t' the step before.

Thresholds aside, d passes from step to step, so it is that of the last evaluation; before the first
one it is 0. The level's noisy data take every step of the sampler with this estimate, so their
noise is that of the time whenever the network sees them. In DDIM, whose path is straight while the
estimate stays, the steps between two evaluations make one long step. The noisiest steps need no
case of their own: a level that is not computed yet has the distribution of the forward process
around the enlarged picture.

Reference: ours; Gu et al., arXiv 2310.15111, section 3.1, for levels that interact in the network
only.
"""

from collections.abc import Callable, Mapping, Sequence

from keras import ops

from keras_mdm.diffusion.joint_process import LevelProcess
from keras_mdm.types import Levels, Tensor


def hold(
    process: LevelProcess,
    pictures: Mapping[str, Tensor],
    before: Mapping[str, Tensor],
    finish: Callable[[str, Tensor], Tensor] = lambda level, picture: picture,
) -> Levels:
    """Add estimates for the levels that were not computed.

    Args:
        process: the joint process of all levels.
        pictures: estimates of the lower levels, `(B, [T,] H, W, C)` by level name.
        before: estimates of all levels from the step before; zeros if there was none.
        finish: function (level name, estimate) -> estimate, such as a threshold.

    Returns:
        Estimates of all levels, those given unchanged.

    Example:

    >>> from keras_mdm.diffusion.schedules import cosine
    >>> process = LevelProcess.create(
    ...     ("2", "4"), cosine(), shift_power=2.0, prediction="v", use_residual=False
    ... )
    >>> before = {"2": ops.zeros((1, 2, 2, 3)), "4": 0.25 * ops.ones((1, 4, 4, 3))}
    >>> found = hold(process, {"2": 0.5 * ops.ones((1, 2, 2, 3))}, before)
    >>> float(ops.min(found["4"])), float(ops.max(found["4"]))
    (0.75, 0.75)
    """
    found = dict(pictures)
    for below, shape in zip(process.shapes, process.shapes[1:], strict=False):
        if shape.name in found:
            continue
        detail = before[shape.name] - process.enlarged(before[below.name], below, shape)
        picture = process.enlarged(found[below.name], below, shape) + detail
        found[shape.name] = finish(shape.name, picture)
    return found


def due(count: Tensor, steps: Tensor) -> Tensor:
    """Which of the steps compute a level, if it is computed in `count` of them.

    The steps are cut into `count` parts of equal length (within one step), and the level is
    computed at the end of each, so always in the last step.

    Args:
        count: number from 1 to `steps`, or a scalar int32 tensor.
        steps: number of steps, likewise.

    Returns:
        (steps,) bool.

    Example:

    >>> [i for i, each in enumerate(due(3, 10)) if each]
    [3, 6, 9]
    """
    count, steps = ops.cast(count, "int32"), ops.cast(steps, "int32")
    index = ops.arange(steps)
    return ops.greater((index + 1) * count // steps, index * count // steps)


def highest(computed: Sequence[Tensor]) -> Tensor:
    """Position of the last true value among scalars, 0 if there is none after the first.

    Args:
        computed: scalar bool tensors.
    """
    found = ops.cast(0, "int32")
    for position, each in enumerate(computed):
        found = ops.where(each, position, found)
    return found
