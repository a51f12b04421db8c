import math

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_mdm.diffusion import samplers, schedules, time_grid
from keras_mdm.diffusion.sampling_steps import Moment
from keras_mdm.diffusion.time_grids import GRIDS

COSINE = schedules.cosine()
SAMPLERS = {
    "ddim-0.5": samplers.get("ddim", eta=0.5),
    "ddim-1": samplers.get("ddim", eta=1.0),
    **{name: samplers.get(name) for name in samplers.NAMES},
}
without_memory = pytest.mark.parametrize("name", ["ddim", "ddim-0.5", "ddim-1", "ddpm"])
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


def moment_of(*at_t_and_s):
    """What a step without a memory is told."""
    rest = dict.fromkeys(("q", "h", "sigma_before", "h_before", "h_earlier"), float("nan"))
    return Moment(*at_t_and_s, **rest, filled=0, evaluation=0)


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


@without_memory
def test_the_step_to_zero_returns_the_estimate(rng, name):
    sampler = SAMPLERS[name]
    x_t, x0, noise = rng.standard_normal((3, 2, 8)).astype("float32")
    for shift in (1, 16):
        x_s, memory = sampler.step(x_t, x0, (), moment_of(*amplitudes(1, 0, shift=shift)), noise)
        assert memory == ()
        np.testing.assert_array_equal(x_s, x0)


# The loop


@every_sampler
@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 13])
def test_exact_for_a_point_mass(rng, sampler, kind, steps):
    table = {"4": COSINE, "8": COSINE.shifted(2)}
    point = {n: rng.standard_normal((2, int(n), int(n), 3)).astype("float32") for n in table}
    x = {n: rng.standard_normal(p.shape).astype("float32") for n, p in point.items()}
    grid = time_grid(kind, steps)
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


ORDERS = {"ddim": 1, "euler": 1, "heun": 2, "dpmpp_2m": 2, "unipc": 2}


def gaussian_flow(mean, std, begin, end, x):
    """The flow of a Gaussian is linear: x_t - alpha_t m scales with its standard deviation."""

    def deviation(t):
        alpha, sigma = (float(a) for a in COSINE.alpha_sigma(np.float64(t)))
        return alpha, math.sqrt(alpha**2 * std**2 + sigma**2)

    (alpha_1, wide), (alpha_s, narrow) = deviation(begin), deviation(end)
    return alpha_s * mean + narrow / wide * (x - alpha_1 * mean)


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence_on_a_gaussian(name):
    mean, std, begin, end = 0.3, 0.5, 0.9, 0.1
    x_1 = np.linspace(-2.0, 2.0, 5)[None]
    exact = gaussian_flow(mean, std, begin, end, x_1)
    steps = np.array([16, 32, 64, 128])
    errors = []
    for count in steps:
        grid = np.linspace(begin, end, count + 1)
        denoise = gaussian_denoiser(mean, std)
        x, _ = samplers.run(SAMPLERS[name], denoise, {"1": COSINE}, grid, {"1": x_1})
        errors.append(np.max(np.abs(x["1"] - exact)))
    order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert order > (0.9 if ORDERS[name] == 1 else 1.8)
    if ORDERS[name] == 1:
        assert order < 1.1  # the test can tell the orders apart
    assert errors[-1] < (1e-2 if ORDERS[name] == 1 else 5e-4)


def test_sixteen_steps_of_second_order_beat_128_of_first():
    x_1, errors = np.linspace(-2.0, 2.0, 5)[None], {}
    exact = gaussian_flow(0.3, 0.5, 0.9, 0.1, x_1)
    for name, count in (("unipc", 16), ("dpmpp_2m", 16), ("ddim", 128)):
        run = (gaussian_denoiser(0.3, 0.5), {"1": COSINE}, np.linspace(0.9, 0.1, count + 1))
        x, _ = samplers.run(SAMPLERS[name], *run, {"1": x_1})
        errors[name] = np.max(np.abs(x["1"] - exact))
    assert max(errors["unipc"], errors["dpmpp_2m"]) < errors["ddim"]


# The same methods as the papers write them, one pixel at a time in plain float64.


