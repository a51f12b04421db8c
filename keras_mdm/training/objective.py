"""The multi-resolution objective of a `MatryoshkaDiffusion`."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from keras_mdm import checks
from keras_mdm.conditioning.low_res import network_inputs
from keras_mdm.diffusion import losses, parameterization, process
from keras_mdm.training import batches


class ObjectiveMixin:
    """Data, losses and weights; needs `unet`, `process`, `loss_target`, `loss_weighting`,
    `level_weights` and `residual_std`."""

    # Optimizer steps before the phase, and those of the phase: what `progress` is a share of.
    phase_span: tuple[int, int] | None = None

    def prepare(self, batch: Mapping[str, Any]) -> tuple[dict, dict]:
        """Split a batch into the data of all levels and the conditions.

        Args:
            batch: see the class.

        Returns:
            (x0 by level name, float32 in [-1, 1]; conditions by key). In a mixed batch outer levels
            hold the first samples only.

        Raises:
            ValueError: if a key is missing or unknown, or the data has another size.
        """
        prepared = [
            self._prepare_group(level, group)
            for level, group in batches.split_groups(batch, self.unet.levels).items()
        ]
        return (
            batches.join_levels([x0 for x0, _ in prepared], self.unet.levels),
            batches.join_conditions([given for _, given in prepared], self.unet.spec),
        )

    def _prepare_group(self, level: str, group: Mapping[str, Any]) -> tuple[dict, dict]:
        return batches.prepare_group(group, self.process.up_to(level), self.unet.spec)

    def level_losses(
        self,
        network: Callable[[Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]],
        x0: Mapping[str, tf.Tensor],
        eps: Mapping[str, tf.Tensor],
        index: tf.Tensor,
        conditions: Mapping[str, tf.Tensor],
    ) -> dict[str, tf.Tensor]:
        """Loss of every sample at every level, before weights.

        Args:
            network: function (inputs) -> outputs by level name.
            x0: `(B', [T,] H, W, C)` by level name; outer levels may hold the first samples only.
            eps: standard normal noise, likewise, independent over levels.
            index: `(B,)` int32, the table index k in 1..N, shared by the levels.
            conditions: see `conditions.cast_conditions`.

        Returns:
            `(B',)` float32 by level name: the mean over pixels of the squared difference between
            prediction and target, both of the kind `loss_target`.

        Reference: Gu et al. 2023 (arXiv 2310.15111), equation 3.
        """
        t = self._time(index)
        divided = self.process.divided(x0)
        if self.process.divide_targets:
            x0 = divided
        z = process.forward(divided, eps, t, self.process.schedules)
        inputs = network_inputs(self.process, z, conditions)
        outputs = network({**inputs, "time": tf.cast(index, tf.float32) - 1.0})
        predictions, _ = self.process.predictions(outputs, z, t, self.residual_std)
        found = {}
        for name in self.unet.levels:
            amplitudes = [process.first_rows(a, z[name]) for a in self.process.amplitudes(name, t)]
            target = parameterization.from_x0_eps(
                self.loss_target, x0[name], eps[name], *amplitudes
            )
            prediction = parameterization.convert(
                self.process.prediction, self.loss_target, predictions[name], z[name], *amplitudes
            )
            found[name] = losses.level_loss(prediction, target)
        return found

    def _time(self, index: tf.Tensor) -> tf.Tensor:
        """t = k / N."""
        return tf.cast(index, tf.float32) / self.process.schedules[self.unet.levels[0]].num_steps

    def batch_loss(
        self,
        by_level: Mapping[str, tf.Tensor],
        index: tf.Tensor,
        *,
        progress: Any = 0.0,
        normalizer: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Weigh and sum the losses of a replica's samples: a scalar, its mean over replicas is the
        loss of the global batch.

        Args:
            by_level: from `level_losses`.
            index: `(B,)` int32.
            progress: share of the phase that has been trained, for level weights that follow it.
            normalizer: from `loss_normalizer` of the global batch; computed from `index` unless
                given.
        """
        t, name = self._time(index), losses.check_weighting(self.loss_weighting)[0]
        if name not in ("none", "vdm"):
            by_level = {
                level: value * process.first_rows(self._weighting(level, t), value)
                for level, value in by_level.items()
            }
        per_sample = losses.multi_resolution(by_level, self.weights_at(progress))
        if name != "vdm":
            return tf.reduce_mean(per_sample)
        if normalizer is None:
            normalizer = self.loss_normalizer(index)
        weights = self._weighting(self.unet.levels[0], t)
        return tf.reduce_mean(weights * per_sample) / normalizer

    def _weighting(self, level: str, t: tf.Tensor) -> tf.Tensor:
        schedule = self.process.schedules[level]
        return losses.weighting(self.loss_weighting, schedule, t, target=self.loss_target)

    def loss_normalizer(self, index: tf.Tensor, share: tf.Tensor | None = None) -> tf.Tensor:
        """What the release's VDM weights are divided by, their mean over the global batch; 1 for
        all others.

        Args:
            index: `(B,)` int32, of all samples of a replica.
            share: `(B,)`, what every sample counts in that mean, see `remainder.counted_share`;
                1 unless given.
        """
        if losses.check_weighting(self.loss_weighting)[0] != "vdm":
            return tf.ones(())
        weights = self._weighting(self.unet.levels[0], self._time(index))
        mean = tf.reduce_mean(weights if share is None else share * weights)
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.MEAN, mean)

    def weights_at(self, progress: Any = 0.0) -> dict[str, Any]:
        """Weight of every level's loss; levels that are missing weigh 1.

        Args:
            progress: share of the phase that has been trained, a number or a scalar tensor.
        """
        if not callable(self.level_weights):
            return dict(self.level_weights)
        weights = self.level_weights(progress)
        checks.known_keys("the result of level_weights", weights, self.unet.levels)
        return dict(weights)

    def progress(self, step: Any) -> tf.Tensor:
        """Share of the phase that has been trained before optimizer step `step`, float32; 1 outside
        of `fit_progressively`."""
        if self.phase_span is None:
            return tf.ones(())
        first, steps = self.phase_span
        done = tf.cast(tf.cast(step, tf.int64) - first, tf.float32) / float(steps)
        return tf.clip_by_value(done, 0.0, 1.0)


def check_level_weights(weights: Any, levels: tuple[str, ...]) -> Any:
    """Return level weights as `ObjectiveMixin` wants them, checked.

    Args:
        weights: by level name; `"highest"`; a function (progress) -> weights; or `None`.
        levels: level names, ascending.

    Raises:
        ValueError: if a name is no level, or a weight is negative.
    """
    if callable(weights):
        return weights
    if isinstance(weights, str):
        checks.one_of("level_weights", weights, ("highest",))
        return dict.fromkeys(levels[:-1], 0.0)
    checks.known_keys("level_weights", weights or {}, levels)
    return {
        level: checks.real(f"level_weights[{level!r}]", weight, minimum=0.0)
        for level, weight in (weights or {}).items()
    }
