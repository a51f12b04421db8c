"""The Inception network of 2015 on random weights: the same from every kind of file."""

import dataclasses
import hashlib
import re

import naive_inception
import numpy as np
import pytest
import tensorflow as tf
from inception_weights import FLOAT, SHAPES, Graph, frozen_graph, random_state, write_safetensors
from PIL import Image
from test_efficientnet import Storage, Tensor
from test_efficientnet import write as write_legacy

from keras_mdm.evaluation import inception_files, inception_layers
from keras_mdm.evaluation.inception import FIDInception, resized
from keras_mdm.interop.torch_writer import write_state_dict

PUBLISHED = {"frechet": "FID", "kernel": "KID", "inception-score": "IS"}
UNVERIFIED = {
    "frechet": "Frechet distance (Inception layout, unverified weights)",
    "kernel": "kernel distance (Inception layout, unverified weights)",
    "inception-score": "class score (Inception layout, unverified weights)",
}


@pytest.fixture(scope="module")
def state():
    return random_state()


@pytest.fixture(scope="module")
def port(state, tmp_path_factory):
    return write_state_dict(state, tmp_path_factory.mktemp("port") / "port.pth")


@pytest.fixture(scope="module")
def network(port):
    return FIDInception(port, batch=1)


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype("uint8")


def close(found, wanted, tolerance=2e-4):
    np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).mean(), rtol=1e-4)


def test_features_and_classes_are_those_of_a_naive_network(network, state):
    image = pictures(1, 299, 299)
    wanted = naive_inception.features(state, (image[0].astype("float64") - 128) / 128)
    found = network(image)
    assert found.shape == (1, network.width) and found.dtype == np.float32
    close(found[0], wanted)
    logits = state["fc.weight"].astype("float64") @ wanted  # without the bias
    share = np.exp(logits - logits.max())
    np.testing.assert_allclose(network.classify(image)[0], share / share.sum(), rtol=1e-2)
    assert network.measures == UNVERIFIED and not network.published


def test_names_are_published_ones_only_for_known_or_trusted_weights(port, monkeypatch, tmp_path):
    assert FIDInception(port, trusted=True).measures == PUBLISHED
    digest = hashlib.sha256(port.read_bytes()).hexdigest()
    monkeypatch.setattr(inception_files, "PUBLISHED", frozenset({digest}))
    known = FIDInception(port)
    assert known.published and known.measures == PUBLISHED
    # Another network has none of the names, whoever vouches for it.
    assert FIDInception(small_graph(tmp_path), trusted=True).measures == {}


def test_layers_have_the_names_and_shapes_of_the_port():
    assert inception_layers.kernel_shapes() == SHAPES and len(SHAPES) == 94


def test_pictures_go_through_in_full_batches(network, monkeypatch):
    seen = []

    def pooled(x):
        seen.append(len(x))
        return np.repeat(x.numpy().mean((1, 2)).sum(-1)[:, None], 2048, 1)

    monkeypatch.setattr(network, "_source", inception_files.Source(pooled, None, known=True))
    monkeypatch.setattr(network, "batch", 4)
    images = pictures(9, 299, 299)
    wanted = images.mean((1, 2)).sum(-1)
    np.testing.assert_allclose(network(images)[:, 5], wanted, rtol=1e-5)
    assert seen == [4, 4, 4]
    assert network(images[:0]).shape == (0, 2048)


