"""Drawing for a server: the pictures of `generate`, whoever shares the batch."""

import dataclasses
import functools
import io
import json

import numpy as np
import pytest
from PIL import Image
from tiny_models import PLAIN_INNER, TEXT_WIDTH, FakeEncoder, tiny_unet

from keras_mdm.cascade import Cascade
from keras_mdm.latents import LatentDiffusion, SpaceToDepth
from keras_mdm.serving.files import encode
from keras_mdm.serving.limits import Limits
from keras_mdm.serving.painting import painter_of
from keras_mdm.serving.wishes import Wish
from keras_mdm.training import MatryoshkaDiffusion

pytestmark = [
    pytest.mark.usefixtures("eagerly"),
    # Keras of prompts of one token, such as "no prompt" of the encoder here.
    pytest.mark.filterwarnings("ignore:You are using a softmax over axis -1"),
]

PICTURE = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype("uint8")
MASK = np.zeros((16, 16), "uint8")
MASK[:, :8] = 1


@functools.cache
def text_model():
    unet = tiny_unet(text_width=TEXT_WIDTH)
    return MatryoshkaDiffusion(unet, text_encoder=FakeEncoder(), sampling={"steps": 2})


@functools.cache
def class_model():
    unet = tiny_unet([PLAIN_INNER], num_classes=3)
    return MatryoshkaDiffusion(unet, class_names=["cat", "dog", "cow"], sampling={"steps": 2})


def no_steps(*step):
    pass


def drawn(painter, *wishes, on_step=no_steps):
    return painter.paint([painter.order(wish) for wish in wishes], on_step)


def test_a_picture_is_that_of_generate_and_does_not_depend_on_its_neighbours():
    model = text_model()
    painter = painter_of(model)
    wishes = [
        Wish(prompt="a red apple", seed=3),
        Wish(prompt="panda", negative_prompt="a red", seed=4),
        Wish(seed=5),
    ]
    assert len({painter.key(painter.order(wish)) for wish in wishes}) == 1
    together = drawn(painter, *wishes)
    assert all(notes == () and list(pictures) == ["8", "16"] for pictures, notes in together)
    ((alone, _),) = drawn(painter, wishes[1])
    for level, picture in alone.items():
        np.testing.assert_array_equal(together[1][0][level], picture)
    expected = (
        model.generate(["a red apple"], seed=[3], progress=False),
        model.generate(["panda"], negative_prompts=["a red"], seed=[4], progress=False),
        model.generate(num_images=1, seed=[5], progress=False),
    )
    for (pictures, _), other in zip(together, expected, strict=True):
        for level, picture in pictures.items():  # tokens of padding may round otherwise
            assert np.abs(picture.astype(int) - other[level][0]).max() <= 1
    assert not np.array_equal(together[0][0]["16"], together[2][0]["16"])


def test_start_pictures_and_masks_share_a_batch_and_are_those_of_generate():
    model = text_model()
    painter = painter_of(model)
    wishes = [
        Wish(prompt="panda", seed=seed, init_image=picture, mask=MASK)
        for seed, picture in ((1, PICTURE), (2, 255 - PICTURE))
    ]
    found = [pictures["16"] for pictures, _ in drawn(painter, *wishes)]
    for wish, picture in zip(wishes, found, strict=True):
        np.testing.assert_array_equal(picture[:, 8:], wish.init_image[:, 8:])  # kept
    given = {"init_image": wishes[1].init_image, "mask": MASK}
    expected = model.generate(["panda"], seed=[2], progress=False, **given)["16"][0]
    assert np.abs(found[1].astype(int) - expected).max() <= 1
    large = Wish(init_image=PICTURE, mask=np.kron(MASK, np.ones((3, 3), "uint8")))
    np.testing.assert_array_equal(painter.order(large).wish.mask, MASK)


def test_what_cannot_share_a_batch_does_not():
    painter = painter_of(text_model(), limits=Limits(samplers=("euler",)))
    wishes = [
        Wish(),
        Wish(steps=2),
        Wish(guidance_scale=2.0),
        Wish(guidance_scale={"8": 2.0, "16": 1.0}),
        Wish(sampler="euler"),
        Wish(level="8"),
        Wish(init_image=PICTURE),
        Wish(init_image=PICTURE, strength=0.2),
        Wish(init_image=PICTURE, mask=MASK),
        Wish(init_image=PICTURE[:8, :8]),
    ]
    assert len({painter.key(painter.order(wish)) for wish in wishes}) == len(wishes)
    same = [Wish(prompt="a", negative_prompt="b", seed=1), Wish(sampler="ddim", steps=None)]
    assert len({painter.key(painter.order(wish)) for wish in (*same, Wish())}) == 1