def as_published(name, denoise, lam, alpha, sigma, x):
    """x after all steps; `denoise(x, i)` at entry i, all lists by entry of the grid."""
    estimates, xs = [], [x]
    for i in range(len(lam) - 1):
        h = lam[i + 1] - lam[i]
        estimates.append(denoise(x, i))
        if name == "unipc" and i > 0:
            h_c, m_1, m_t = lam[i] - lam[i - 1], estimates[i - 1], estimates[i]
            hh = -h_c
            phi_1 = math.expm1(hh)
            phi_2 = phi_1 / hh - 1.0
            phi_3 = phi_2 / hh - 0.5
            rks, differences = [1.0], []
            if i > 1:
                r_0 = (lam[i - 2] - lam[i - 1]) / h_c
                rks, differences = [r_0, 1.0], [(estimates[i - 2] - m_1) / r_0]
                matrix = np.array([[1.0, 1.0], rks])
                rho = np.linalg.solve(matrix, [phi_2 / phi_1, 2.0 * phi_3 / phi_1])
            else:
                rho = [0.5]
            sums = sum(r * d for r, d in zip(rho, [*differences, m_t - m_1], strict=True))
            x = sigma[i] / sigma[i - 1] * xs[-1] - alpha[i] * phi_1 * (m_1 + sums)
            xs.append(x)
        estimate = estimates[i]
        if i > 0:
            r = (lam[i] - lam[i - 1]) / h
            estimate = (1 + 1 / (2 * r)) * estimates[i] - 1 / (2 * r) * estimates[i - 1]
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * math.expm1(-h) * estimate
    return x


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc"])
def test_multistep_methods_are_the_published_formulas(name):
    grid = np.array([1.0, 0.93, 0.8, 0.72, 0.5, 0.31, 0.2])
    lam = 0.5 * np.array(COSINE.logsnr(grid))
    alpha, sigma = (np.array(a) for a in COSINE.alpha_sigma(grid))

    def denoise(x, t):
        return {"1": tf.tanh(1.7 * x["1"] + 3.0 * tf.cast(t, "float64") - 1.0)}

    x_1 = np.array([[-1.3, 0.2, 0.9]])
    x, _ = samplers.run(SAMPLERS[name], denoise, {"1": COSINE}, grid, {"1": x_1})
    expected = as_published(
        name, lambda x, i: np.tanh(1.7 * x + 3.0 * grid[i] - 1.0), lam, alpha, sigma, x_1
    )
    np.testing.assert_allclose(x["1"], expected, rtol=0, atol=1e-12)


def test_ancestral_euler_is_the_published_formula():
    """Down to a lower level of sigma / alpha, and noise added back (k-diffusion)."""
    alpha_t, sigma_t, alpha_s, sigma_s = amplitudes(700, 400)
    x_t, x0, noise = np.array([[0.7]]), np.array([[-0.2]]), np.array([[1.1]])
    high, low = sigma_t / alpha_t, sigma_s / alpha_s
    up = math.sqrt(low**2 * (high**2 - low**2) / high**2)
    down = math.sqrt(low**2 - up**2)
    slope = (x_t / alpha_t - x0) / high
    expected = alpha_s * (x_t / alpha_t + (down - high) * slope + up * noise)
    assert samplers.get("euler_ancestral").step is samplers.get("ddpm").step
    actual = samplers.ddpm_step(x_t, x0, alpha_t, sigma_t, alpha_s, sigma_s, noise)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "ddim-0.5", "dpmpp_2m_sde", "heun", "unipc"])
def test_samples_of_a_gaussian_have_its_mean_and_variance(name):
    mean, std, size = 0.3, 0.5, 100_000
    x = {"1": tf.random.stateless_normal((1, size), (3, 4), dtype="float64")}
    grid = time_grid("uniform", 200)
    run = (SAMPLERS[name], gaussian_denoiser(mean, std), {"1": COSINE}, grid, x, counted_noise)
    sample = np.array(samplers.run(*run)[0]["1"])
    # Five standard errors, and 1 % for the 200 steps.
    assert abs(sample.mean() - mean) < 5 * std / math.sqrt(size) + 0.003
    assert sample.std() == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize("name", ["ddpm", "dpmpp_2m_sde", "heun"])
def test_samples_of_correlated_pixels_have_their_covariance(name):
    mean = np.array([0.3, -0.4])
    covariance = np.array([[0.30, 0.21], [0.21, 0.25]])
    size = 50_000
    x = {"1": tf.random.stateless_normal((size, 2), (5, 6), dtype="float64")}

    def denoise(x, t):
        alpha, sigma = COSINE.alpha_sigma(t, "float64")
        total = alpha**2 * covariance + sigma**2 * tf.eye(2, dtype="float64")
        gain = alpha * tf.matmul(covariance, tf.linalg.inv(total))
        return {"1": mean + tf.matmul(x["1"] - alpha * mean, gain, transpose_b=True)}

    grid = time_grid("uniform", 400 if name == "ddpm" else 100)  # of first order or second
    sample = samplers.run(SAMPLERS[name], denoise, {"1": COSINE}, grid, x, counted_noise)[0]["1"]
    np.testing.assert_allclose(np.mean(sample, axis=0), mean, rtol=0, atol=0.012)
    np.testing.assert_allclose(np.cov(np.array(sample).T), covariance, rtol=0, atol=0.012)


