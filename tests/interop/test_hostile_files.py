"""Configurations and checkpoints that are small and unfold without an end."""

import pickle
import zipfile

import numpy as np
import pytest

from keras_mdm.interop.mdm_config import spec_from_config
from keras_mdm.interop.mdm_files import read_config
from keras_mdm.interop.torch_legacy import read_legacy
from keras_mdm.interop.torch_reader import TorchFile

from .test_torch_files import pickled, tensor, write_archive

LAUGHS = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)
)
CONFIGS = {
    "laughs": LAUGHS + "unet_config: *a39\n",
    "merges": MERGES + "unet_config: *a39\n",
    "in itself": "unet_config: &a\n  resolution_channels: [8]\n  inner_config: *a\n",
    "a list in itself": "unet_config: &a [*a]\n",
    "deep": "unet_config: " + "[" * 5000 + "]" * 5000,
    "no date": "unet_config: 2020-13-45\n",
    "no time": "unet_config: !!timestamp nothing\n",
    "large": "unet_config: {}\n#" + "x" * 2**20,
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_configurations(tmp_path, kind):
    (tmp_path / "a.yaml").write_text(CONFIGS[kind])
    with pytest.raises(ValueError, match="must be YAML. Received: .*To fix it"):
        read_config(tmp_path / "a.yaml")


def test_sections_that_are_no_mappings(tmp_path):
    for content in ("!!set {a, b}", "[1, 2]", "text"):
        (tmp_path / "a.yaml").write_text(f"unet_config: {content}\n")
        with pytest.raises(ValueError, match="`unet_config` must be a mapping.*To fix it"):
            read_config(tmp_path / "a.yaml")


def test_references_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "base: &a {dropout: 0.0}\nunet_config:\n  resnet_config:\n    <<: *a\n    use: *a\n"
    )
    found = read_config(tmp_path / "a.yaml")["unet_config"]["resnet_config"]
    assert found == {"dropout": 0.0, "use": {"dropout": 0.0}}


def test_mappings_that_hold_themselves():
    network = {"resolution_channels": [32, 64], "attention_levels": []}
    network["inner_config"] = network
    for read in (
        lambda: read_config(network),
        lambda: read_config({"unet_config": network, "model": "nested_unet"}),
        lambda: spec_from_config(network, size=64),
    ):
        with pytest.raises(ValueError, match="networks may be nested.*To fix it"):
            read()


def doubled(times):
    """A tuple that holds the same tuple twice, and so on: small in the file."""
    content = b"\x80\x02)"
    for _ in range(times):
        content += b"2\x86"  # DUP, TUPLE2
    return content


BOMBS = {
    "doubled": doubled(60) + b".",
    "a doubled key": b"\x80\x02}" + doubled(60)[2:] + b"K\x01s.",
    "deep": b"\x80\x02)" + b"\x85" * 200_000 + b".",
    "a deep key": b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s.",
    "by name": b"\x80\x02(" + b"K\x01" * 100_001 + b"lq\x000cbuiltins\ntuple\n(h\x00tR.",
    # Copies of a list, and of a text: 8 GB from 300 kB.
    "lists": b"\x80\x02]q\x00("
    + b"N" * 10**5
    + b"e("
    + b"cbuiltins\nlist\nh\x00\x85R" * 10**4
    + b"t.",
    "texts": b"\x80\x02X\x40\x42\x0f\x00"
    + b"x" * 10**6
    + b"q\x00("
    + b"c_codecs\nencode\nh\x00\x85R" * 8000
    + b"t.",
    "an array of bytes": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
    "a frame": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
    "a number": b"\x80\x02Ifive\n.",
    "a version": b"\x80\x63N.",
    "no text": b"\x80\x02X\x01\x00\x00\x00\xff.",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_pickles(tmp_path, kind):
    path = write_archive(tmp_path / "x.pth", BOMBS[kind], {})
    with pytest.raises(ValueError, match="To fix it"):
        TorchFile(path).items()


def test_names_of_storages_that_unfold(tmp_path):
    # PUT and GET: each list holds the one before it twice.
    key = b"]q\x01" + b"]q\x02h\x01ah\x01aq\x01" * 60
    content = b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + key + b"K\x00K\x00tQ."
    path = write_archive(tmp_path / "x.pth", content, {})
    with pytest.raises(ValueError, match="To fix it"):
        TorchFile(path).items()


def test_ordinary_tuples_pass(tmp_path):
    value = {"a": ((1, 2), (3, (4, 5))), (1, (2, 3)): [(1,)] * 1000}
    path = write_archive(tmp_path / "x.pth", pickle.dumps(value, 2), {})
    assert TorchFile(path).items() == value


@pytest.mark.parametrize("kind", ["FloatStorage", "BFloat16Storage"])
@pytest.mark.parametrize(
    ("size", "stride"), [((10**6, 10**6), (0, 0)), ((0, 2**50), (1, 1)), ((1,) * 40, (1,) * 40)]
)
def test_tensors_that_unfold(tmp_path, size, stride, kind):
    path = write_archive(
        tmp_path / "x.pth", pickled(tensor("0", size, stride, kind=kind)), {"0": bytes(16)}
    )
    with pytest.raises(ValueError, match="far larger than its storage.*To fix it"):
        TorchFile(path).items()


def test_tensors_that_show_the_same_bytes_are_not_copied(tmp_path):
    """A thousand of 4 MB each, in a small file."""
    for kind in ("FloatStorage", "BFloat16Storage"):
        value = {n: tensor("0", (2**20,), (0,), kind=kind) for n in range(3)}
        path = write_archive(tmp_path / "x.pth", pickled(value), {"0": bytes(16)})
        found = TorchFile(path).items()
        assert all(np.shares_memory(found[0], found[n]) for n in range(3))
    value = {n: tensor("0", (2**20,), (0,)) for n in range(3)}
    (tmp_path / "y.pth").write_bytes(legacy(value, bytes(16)))
    found = read_legacy(tmp_path / "y.pth")
    assert all(np.shares_memory(found[0], found[n]) for n in range(3))


def test_damaged_archives_give_one_kind_of_error(tmp_path):
    """Some raised what the parser of archives raises: of a checksum, of an unknown version."""
    path = write_archive(tmp_path / "x.pth", pickled({"a": 1}), {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/byteorder", "little")
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        try:
            TorchFile(path).items()
        except ValueError as problem:
            assert "To fix it" in str(problem)


def legacy(value, storage):
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    content = b"".join(pickle.dumps(part, 2) for part in parts)
    content += pickled(value) + pickle.dumps(["0"], 2)
    return content + (len(storage) // 4).to_bytes(8, "little") + storage


def test_old_files(tmp_path):
    data = np.arange(4, dtype="<f4").tobytes()
    (tmp_path / "x.pth").write_bytes(legacy({"a": tensor("0", (4,), (1,))}, data))
    assert read_legacy(tmp_path / "x.pth")["a"].tolist() == [0, 1, 2, 3]
    for value in ({"a": tensor("0", (10**6, 10**6), (0, 0))}, {"a": tensor("0", (2, 4), (0, -1))}):
        (tmp_path / "x.pth").write_bytes(legacy(value, data))
        with pytest.raises(ValueError, match="To fix it"):
            read_legacy(tmp_path / "x.pth")
