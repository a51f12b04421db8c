import math

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_mdm.diffusion import samplers, schedules

COSINE = schedules.cosine()
SAMPLERS = {
    "ddim": samplers.get("ddim"),
    "ddim-0.5": samplers.get("ddim", eta=0.5),
    "ddim-1": samplers.get("ddim", eta=1.0),
    "ddpm": samplers.get("ddpm"),
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())


def counted_noise(i, name, x):
    """Standard normal noise that depends on the step and the level only."""
    seed = tf.stack([i, tf.constant(int(name))])
    return tf.random.stateless_normal(tf.shape(x), seed, dtype=x.dtype)


def gaussian_denoiser(mean, std, schedule=COSINE, dtype="float64"):
    """The exact E[x0 | x_t] of data that are Gaussian in every pixel."""

    def denoise(x, t):
        alpha, sigma = schedule.alpha_sigma(t, dtype)
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        return {name: mean + gain * (x_t - alpha * mean) for name, x_t in x.items()}

    return denoise


# Time grids


def test_the_release_divides_before_it_multiplies():
    # 50 * 251 / 100 is 125.5 and rounds to 126; the release has 50 * 2.51 = 125.49999999999999.
    grid = samplers.time_grid("release", 99, 250)
    assert round(float(grid[49]) * 250) == 125


def test_grids_are_the_releases(golden):
    settings, arrays = golden("schedules")
    for num_steps, steps in settings["timesteps"]:
        index = arrays[f"timesteps/N{num_steps}_K{steps}"]
        grid = samplers.time_grid("release", steps, num_steps)
        np.testing.assert_array_equal(grid, (index / num_steps).astype("float32"))
        schedule = schedules.cosine(num_steps)
        np.testing.assert_array_equal(schedule.position(grid), index)


@pytest.mark.parametrize("kind", samplers.GRIDS)
def test_grids_descend_to_zero_and_take_a_tensor(kind):
    traced = tf.function(
        lambda steps: samplers.time_grid(kind, steps),
        input_signature=[tf.TensorSpec([], "int32")],
    )
    for steps in (1, 7, 50, 999, 1000):
        grid = np.array(samplers.time_grid(kind, steps))
        assert grid.shape == (steps + 1,) and grid.dtype == "float32"
        assert grid[-1] == 0.0 and grid[0] <= 1.0 and np.all(np.diff(grid) < 0.0)
        np.testing.assert_array_equal(traced(steps), grid)
    every = [samplers.time_grid(name, 1000) for name in samplers.GRIDS]
    np.testing.assert_array_equal(*every)


def test_uniform_grid_is_uniform():
    np.testing.assert_array_equal(samplers.time_grid("uniform", 8), np.arange(8, -1, -1) / 8)


# Steps


def posterior(alpha_t, sigma_t, alpha_s, sigma_s):
    """Weights of x0 and x_t and the variance of q(x_s | x_t, x0), by Bayes' rule in float64."""
    forward = alpha_t / alpha_s  # x_t = forward * x_s + noise of variance added
    added = sigma_t**2 - forward**2 * sigma_s**2
    precision = 1.0 / sigma_s**2 + forward**2 / added
    return (alpha_s / sigma_s**2) / precision, (forward / added) / precision, 1.0 / precision


def amplitudes(*k, shift=1.0):
    return [
        float(a) for one in k for a in COSINE.shifted(shift).alpha_sigma(np.float64(one / 1000))
    ]


@pytest.mark.parametrize("pair", [(1000, 999), (981, 962), (500, 1), (500, 499), (2, 1)])
def test_ddpm_is_bayes_rule(pair):
    coefficients = amplitudes(*pair)
    on_x0, on_x_t, variance = posterior(*coefficients)
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    step = samplers.ddpm_step
    for dtype, limit in (("float64", 1e-9), ("float32", 3e-6)):
        o, z = one.astype(dtype), zero.astype(dtype)
        np.testing.assert_allclose(step(z, o, *coefficients, z), on_x0, rtol=0, atol=limit)
        np.testing.assert_allclose(step(o, z, *coefficients, z), on_x_t, rtol=0, atol=limit)
        noise = float(step(z, z, *coefficients, o)[0, 0])
        np.testing.assert_allclose(noise, math.sqrt(variance), rtol=max(limit, 1e-9) * 100)


