"""CLIP and DINOv2 of random weights: the features are those of keras-hub's own passes."""

import numpy as np
import pytest

from keras_mdm.evaluation import ClipFeatures, DinoFeatures, evaluate

hub = pytest.importorskip("keras_hub")
THREE_PARTS = r"\. Received: [\s\S]+\. To fix it: .+\.$"
LETTERS = "abcdefgh"


def scrambled(backbone):
    rng = np.random.default_rng(0)
    for variable in backbone.variables:
        if "float" in str(variable.dtype):
            variable.assign(np.asarray(variable) + 0.2 * rng.normal(size=variable.shape))
    return backbone


@pytest.fixture(scope="module")
def clip():
    ends = [f"{letter}</w>" for letter in LETTERS]
    tokens = [*LETTERS, *ends, "ab</w>", "<|startoftext|>", "<|endoftext|>"]
    tokenizer = hub.models.CLIPTokenizer(
        vocabulary={token: number for number, token in enumerate(tokens)}, merges=["a b</w>"]
    )
    sizes = {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "intermediate_dim": 32}
    vision = hub.models.CLIPVisionEncoder(patch_size=8, image_shape=(16, 16, 3), **sizes)
    text = hub.models.CLIPTextEncoder(
        vocabulary_size=len(tokens), embedding_dim=16, max_sequence_length=8, **sizes
    )
    backbone = scrambled(
        hub.models.CLIPBackbone(vision_encoder=vision, text_encoder=text, projection_dim=12)
    )
    return backbone, tokenizer


def pictures(count=5, size=16):
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3)).astype("uint8")


def test_clip(clip):
    backbone, tokenizer = clip
    features = ClipFeatures(clip)
    images = pictures()
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    deviation = np.array([0.26862954, 0.26130258, 0.27577711])
    given = ((images / 255 - mean) / deviation).astype("float32")
    prompts = ["a b", "h", "", "c d", "a b c d e f g h a b c"]
    ids = np.zeros((5, 8), "int32")
    for row, prompt in enumerate(prompts):
        words = np.asarray(tokenizer(prompt)).tolist()[:6] if prompt else []
        found = [tokenizer.start_token_id, *words, tokenizer.end_token_id]
        ids[row, : len(found)] = found
    found, texts = features(images), features.texts(prompts)
    np.testing.assert_allclose(found, backbone.get_vision_embeddings(given), atol=1e-5)
    np.testing.assert_allclose(texts, backbone.get_text_embeddings(ids), atol=1e-5)
    # keras-hub's own logits are cosines times a scale.
    logits = np.asarray(backbone({"images": given, "token_ids": ids})["vision_logits"])
    cosines = (found @ texts.T) / np.linalg.norm(found, axis=1)[:, None]
    cosines /= np.linalg.norm(texts, axis=1)
    scale = np.exp(float(np.asarray(backbone.clip_head.logit_scale)))
    np.testing.assert_allclose(cosines * scale, logits, atol=1e-4)
    score = features.score_of(prompts).score(found)
    assert score.value == pytest.approx(100 * np.maximum(np.diag(cosines), 0).mean(), rel=1e-5)
    # Another size is resized; more pictures than a batch come in order.
    many = pictures(40, 24)
    np.testing.assert_allclose(features(many)[33:35], features(many[33:35]), atol=1e-5)
    assert features(many[:0]).shape == (0, 12)


def test_the_name_tells_weights_apart_and_reports_carry_it(clip):
    features = ClipFeatures(clip)
    report = evaluate(
        {"16": pictures(12)},
        {"16": pictures(20)},
        features=features,
        few=True,
        measures=("frechet",),
    )
    assert report.about["features"] == features.name and "16 bicubic" in features.name
    backbone, tokenizer = clip
    other = type(backbone).from_config(backbone.get_config())
    assert ClipFeatures((other, tokenizer)).name != features.name
    assert {row.measure for row in report.rows} & {"FID", "Frechet distance"} == {
        "Frechet distance"
    }


def test_from_a_folder(clip, tmp_path):
    backbone, tokenizer = clip
    for part in (backbone, tokenizer):
        part.save_to_preset(str(tmp_path / "clip"))
    loaded = ClipFeatures(tmp_path / "clip")
    np.testing.assert_allclose(loaded(pictures()), ClipFeatures(clip)(pictures()), atol=1e-6)
    with pytest.raises(ValueError, match=rf"must be a DINOv2 model{THREE_PARTS}"):
        DinoFeatures(tmp_path / "clip", size=28)
    with pytest.raises(ValueError, match=rf"must be at this place{THREE_PARTS}"):
        ClipFeatures(tmp_path / "none")


def test_dino():
    backbone = scrambled(
        hub.models.DINOV2Backbone(
            patch_size=14,
            num_layers=2,
            hidden_dim=16,
            num_heads=2,
            intermediate_dim=32,
            image_shape=(28, 28, 3),
            position_embedding_shape=(28, 28),
        )
    )
    features = DinoFeatures(backbone, size=28)
    images = pictures(3, 28)
    given = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    expected = np.asarray(backbone({"images": given.astype("float32")}))[:, 0]
    np.testing.assert_allclose(features(images), expected, atol=1e-5)
    assert features.width == 16
    with pytest.raises(ValueError, match=rf"of this size{THREE_PARTS}"):
        DinoFeatures(backbone, size=56)
