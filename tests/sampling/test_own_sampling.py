"""Samplers, guidances and thresholds of a user's own, in `generate` and in the export."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from tiny_models import PLAIN_INNER, outer, tiny_unet

from keras_mdm import MatryoshkaDiffusion, diffusion, export_saved_model
from sampling.drawing import scramble_averages


@pytest.fixture(scope="module")
def model():
    model = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER, outer(16)], num_classes=4))
    scramble_averages(model)
    return model


def draw(model, **options):
    given = {"labels": [0, 3], "steps": 5, "output": "float32", "progress": False}
    return model.generate(**given | options)


def assert_close(found, expected, atol=2e-5):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=atol, err_msg=name)


def dpmpp_2m_again(x_t, x0, memory, moment, noise):
    """Algorithm 2 of arXiv 2211.01095, once more."""
    at = moment.like(x_t)
    usable = ops.logical_and(moment.filled >= 1, moment.sigma_s > 0.0)
    weight = ops.where(usable, 0.5 * at.h / ops.maximum(at.h_before, 1e-12), 0.0)
    estimate = x0 + weight * (x0 - memory[0])
    moved = at.sigma_s / at.sigma_t * x_t + at.alpha_s * (1.0 - at.q) * estimate
    return moved, (x0,)


OWN = diffusion.Sampler("again", dpmpp_2m_again, needs_noise=False, memory=1)


@pytest.mark.slow
def test_an_own_sampler(model, tmp_path):
    expected = draw(model, sampler="dpmpp_2m")
    assert_close(draw(model, sampler=OWN), expected)
    assert_close(
        draw(model, sampler=OWN, guidance_interval=(0.3, 0.8)),
        draw(model, sampler="dpmpp_2m", guidance_interval=(0.3, 0.8)),
    )
    given = {"label": np.array([0, 3], "int32"), "steps": 5, "guidance_scale": 3.0, "seed": 2}
    pictures = []
    for sampler in (OWN, "dpmpp_2m"):
        directory = export_saved_model(model, tmp_path / str(len(pictures)), sampler=sampler)
        serve = tf.saved_model.load(directory).signatures["scalars"]
        wanted = serve.structured_input_signature[1]
        served = serve(**{k: tf.cast(v, wanted[k].dtype) for k, v in given.items()})
        pictures.append({k: v.numpy().astype(int) for k, v in served.items()})
    assert_close(*pictures, atol=1)


def test_a_step_without_a_memory_may_return_the_data_alone(model):
    def to_the_estimate(x_t, x0, memory, moment, noise):
        return x0

    sampler = diffusion.Sampler("straight", to_the_estimate, needs_noise=False)
    assert set(draw(model, sampler=sampler)) == {"8", "16"}


@dataclasses.dataclass(frozen=True)
class Linear:
    """Classifier-free guidance of the clean data, which are linear in the outputs."""

    shift: float = 0.0

    def __call__(self, conditional, away, at):
        return {
            name: away.x0[name] + at.scales[name] * (x0 - away.x0[name]) + self.shift
            for name, x0 in conditional.x0.items()
        }


@pytest.mark.parametrize(
    "options",
    [
        {"guidance_scale": {"8": 3.0, "16": 1.5}},
        pytest.param({"split_guidance": True}, id="split_guidance", marks=pytest.mark.slow),
        pytest.param(
            {"autoguidance": "raw", "guidance_scale": 1.5},
            id="autoguidance",
            marks=pytest.mark.slow,
        ),
        {"guidance_interval": (0.3, 0.8)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_own_guidance(model, options):
    options = {"guidance_scale": 3.0, "threshold": "static"} | options
    expected = draw(model, **options)
    assert_close(draw(model, guidance=Linear(), **options), expected, atol=1e-3)
    moved = draw(model, guidance=Linear(0.2), **options)
    assert max(np.abs(moved[name] - expected[name]).max() for name in moved) > 0.05


def test_an_own_guidance_is_not_asked_where_nothing_is_guided(model):
    def never(conditional, away, at):
        raise AssertionError

    assert_close(draw(model, guidance=never, guidance_scale=1.0), draw(model, guidance_scale=1.0))


def test_an_own_threshold(model):
    def clip(x0):
        return ops.clip(x0, -1.0, 1.0)

    assert_close(draw(model, threshold=clip), draw(model, threshold="static"), atol=0)


def test_equal_records_are_traced_once(model):
    del model._graphs
    for shift in (0.1, 0.1):
        draw(model, guidance=Linear(shift), sampler=OWN)
    assert model._graphs.tracings() == [1, 1]


def test_unknown_names_are_refused(model):
    with pytest.raises(ValueError, match="`guidance` must be one of 'classifier_free'"):
        draw(model, guidance="projected")
    with pytest.raises(ValueError, match="`sampler` must be one of"):
        draw(model, sampler="ge")
    with pytest.raises(ValueError, match="only DDIM has a share of fresh noise"):
        draw(model, sampler=OWN, eta=0.5)


def test_what_graphs_cannot_be_kept_by_is_refused(model):
    @dataclasses.dataclass
    class Unfrozen:
        shift: float = 0.0

        def __call__(self, conditional, away, at):
            return conditional.x0

    for name in ("guidance", "threshold"):
        with pytest.raises(ValueError, match=f"`{name}` must be hashable.*{name}='Unfrozen'"):
            draw(model, **{name: Unfrozen()})
