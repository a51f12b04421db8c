import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mdm.averages.ema import ExponentialMovingAverage
from keras_mdm.interop.torch_reader import TorchFile
from keras_mdm.optimizers import SGD, Adam, AdamW, Muon
from keras_mdm.optimizers.learning_rates import Warmup
from keras_mdm.optimizers.packing import pack, unpack

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def variables(shapes, seed=0, prefix="w"):
    rng = np.random.default_rng(seed)
    return [
        keras.Variable(rng.normal(size=shape).astype("float32"), name=f"{prefix}{i}")
        for i, shape in enumerate(shapes)
    ]


def gradient_steps(shapes, steps, seed=1, scale=1.0):
    rng = np.random.default_rng(seed)
    return [[scale * rng.normal(size=shape) for shape in shapes] for _ in range(steps)]


def apply(optimizer, gradients, variables):
    optimizer.apply([tf.constant(g, tf.float32) for g in gradients], variables)


def adam_reference(w, gradients, rates, beta_1, beta_2, epsilon, clip=None, decay=0.0):
    """PyTorch's Adam(W) in float64; all arrays of a step share the clip."""
    w = [np.asarray(x).astype("float64") for x in w]
    m, v = [np.zeros_like(x) for x in w], [np.zeros_like(x) for x in w]
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        norm = np.sqrt(sum(np.sum(x**2) for x in g))
        factor = 1.0 if clip is None else min(1.0, clip / (norm + 1e-6))
        for i, x in enumerate(g):
            w[i] *= 1 - rate * decay
            m[i] = beta_1 * m[i] + (1 - beta_1) * factor * x
            v[i] = beta_2 * v[i] + (1 - beta_2) * (factor * x) ** 2
            m_hat, v_hat = m[i] / (1 - beta_1**t), v[i] / (1 - beta_2**t)
            w[i] -= rate * m_hat / (np.sqrt(v_hat) + epsilon)
    return w


SHAPES = [(3, 4), (5,), ()]


@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_adam_is_the_bias_corrected_form(scale):
    # At 1e-7 epsilon matters: where it is added shows.
    ours, gradients = variables(SHAPES), gradient_steps(SHAPES, 7, scale=scale)
    optimizer = Adam(0.01, clip_norm=None)
    expected = adam_reference(ours, gradients, [0.01] * 7, 0.9, 0.99, 1e-8)
    start = [np.asarray(x) for x in ours]
    step = tf.function(lambda g: optimizer.apply(g, ours))
    optimizer.build(ours)
    for g in gradients:
        step([tf.constant(x, tf.float32) for x in g])
    for got, want, before in zip(ours, expected, start, strict=True):
        assert np.max(np.abs(want - before)) > 0.01
        np.testing.assert_allclose(got, want, atol=1e-6)
    assert int(optimizer.iterations.numpy()) == 7


def test_keras_adam_is_another_form():
    theirs, gradients = variables(SHAPES), gradient_steps(SHAPES, 7, scale=1e-7)
    expected = adam_reference(theirs, gradients, [0.01] * 7, 0.9, 0.99, 1e-8)
    optimizer = keras.optimizers.Adam(0.01, beta_2=0.99, epsilon=1e-8)
    for g in gradients:
        apply(optimizer, g, theirs)
    worst = max(np.max(np.abs(a - b)) for a, b in zip(theirs, expected, strict=True))
    assert worst > 1e-3


