"""Every signature of an export draws what `generate` draws, and refuses what it refuses."""

import numpy as np
import pytest
import tensorflow as tf
from text.test_flan_t5 import write
from text.test_t5_tokenizer import spiece  # noqa: F401 (a fixture)
from tiny_models import PLAIN_INNER, THREE_PARTS, FakeEncoder, outer, tiny_unet

import keras_mdm as mdm
from keras_mdm.export import warmup
from keras_mdm.serving.exports import ExportPainter
from keras_mdm.serving.limits import Limits
from keras_mdm.serving.wishes import Wish
from keras_mdm.text import FlanT5
from keras_mdm.training.derived import with_dtype

PROMPTS, STEPS = ["a red apple", "the panda"], 2
OWN = {"steps": STEPS, "sampler": "euler", "guidance_scale": {"8": 3.0, "16": 1.5}}


@pytest.fixture(scope="module")
def model(tmp_path_factory, spiece):  # noqa: F811
    folder = tmp_path_factory.mktemp("encoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_MDM_CACHE", str(folder / "cache"))
        encoder = FlanT5(write(folder / "tiny", spiece))
    unet = tiny_unet([PLAIN_INNER, outer(16)], text_width=encoder.width, num_classes=3)
    unet.trained_alone = ("8", "16")
    return mdm.MatryoshkaDiffusion(unet, text_encoder=encoder, null_in_data=True, sampling=OWN)


@pytest.fixture(scope="module")
def place(model, tmp_path_factory, request):
    slow = request.config.getoption("--slow")
    return model.export(tmp_path_factory.mktemp("served") / "apples", denoiser=slow)


@pytest.fixture(scope="module")
def served(place):
    return tf.saved_model.load(str(place)).signatures


def call(signature, **given):
    wanted = signature.structured_input_signature[1]
    assert set(given) == set(wanted)
    found = signature(**{k: tf.cast(v, wanted[k].dtype) for k, v in given.items()})
    return {name: value.numpy() for name, value in found.items()}


def asked(**changes):
    plain = {"prompt": tf.constant(PROMPTS), "negative_prompt": tf.constant(["", ""])}
    plain |= {"label": [0, -1], "steps": [STEPS] * 2, "guidance_scale": [3.0, 3.0], "seed": [5, 7]}
    return {**plain, **changes}


def drawn(model, rows=slice(0, 2), **options):
    given = {"prompts": PROMPTS[rows], "label": np.array([0, -1], "int32")[rows]}
    return model.generate(given, seed=[5, 7][rows], progress=False, **options)


def assert_same(found, expected, most=0):
    assert found.keys() == expected.keys()
    for level, pictures in expected.items():
        assert found[level].dtype == np.uint8
        assert np.abs(found[level].astype(int) - pictures).max() <= most, level


def test_strings_by_row(model, served):
    found = call(served["serving_default"], **asked())
    assert_same(found, drawn(model), 1)
    # A row does not depend on the others, and has its own guidance and seed.
    weak = call(served["serving_default"], **asked(guidance_scale=[3.0, 2.0], seed=[5, 9]))
    assert_same({k: v[:1] for k, v in weak.items()}, {k: v[:1] for k, v in found.items()})
    scale = {"8": 2.0, "16": 1.25}  # as far from 1 as in `OWN`, by half
    expected = model.generate(
        {"prompts": PROMPTS[1:], "label": [-1]}, seed=[9], guidance_scale=scale, progress=False
    )
    assert_same({k: v[1:] for k, v in weak.items()}, expected, 1)


@pytest.mark.slow
def test_negative_prompts_by_row(model, served):
    negative = ["", "the cow"]
    found = call(served["serving_default"], **asked(negative_prompt=tf.constant(negative)))
    plain = call(served["serving_default"], **asked())
    assert_same({k: v[:1] for k, v in found.items()}, {k: v[:1] for k, v in plain.items()}, 1)
    expected = drawn(model, slice(1, 2), negative_prompts="the cow")
    assert_same({k: v[1:] for k, v in found.items()}, expected, 1)
    assert np.any(found["16"][1] != plain["16"][1])