@pytest.mark.parametrize("pair", [(1000, 999), (500, 1), (2, 1), (300, 0)])
def test_ddim_with_eta_one_is_ddpm(rng, pair):
    x_t, x0, noise = rng.standard_normal((3, 2, 8))
    coefficients = amplitudes(*pair)
    ddim = samplers.ddim_step(x_t, x0, *coefficients, noise, eta=1.0)
    ddpm = samplers.ddpm_step(x_t, x0, *coefficients, noise)
    np.testing.assert_allclose(ddim, ddpm, rtol=0, atol=1e-13)


def test_ddim_keeps_the_marginal_variance_for_any_eta():
    # With x_t and x0 of the true process, x_s has the process's variance: shares add up.
    alpha_t, sigma_t, alpha_s, sigma_s = amplitudes(700, 400)
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    for eta in (0.0, 0.3, 1.0):
        arguments = (alpha_t, sigma_t, alpha_s, sigma_s)
        kept = float(samplers.ddim_step(one * sigma_t, zero, *arguments, zero, eta=eta)[0, 0])
        drawn = float(samplers.ddim_step(zero, zero, *arguments, one, eta=eta)[0, 0])
        assert kept**2 + drawn**2 == pytest.approx(sigma_s**2, rel=1e-12)
        assert (drawn > 0.0) == (eta > 0.0)


def test_ddim_is_eulers_method_in_the_rescaled_coordinates(rng):
    """d(x / alpha) / d(sigma / alpha) = eps, in one explicit step."""
    x_t, x0 = rng.standard_normal((2, 2, 8))
    alpha_t, sigma_t, alpha_s, sigma_s = amplitudes(700, 400)
    eps = (x_t - alpha_t * x0) / sigma_t
    euler = x_t / alpha_t + (sigma_s / alpha_s - sigma_t / alpha_t) * eps
    actual = samplers.ddim_step(x_t, x0, alpha_t, sigma_t, alpha_s, sigma_s)
    np.testing.assert_allclose(actual, alpha_s * euler, rtol=0, atol=1e-13)


@every_sampler
def test_the_step_to_zero_returns_the_estimate(rng, sampler):
    x_t, x0, noise = rng.standard_normal((3, 2, 8)).astype("float32")
    for shift in (1, 16):
        x_s = sampler.step(x_t, x0, *amplitudes(1, 0, shift=shift), noise)
        np.testing.assert_array_equal(x_s, x0)


# The loop


@every_sampler
@pytest.mark.parametrize("kind", samplers.GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 13])
def test_exact_for_a_point_mass(rng, sampler, kind, steps):
    table = {"4": COSINE, "8": COSINE.shifted(2)}
    point = {n: rng.standard_normal((2, int(n), int(n), 3)).astype("float32") for n in table}
    x = {n: rng.standard_normal(p.shape).astype("float32") for n, p in point.items()}
    grid = samplers.time_grid(kind, steps)
    sample, x0 = samplers.run(sampler, lambda x, t: point, table, grid, x, counted_noise)
    for name in table:
        np.testing.assert_array_equal(sample[name], point[name])
        np.testing.assert_array_equal(x0[name], point[name])


@pytest.mark.parametrize("sampler", ["ddpm", "ddim-1"])
def test_intermediate_samples_of_a_point_mass_follow_the_process(sampler):
    # Started from q(x_1 | x0), x_s stays on q(x_s | x0): mean alpha_s x0, deviation sigma_s.
    x0, size = 0.8, 200_000
    grid = np.array([1.0, 0.7, 0.4, 0.2])
    alpha, sigma = COSINE.alpha_sigma(grid[0])
    z = tf.random.stateless_normal((1, size), (1, 2), dtype="float64")
    x, point = {"1": alpha * x0 + sigma * z}, {"1": x0 * tf.ones_like(z)}
    for stop in (1, 2, 3):
        run = (SAMPLERS[sampler], lambda x, t: point, {"1": COSINE}, grid, x, counted_noise)
        sample = np.array(samplers.run(*run, stop=stop)[0]["1"])
        alpha_s, sigma_s = (float(a) for a in COSINE.alpha_sigma(grid[stop]))
        assert abs(sample.mean() - alpha_s * x0) < 5 * sigma_s / math.sqrt(size)
        assert sample.std() == pytest.approx(sigma_s, rel=5 / math.sqrt(2 * size))


