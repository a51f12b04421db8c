"""Files of a T5 model that are not what they say: listed before anything is read, or at once."""

import json
import time

import numpy as np
import pytest
from tiny_models import THREE_PARTS

from keras_mdm.text import FlanT5

from .test_flan_t5 import own_cache, stored, write  # noqa: F401 (a fixture among them)
from .test_t5_tokenizer import spiece  # noqa: F401 (a fixture)

save_file = pytest.importorskip("safetensors.numpy").save_file


@pytest.fixture
def folder(tmp_path, spiece):  # noqa: F811
    return write(tmp_path / "flan-tiny", spiece)


def rewrite(folder, change, data=lambda content: content):
    """Change the header of the weights, as parsed or as written, and perhaps what follows."""
    file = folder / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header = change(header) or header
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(written).to_bytes(8, "little") + written + data(content[8 + length :]))


def first_two(header):
    names = sorted(
        (n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"]
    )
    return header[names[0]], header[names[1]]


def swapped(header):
    one = first_two(header)[0]
    sizes = {n: np.diff(t["data_offsets"])[0] for n, t in header.items() if n != "__metadata__"}
    two = header[next(n for n, size in sizes.items() if size != np.diff(one["data_offsets"])[0])]
    one["data_offsets"], two["data_offsets"] = two["data_offsets"], one["data_offsets"]


def set_first(**values):
    return lambda header: first_two(header)[0].update(values)


def overlapping(header):
    one, two = first_two(header)
    width = two["data_offsets"][1] - two["data_offsets"][0]
    begin = one["data_offsets"][0]
    two["data_offsets"] = [begin, begin + width]


HEADERS = {
    "intervals of another shape": (swapped, "bytes instead of the"),
    "overlap": (overlapping, "overlaps another one"),
    "negative": (set_first(data_offsets=[-4, 4]), "no type, shape or place"),
    "backwards": (set_first(data_offsets=[8, 0]), "no type, shape or place"),
    "three ends": (set_first(data_offsets=[0, 4, 8]), "no type, shape or place"),
    "fractions": (set_first(shape=[2.5, 2]), "no type, shape or place"),
    "no list": (set_first(shape=None), "no type, shape or place"),
    "no type": (set_first(dtype=7), "no type, shape or place"),
    "a list": (lambda _: b"[1, 2]", "is not a safetensors file"),
    "deep": (lambda _: b"[" * 100_000, "is not a safetensors file"),
    "not text": (lambda _: b"\xff\xfe{}", "is not a safetensors file"),
    "twice": (
        lambda h: json.dumps(h)[:-1].encode() + b"," + json.dumps(h)[1:].encode(),
        "is not a safetensors file",
    ),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_are_checked(folder, kind):
    change, words = HEADERS[kind]
    rewrite(folder, change)
    with pytest.raises(ValueError, match=THREE_PARTS) as failure:
        FlanT5(folder)
    assert words in str(failure.value)


def test_what_follows_the_tensors_is_counted(folder):
    rewrite(folder, lambda h: h, lambda data: data + b"\0" * 5)
    with pytest.raises(ValueError, match="5 bytes more than its tensors take"):
        FlanT5(folder)
    rewrite(folder, lambda h: h, lambda data: data[:-6])
    with pytest.raises(ValueError, match="is truncated"):
        FlanT5(folder)


@pytest.mark.parametrize("length", [0, 2**40, 2**63])
def test_lengths_of_headers(folder, length):
    file = folder / "model.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + file.read_bytes()[8:])
    with pytest.raises(ValueError, match="not a safetensors file"):
        FlanT5(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["shared.weight", "encoder.block.1.layer.1.layer_norm.weight"])
def test_weights_must_be_finite(folder, name, value):
    weights = stored("flan")[1]
    weights[name].flat[-1] = value
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"weights must be finite.*{name}"):
        FlanT5(folder).encode(["a dog"])


CONFIGS = {
    "layers": ({"num_layers": 10**7}, "10,000,000 layers"),
    "one bucket": ({"relative_attention_num_buckets": 1}, "relative_attention_num_buckets=1"),
    "short": ({"relative_attention_max_distance": 8}, "relative_attention_max_distance=8"),
    "epsilon": ({"layer_norm_epsilon": "small"}, "layer_norm_epsilon='small'"),
    "activation": ({"feed_forward_proj": ["gelu"]}, "feed_forward_proj="),
    "prefix": ({"feed_forward_proj": "half-gelu"}, "feed_forward_proj="),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_configurations_are_checked_at_once(folder, kind):
    change, words = CONFIGS[kind]
    (folder / "config.json").write_text(json.dumps({**stored("flan")[0], **change}))
    begin = time.monotonic()
    with pytest.raises(ValueError, match=THREE_PARTS) as failure:
        FlanT5(folder)
    assert words in str(failure.value) and time.monotonic() - begin < 5


@pytest.mark.parametrize("content", [b"[1]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_configurations_of_another_kind(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json (is not JSON|holds no fields)"):
        FlanT5(folder)


def test_an_index_stays_in_its_folder(folder):
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"shared.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="files of other folders"):
        FlanT5(folder)