def test_adamw_decays_by_the_learning_rate_and_clips():
    ours, gradients = variables(SHAPES), gradient_steps(SHAPES, 5)
    optimizer = AdamW(Warmup(0.02, 4), weight_decay=0.3, clip_norm=0.5)
    rates = [0.005, 0.005, 0.01, 0.015, 0.02]
    expected = adam_reference(ours, gradients, rates, 0.9, 0.99, 1e-8, clip=0.5, decay=0.3)
    for g in gradients:
        apply(optimizer, g, ours)
    for got, want in zip(ours, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6)
    excluded = variables(SHAPES)
    optimizer = AdamW(0.02, weight_decay=0.3, clip_norm=None)
    optimizer.exclude_from_weight_decay(var_names=["w1"])
    apply(optimizer, gradients[0], excluded)
    plain = adam_reference(variables(SHAPES), gradients[:1], [0.02], 0.9, 0.99, 1e-8)
    decayed = adam_reference(variables(SHAPES), gradients[:1], [0.02], 0.9, 0.99, 1e-8, decay=0.3)
    for row, want in enumerate((decayed, plain, decayed)):
        np.testing.assert_allclose(excluded[row], want[row], atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_against_its_recurrence(momentum, nesterov):
    ours, gradients = variables(SHAPES), gradient_steps(SHAPES, 4)
    optimizer = SGD(0.1, momentum=momentum, nesterov=nesterov, clip_norm=None)
    w = [np.asarray(x).astype("float64") for x in ours]
    b = [np.zeros_like(x) for x in w]
    for g in gradients:
        apply(optimizer, g, ours)
        for i, x in enumerate(g):
            b[i] = momentum * b[i] + x
            w[i] = w[i] - 0.1 * (x + momentum * b[i] if nesterov else b[i])
    for got, want in zip(ours, w, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_gradient_norm_is_before_clipping_and_counts_repeated_slices_once():
    table = keras.Variable(np.zeros((4, 2), "float32"), name="table")
    slices = tf.IndexedSlices(tf.ones((3, 2)), tf.constant([1, 1, 2]), tf.constant([4, 2]))
    optimizer = SGD(1.0, clip_norm=0.5)
    optimizer.apply([slices], [table])
    norm = np.sqrt(2 * 2.0**2 + 2 * 1.0**2)  # rows (2, 2) and (1, 1); as slices it would be 6**0.5
    np.testing.assert_allclose(optimizer.gradient_norm, norm, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(table), 0.5, rtol=1e-5)
    apply(optimizer, [np.zeros((4, 2))], [table])
    assert float(optimizer.gradient_norm.numpy()) == 0.0
    assert np.all(np.isfinite(table))


def test_official_step_ema_and_warmup():
    # Gradients are stored for the first step only: it is fed, and what is known of the other two
    # is a bound. Weights after the first step do not exist in the file.
    case = json.loads((GOLDEN / "train_steps.json").read_text())
    arrays = np.load(GOLDEN / "train_steps.npz")
    train = case["train"]
    names = [key.removeprefix("grad_0/") for key in arrays.files if key.startswith("grad_0/")]
    before = TorchFile(GOLDEN / case["state_in"]).items()["state_dict"]
    gradients = {name: arrays[f"grad_0/{name}"] for name in names}
    weights = [keras.Variable(before[name], name=f"v{i}") for i, name in enumerate(names)]
    schedule = Warmup(train["lr"], train["warmup_steps"])
    np.testing.assert_allclose(
        [float(schedule(k)) for k in range(3)], case["learning_rates_used"], rtol=1e-6
    )
    # The released code: AdamW with PyTorch's default betas.
    optimizer = AdamW(
        schedule,
        beta_2=0.999,
        epsilon=train["adam_eps"],
        weight_decay=train["weight_decay"],
        clip_norm=train["gradient_clip_norm"],
    )
    ema = ExponentialMovingAverage(
        weights, decay=train["ema_decay"], warmup=False, copy_steps=train["ema_warmup_steps"]
    )
    apply(optimizer, gradients.values(), weights)
    ema.update(0)
    assert float(optimizer.gradient_norm.numpy()) == pytest.approx(
        case["grad_norms_before_clip"][0], rel=1e-6
    )
    factor = train["gradient_clip_norm"] / (case["grad_norms_before_clip"][0] + 1e-6)
    rate = case["learning_rates_used"][0]
    left_out = 0
    for name, weight, average in zip(names, weights, ema.averages, strict=True):
        # The first step in closed form: m_hat = g, v_hat = g^2.
        g = gradients[name].astype("float64") * factor
        want = before[name] - rate * g / (np.abs(g) + train["adam_eps"])
        np.testing.assert_allclose(weight, want, atol=2e-7)
        np.testing.assert_allclose(average, weight, atol=1e-7)  # the first update copies
        # The two later steps move a weight by at most about the sum of their rates.
        kept = np.abs(gradients[name]) >= case["gradient_noise_threshold"]
        left_out += np.sum(~kept)
        later = np.abs(arrays[f"after/{name}"] - np.asarray(weight))[kept]
        bounds = [m / (1 - 0.9**t) / np.sqrt((1 - 0.999) / (1 - 0.999**t)) for t, m in ((2, 0.19),)]
        assert later.size == 0 or later.max() <= sum(case["learning_rates_used"][1:]) * bounds[0]
    assert left_out == sum(case["elements_below_noise_threshold"].values())


def traced(optimizer, weights):
    return tf.function(lambda g: optimizer.apply(g, weights), autograph=False)


@pytest.mark.parametrize("optimizer", [Adam, AdamW, Muon, SGD])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_a_step_that_is_not_finite_changes_nothing_but_its_counts(optimizer, bad, clip):
    """Then the run goes on as if the step had not been: bit by bit."""
    options = {"momentum": 0.9} if optimizer is SGD else {}
    gradients = gradient_steps(SHAPES, 6)
    broken = [np.array(g) for g in gradients[0]]
    broken[1].flat[2] = bad
    runs = []
    for steps in (gradients, [*gradients[:3], broken, broken, *gradients[3:]]):
        weights = variables(SHAPES)
        made = optimizer(0.01, clip_norm=clip, **options)
        made.build(weights)
        step = traced(made, weights)
        counts = []
        for g in steps:
            step([tf.constant(x, tf.float32) for x in g])
            counts.append((int(made.skipped), int(made.skipped_in_a_row)))
        runs.append((weights, made, counts))
    (plain, first, _), (guarded, second, counts) = runs
    assert counts == [(0, 0)] * 3 + [(1, 1), (2, 2)] + [(2, 0)] * 3
    for one, other in zip(plain, guarded, strict=True):
        np.testing.assert_array_equal(one, other)
    one, other = first.state(), second.state()
    assert int(one.pop("iterations")) + 2 == int(other.pop("iterations"))  # data moves on
    assert one.pop("skips").tolist() == [0, 0] and other.pop("skips").tolist() == [2, 0]
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def test_the_loss_scale_leaves_no_trace_and_adapts():
    gradients = gradient_steps(SHAPES, 4)
    plain, scaled = variables(SHAPES), variables(SHAPES)
    one, other = SGD(0.1, clip_norm=0.5), SGD(0.1, clip_norm=0.5, loss_scale="dynamic")
    other.build(scaled)
    assert float(other.scale_loss(tf.constant(2.0))) == 2.0**16
    assert float(one.scale_loss(tf.constant(2.0))) == 2.0
    for g in gradients:
        apply(one, g, plain)
        scale = float(other.scale_loss(tf.constant(1.0)))
        apply(other, [scale * x for x in g], scaled)
        np.testing.assert_allclose(other.gradient_norm, one.gradient_norm, rtol=1e-6)
    for a, b in zip(plain, scaled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    apply(other, [np.full(shape, np.inf) for shape in SHAPES], scaled)
    assert float(other.scale_loss(tf.constant(1.0))) == 2.0**14 and int(other.skipped) == 1
    # After enough finite steps it grows again, and the count of them starts anew.
    other._scaling.assign([2.0**14, 1998.0])
    for scale in (2.0**14, 2.0**15, 2.0**15):
        apply(other, gradients[0], scaled)
        assert float(other.scale_loss(tf.constant(1.0))) == scale
    again = SGD(0.1, clip_norm=0.5, loss_scale="dynamic")
    again.build(scaled)
    again.set_state({key: np.asarray(value) for key, value in other.state().items()})
    np.testing.assert_array_equal(again._scaling, other._scaling)
    with pytest.raises(ValueError, match="loss_scale=128"):
        SGD(0.1, loss_scale=128)


def test_state_of_later_variables_counts_from_their_own_first_update():
    old, new = variables([(3,)], prefix="old"), variables([(2,)], seed=5, prefix="new")
    gradients = gradient_steps([(3,), (2,)], 6)
    schedule = Warmup(0.1, 4)
    first = Adam(schedule, clip_norm=None)
    for g in gradients[:3]:
        apply(first, g[:1], old)
    saved = {key: np.asarray(value) for key, value in first.state().items()}
    start_new = np.asarray(new[0])
    grown = Adam(schedule, clip_norm=None)
    grown.build([new[0], old[0]])  # another order: names decide
    with pytest.raises(ValueError, match=r"missing=\['momentum/new0"):
        grown.set_state(saved)
    assert grown.set_state(saved, allow_new=True) == ["new0"]
    for g in gradients[3:]:
        apply(grown, g[::-1], [new[0], old[0]])
    # Neither notices the other: old goes on, new starts its correction and its warm-up.
    rates = [0.025, 0.025, 0.05, 0.075, 0.1, 0.1]
    want_old = adam_reference(variables([(3,)]), [g[:1] for g in gradients], rates, 0.9, 0.99, 1e-8)
    want_new = adam_reference(
        [start_new], [g[1:] for g in gradients[3:]], rates[:3], 0.9, 0.99, 1e-8
    )
    np.testing.assert_allclose(old[0], want_old[0], atol=1e-6)
    np.testing.assert_allclose(new[0], want_new[0], atol=1e-6)


def test_set_state_reports_everything_and_sets_nothing():
    w = variables([(3,), (2,)])
    optimizer = Adam(0.1)
    optimizer.build(w)
    saved = {key: np.asarray(value) for key, value in optimizer.state().items()}
    saved["velocity/w0"] = np.ones(4)
    saved["velocity/stranger"] = np.ones(1)
    del saved["updates/w1"]
    with pytest.raises(ValueError) as caught:
        optimizer.set_state(saved)
    for part in ("missing=['updates/w1']", "unexpected=['velocity/stranger']", "velocity/w0: (4,)"):
        assert part in str(caught.value)
    # Half of a variable's state is never taken for a new variable.
    with pytest.raises(ValueError, match="momentum/w1"):
        optimizer.set_state(saved, allow_new=True)


def test_factors_leave_the_networks_variables_to_the_network():
    w, optimizer = variables([(3,), (2,)]), Adam(0.1)
    optimizer.build(w)
    own = [v.path for v in optimizer.variables]
    optimizer.set_learning_rate_factors([(w[0], 0.5), (w[1], 0.0)])
    assert [v.path for v in optimizer.variables] == own  # a saved model counts them


def test_learning_rate_factors_and_freezing():
    w, gradients = variables([(3,), (3,), (3,)]), gradient_steps([(3,)] * 3, 3)
    start = [np.asarray(x) for x in w]
    optimizer = Adam(0.1, clip_norm=None)
    optimizer.set_learning_rate_factors([("w0", 0.5), (w[1], 0.0)])
    for g in gradients:
        apply(optimizer, g, w)
    half = adam_reference(start[:1], [g[:1] for g in gradients], [0.05] * 3, 0.9, 0.99, 1e-8)
    np.testing.assert_allclose(w[0], half[0], atol=1e-6)
    np.testing.assert_array_equal(w[1], start[1])
    state = optimizer.state()
    assert [int(state[f"updates/w{i}"]) for i in range(3)] == [3, 0, 3]
    assert not np.any(state["velocity/w1"])
    seen = np.sqrt(np.sum(gradients[2][0] ** 2) + np.sum(gradients[2][2] ** 2))
    assert float(optimizer.gradient_norm.numpy()) == pytest.approx(seen, rel=1e-6)
    with pytest.raises(ValueError, match="unknown=\\['nowhere'\\]"):
        optimizer.set_learning_rate_factors({"nowhere": 1.0})


@pytest.mark.parametrize(
    "optimizer",
    [
        Adam(0.3, beta_1=0.8, beta_2=0.95, epsilon=1e-6, clip_norm=None, name="a"),
        AdamW(Warmup(0.3, 7, start=2), weight_decay=0.2, clip_norm=3.0),
        SGD(0.3, momentum=0.5, nesterov=True, clip_norm=1.0),
        Muon(0.3, momentum=0.8, rms=0.1, exclude=["a"], clip_norm=1.0),
    ],
)
def test_config_round_trip(optimizer):
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()
    rebuilt = type(optimizer).from_config(optimizer.get_config())
    assert rebuilt.get_config() == optimizer.get_config()


def test_keras_file_round_trip_with_mixed_precision(tmp_path):
    def policy_model():
        inputs = keras.Input((4,))
        hidden = keras.layers.Dense(8, dtype="mixed_bfloat16")(inputs)
        return keras.Model(inputs, keras.layers.Dense(1, dtype="float32")(hidden))

    model = policy_model()
    model.compile(optimizer=AdamW(Warmup(0.01, 3)), loss="mse", jit_compile=False)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 4)).astype("f"), rng.normal(size=(16, 1)).astype("f")
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, shuffle=False)
    assert float(model.optimizer.gradient_norm.numpy()) > 0
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    for m in (model, again):
        m.fit(x, y, batch_size=8, epochs=1, verbose=0, shuffle=False)
    for a, b in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_refuses_bad_arguments():
    for arguments in ({"clip_norm": 0.0}, {"clip_norm": -1.0}, {"beta_2": 1.0}, {"epsilon": -1.0}):
        with pytest.raises(ValueError, match="Received"):
            Adam(0.1, **arguments)
    with pytest.raises(ValueError, match="learning_rate"):
        Adam("fast")