@pytest.mark.parametrize("rows", [1, 2])
def test_embeddings_are_bit_identical(model, served, rows):
    text, mask = model.text_encoder.encode(PROMPTS[:rows])
    found = call(
        served["embeddings"],
        text=text,
        text_mask=mask,
        label=[0, -1][:rows],
        steps=[STEPS] * rows,
        guidance_scale=[3.0] * rows,
        seed=[5, 7][:rows],
    )
    assert_same(found, drawn(model, slice(0, rows)))


@pytest.mark.slow
def test_labels(model, served):
    found = call(
        served["labels"], label=[1, 2], steps=[3] * 2, guidance_scale=[3.0] * 2, seed=[5, 7]
    )
    expected = model.generate(labels=[1, 2], steps=3, seed=[5, 7], progress=False)
    assert_same(found, expected)


def test_the_models_own_defaults(model, served):
    found = call(served["simple"], prompt=tf.constant(PROMPTS), label=[0, -1])
    given = {"prompts": PROMPTS, "label": [0, -1]}
    assert_same(found, model.generate(given, seed=[0, 0], progress=False), 1)


def test_one_number_for_all(model, served):
    text, mask = model.text_encoder.encode(PROMPTS)
    given = {"text": text, "text_mask": mask, "label": [0, -1]}
    found = call(served["scalars"], **given, steps=3, guidance_scale=3.0, seed=5)
    given["label"] = np.array([0, -1])
    assert_same(found, model.generate(given, steps=3, seed=5, progress=False))


@pytest.mark.slow
def test_previews(model, served):
    assert_same(call(served["sample_8"], **asked()), drawn(model, stop_at="8"), 1)
    assert_same(call(served["sample_16"], **asked()), call(served["serving_default"], **asked()))


@pytest.mark.slow
def test_the_network_alone(model, served):
    rng = np.random.default_rng(0)
    x = {level: rng.normal(size=(2, int(level), int(level), 3)) for level in ("8", "16")}
    x = {level: value.astype("float32") for level, value in x.items()}
    text, mask = model.text_encoder.encode(PROMPTS)
    given = {"text": text, "text_mask": mask, "label": np.array([0, -1], "int32")}
    t = np.array([0.3, 0.9], "float32")
    noisy = {f"x_{level}": value for level, value in x.items()}
    found = call(served["denoise"], **given, **noisy, t=t)
    time = 1000 * t - 1  # N t - 1
    inputs = {**given, "time": time, **{f"z_{level}": value for level, value in x.items()}}
    outputs = model.network()(inputs)
    for level, output in outputs.items():
        alpha, sigma = (
            np.asarray(each).reshape(2, 1, 1, 1) for each in model.process.amplitudes(level, t)
        )
        expected = alpha * x[level] - sigma * np.asarray(output)  # of a prediction v
        np.testing.assert_allclose(found[level], expected, atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": [0, 0]}, "from 1 to 1000"),
        ({"steps": [10**9] * 2}, "from 1 to 1000"),
        ({"steps": [2, 3]}, "same in all rows"),
        ({"guidance_scale": [1.0, -1.0]}, "at least 0"),
        ({"guidance_scale": [1.0, np.nan]}, "finite"),
        ({"seed": [0, -1]}, "non-negative"),
        ({"seed": [0]}, "same number of pictures"),
        ({"label": [0, 3]}, "from -1 to 2"),
        ({"prompt": tf.constant(["a", "b" * 100_000])}, "at most 65536 bytes"),
        ({"prompt": tf.constant(["a", b"\xff\xfe"])}, "UTF-8"),
        ({"negative_prompt": tf.constant(["a", b"\xff\xfe"])}, "UTF-8"),
    ],
)
def test_what_is_refused(served, changes, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message) as problem:
        call(served["serving_default"], **asked(**changes))
    assert problem.match("Received: ") and problem.match("To fix it: ")