def test_ddim_is_of_first_order_on_a_gaussian():
    """The flow of a Gaussian is linear: x_t - alpha_t m scales with its standard deviation."""
    mean, std, end = 0.3, 0.5, 0.1
    x_1 = np.linspace(-2.0, 2.0, 5)[None]

    def deviation(t):
        alpha, sigma = (float(a) for a in COSINE.alpha_sigma(np.float64(t)))
        return alpha, math.sqrt(alpha**2 * std**2 + sigma**2)

    (alpha_1, wide), (alpha_s, narrow) = deviation(0.9), deviation(end)
    exact = alpha_s * mean + narrow / wide * (x_1 - alpha_1 * mean)
    steps = np.array([32, 64, 128, 256])
    errors = []
    for count in steps:
        grid = np.linspace(0.9, end, count + 1)
        denoise = gaussian_denoiser(mean, std)
        x, _ = samplers.run(SAMPLERS["ddim"], denoise, {"1": COSINE}, grid, {"1": x_1})
        errors.append(np.max(np.abs(x["1"] - exact)))
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -1.05 < slope < -0.95
    assert errors[-1] < 5e-3


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_samples_of_a_gaussian_have_its_mean_and_variance(name):
    mean, std, size = 0.3, 0.5, 100_000
    x = {"1": tf.random.stateless_normal((1, size), (3, 4), dtype="float64")}
    grid = samplers.time_grid("uniform", 200)
    run = (SAMPLERS[name], gaussian_denoiser(mean, std), {"1": COSINE}, grid, x, counted_noise)
    sample = np.array(samplers.run(*run)[0]["1"])
    # Five standard errors, and 1 % for the 200 steps.
    assert abs(sample.mean() - mean) < 5 * std / math.sqrt(size) + 0.003
    assert sample.std() == pytest.approx(std, rel=0.02)


def test_no_noise_is_drawn_without_need(rng):
    def forbidden(i, name, x):
        raise AssertionError("noise was drawn")

    x = {"4": rng.standard_normal((1, 4))}
    run = (gaussian_denoiser(0.0, 1.0), {"4": COSINE}, samplers.time_grid("uniform", 3), x)
    samplers.run(SAMPLERS["ddim"], *run, forbidden)
    with pytest.raises(AssertionError, match="noise was drawn"):
        samplers.run(SAMPLERS["ddpm"], *run, forbidden)


def network(x, t):
    """A stand-in with work in float32 in which both levels meet."""
    low, high = x["4"], x["8"]
    pooled = ops.average_pool(high, 2, data_format="channels_last")
    mixed = ops.tanh(1.3 * low + 0.5 * pooled * t)
    return {"4": mixed, "8": ops.tanh(high - ops.repeat(ops.repeat(mixed, 2, 1), 2, 2))}


TWO_LEVELS = {"4": COSINE, "8": COSINE.shifted(2)}


def two_level_noise(batch):
    return {
        name: tf.random.stateless_normal((batch, int(name), int(name), 3), (7, int(name)))
        for name in TWO_LEVELS
    }


@every_sampler
@pytest.mark.parametrize("graph", [False, True])
def test_chunks_give_the_bits_of_one_run(sampler, graph):
    x, grid = two_level_noise(2), samplers.time_grid("release", 9)

    def steps(x, start, stop):
        return samplers.run(sampler, network, TWO_LEVELS, grid, x, counted_noise, start, stop)

    if graph:
        spec = {name: tf.TensorSpec([None, *level.shape[1:]]) for name, level in x.items()}
        bound = tf.TensorSpec([], "int32")
        steps = tf.function(steps, input_signature=[spec, bound, bound])
    whole, x0 = steps(x, 0, 9)
    parts = x
    for start, stop in ((0, 1), (1, 1), (1, 6), (6, 9)):
        before = parts
        parts, parts_x0 = steps(parts, start, stop)
        if start == stop:
            tf.nest.map_structure(np.testing.assert_array_equal, parts, before)
    tf.nest.map_structure(np.testing.assert_array_equal, (parts, parts_x0), (whole, x0))