# Replicas ---------------------------------------------------------------------------------------


class ClippedPerReplica(SGD):
    """What Keras does: clip first, then sum."""

    def _backend_update_step(self, gradients, variables, learning_rate):
        clipped, _ = tf.clip_by_global_norm(gradients, self.clip_norm)
        super()._backend_update_step(clipped, variables, learning_rate)


def train_toy(strategy, make_optimizer, steps=6, divide=True):
    """A linear model on shards that pull in different directions; returns (weights, norms, EMA)."""
    rng = np.random.default_rng(3)
    batches = rng.normal(size=(steps, 8, 6)).astype("float32")
    targets = (batches[..., :1] * np.array([1, 1, 1, 1, -9, -9, -9, -9])[:, None]).astype("float32")
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        layer = keras.layers.Dense(1)
        layer.build((None, 6))
        layer.kernel.assign(np.linspace(-1, 1, 6).reshape(6, 1))
        optimizer = make_optimizer()
        optimizer.build(layer.trainable_variables)
        ema = ExponentialMovingAverage(layer.trainable_variables)

    def replica_step(step):
        rank = tf.distribute.get_replica_context().replica_id_in_sync_group
        each = 8 // replicas
        x = tf.gather(tf.constant(batches), step)[rank * each : (rank + 1) * each]
        y = tf.gather(tf.constant(targets), step)[rank * each : (rank + 1) * each]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(layer(x) - y)) / (replicas if divide else 1)
        gradients = tape.gradient(loss, layer.trainable_variables)
        optimizer.apply(gradients, layer.trainable_variables)
        ema.update(optimizer.iterations - 1)
        return tf.convert_to_tensor(optimizer.gradient_norm)

    @tf.function
    def run(step):
        return strategy.run(replica_step, args=(step,))

    norms = [strategy.experimental_local_results(run(tf.constant(k))) for k in range(steps)]
    return layer, np.array(norms), ema


