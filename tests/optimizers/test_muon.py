import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_models import PLAIN_INNER, arrays, as_dataset, make_batch, tiny_unet

from keras_mdm import MatryoshkaDiffusion, load
from keras_mdm.optimizers import Adam, Muon
from keras_mdm.optimizers.muon import QUINTICS, orthogonalized


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def quintic(values):
    values = values / np.sum(values**4) ** 0.25
    for a, b, c in QUINTICS:
        values = a * values + b * values**3 + c * values**5
    return values


def test_the_quintics_bring_singular_values_near_one():
    values = np.geomspace(0.01, 1.0, 5000)
    for a, b, c in QUINTICS:
        values = a * values + b * values**3 + c * values**5
    # As small on both sides, four times: no quintics in turn come nearer.
    assert values.min() == pytest.approx(0.731, abs=2e-3)
    assert values.max() == pytest.approx(1.269, abs=2e-3)


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (16, 16), (5, 1)])
@pytest.mark.parametrize("scale", [1e-9, 1.0])
def test_singular_values_follow_the_quintics_and_vectors_stay(shape, scale, rng):
    matrix = scale * rng.standard_normal(shape)
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    want = (u * quintic(s)) @ v
    np.testing.assert_allclose(orthogonalized(tf.constant(matrix)), want, atol=1e-10)
    # In float32 the Gram matrix holds squares of singular values, down to 1e-7 of the largest.
    found = orthogonalized(tf.constant(matrix, tf.float32))
    np.testing.assert_allclose(found, want, atol=1e-4)


@pytest.mark.parametrize("shape", [(300, 64), (64, 300)])
@pytest.mark.parametrize("values", [np.geomspace(1, 1e-3, 64), np.linspace(1, 0.1, 64)], ids=len)
def test_products_in_bfloat16_find_the_same_directions(shape, values, rng):
    u, v = (np.linalg.qr(rng.standard_normal((side, 64)))[0] for side in shape)
    matrix = tf.constant((u * values) @ v.T, tf.float32)
    found = orthogonalized(matrix, "bfloat16")
    assert found.dtype == tf.float32
    assert np.linalg.norm(found, 2) < 1.6
    along = np.diag(u.T @ found.numpy() @ v)
    want = quintic(values)
    # Rounding may turn the polynomial where it is flat, between its ends.
    near = (np.abs(along - want) < 0.1) | ((along > 0.65) & (along < 1.35) & (want > 0.7))
    assert near.all()


def test_products_have_the_dtype_of_the_policy():
    assert Muon().product_dtype == "float32"
    for policy, dtype in (("mixed_bfloat16", "bfloat16"), ("mixed_float16", "float32")):
        keras.config.set_dtype_policy(policy)
        try:
            made = Muon()
        finally:
            keras.config.set_dtype_policy("float32")
        assert made.product_dtype == dtype
        assert Muon.from_config(made.get_config()).product_dtype == dtype


def test_a_matrix_of_low_rank_and_none_at_all(rng):
    thin = rng.standard_normal((64, 2)) @ rng.standard_normal((2, 32))
    found = orthogonalized(tf.constant(thin, tf.float32)).numpy()
    values = np.linalg.svd(found, compute_uv=False)
    assert np.all((values[:2] > 0.7) & (values[:2] < 1.3)) and values[2] < 1e-2
    np.testing.assert_array_equal(orthogonalized(tf.zeros((4, 3))), np.zeros((4, 3)))


def test_steps_against_a_reference(rng):
    """Kernels by U V^T of the momentum, Nesterov's way; biases and excluded layers by Adam."""
    shapes = {"a/kernel": (3, 3, 4, 6), "a/bias": (6,), "conv_in/kernel": (5, 8)}
    start = {path: rng.standard_normal(shape) for path, shape in shapes.items()}
    gradients = [
        {path: rng.standard_normal(shape) for path, shape in shapes.items()} for _ in range(4)
    ]

    def made():
        found = []
        for path, value in start.items():
            scope, name = path.split("/")
            with keras.name_scope(scope):
                found.append(keras.Variable(value.astype("float32"), name=name))
        assert [v.path for v in found] == list(start)
        return found

    ours, adams = made(), made()
    muon = Muon(0.01, momentum=0.9, rms=0.3, clip_norm=None)
    adam = Adam(0.01, clip_norm=None)
    want, mean = start["a/kernel"].reshape(36, 6), np.zeros((36, 6))
    for step in gradients:
        given = [tf.constant(value, tf.float32) for value in step.values()]
        muon.apply(given, ours)
        adam.apply(given, adams)
        g = step["a/kernel"].reshape(36, 6)
        mean = 0.9 * mean + 0.1 * g
        u, s, v = np.linalg.svd(0.1 * g + 0.9 * mean, full_matrices=False)
        want = want - 0.01 * 0.3 * 6 * (u * quintic(s)) @ v
    np.testing.assert_allclose(np.reshape(ours[0], (36, 6)), want, atol=1e-5)
    for one, other in zip(ours[1:], adams[1:], strict=True):
        np.testing.assert_array_equal(one, other)
    # Matrices have one moment, the rest two.
    state = muon.state()
    assert state["velocity/a/kernel"].shape == (1,) and state["velocity/a/bias"].shape == (6,)


def test_steps_of_all_sizes_of_gradient_are_alike():
    moved = []
    for scale in (1e-6, 1.0):
        weight = keras.Variable(np.zeros((4, 3), "float32"), name="kernel")
        optimizer = Muon(0.1, clip_norm=None)
        optimizer.apply([tf.constant(scale * np.arange(12.0).reshape(4, 3), tf.float32)], [weight])
        moved.append(np.asarray(weight))
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-3, atol=1e-6)


def test_weight_decay_takes_matrices_too():
    weight = keras.Variable(np.ones((4, 3), "float32"), name="kernel")
    optimizer = Muon(0.1, weight_decay=0.5, clip_norm=None)
    optimizer.apply([tf.zeros((4, 3))], [weight])
    np.testing.assert_allclose(weight, np.full((4, 3), 0.95), rtol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [{"momentum": 1.0}, {"rms": -1.0}, {"exclude": "conv_in"}, {"product_dtype": "float16"}],
    ids=str,
)
def test_refuses_bad_arguments(arguments):
    with pytest.raises(ValueError, match="Received"):
        Muon(0.1, **arguments)


@pytest.mark.usefixtures("eagerly")
def test_training_goes_on_from_saved_state(tmp_path):
    steps = [make_batch(np.random.default_rng(n), 2, size=8, text=False) for n in range(3)]

    def made():
        model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]), seed=3)
        model.compile(Muon(0.01))
        return model

    whole, first = made(), made()
    whole.fit(as_dataset(steps), epochs=1, verbose=0)
    first.fit(as_dataset(steps[:2]), epochs=1, verbose=0)
    first.save(tmp_path / "model.keras")
    second = load(tmp_path / "model.keras")
    second.compile(Muon(0.01))
    second.optimizer.build(second.trainable_variables)
    second.optimizer.set_state({k: np.asarray(v) for k, v in first.optimizer.state().items()})
    second.fit(as_dataset(steps[2:]), epochs=1, verbose=0)
    mine, others = whole.unet.trainable_variables, second.unet.trainable_variables
    for one, other in zip(arrays(mine), arrays(others), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