def test_strange_prompts_are_drawn(served):
    strange = ["", "红苹果 🍎"]
    found = call(served["serving_default"], **asked(prompt=tf.constant(strange)))
    assert found["16"].shape == (2, 16, 16, 3)


def test_the_page_names_every_signature(place, served):
    text = (place.parent / "README.md").read_text()
    assert all(f"| `{name}` |" in text for name in served)
    assert 'load("apples/1")' in text and "import tensorflow_text" in text
    assert "Defaults: 2 steps, guidance 3, seed 0" in text


def messages():
    """The messages of Serving's API, as its files declare them."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from tensorflow.core.framework import tensor_pb2

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="log.proto", package="log", syntax="proto3", dependency=["tensor.proto"]
    )

    def declare(message, *fields, nested=None):
        for name, number, kind, many in fields:
            added = message.field.add(name=name, number=number)
            added.label = kinds.LABEL_REPEATED if many else kinds.LABEL_OPTIONAL
            added.type = kinds.TYPE_MESSAGE if kind else kinds.TYPE_STRING
            if kind:
                added.type_name = kind

    declare(file.message_type.add(name="Log"), ("predict_log", 6, ".log.Predict", False))
    declare(file.message_type.add(name="Predict"), ("request", 1, ".log.Request", False))
    request = file.message_type.add(name="Request")
    declare(
        request,
        ("model_spec", 1, ".log.Spec", False),
        ("inputs", 2, ".log.Request.InputsEntry", True),
    )
    entry = request.nested_type.add(name="InputsEntry")
    entry.options.map_entry = True
    declare(entry, ("key", 1, None, False), ("value", 2, ".tensorflow.TensorProto", False))
    declare(
        file.message_type.add(name="Spec"),
        ("name", 1, None, False),
        ("signature_name", 3, None, False),
    )
    pool = descriptor_pool.Default()
    file.dependency[:] = [tensor_pb2.DESCRIPTOR.name]
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("log.Log"))


def test_serving_warms_up_with_requests_that_run(place, served):
    kind, seen = messages(), []
    for record in tf.data.TFRecordDataset(str(place / warmup.PLACE)):
        log = kind.FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.name == "apples"
        name = request.model_spec.signature_name
        given = {k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()}
        served[name](**given)
        seen.append(name)
    assert seen == ["serving_default", "simple"]


def test_what_is_no_place_for_a_version(model, place, tmp_path):
    with pytest.raises(ValueError, match="of an exported model") as problem:
        mdm.export_saved_model(model, place)
    assert problem.match(THREE_PARTS)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="found=\\['file'\\]"):
        mdm.export_saved_model(model, tmp_path)


@pytest.mark.slow
def test_versions_defaults_and_types(tmp_path):
    unet = tiny_unet([PLAIN_INNER], dtype="mixed_bfloat16")
    model = mdm.MatryoshkaDiffusion(unet, sampling={"sampler": "ddpm", "steps": 3})
    pictures = {}
    for number, dtype in enumerate((None, "float32", "bfloat16"), start=1):
        place = model.export(tmp_path / "served", dtype=dtype)
        assert place == tmp_path / "served" / str(number)
        signatures = tf.saved_model.load(str(place)).signatures
        pictures[dtype] = call(signatures["serving_default"], steps=[3, 3], seed=[1, 2])
        assert_same(
            {k: v[:1] for k, v in pictures[dtype].items()},
            call(signatures["serving_default"], steps=[3], seed=[1]),
        )
    exact = with_dtype(model, "float32")
    assert exact.unet.policy.name == "float32" and model.unet.policy.name == "mixed_bfloat16"
    options = {"num_images": 2, "seed": [1, 2], "progress": False}
    assert_same(pictures["float32"], exact.generate(**options))
    assert_same(pictures[None], model.generate(**options))
    assert_same(pictures["bfloat16"], pictures[None])
    assert np.any(pictures["float32"]["8"] != pictures[None]["8"])


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_strings_of_an_adapted_network_with_a_frozen_level(model, tmp_path, policy):
    """LoRA on one level, the other one frozen, trained for a step; the server draws the same."""
    width = model.text_encoder.width
    unet = tiny_unet([PLAIN_INNER, outer(16)], text_width=width, dtype=policy)
    adapted = mdm.MatryoshkaDiffusion(unet, text_encoder=model.text_encoder, sampling=OWN)
    adapted.unet.enable_lora(2, levels=["16"])
    adapted.compile(mdm.optimizers.Adam(0.05))
    pictures = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype("uint8")
    before = adapted.generate(PROMPTS, seed=[5, 7], progress=False)
    adapted.fit(pictures, PROMPTS * 2, batch_size=4, verbose=0)
    place = adapted.export(tmp_path / "served", weights="raw")
    expected = adapted.generate(PROMPTS, seed=[5, 7], weights="raw", progress=False)
    assert np.any(expected["16"] != before["16"])
    signature = tf.saved_model.load(str(place)).signatures["simple"]
    given = {"seed": [0, 0]} if "seed" in signature.structured_input_signature[1] else {}
    found = call(signature, prompt=tf.constant(PROMPTS), **given)
    again = adapted.generate(PROMPTS, seed=[0, 0], weights="raw", progress=False)
    assert_same(found, again, 1)
    if policy == "float32":
        with pytest.raises(ValueError, match="without LoRA.*merge_lora"):
            adapted.export(tmp_path / "served", dtype="bfloat16")
    painter = ExportPainter(place, limits=Limits())
    orders = [painter.order(Wish(prompt=p, seed=s)) for p, s in zip(PROMPTS, (5, 7), strict=True)]
    for row, (drawn, _) in enumerate(painter.paint(orders, lambda *step: None)):
        assert np.abs(drawn["16"].astype(int) - expected["16"][row]).max() <= 1


@pytest.mark.slow
def test_an_interval_and_a_share_of_noise(tmp_path):
    unet = tiny_unet([PLAIN_INNER], num_classes=2)
    own = {"steps": 4, "eta": 0.5, "guidance_interval": (0.3, 0.8), "guidance_rescale": 0.5}
    model = mdm.MatryoshkaDiffusion(unet, sampling={**own, "guidance_scale": 3.0})
    served = tf.saved_model.load(str(model.export(tmp_path / "served"))).signatures
    for rows in (1, 3):
        found = call(served["simple"], label=[0, 1, 1][:rows])
        expected = model.generate(labels=[0, 1, 1][:rows], seed=[0] * rows, progress=False)
        assert_same(found, expected)


def test_an_encoder_that_cannot_be_inside(tmp_path, model):
    plain = mdm.MatryoshkaDiffusion(
        tiny_unet([PLAIN_INNER], text_width=FakeEncoder.width), text_encoder=FakeEncoder()
    )
    with pytest.raises(ValueError, match="minilm, flan_t5") as problem:
        plain.export(tmp_path / "served", prompt_input=True)
    assert problem.match(THREE_PARTS)
    pictures = mdm.MatryoshkaDiffusion(tiny_unet([PLAIN_INNER]))
    with pytest.raises(ValueError, match="network with text"):
        pictures.export(tmp_path / "served", prompt_input=True)
    plain._encoder_identity = {**model.text_encoder.identity, "sha256": "0"}
    plain.text_encoder = None
    with pytest.raises(ValueError, match="FLAN-T5"):
        plain.export(tmp_path / "served", prompt_input=True)
    assert not (tmp_path / "served").exists()
