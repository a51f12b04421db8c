"""The numbers of the public PyTorch implementations, with random weights and where they are
installed: torch-fidelity, clean-fid, pytorch-fid, transformers."""

import numpy as np
import pytest
from inception_weights import random_state
from PIL import Image

from keras_mdm.evaluation import (
    ClipFeatures,
    FIDInception,
    frechet_distance,
    inception_score,
    kernel_distance,
    moments,
)
from keras_mdm.interop.torch_writer import write_state_dict

COUNT = 24


@pytest.fixture(scope="module")
def state():
    # Variances near 1, so that the cubes of the kernel stay within float32.
    found = random_state()
    return {n: np.maximum(v, 0.5) if "running_var" in n else v for n, v in found.items()}


@pytest.fixture(scope="module")
def port(state, tmp_path_factory):
    return write_state_dict(state, tmp_path_factory.mktemp("port") / "port.pth")


def pictures(seed, size=(40, 56)):
    """Soft blots of colour, more of them for larger seeds, so that two sets are apart."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(COUNT):
        coarse = rng.integers(0, 256, (2 + 2 * seed, 3 + 2 * seed, 3)).astype("uint8")
        found.append(np.asarray(Image.fromarray(coarse).resize(size[::-1], 3)))
    return np.stack(found)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = []
    for seed in (1, 2):
        folder = tmp_path_factory.mktemp(f"set{seed}")
        for number, image in enumerate(pictures(seed)):
            Image.fromarray(image).save(folder / f"{number:02d}.png")
        found.append(str(folder))
    return found


def ours(port, resize):
    network = FIDInception(port, resize=resize, batch=8)
    return network, [network(pictures(seed)) for seed in (1, 2)]


def distance(network, sets):
    return frechet_distance(*(moments.of_features(network.name, values) for values in sets))


def patched_port(state, monkeypatch):
    torch = pytest.importorskip("torch")
    inception = pytest.importorskip("pytorch_fid.inception")
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: tensors)
    return torch, inception


def test_torch_fidelity(port, state, tmp_path):
    torch = pytest.importorskip("torch")
    fidelity = pytest.importorskip("torch_fidelity")
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    torch.save(tensors, tmp_path / "port.pth")

    class Set(torch.utils.data.Dataset):
        def __init__(self, images):
            self.images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

        def __len__(self):
            return len(self.images)

        def __getitem__(self, row):
            return self.images[row]

    wanted = fidelity.calculate_metrics(
        input1=Set(pictures(1)),
        input2=Set(pictures(2)),
        feature_extractor_weights_path=str(tmp_path / "port.pth"),
        cuda=False,
        cache=False,
        verbose=False,
        batch_size=8,
        fid=True,
        kid=True,
        kid_subsets=1,
        kid_subset_size=COUNT,  # all of them, in another order
        isc=True,
        isc_splits=2,
        samples_shuffle=False,
    )
    network, sets = ours(tmp_path / "port.pth", "fid")
    assert network.name == FIDInception(port).name  # PyTorch's own writing is read alike
    assert distance(network, sets) == pytest.approx(wanted["frechet_inception_distance"], rel=1e-3)
    kid = kernel_distance(*sets).value
    assert kid == pytest.approx(wanted["kernel_inception_distance_mean"], rel=1e-3)
    score = inception_score(network.classify_features(sets[0]), splits=2)
    assert score.value == pytest.approx(wanted["inception_score_mean"], rel=1e-3)
    assert score.standard_deviation == pytest.approx(wanted["inception_score_std"], abs=1e-3)


def test_clean_fid(port, state, folders, monkeypatch):
    torch, inception = patched_port(state, monkeypatch)
    fid = pytest.importorskip("cleanfid.fid")
    theirs = inception.InceptionV3(resize_input=False, normalize_input=False).eval()

    def network(batch):
        """In the place of its TorchScript file, which takes pixels in 0..255."""
        with torch.no_grad():
            return theirs((batch - 128) / 128)[0][..., 0, 0]

    monkeypatch.setattr(fid, "build_feature_extractor", lambda *_, **__: network)
    wanted = fid.compute_fid(
        *folders,
        mode="clean",
        num_workers=0,
        batch_size=8,
        device=torch.device("cpu"),
        use_dataparallel=False,
        verbose=False,
    )
    assert distance(*ours(port, "clean")) == pytest.approx(wanted, rel=1e-3)


def test_pytorch_fid(port, state, folders, monkeypatch):
    patched_port(state, monkeypatch)
    score = pytest.importorskip("pytorch_fid.fid_score")
    wanted = score.calculate_fid_given_paths(folders, 8, "cpu", 2048, num_workers=0)
    assert distance(*ours(port, "pytorch-fid")) == pytest.approx(wanted, rel=1e-3)


def test_clip_score_of_transformers(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    hub = pytest.importorskip("keras_hub")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "hidden_act": "quick_gelu"}
    ends = {"bos_token_id": len(TOKENS) - 2, "eos_token_id": len(TOKENS) - 1, "pad_token_id": 0}
    config = transformers.CLIPConfig(
        text_config={**sizes, **ends, "vocab_size": len(TOKENS), "max_position_embeddings": 12},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(0)
    theirs = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    tokenizer = hub.models.CLIPTokenizer(
        vocabulary={token: number for number, token in enumerate(TOKENS)}, merges=["a b</w>"]
    )
    clip = ClipFeatures((copied(theirs.state_dict(), hub), tokenizer))
    rng = np.random.default_rng(0)
    prompts = [" ".join(rng.choice(list("abcdefgh"), rng.integers(1, 9))) for _ in range(COUNT)]
    # Words of one letter: a token each. All texts are padded to the longest.
    ids = [
        [ends["bos_token_id"], *(TOKENS.index(f"{w}</w>") for w in p.split()), ends["eos_token_id"]]
        for p in prompts
    ]
    length = max(map(len, ids))
    pixels = transformers.CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    # Some pixels are rounded to neighbouring grey levels by the two resizes.
    for size, tolerance in (((32, 32), 1e-5), ((40, 56), 2e-3)):
        images = pictures(1, size)
        with torch.no_grad():
            found = theirs(
                input_ids=torch.tensor([row + [0] * (length - len(row)) for row in ids]),
                attention_mask=torch.tensor([[1] * len(r) + [0] * (length - len(r)) for r in ids]),
                pixel_values=pixels(list(images), return_tensors="pt")["pixel_values"],
            )
        cosines = (found.image_embeds * found.text_embeds).sum(-1).numpy()
        wanted = 100 * np.maximum(cosines, 0).mean()
        assert wanted > 1
        score = clip.score_of(prompts).score(clip(images))
        assert score.value == pytest.approx(wanted, rel=tolerance)


TOKENS = [*"abcdefgh", *(f"{letter}</w>" for letter in "abcdefgh"), "ab</w>"]
TOKENS += ["<|startoftext|>", "<|endoftext|>"]


def copied(state, hub):
    """The weights of transformers' model in one of keras-hub, all of them, in its order."""
    sizes = {"hidden_dim": 16, "num_layers": 2, "num_heads": 2, "intermediate_dim": 32}
    backbone = hub.models.CLIPBackbone(
        vision_encoder=hub.models.CLIPVisionEncoder(patch_size=8, image_shape=(32, 32, 3), **sizes),
        text_encoder=hub.models.CLIPTextEncoder(
            vocabulary_size=len(TOKENS), embedding_dim=16, max_sequence_length=12, **sizes
        ),
        projection_dim=12,
    )
    left = {name: value.numpy() for name, value in state.items() if "position_ids" not in name}

    def layers(tower):
        for number in (0, 1):
            block = f"{tower}.encoder.layers.{number}"
            yield from pair(f"{block}.layer_norm1")
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                yield from pair(f"{block}.self_attn.{name}")
            yield from pair(f"{block}.layer_norm2")
            yield from pair(f"{block}.mlp.fc1")
            yield from pair(f"{block}.mlp.fc2")

    def pair(name):
        yield left.pop(f"{name}.weight").T
        yield left.pop(f"{name}.bias")

    vision, text = "vision_model", "text_model"
    values = [
        left.pop(f"{vision}.embeddings.class_embedding"),
        left.pop(f"{vision}.embeddings.patch_embedding.weight").transpose(2, 3, 1, 0),
        left.pop(f"{vision}.embeddings.position_embedding.weight"),
        *pair(f"{vision}.pre_layrnorm"),
        *layers(vision),
        *pair(f"{vision}.post_layernorm"),
        left.pop(f"{text}.embeddings.token_embedding.weight"),
        left.pop(f"{text}.embeddings.position_embedding.weight"),
        *layers(text),
        *pair(f"{text}.final_layer_norm"),
        left.pop("visual_projection.weight").T,
        left.pop("text_projection.weight").T,
        left.pop("logit_scale"),
    ]
    assert not left
    given = [v for v in backbone.variables if "position_ids" not in v.path]
    (numbers,) = (v for v in backbone.variables if "position_ids" in v.path)
    numbers.assign(np.arange(17)[None])  # zeros in a new one; files hold them
    for variable, value in zip(given, values, strict=True):
        variable.assign(value.reshape(variable.shape))
    return backbone