def test_nothing_is_traced_again_for_other_numbers_of_rows_and_amounts(traced):
    painter, model = painter_of(text_model()), text_model()
    drawn(painter, Wish(prompt="one"))
    before = len(model._graphs)
    for rows, steps in ((1, 2), (2, 5), (3, 2), (8, 2)):
        wish = Wish(prompt="two words", steps=steps, guidance_scale=1.0 + rows)
        drawn(painter, *[wish] * rows)
    assert len(model._graphs) == before and set(model._graphs.tracings()) == {1}


def test_steps_are_seen_and_may_be_ended():
    painter, seen = painter_of(text_model()), []
    drawn(painter, Wish(seed=1), Wish(seed=2), on_step=lambda *step: seen.append(step))
    assert [step[:2] for step in seen] == [(1, 2), (2, 2)]
    assert {level: rows.shape for level, rows in seen[0][2].items()} == {
        "8": (2, 8, 8, 3),
        "16": (2, 16, 16, 3),
    }

    def end(*step):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        drawn(painter, Wish(), on_step=end)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(steps=0), "`steps` must be an integer of at least 1"),
        (Wish(steps=10**9), "`steps` must be at most 100 on this server"),
        (Wish(level="32"), "`level` must be one of '8', '16'"),
        (Wish(guidance_scale={"32": 2.0}), "unknown_keys=.'32'."),
        (Wish(guidance_scale=-1.0), "`guidance_scale` must be"),
        (Wish(sampler="heun"), "`sampler` must be one of 'ddim'"),
        (Wish(negative_prompt="a", guidance_scale=1.0), "negative prompts replace"),
        (Wish(strength=0.5), "need an `init_image`"),
        (Wish(mask=MASK), "need an `init_image`"),
        (Wish(init_image=PICTURE, strength=2.0), "`strength` must be"),
        (Wish(init_image=PICTURE, mask=0 * MASK), "`mask` must keep some pixels"),
    ],
)
def test_mistakes_are_found_before_anything_waits(wish, words):
    with pytest.raises(ValueError, match=words):
        painter_of(text_model()).order(wish)


def test_classes_by_number_and_name():
    painter = painter_of(class_model())
    assert (
        painter.fields
        == ("seed", "steps", "sampler", "label", "guidance_scale") + painter.fields[5:]
    )
    assert painter.fields[5:] == ("init_image", "strength", "mask")
    pictures = drawn(painter, Wish(label="dog", seed=1), Wish(label=2, seed=1), Wish(seed=1))
    expected = class_model().generate(labels=[1, 2, -1], seed=[1, 1, 1], progress=False)["8"]
    for row, (levels, _) in enumerate(pictures):
        np.testing.assert_array_equal(levels["8"], expected[row])
    with pytest.raises(ValueError, match="did you mean 'cow'"):
        painter.order(Wish(label="cou"))


def test_the_parameters_draw_the_picture_again():
    painter = painter_of(text_model())
    first = painter.order(Wish(prompt="a", steps=2))
    again = painter.order(Wish(**{k: v for k, v in first.parameters.items() if k != "level"}))
    assert first.parameters["seed"] == again.wish.seed and again.parameters == first.parameters
    (one, _), (other, _) = painter.paint([first], no_steps) + painter.paint([again], no_steps)
    np.testing.assert_array_equal(one["16"], other["16"])


def test_a_text_that_is_cut_is_said_to_its_own_client_only():
    class Cutting(FakeEncoder):
        def encode(self, texts):
            import warnings

            for text in texts:
                if len(text.split()) > self.length:
                    warnings.warn(f"cut: {text}", stacklevel=2)
            return super().encode(texts)

    model = text_model()
    painter, before = painter_of(model), model.text_encoder
    model.text_encoder = Cutting()
    try:
        long = Wish(prompt="one two three four five")
        for _ in range(2):  # also once it is known
            found = drawn(painter, long, Wish(prompt="six"))
            assert [notes for _, notes in found] == [("cut: one two three four five",), ()]
    finally:
        model.text_encoder = before


def test_a_cascade_draws_both_stages_with_previews_of_both():
    large = dataclasses.replace(PLAIN_INNER, size=16)
    low = MatryoshkaDiffusion(tiny_unet([PLAIN_INNER], num_classes=2), sampling={"steps": 2})
    unet = tiny_unet([large], num_classes=2, in_channels=6)
    high = MatryoshkaDiffusion(unet, sampling={"steps": 2})
    painter, seen = painter_of(Cascade(low, high)), []
    ((pictures, _),) = drawn(painter, Wish(label=1), on_step=lambda *step: seen.append(step))
    assert list(pictures) == ["8", "16"]
    assert [(done, steps, list(levels)) for done, steps, levels in seen] == [
        (1, 4, ["8"]),
        (2, 4, ["8"]),
        (3, 4, ["16"]),
        (4, 4, ["16"]),
    ]
    with pytest.raises(ValueError, match="cannot be served by itself"):
        painter_of(high)