def copies(variable):
    value = variable.value
    return [np.asarray(part) for part in getattr(value, "values", [value])]


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(0.1, clip_norm=1.0),
        lambda: SGD(0.1, momentum=0.9, clip_norm=1.0),
        lambda: AdamW(Warmup(0.05, 3), weight_decay=0.1, epsilon=0.5, clip_norm=1.0),
        lambda: Muon(Warmup(0.05, 3), epsilon=0.5, clip_norm=1.0),
    ],
)
def test_two_replicas_equal_one_device(make, two_replicas):
    one, norms_one, ema_one = train_toy(tf.distribute.get_strategy(), make)
    two, norms_two, ema_two = train_toy(two_replicas, make)
    assert norms_one.min() > 1.0  # the clip bites at every step
    np.testing.assert_allclose(norms_two[:, 0], norms_one[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(norms_two[:, 0], norms_two[:, 1])
    pairs = [(one.kernel, two.kernel), (one.bias, two.bias)]
    pairs += list(zip(ema_one.averages, ema_two.averages, strict=True))
    for single, double in pairs:
        first, second = copies(double)
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, copies(single)[0], atol=1e-6)


def test_the_replica_test_can_fail(two_replicas):
    # Clipping per replica, or not dividing the loss, is far outside of its tolerance.
    def right():
        return SGD(0.1, clip_norm=1.0)

    one, norms_one, _ = train_toy(tf.distribute.get_strategy(), right)
    wrong, _, _ = train_toy(two_replicas, lambda: ClippedPerReplica(0.1, clip_norm=1.0))
    assert np.max(np.abs(copies(wrong.kernel)[0] - copies(one.kernel)[0])) > 1e-2
    _, norms, _ = train_toy(two_replicas, right, steps=1, divide=False)
    np.testing.assert_allclose(norms[0, 0], 2 * norms_one[0, 0], rtol=1e-5)


def test_small_gradients_travel_together():
    rng = np.random.default_rng(0)
    shapes = [(3,), (300, 300), (2, 2), (), (256, 256)]
    given = [tf.constant(rng.normal(size=shape).astype("float32")) for shape in shapes]
    packed = pack(given)
    assert [tuple(value.shape) for value in packed] == [(8,), (300, 300), (256, 256)]
    for one, other in zip(unpack(packed, shapes), given, strict=True):
        np.testing.assert_array_equal(one, other)
    large = [given[1]]
    assert pack(large) == large and unpack(large, [(300, 300)])[0] is large[0]


def test_state_round_trip_under_a_strategy(two_replicas):
    strategy = two_replicas
    with strategy.scope():
        w = variables([(3,), (2,)])
        optimizer = Adam(0.1)
        optimizer.build(w)

    def replica_step():
        optimizer.apply([tf.ones(3), tf.ones(2)], w)

    tf.function(strategy.run)(replica_step)
    saved = {key: np.asarray(value) for key, value in optimizer.state().items()}
    assert int(saved["iterations"]) == 1 and int(saved["updates/w1"]) == 1
    with strategy.scope():
        again = Adam(0.1)
        again.build(w)
    again.set_state(saved)
    for key, value in again.state().items():
        np.testing.assert_array_equal(np.asarray(value), saved[key])