@pytest.mark.parametrize("name", samplers.NAMES)
def test_evaluations_of_the_network(name):
    times = []

    def denoise(x, t):
        times.append(float(t))
        return {"4": tf.zeros_like(x["4"])}

    x = {"4": np.zeros((1, 4))}
    grid = time_grid("uniform", 4)
    samplers.run(samplers.get(name), denoise, {"4": COSINE}, grid, x, counted_noise)
    once = [1.0, 0.75, 0.5, 0.25]
    twice = [1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]
    assert times == (twice if name == "heun" else once)


def test_no_noise_is_drawn_without_need(rng):
    def forbidden(i, name, x):
        raise AssertionError("noise was drawn")

    x = {"4": rng.standard_normal((1, 4))}
    run = (gaussian_denoiser(0.0, 1.0), {"4": COSINE}, time_grid("uniform", 3), x)
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
    x, grid = two_level_noise(2), time_grid("release", 9)

    def steps(state, start, stop):
        return samplers.advance(
            sampler, network, TWO_LEVELS, grid, state, counted_noise, start, stop
        )

    begun = samplers.begin(sampler, x)
    if graph:
        spec = tf.nest.map_structure(lambda a: tf.TensorSpec([None, *a.shape[1:]], a.dtype), begun)
        spec["filled"] = tf.TensorSpec([], "int32")
        bound = tf.TensorSpec([], "int32")
        steps = tf.function(steps, input_signature=[spec, bound, bound])
    whole, parts = steps(begun, 0, 9), begun
    for start, stop in ((0, 1), (1, 1), (1, 6), (6, 9)):
        before = parts
        parts = steps(parts, start, stop)
        if start == stop:
            tf.nest.map_structure(np.testing.assert_array_equal, parts, before)
    tf.nest.map_structure(np.testing.assert_array_equal, parts, whole)
    assert int(whole["filled"]) == (9 if sampler.evaluations == 1 else 8)


@every_sampler
def test_one_graph_for_all_batches_and_steps(sampler):
    spec = {name: tf.TensorSpec([None, *x.shape[1:]]) for name, x in two_level_noise(1).items()}

    @tf.function(input_signature=[spec, tf.TensorSpec([], "int32")])
    def sample(x, steps):
        grid = time_grid("uniform", steps)
        return samplers.run(sampler, network, TWO_LEVELS, grid, x, counted_noise)

    assert sample.get_concrete_function().structured_outputs[0]["8"].shape[1:] == (8, 8, 3)
    for batch, steps in ((1, 3), (3, 8)):
        x, grid = two_level_noise(batch), time_grid("uniform", steps)
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
            return {
                n: tf.ensure_shape(tf.py_function(lambda a: 0.5 * a, [v], v.dtype), [None] * 4)
                for n, v in x.items()
            }

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
        time_grid("uniform", 2),
        x,
        counted_noise,
    )
    assert sample["4"].dtype == x0["4"].dtype == dtype


def test_a_sampler_of_your_own():
    nothing = samplers.Sampler("nothing", lambda x_t, *_: x_t, needs_noise=False)
    assert samplers.get(nothing) is nothing
    x = {"4": np.ones((1, 4))}
    run = (gaussian_denoiser(0, 1), {"4": COSINE}, time_grid("uniform", 2), x)
    np.testing.assert_array_equal(samplers.run(nothing, *run)[0]["4"], x["4"])


GRID = np.array([1.0, 0.5, 0.0])
STATE = {"4": np.zeros((1, 4), "float32")}


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: samplers.get("eulers"), "'ddim', 'ddpm'"),
        (lambda: samplers.get("ddim", eta=2.0), "eta=2.0"),
        (lambda: samplers.get("unipc", eta=0.5), "eta=0.5"),
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


@every_sampler
def test_every_level_moves_by_its_own_schedule(sampler):
    """Levels together are as each alone, whether their schedules are shifts of one another or
    not."""
    made = {"8": COSINE, "16": COSINE.shifted(2), "32": schedules.sigmoid().shifted(3)}
    grid = time_grid("uniform", 6)
    start = {name: np.full((1, 4), 0.7) for name in made}

    def denoise(x, t):
        found = {name: gaussian_denoiser(0.3, 0.5, made[name]) for name in x}
        return {name: found[name]({name: x_t}, t)[name] for name, x_t in x.items()}

    together, _ = samplers.run(sampler, denoise, made, grid, start, counted_noise)
    for name, schedule in made.items():
        alone, _ = samplers.run(
            sampler, denoise, {name: schedule}, grid, {name: start[name]}, counted_noise
        )
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-12)
