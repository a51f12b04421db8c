"""What `keras.Model.fit` needs in order to work under every distribution strategy."""

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_mdm import checks
from keras_mdm.models.policies import check_trainable
from keras_mdm.models.recompute import set_recompute
from keras_mdm.optimizers import Optimizer
from keras_mdm.tracing import compile_parts, forgotten_gradients
from keras_mdm.training import compiling
from keras_mdm.training.assertions import worded
from keras_mdm.training.first_look import look_at
from keras_mdm.training.following import optimized
from keras_mdm.untracked import Untracked, set_untracked


class DistributedTrainer(keras.Model):
    """Keras trainer whose steps run, and whose values are reduced, on all replicas.

    Stock Keras builds the model by averaging a raw batch over replicas, fails with more than one
    step per execution under a strategy, and clips per replica. The hooks overridden here belong to
    Keras 3.15, to which the package is pinned.
    """

    # The weights that the traced step of evaluation reads.
    evaluated_weights = "ema"
    # Private state that is not part of the model: whether a batch is being fetched, how many steps
    # the last execution made, and how many more batches are checked before use.
    fetching = Untracked(bool)
    executed_steps = Untracked()
    _looks = Untracked(int)
    stop_request = Untracked()
    _iterator = Untracked()
    # What the steps were traced for.
    _trained_as = Untracked(str)
    _tested_as = Untracked(str)
    _test_functions = Untracked(dict)  # by kind of weights

    def __setattr__(self, name: str, value: Any) -> None:
        if not set_untracked(self, name, value):
            super().__setattr__(name, value)

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str | dict[str, Any] | None = None,
        *,
        micro_batches: int = 1,
        recompute: Sequence[str] | bool = False,
        steps_per_execution: int = 1,
        run_eagerly: bool = False,
        jit_compile: bool = False,
        **others: Any,
    ) -> None:
        """Set the optimizer; the loss belongs to the model.

        Args:
            optimizer: preferably one of `keras_mdm.optimizers`, which clip after the sum over
                replicas; `"adam"`, `"adamw"` and `"sgd"` are these with their defaults.
            micro_batches: number of parts of a replica's batch, computed one after the other
                before the optimizer step, in the memory of one. Results stay the same.
            recompute: levels whose blocks are computed again in the backward pass, which saves the
                memory of most of their activations; `True` for all. Results stay the same.
            steps_per_execution: optimizer steps per call from Python.
            run_eagerly: run steps without tracing, for debugging.
            jit_compile: compile with XLA what a replica computes by itself: the network forward and
                backward, the optimizer's step, the averages. Sums over replicas, metrics and the
                drawing of times stay outside. Every new batch shape is compiled again. Slower on
                CPUs.
            **others: arguments of Keras' `compile` that have no meaning here, such as `loss`; they
                must be `None`.

        Raises:
            ValueError: if the optimizer averages weights by itself, or clips before the sum over
                several replicas; or for a loss or metrics.
        """
        compiling.refuse(others)
        with self.distribute_strategy.scope():
            optimizer = compiling.optimizer_of(optimizer)
        if getattr(optimizer, "use_ema", False):
            raise checks.error(
                "the optimizer must not average weights",
                fix="pass ema_decay to MatryoshkaDiffusion; Keras would overwrite the raw weights",
                use_ema=True,
            )
        strategy = self.distribute_strategy
        replicas = strategy.num_replicas_in_sync
        if getattr(optimizer, "_distribution_strategy", strategy) is not strategy:
            raise checks.error(
                "model and optimizer must be made under the same distribution strategy",
                fix="make both inside `with strategy.scope():`",
                model=type(strategy).__name__,
                optimizer=type(optimizer._distribution_strategy).__name__,
            )
        clipping = {
            name: getattr(optimizer, name, None)
            for name in ("clipnorm", "global_clipnorm", "clipvalue")
        }
        clipping = {name: value for name, value in clipping.items() if value is not None}
        if replicas > 1 and clipping:
            raise checks.error(
                "stock Keras optimizers clip on each replica separately",
                fix="use keras_mdm.optimizers with clip_norm",
                replicas=replicas,
                **clipping,
            )
        self.stop_request = None
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            # For this worker alone, outside the strategy: each may want to stop the training.
            self.stop_request = tf.Variable(0.0, trainable=False)
        check_trainable(self.unet.policy)
        self.recompute = set_recompute(self.unet, recompute)
        self.micro_batches = checks.integer("micro_batches", micro_batches, minimum=1)
        if self._computes_in_float16():
            if not isinstance(optimizer, Optimizer):
                raise checks.error(
                    "training in float16 needs an optimizer that scales the loss",
                    fix="use one of keras_mdm.optimizers, or mixed_bfloat16",
                    optimizer=type(optimizer).__name__,
                )
            optimizer.loss_scale = "dynamic"
        super().compile(
            optimizer=optimizer,
            auto_scale_loss=False,
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
            jit_compile=jit_compile,
        )
        with self.distribute_strategy.scope():
            if not optimizer.built:
                optimizer.build(self.trainable_variables)

    def get_compile_config(self) -> dict[str, Any] | None:
        """The arguments of `compile`, saved with the model; `None` if it was not called."""
        if not self.compiled:
            return None
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "micro_batches": self.micro_batches,
            "recompute": list(self.recompute),
            "steps_per_execution": self.steps_per_execution,
            "run_eagerly": self.run_eagerly,
            "jit_compile": self.jit_compile,
            "optimized": optimized(self.optimizer),
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile again with the saved model's arguments."""
        config = dict(config)
        optimizer = keras.saving.deserialize_keras_object(config["optimizer"])
        # Frozen weights may have moments; files of earlier versions do not tell which.
        held = config.pop("optimized", None)
        if held is not None:
            weights = {variable.path: variable for variable in self.unet.weights}
            with self.distribute_strategy.scope():
                optimizer.build([weights[path] for path in held])
        self.compile(**{**config, "optimizer": optimizer})

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is left to build: the network is built, and `compile` builds the optimizer."""

    def _get_metrics_result_or_logs(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Means over the epoch. Keras takes the last batch's values unless a step returns exactly
        the metrics, and a step of evaluation has no learning rate."""
        means = self.get_metrics_result()
        return {k: means.get(k, v) for k, v in logs.items() if k != "stop_request"}

    def _run_replicas(self, step: Any):
        strategy = self.distribute_strategy

        def run(batch):
            values = strategy.run(step, args=(batch,))
            if self.stop_request is not None:
                asked = tf.identity(self.stop_request)  # one worker can stop all
                values["stop_request"] = strategy.run(lambda: asked)
            mean = tf.distribute.ReduceOp.MEAN
            return {k: strategy.reduce(mean, v, axis=None) for k, v in values.items()}

        return run

    def _make_function(self, step: Any, *, counted: bool = False):
        """Return a function that fetches batches from an iterator, then makes a step for each.

        The batches are fetched outside the steps: with a batch missing, a step would be counted
        but change nothing.
        """

        def traced(function):
            if self.run_eagerly:
                return function
            # Nothing needs AutoGraph, whose rewriting of sources takes half the time of tracing.
            return tf.function(function, reduce_retracing=True, autograph=False)

        def made():
            one = run = self._run_replicas(step)
            if self.steps_per_execution > 1:
                one = traced(run)  # a function of its own: called several times, traced once

            def several(*batches):
                if self.jit_compile:
                    compile_parts()
                forget = contextlib.nullcontext() if self.run_eagerly else forgotten_gradients()
                with forget:
                    return [one(batch) for batch in batches][-1]

            return traced(several)

        fetch = traced(lambda iterator: next(iterator))
        # By the size of the pictures, which the trace of one function for all would not know.
        by_size = {}

        def make(*batches):
            sizes = [self.size_of(batch) for batch in batches]
            if len(set(sizes)) > 1:
                return [make(batch) for batch in batches][-1]
            if sizes[0] not in by_size:
                by_size[sizes[0]] = made()
            return by_size[sizes[0]](*batches)

        def function(iterator):
            self._iterator = iterator
            batches = []
            self.fetching = True
            try:
                while len(batches) < self.steps_per_execution:
                    batches.append(fetch(iterator))
            except (StopIteration, tf.errors.OutOfRangeError):
                if not batches:
                    raise
            except tf.errors.InvalidArgumentError as problem:
                raise worded(problem) from problem
            finally:
                self.fetching = False
            self._look_at(batches)
            if counted:
                self.executed_steps = len(batches)
            return make(*batches)

        return function

    def make_train_function(self, force: bool = False) -> Any:
        """Trace the training step, once for everything it depends on."""
        self.refresh(contents=False)
        self.follow_trainable()
        key = self.training_key()
        if self.train_function is None or force or key != self._trained_as:
            self._trained_as = key
            self.train_function = self._make_function(
                lambda data: self.train_step(data), counted=True
            )
        return self.train_function

    def make_test_function(self, force: bool = False) -> Any:
        """Trace the evaluation step, once for everything it depends on."""
        self.refresh(contents=False)
        key = self.testing_key()
        if self.test_function is None or force or key != self._tested_as:
            self._tested_as, self._test_functions = key, {}
        # `fit` validates one kind of weights, and `evaluate` may be asked for another.
        weights = self.evaluated_weights
        if weights not in self._test_functions:
            made = self._make_function(lambda data: self.test_step(data))
            self._test_functions[weights] = made
        self.test_function = self._test_functions[weights]
        return self.test_function

    def size_of(self, batch: Any) -> tuple[int, ...]:
        """Height and width of a batch where they vary: a step is traced for each."""
        return ()

    def _look_at(self, batches: Sequence[Any]) -> None:
        for batch in batches[: self._looks]:
            look_at(self, batch)
            self._looks = self._looks - 1

    def _computes_in_float16(self) -> bool:
        """Whether gradients would be rounded to zero without a loss scale."""
        return False

    def check_ready(self) -> None:
        """Raise if something is missing before work starts."""