@pytest.mark.parametrize("unguided", [0, 1])
def test_a_stage_without_guidance_gets_no_negative_prompts(unguided):
    large = dataclasses.replace(PLAIN_INNER, size=16)
    encoder, options = FakeEncoder(), [{"steps": 2}, {"steps": 3}]
    options[unguided]["guidance_scale"] = 1.0
    low, high = (
        MatryoshkaDiffusion(
            tiny_unet([level], text_width=TEXT_WIDTH, in_channels=channels, out_channels=3),
            text_encoder=encoder,
            sampling=sampling,
        )
        for level, channels, sampling in zip((PLAIN_INNER, large), (3, 6), options, strict=True)
    )
    model = Cascade(low, high)
    painter = painter_of(model)
    # What differs is no default of both.
    assert not {"steps", "guidance_scale"} & set(painter.described()["defaults"])
    for order in painter.rehearsal("all"):
        painter.paint([order], no_steps)
    given = {"seed": [3], "progress": False}
    for scale in (None, {"8": 3.0, "16": 1.0}, {"8": 1.0, "16": 2.0}, 1.0):
        ((pictures, _),) = drawn(painter, Wish(prompt="panda", seed=3, guidance_scale=scale))
        asked = {} if scale is None else {"guidance_scale": scale}
        expected = model.generate(["panda"], **given, **asked)
        for level, picture in pictures.items():
            assert np.abs(picture.astype(int) - expected[level][0]).max() <= 1
    wish = Wish(prompt="panda", negative_prompt="a red", seed=3)
    ((pictures, _),) = drawn(painter, wish)
    guided = ("low", "high")[1 - unguided]
    expected = model.generate(["panda"], **given, **{guided: {"negative_prompts": ["a red"]}})
    assert np.abs(pictures["16"].astype(int) - expected["16"][0]).max() <= 1
    with pytest.raises(ValueError, match="negative prompts"):
        painter.order(dataclasses.replace(wish, guidance_scale=1.0))


def test_a_model_of_codes_draws_pictures():
    unet = tiny_unet([PLAIN_INNER], num_classes=2, in_channels=12, out_channels=12)
    inner = MatryoshkaDiffusion(unet, threshold="none", sampling={"steps": 2})
    painter = painter_of(LatentDiffusion(inner, SpaceToDepth(2)))
    assert painter.levels == ("16",) and "init_image" in painter.fields
    assert "mask" not in painter.fields and not painter.described()["previews"]
    wishes = [Wish(label=1, seed=1), Wish(label=0, seed=2)]
    expected = painter.model.generate(labels=[1, 0], seed=[1, 2], progress=False)["16"]
    for row, (pictures, _) in enumerate(drawn(painter, *wishes)):
        np.testing.assert_array_equal(pictures["16"], expected[row])
    ((changed, _),) = drawn(painter, Wish(init_image=PICTURE, strength=0.0))
    np.testing.assert_array_equal(changed["16"], PICTURE)


def test_clips_are_animated_files():
    level = dataclasses.replace(PLAIN_INNER, frames=4, temporal_attention=(0,))
    model = MatryoshkaDiffusion(tiny_unet([level]), sampling={"steps": 1})
    painter = painter_of(model)
    assert painter.clips and painter.fields == ("seed", "steps", "sampler")
    ((pictures, _),) = drawn(painter, Wish(seed=3))
    assert pictures["4x8"].shape == (4, 8, 8, 3)
    file = Image.open(io.BytesIO(encode(pictures["4x8"], {"seed": 3})))
    assert file.n_frames == 4 and json.loads(file.text["keras-mdm"]) == {"seed": 3}
    for number, frame in enumerate(pictures["4x8"]):
        file.seek(number)
        np.testing.assert_array_equal(np.asarray(file.convert("RGB")), frame)


def test_held_still_looks_at_the_weights_once(monkeypatch):
    model, looked = text_model(), []
    monkeypatch.setattr(
        "keras_mdm.sampling.request.check_weights", lambda model, name: looked.append(name)
    )
    painter = painter_of(model)
    with painter.at_work():
        for _ in range(3):
            drawn(painter, Wish())
    assert looked == ["ema"]
    drawn(painter, Wish())
    assert looked == ["ema", "ema"]
