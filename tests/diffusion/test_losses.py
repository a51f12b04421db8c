import numpy as np
import pytest
import tensorflow as tf

from keras_mdm.diffusion import losses, parameterization, schedules


def test_level_loss_is_the_mean_per_sample(rng):
    x, y = rng.standard_normal((2, 3, 4, 8, 8, 3))
    np.testing.assert_allclose(
        losses.level_loss(x, y), ((x - y) ** 2).mean(axis=(1, 2, 3, 4)), rtol=1e-13
    )


def test_half_precision_is_summed_in_float32():
    x = tf.fill((1, 256, 256, 3), tf.constant(0.01, "float16"))
    loss = losses.level_loss(x, tf.zeros_like(x))
    assert loss.dtype == "float32"
    np.testing.assert_allclose(loss, float(np.float16(0.01)) ** 2, rtol=1e-5)


def test_unit_weights_on_means_are_the_papers_weights_on_sums(rng):
    errors = {"4": rng.standard_normal((2, 4, 4, 3)), "8": rng.standard_normal((2, 8, 8, 3))}
    total = losses.multi_resolution(
        {name: losses.level_loss(e, np.zeros_like(e)) for name, e in errors.items()}
    )
    sums = {name: (e**2).sum(axis=(1, 2, 3)) for name, e in errors.items()}
    omega = {"4": errors["8"][0].size / errors["4"][0].size, "8": 1.0}  # N_R / N_r
    paper = sum(omega[name] * sums[name] for name in sums) / errors["8"][0].size
    np.testing.assert_allclose(total, paper, rtol=1e-12)


def test_level_weights():
    total = losses.multi_resolution(
        {"4": tf.constant([1.0, 2.0]), "8": tf.constant([10.0, 20.0])}, {"8": 0.5}
    )
    np.testing.assert_array_equal(total, [6.0, 12.0])
    with pytest.raises(ValueError, match="16"):
        losses.multi_resolution({"4": tf.zeros(1)}, {"16": 1.0})
    with pytest.raises(ValueError, match="one level"):
        losses.multi_resolution({})


def test_mixed_batches_average_every_level_over_its_own_samples(rng):
    per_level = {"4": rng.uniform(size=6), "8": rng.uniform(size=4), "16": rng.uniform(size=2)}
    total = losses.multi_resolution({name: tf.constant(loss) for name, loss in per_level.items()})
    assert total.shape == (6,)
    np.testing.assert_allclose(
        tf.reduce_mean(total), sum(loss.mean() for loss in per_level.values()), rtol=1e-12
    )
    # The release's form: divided by the share of the batch, 0 for the other samples.
    np.testing.assert_allclose(total[5], per_level["4"][5], rtol=1e-12)
    np.testing.assert_allclose(
        total[2], per_level["4"][2] + per_level["8"][2] / (4 / 6), rtol=1e-12
    )


def test_in_a_graph_with_unknown_batches(rng):
    signature = {name: tf.TensorSpec([None], "float32") for name in ("4", "8")}
    traced = tf.function(losses.multi_resolution, input_signature=[signature])
    for rows in ((4, 4), (4, 2)):
        per_level = {
            name: tf.constant(rng.uniform(size=n), "float32")
            for name, n in zip(signature, rows, strict=True)
        }
        np.testing.assert_allclose(traced(per_level), losses.multi_resolution(per_level), rtol=1e-6)


def test_vdm_weights_are_the_loss_on_x0_times_the_fall_of_snr():
    """SNR_{t-1}/SNR_t - 1 on an eps error is (SNR_{t-1} - SNR_t) on the x0 error it implies."""
    schedule = schedules.cosine()
    k = np.array([2, 10, 500, 999])
    snr = schedule.table() / np.maximum(1.0 - schedule.table(), 1e-300)
    eps_error = 0.1
    x0_error = eps_error / np.sqrt(snr[k])
    weight = np.array(losses.weighting("vdm", schedule, k / 1000))
    np.testing.assert_allclose(
        weight * eps_error**2, (snr[k - 1] - snr[k]) * x0_error**2, rtol=1e-8
    )


def test_vdm_weights_do_not_depend_on_the_level_and_repeat_at_the_start():
    t = np.array([0.0, 0.001, 0.002, 0.5])
    base = losses.weighting("vdm", schedules.cosine(), t)
    np.testing.assert_array_equal(losses.weighting("vdm", schedules.cosine().shifted(16), t), base)
    assert float(base[0]) == float(base[1]) == float(base[2]) != float(base[3])


SNR_FORMS = {
    "min_snr": (
        {},
        {
            "eps": lambda snr: np.minimum(snr, 5.0) / snr,
            "v": lambda snr: np.minimum(snr, 5.0) / (snr + 1.0),
            "x0": lambda snr: np.minimum(snr, 5.0),
        },
    ),
    "p2": ({"k": 2.0, "gamma": 0.5}, {"eps": lambda snr: (2.0 + snr) ** -0.5}),
    "sigmoid": ({"bias": 1.0}, {"eps": lambda snr: np.e / (np.e + snr)}),
}


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("name", SNR_FORMS)
def test_weightings_of_the_snr_in_closed_form(name, scale):
    """On the level's own SNR, and the same objective whatever the loss compares."""
    schedule = schedules.cosine().shifted(scale)
    t = np.array([0.002, 0.1, 0.5, 0.9, 1.0])
    snr = np.exp(np.asarray(schedule.logsnr(t)))
    options, forms = SNR_FORMS[name]
    kind = {"kind": name, **options}
    for target, form in forms.items():
        found = losses.weighting(kind, schedule, t, target=target)
        np.testing.assert_allclose(found, form(snr), rtol=1e-10)
    on_eps = losses.weighting(kind, schedule, t, target="eps")
    # Squared errors of eps : v : x0 are as SNR : SNR + 1 : 1.
    on_v = losses.weighting(kind, schedule, t, target="v")
    on_x0 = losses.weighting(kind, schedule, t, target="x0")
    np.testing.assert_allclose(on_v * (snr + 1.0), on_eps * snr, rtol=1e-10)
    np.testing.assert_allclose(on_x0, on_eps * snr, rtol=1e-10)


def test_weightings_and_their_options_are_checked():
    for wrong in ("snr", {"kind": "p2", "gama": 1.0}, {"kind": "p2", "k": None}, {"k": 1.0}):
        with pytest.raises(ValueError, match="Received"):
            losses.check_weighting(wrong)
    assert losses.check_weighting({"kind": "p2", "k": 2}) == ("p2", {"k": 2.0, "gamma": 1.0})


@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
def test_estimates_beyond_the_ends_cost_nothing_where_the_data_is_at_an_end(kind, rng):
    x0 = np.array([[1.0, 1.0, -1.0, -1.0, 0.99, 0.0]])
    estimate = np.array([[1.3, 0.7, -1.3, -0.7, 1.3, 1.3]])
    eps = rng.standard_normal(x0.shape)
    alpha, sigma = 0.6, 0.8
    noisy = alpha * x0 + sigma * eps
    target = parameterization.from_x0_eps(kind, x0, eps, alpha, sigma)
    prediction = parameterization.convert("x0", kind, estimate, noisy, alpha, sigma)
    kept = losses.censored(tf.constant(prediction), tf.constant(target), tf.constant(x0), kind)
    free = np.array([[True, False, True, False, False, False]])
    np.testing.assert_array_equal(kept, np.where(free, target, prediction))
