"""Where network and diffusion meet: schedules per level, residual output, estimates of x0."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from keras import ops

from keras_mdm import checks
from keras_mdm.diffusion import parameterization, process, residual, schedules
from keras_mdm.diffusion.pyramid import (
    FRAMES,
    Downsampling,
    build_pyramid,
    check_downsampling,
    upsample,
)
from keras_mdm.diffusion.schedule import Schedule
from keras_mdm.levels import LevelShape, Size, resized, sides_of
from keras_mdm.types import Levels, Tensor

# Largest amplitude of the pictures that may remain at the end where sampling starts from pure
# noise: the release's cosine in log-SNR leaves 0.082.
MOST_LEFT = 0.1


@dataclasses.dataclass(frozen=True)
class LevelProcess:
    """The joint diffusion process of a network's levels.

    Args:
        shapes: frames and size per level, ascending.
        schedules: noise schedule by level name; all with the same number of steps.
        prediction: what the network returns, `"v"`, `"eps"` or `"x0"`.
        use_residual: outer levels add their output to a Wiener estimate around the picture of the
            level below.
        signal_scale: number by which a level's data is divided inside the process, by level name; 1
            unless given.
        divide_targets: compare predictions with the divided data. If false, a v target is that of
            the undivided data, which serves only to reproduce the official loss of a plain network.
        downsample: D^r in space, how a level sees the pictures of the levels above: `"area"`,
            `"bilinear"`, or a function (x, from_shape, to_shape) -> x.
        frame: D^r in time, which frame represents a group at a level with fewer frames: `"first"`,
            `"middle"` or `"average"`.
        sizes: further sizes that data of the highest level may have, with all levels scaled alike.
            The schedules stay those of the levels: they depend on the area, which is about equal,
            so pictures of all sizes are noised and weighted alike.

    Raises:
        ValueError: if `downsample` or `frame` is unknown.

    Reference: Gu et al. 2023 (arXiv 2310.15111), section 3.1, D^r in equation 2; for the scale Chen
    2023 (arXiv 2301.10972), section 2.1.
    """

    shapes: tuple[LevelShape, ...]
    schedules: Mapping[str, Schedule]
    prediction: str = "v"
    use_residual: bool = False
    signal_scale: Mapping[str, float] = dataclasses.field(default_factory=dict)
    divide_targets: bool = True
    downsample: Downsampling = "area"
    frame: str = "first"
    sizes: tuple[Size, ...] = ()

    def __post_init__(self) -> None:
        check_downsampling("downsample", self.downsample)
        checks.one_of("frame", self.frame, FRAMES)
        steps = {name: schedule.num_steps for name, schedule in self.schedules.items()}
        if len(set(steps.values())) > 1:
            raise checks.error(
                "the schedules of all levels must have the same number of steps: all are noised "
                "at one time",
                fix="pass num_steps together with names, or records with equal numbers of steps",
                num_steps=steps,
            )

    @classmethod
    def create(
        cls,
        levels: tuple[str, ...],
        schedule: str | Schedule | Mapping[str, str | Schedule],
        *,
        num_steps: int | None = None,
        shift_power: float,
        prediction: str,
        use_residual: bool,
        signal_scale: Mapping[str, float] | None = None,
        downsample: Downsampling = "area",
        frame: str = "first",
        sizes: tuple[Size, ...] = (),
    ) -> "LevelProcess":
        """Shift `schedule` for every level by the level's ratio to the innermost one; a schedule
        per level is not shifted."""
        shapes = tuple(LevelShape.parse(level) for level in levels)
        return cls(
            shapes,
            schedules.of_levels(schedule, shapes, num_steps, power=shift_power),
            prediction,
            use_residual,
            dict(signal_scale or {}),
            downsample=downsample,
            frame=frame,
            sizes=sizes,
        )

    @property
    def levels(self) -> tuple[str, ...]:
        """Level names, ascending."""
        return tuple(shape.name for shape in self.shapes)

    @property
    def is_shifted(self) -> bool:
        """Whether the levels' schedules are shifts of one another."""
        innermost, *others = self.schedules.values()
        return all(schedule.is_shift_of(innermost) for schedule in others)

    def up_to(self, level: str) -> "LevelProcess":
        """The process of the levels up to `level`, which does not depend on those above."""
        shapes = self.shapes[: self.levels.index(level) + 1]
        names = [shape.name for shape in shapes]
        return dataclasses.replace(
            self,
            shapes=shapes,
            schedules={name: self.schedules[name] for name in names},
            signal_scale={k: v for k, v in self.signal_scale.items() if k in names},
            sizes=tuple(resized(self.shapes, size)[len(names) - 1].size for size in self.sizes),
        )

    def shapes_of(self, x: Tensor) -> tuple[LevelShape, ...]:
        """The levels at the size of the given data: their own size, or one of `sizes`.

        Args:
            x: data of the highest level, `(B, [T,] H, W, C)`.
        """
        sides = tuple(x.shape[-3:-1])
        other = sides in map(sides_of, self.sizes)
        return resized(self.shapes, sides) if other else self.shapes

    def pyramid(self, x: Tensor) -> Levels:
        """What each level sees of pictures or clips of the highest one: D^r of them, by level name.

        The one place where lower levels are made from data; files of a lower level are reduced by
        the same operators, see `keras_mdm.data.ImageRule`.

        Args:
            x: `(B, [T,] H, W, C)`, not divided.
        """
        found = build_pyramid(x, self.shapes_of(x), self.downsample, self.frame)
        return dict(zip(self.levels, found.values(), strict=True))

    def enlarged(self, x: Tensor, below: LevelShape, shape: LevelShape) -> Tensor:
        """A picture or clip of the level below, enlarged to a level so that its detail can be
        added."""
        if self.sizes:  # then to the size of the data
            height, width = x.shape[-3:-1]
            ratio = shape.height // below.height
            below = LevelShape(below.frames, (height, width))
            shape = LevelShape(shape.frames, (height * ratio, width * ratio))
        return upsample(x, below, shape, kind="bilinear", frame=self.frame)

    def divided(self, x: Mapping[str, Tensor]) -> Levels:
        """Data as the process sees it: divided by the scale of its level."""
        scale = self.signal_scale
        return {name: value / scale[name] if name in scale else value for name, value in x.items()}

    def multiplied(self, x: Mapping[str, Tensor]) -> Levels:
        """Data as users see it: undoes `divided`."""
        scale = self.signal_scale
        return {name: value * scale[name] if name in scale else value for name, value in x.items()}

    def amplitudes(self, name: str, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma of a level at time(s) `t`, float32."""
        return self.schedules[name].alpha_sigma(t)

    def signal_left(self, t: float = 1.0) -> tuple[str, float]:
        """The level that keeps most of its pictures at a time, and their remaining amplitude.

        Sampling starts from pure noise, so samples lack whatever training left there.

        Args:
            t: in (0, 1].
        """
        kept = {
            name: float(schedule.alpha_sigma(np.float64(t))[0]) / self.signal_scale.get(name, 1.0)
            for name, schedule in self.schedules.items()
        }
        return max(kept.items(), key=lambda pair: pair[1])

    def predictions(
        self,
        outputs: Mapping[str, Tensor],
        z: Mapping[str, Tensor],
        t: Tensor,
        residual_std: Mapping[str, Tensor],
    ) -> tuple[Levels, Levels]:
        """Turn network outputs into predictions and estimates of the clean data.

        Args:
            outputs: outputs of the network, `(B', [T,] H, W, C)` by level name. With the residual
                output a level may have one channel more: a learned deviation of the detail, see
                `residual.change_of_deviation`.
            z: the noisy inputs, likewise.
            t: scalar or `(B,)` in (0, 1].
            residual_std: standard deviation of the detail x - u, by name of the outer levels; only
                used with `use_residual`.

        Returns:
            (predictions of the kind `prediction`, x0 before thresholding), by level name.
        """
        predictions, x0 = {}, {}
        below = None
        for shape in self.shapes:
            name = shape.name
            alpha, sigma = self.amplitudes(name, t)
            alpha, sigma = process.first_rows(alpha, z[name]), process.first_rows(sigma, z[name])
            prediction = ops.cast(outputs[name], "float32")
            if self.use_residual and below is not None:
                picture = ops.clip(x0[below.name], -1.0, 1.0)[: ops.shape(z[name])[0]]
                # The level below is trained by its own loss, not through the one above.
                u = ops.stop_gradient(self.enlarged(picture, below, shape))
                s = residual_std[name]
                if prediction.shape[-1] > z[name].shape[-1]:
                    prediction, change = prediction[..., :-1], prediction[..., -1:]
                    s = s * residual.change_of_deviation(change)
                prediction = prediction + residual.wiener_v(z[name], u, alpha, sigma, s)
            predictions[name] = prediction
            x0[name] = parameterization.to_x0(self.prediction, prediction, z[name], alpha, sigma)
            below = shape
        return predictions, x0