def test_every_kind_of_weights_file_is_read(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    shapes = {"Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3), "fc.weight": (5, 4), "fc.bias": (5,)}
    state = {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    count = "Conv2d_1a_3x3.bn.num_batches_tracked"
    old = {
        name: Tensor(
            Storage(str(key), "FloatStorage", value.ravel()),
            0,
            value.shape,
            tuple(step // 4 for step in value.strides),
        )
        for key, (name, value) in enumerate(state.items())
    }
    old[count] = Tensor(Storage("9", "LongStorage", np.zeros(1, "<i8")), 0, (), ())
    write_legacy(tmp_path / "old.pth", old)
    write_state_dict(state, tmp_path / "new.pth")
    write_safetensors(state, tmp_path / "port.safetensors")
    read = []
    monkeypatch.setattr(inception_layers, "require_port", lambda found, _: read.append(found))
    monkeypatch.setattr(inception_layers, "folded", lambda _: {})
    files = sorted(tmp_path.iterdir())
    networks = [FIDInception(file) for file in files]
    assert len({n.name for n in networks}) == 1 and len({n.sha256 for n in networks}) == 3
    for found in read:
        assert set(found) - {count} == set(state)
        for name, value in state.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert networks[0].sha256 == hashlib.sha256(files[0].read_bytes()).hexdigest()


def test_the_frozen_graph_of_2015_runs_as_it_is(network, state, port, tmp_path):
    path = frozen_graph(state).write(tmp_path / "classify_image_graph_def.pb")
    image = pictures(1, 50, 70)
    graph = FIDInception(path, batch=2, trusted=True)
    wanted = network(image)
    close(graph(image), wanted)
    np.testing.assert_allclose(
        graph.classify_features(wanted), network.classify_features(wanted), rtol=1e-3
    )
    assert graph.measures == PUBLISHED
    assert graph.name == network.name  # of the same weights


@pytest.mark.parametrize("resize", ["fid", "clean", "pytorch-fid"])
def test_a_graph_resizes_itself_only_as_it_was_made(resize, tmp_path):
    found = FIDInception(small_graph(tmp_path), batch=1, resize=resize)
    image = pictures(1, 40, 600)
    # This graph has no resize of its own.
    pixels = image if resize == "fid" else np.asarray(resized(image.astype("float32"), resize))
    close(found(image)[:, 0], pixels.mean((1, 2)).sum(-1), 1e-5)


def small_graph(tmp_path, pool="pool_3"):
    graph = Graph()
    graph.add("ExpandDims", "Placeholder", dtype=FLOAT)
    graph.constant("axes", np.int32([1, 2]))
    integer = tf.compat.v1.AttrValue(type=tf.int32.as_datatype_enum)
    graph.add("mean", "Mean", "ExpandDims", "axes", T=FLOAT, Tidx=integer)
    graph.constant("weights", np.ones((3, 2048), "float32"))
    graph.add(pool, "MatMul", "mean", "weights", T=FLOAT)
    return graph.write(tmp_path / "small.pb")


def test_a_graph_of_another_network_carries_no_published_name(tmp_path):
    found = FIDInception(small_graph(tmp_path))
    image = pictures(2, 8, 8)
    close(found(image)[:, 7], image.mean((1, 2), "float32").sum(-1))
    assert found.measures == {} and "unknown" in found.name
    with pytest.raises(ValueError, match="classifier's matrix"):
        found.classify(image)
    with pytest.raises(ValueError, match="missing=.'pool_3'"):
        FIDInception(small_graph(tmp_path, pool="other"))


class Saved(tf.Module):
    def __init__(self, shapes, width=2048):
        self.kernels = [tf.Variable(tf.zeros((h, w, i, o))) for o, i, h, w in shapes]
        self.matrix = tf.Variable(tf.eye(2048, 1008))
        self.width = width

    @tf.function(input_signature=[tf.TensorSpec((None, 299, 299, 3), tf.float32)])
    def call(self, x):
        nothing = sum(tf.reduce_sum(kernel) for kernel in self.kernels)
        pooled = tf.tile(tf.reduce_mean(x, (1, 2)), (1, 700))[:, : self.width] + nothing
        return {"pool_3": pooled, "logits": pooled @ self.matrix[: self.width]}


def test_saved_models(tmp_path):
    model = Saved(list(SHAPES.values())[:2])
    tf.saved_model.save(model, tmp_path / "saved", signatures=model.call)
    found = FIDInception(tmp_path / "saved", batch=2)
    image = pictures(2, 299, 299)
    wanted = (image.astype("float64").mean((1, 2)) - 128) / 128
    close(found(image)[:, :3], wanted, 1e-3)
    # The matrix is the identity, cut off after 1008 rows.
    logits = np.resize(wanted[0], 1008)
    share = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(found.classify(image)[0], share, rtol=1e-4)
    assert found.measures == {}
    model = Saved(list(SHAPES.values())[:1], width=64)
    tf.saved_model.save(model, tmp_path / "thin", signatures=model.call)
    with pytest.raises(ValueError, match="2048 features per picture"):
        FIDInception(tmp_path / "thin", batch=1)(image)
    two = [tf.TensorSpec((None, 2), tf.float32)] * 2
    mean = tf.function(lambda x, y: {"mean": x + y}, input_signature=two)
    tf.saved_model.save(tf.Module(), tmp_path / "two", signatures=mean)
    with pytest.raises(ValueError, match=r"one input.*outputs=\['mean'\]"):
        FIDInception(tmp_path / "two")
    tf.saved_model.save(tf.Module(), tmp_path / "none")
    with pytest.raises(ValueError, match=r"one input.*signatures=\[\]"):
        FIDInception(tmp_path / "none")
    with pytest.raises(ValueError, match=r"saved_model\.pb"):
        FIDInception(tmp_path)


def test_only_the_shapes_of_all_layers_make_a_network_known():
    shapes = [(h, w, i, o) for o, i, h, w in SHAPES.values()]
    matrix = np.zeros((2048, 1008))
    assert inception_files._is_known([(3,), *reversed(shapes)], matrix)
    assert not inception_files._is_known(shapes, None)
    assert not inception_files._is_known(shapes, matrix[:, :1000])
    assert not inception_files._is_known(shapes[1:], matrix)
    assert not inception_files._is_known([*shapes, shapes[0]], matrix)
    assert not inception_files._is_known([(5, 5, 3, 32), *shapes[1:]], matrix)


@pytest.mark.parametrize("sides", [(7, 11), (400, 310), (299, 640)])
def test_resizes_are_those_of_the_programs(sides):
    image = pictures(1, *sides).astype("float32")

    def bilinear(centre):
        """Of float64 positions; `centre` is 0 or 1/2, where in a pixel its value lies."""
        x = image[0].astype("float64")
        for side in sides:
            at = np.clip((np.arange(299) + centre) * side / 299 - centre, 0, side - 1)
            low = np.floor(at).astype(int)
            high, part = np.minimum(low + 1, side - 1), (at - low)[:, None, None]
            x = (x[low] * (1 - part) + x[high] * part).swapaxes(0, 1)
        return x

    np.testing.assert_allclose(resized(image, "fid")[0], bilinear(0.0), atol=2e-2)
    scaled = (resized(image, "pytorch-fid")[0] - 128) / 128
    np.testing.assert_allclose(scaled, bilinear(0.5) * 2 / 255 - 1, atol=2e-4)
    clean = [Image.fromarray(image[0, ..., i], "F").resize((299, 299), 3) for i in range(3)]
    clean = np.clip(np.stack([np.asarray(channel) for channel in clean], -1), 0, 255)
    np.testing.assert_allclose(resized(image, "clean")[0], clean, atol=2e-2)


def test_a_picture_of_the_right_size_is_not_resized():
    image = pictures(1, 299, 299).astype("float32")
    for kind in ("fid", "clean"):
        np.testing.assert_array_equal(resized(image, kind), image)


def test_wrong_weights_are_named(state, tmp_path):
    def refused(*parts, **changes):
        changed = {**state, **changes}
        changed = {name: value for name, value in changed.items() if value is not None}
        with pytest.raises(ValueError, match="names of its PyTorch port") as found:
            inception_layers.require_port(changed, "x.pth")
        for part in parts:
            assert part in str(found.value), part

    # torchvision's own, of 2016.
    one = np.ones(1, "float32")
    auxiliary = {f"AuxLogits.{i}": one for i in range(6)}
    refused(
        "1000 classes",
        "fc.weight: (1000, 2048) instead of (1008, 2048)",
        "unexpected='AuxLogits.0, AuxLogits.1, AuxLogits.2, AuxLogits.3 and 2 more'",
        **auxiliary,
        **{"fc.weight": np.ones((1000, 2048), "float32")},
    )
    refused("missing='fc.bias'", **{"fc.bias": None})
    refused("fc.bias", **{"fc.bias": np.full(1008, np.nan, "float32")})
    refused("fc.bias", **{"fc.bias": np.zeros(1008, "int64")})
    write_state_dict({"x": one}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="missing='Conv2d_1a_3x3.bn.bias"):
        FIDInception(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b\x08\x00archive", "unpack archives"),
        (b"<html>not found</html>", "fetch again"),
        (b"\n\x05broken graph......", "frozen one of 2015"),
        (b"\x80\x02broken", "old"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{}", "whole safetensors file"),
        (b"PK\x03\x04broken", "zip"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    (tmp_path / "old").write_bytes(content)
    with pytest.raises(ValueError, match=message) as found:
        FIDInception(tmp_path / "old")
    assert re.search(r"Received: .*To fix it: ", str(found.value))


def test_wrong_arguments_are_named(network):
    with pytest.raises(ValueError, match="`resize`"):
        FIDInception("x.pth", resize="bilinear")
    with pytest.raises(ValueError, match="check the path"):
        FIDInception("x.pth")
    with pytest.raises(ValueError, match="must be a path"):
        FIDInception({"x": 1})
    for wrong in (np.zeros((1, 8, 8, 3)), np.zeros((8, 8, 3), "uint8"), pictures(1, 8, 8)[..., :1]):
        with pytest.raises(ValueError, match="uint8"):
            network(wrong)


def test_the_fingerprint_sees_both_ends_of_the_network():
    source = inception_files.Source(
        len, np.zeros((2048, 1008)), known=True, stem=np.zeros((3, 3, 3, 32))
    )
    others = [
        dataclasses.replace(source, matrix=source.matrix + 1),
        dataclasses.replace(source, stem=source.stem + 1),
    ]
    digits = {inception_files.fingerprint(s, "0" * 64) for s in (source, *others)}
    assert len(digits) == 3 and all(re.fullmatch("[0-9a-f]{8}", d) for d in digits)
    assert (
        inception_files.fingerprint(dataclasses.replace(source, stem=None), "ab" * 32) == "ab" * 4
    )


def test_parity_with_pytorch_fid(port, state, monkeypatch):
    torch = pytest.importorskip("torch")
    inception = pytest.importorskip("pytorch_fid.inception")
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: tensors)
    theirs = inception.InceptionV3().eval()
    image = pictures(1, 64, 48)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(image.transpose(0, 3, 1, 2) / np.float32(255)))[0]
    close(FIDInception(port, resize="pytorch-fid", batch=1)(image), wanted.numpy()[..., 0, 0])