@every_sampler
def test_one_graph_for_all_batches_and_steps(sampler):
    spec = {name: tf.TensorSpec([None, *x.shape[1:]]) for name, x in two_level_noise(1).items()}

    @tf.function(input_signature=[spec, tf.TensorSpec([], "int32")])
    def sample(x, steps):
        grid = samplers.time_grid("uniform", steps)
        return samplers.run(sampler, network, TWO_LEVELS, grid, x, counted_noise)

    assert sample.get_concrete_function().structured_outputs[0]["8"].shape[1:] == (8, 8, 3)
    for batch, steps in ((1, 3), (3, 8)):
        x, grid = two_level_noise(batch), samplers.time_grid("uniform", steps)
        eager = samplers.run(sampler, network, TWO_LEVELS, grid, x, counted_noise)
        tf.nest.map_structure(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5),
            sample(x, tf.constant(steps)),
            eager,
        )
    assert sample.experimental_get_tracing_count() == 1


def test_a_denoiser_that_forgets_shapes_keeps_the_loops():
    @tf.function
    def sample(x):
        def vague(x, t):
            return {n: tf.ensure_shape(tf.py_function(lambda a: 0.5 * a, [v], v.dtype), [None] * 4)
                    for n, v in x.items()}  # fmt: skip

        return samplers.run(SAMPLERS["ddim"], vague, TWO_LEVELS, [1.0, 0.5, 0.0], x)

    x, _ = sample(two_level_noise(2))
    assert {name: tuple(level.shape) for name, level in x.items()} == {
        "4": (2, 4, 4, 3),
        "8": (2, 8, 8, 3),
    }


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_state_keeps_its_dtype(dtype):
    x = {"4": np.ones((1, 4), dtype)}
    sample, x0 = samplers.run(
        SAMPLERS["ddpm"],
        lambda x, t: {"4": tf.zeros((1, 4))},
        {"4": COSINE},
        samplers.time_grid("uniform", 2),
        x,
        counted_noise,
    )
    assert sample["4"].dtype == x0["4"].dtype == dtype


def test_a_sampler_of_your_own():
    nothing = samplers.Sampler("nothing", lambda x_t, *_: x_t, needs_noise=False)
    assert samplers.get(nothing) is nothing
    x = {"4": np.ones((1, 4))}
    run = (gaussian_denoiser(0, 1), {"4": COSINE}, samplers.time_grid("uniform", 2), x)
    np.testing.assert_array_equal(samplers.run(nothing, *run)[0]["4"], x["4"])


GRID = np.array([1.0, 0.5, 0.0])
STATE = {"4": np.zeros((1, 4), "float32")}


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: samplers.get("euler"), "'ddim', 'ddpm'"),
        (lambda: samplers.get("ddim", eta=2.0), "eta=2.0"),
        (lambda: samplers.time_grid("uniform", 1001), "steps=1001"),
        (lambda: samplers.time_grid("uniform", 0), "steps=0"),
        (lambda: samplers.time_grid("karras", 5), "'karras'"),
        (lambda: samplers.run(SAMPLERS["ddim"], None, {}, GRID, STATE), "schedules"),
        (lambda: samplers.run(SAMPLERS["ddpm"], None, {"4": COSINE}, GRID, STATE), "noise=None"),
        (
            lambda: samplers.run(SAMPLERS["ddim"], None, {"4": COSINE}, GRID, STATE, stop=3),
            "stop=3",
        ),
        (
            lambda: samplers.run(SAMPLERS["ddim"], lambda x, t: {}, {"4": COSINE}, GRID, STATE),
            "denoise",
        ),
    ],
)
def test_errors_name_the_argument(call, word):
    with pytest.raises(ValueError, match="Received: .*To fix it: ") as caught:
        call()
    assert word in str(caught.value)
