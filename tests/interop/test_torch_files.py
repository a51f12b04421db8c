"""PyTorch checkpoints: read and written without PyTorch, and nothing in them is run."""

import io
import json
import os
import pickle
import pickletools
import shutil
import zipfile

import numpy as np
import pytest
from golden_cases.checkpoint import state_hash

from keras_mdm.interop.torch_reader import TorchFile
from keras_mdm.interop.torch_writer import write_state_dict

from .conftest import GOLDEN

CHECKPOINT = GOLDEN / "checkpoint.pth"


def stored_state():
    return TorchFile(CHECKPOINT).items()["state_dict"]


def write_archive(path, content, storages, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        for key, value in storages.items():
            archive.writestr(f"archive/data/{key}", value)
    return path


class Names(pickle._Pickler):
    """Pickles that name what is not imported: ("name", module, name), ("call", f, args)."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_tuple(self, value):
        if value[:1] == ("name",):
            self.write(pickle.GLOBAL + f"{value[1]}\n{value[2]}\n".encode())
        elif value[:1] == ("call",):
            self.save(value[1])
            self.save_plain(value[2])
            self.write(pickle.REDUCE)
        elif value[:1] == ("id",):
            self.save_plain(value[1])
            self.write(pickle.BINPERSID)
        else:
            self.save_plain(value)

    def save_plain(self, value):
        self.write(pickle.MARK)
        for item in value:
            self.save(item)
        self.write(pickle.TUPLE)

    dispatch[tuple] = save_tuple


def pickled(value):
    content = io.BytesIO()
    Names(content, protocol=2).dump(value)
    return content.getvalue()


def tensor(key, size, stride, offset=0, kind="FloatStorage", device="cuda:0", count=0):
    storage = ("id", ("storage", ("name", "torch", kind), key, device, count))
    arguments = (storage, offset, size, stride, False, None)
    return ("call", ("name", "torch._utils", "_rebuild_tensor_v2"), arguments)


def test_the_stored_checkpoint_of_the_old_layout():
    """Module names that do not exist, NumPy scalars, storages tagged as GPU memory."""
    items = TorchFile(CHECKPOINT).items()
    settings = json.loads((GOLDEN / "train_steps.json").read_text())
    assert state_hash(items["state_dict"]) == settings["state_sha256"]
    numbers = {key: items[key] for key in ("batch_num", "loss", "best_avg_loss", "exp_avg_loss")}
    assert numbers == {
        "batch_num": 1234,
        "loss": 0.25,
        "best_avg_loss": 0.5,
        "exp_avg_loss": 0.5,
    }
    assert items["exp_avg_loss_var"] == 0.01
    assert items["args"].unet_config.resolution_channels == [32, 32]
    assert type(items["args"].unet_config).__module__.startswith("keras_mdm")


def test_strides_offsets_and_shared_storages(tmp_path):
    data = np.arange(24, dtype="<f4")
    value = {
        "plain": tensor("0", (4, 6), (6, 1)),
        "transposed": tensor("0", (6, 4), (1, 6)),
        "part": tensor("0", (2, 3), (6, 2), 7),
        "scalar": tensor("0", (), (), 5),
        "empty": tensor("0", (0, 3), (3, 1)),
        "repeated": tensor("0", (3, 2), (0, 1), 2),
    }
    file = TorchFile(write_archive(tmp_path / "x.pth", pickled(value), {"0": data.tobytes()}))
    found = file.items()
    full = data.reshape(4, 6)
    np.testing.assert_array_equal(found["plain"], full)
    np.testing.assert_array_equal(found["transposed"], full.T)
    np.testing.assert_array_equal(found["part"], full[1:3, 1:6:2])
    assert found["scalar"] == 5.0 and found["empty"].shape == (0, 3)
    np.testing.assert_array_equal(found["repeated"], [[2, 3]] * 3)
    assert np.shares_memory(found["plain"], found["part"])
    assert not found["plain"].flags.writeable
    file.release()
    np.testing.assert_array_equal(found["plain"], full)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("HalfStorage", "<f2"), ("DoubleStorage", "<f8"), ("LongStorage", "<i8")]
)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_element_types(tmp_path, kind, dtype, compression):
    data = np.array([1, -2, 100], dtype)
    content = pickled(tensor("0", (3,), (1,), kind=kind))
    path = write_archive(tmp_path / "x.pth", content, {"0": data.tobytes()}, compression)
    found = TorchFile(path).items()
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, data)


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    values = np.array([1.0, -2.5, 3.140625], "<f4")  # exact in bfloat16
    content = pickled(tensor("0", (3,), (1,), kind="BFloat16Storage"))
    half = (values.view("<u4") >> 16).astype("<u2")
    found = TorchFile(write_archive(tmp_path / "x.pth", content, {"0": half.tobytes()})).items()
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_both_homes_of_numpy_scalars(tmp_path, module):
    kind = ("call", ("name", "numpy", "dtype"), ("f8", False, True))
    value = ("call", ("name", module, "scalar"), (kind, np.float64(0.75).tobytes()))
    assert TorchFile(write_archive(tmp_path / "x.pth", pickled([value]), {})).items() == [0.75]


@pytest.mark.parametrize("module", ["models.unet", "ml_mdm.models.unet", "distributed"])
def test_official_classes_of_both_layouts_are_inert(tmp_path, module):
    value = ("call", ("name", module, "UNetConfig"), ("made", 3))
    (record,) = TorchFile(write_archive(tmp_path / "x.pth", pickled([value]), {})).items()
    assert type(record).__name__ == "UNetConfig" and record.arguments == ("made", 3)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch.serialization", "load"),
        ("numpy", "load"),
        ("keras_mdm.files", "write_atomically"),
        ("my_reader", "Thing"),
        ("modelsx", "Thing"),
    ],
)
def test_other_names_are_refused_and_nothing_runs(tmp_path, module, name):
    marker = tmp_path / "ran"
    content = pickled({"state_dict": ("call", ("name", module, name), (f"touch {marker}",))})
    assert name in "".join(str(a) for _, a, _ in pickletools.genops(content))
    path = write_archive(tmp_path / "x.pth", content, {})
    with pytest.raises(ValueError, match=f"{module}.{name}.*|nothing in it was run"):
        TorchFile(path).items()
    assert not marker.exists()


def test_the_refusal_is_needed(tmp_path):
    """The same pickle does run under Python's own unpickler."""
    marker = tmp_path / "ran"
    pickle.loads(pickled(("call", ("name", "os", "system"), (f"touch {marker}",))))
    assert marker.exists()


def test_extension_registry_is_refused(tmp_path):
    path = write_archive(tmp_path / "x.pth", b"\x80\x02\x82\x01.", {})
    with pytest.raises(ValueError, match="extension 1"):
        TorchFile(path).items()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_files(tmp_path, share):
    path = tmp_path / "x.pth"
    content = CHECKPOINT.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="zip archive"):
        TorchFile(path).items()


@pytest.mark.parametrize(
    ("value", "storages", "words"),
    [
        (tensor("0", (5,), (1,)), {"0": bytes(16)}, "reaches beyond"),
        (tensor("0", (2,), (1,), 3), {"0": bytes(16)}, "reaches beyond"),
        (tensor("0", (2,), (-1,)), {"0": bytes(16)}, "impossible shape"),
        (tensor("0", (2, 2), (1,)), {"0": bytes(16)}, "impossible shape"),
        (tensor("7", (4,), (1,)), {"0": bytes(16)}, "lacks a storage"),
    ],
)
def test_tensors_that_do_not_fit_their_storage(tmp_path, value, storages, words):
    path = write_archive(tmp_path / "x.pth", pickled(value), storages)
    with pytest.raises(ValueError, match=words):
        TorchFile(path).items()


def test_other_files(tmp_path):
    with pytest.raises(ValueError, match="must be a file"):
        TorchFile(tmp_path / "absent.pth")
    text = tmp_path / "text.pth"
    text.write_text("no archive")
    with pytest.raises(ValueError, match="zip archive"):
        TorchFile(text)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "x")
    with pytest.raises(ValueError, match="data.pkl"):
        TorchFile(tmp_path / "other.zip")


def test_written_files_are_read_back_and_replace_old_ones_whole(tmp_path):
    state = stored_state() | {"empty": np.zeros((0, 2), "f4"), "scalar": np.float32(2.5)}
    path = tmp_path / "x.pth"
    shutil.copy(CHECKPOINT, path)
    write_state_dict(state, path)
    found = TorchFile(path).items()["state_dict"]
    assert list(found) == list(state)
    for key, value in state.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)
    assert os.listdir(tmp_path) == ["x.pth"]


def test_torch_loads_what_was_written_without_trusting_it(tmp_path):
    torch = pytest.importorskip("torch", reason="optional: pip install torch")
    state = stored_state()
    write_state_dict(state, tmp_path / "x.pth")
    found = torch.load(tmp_path / "x.pth", weights_only=True)["state_dict"]
    assert list(found) == list(state)
    for key, value in state.items():
        np.testing.assert_array_equal(found[key].numpy(), value, err_msg=key)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("entry", ["data/0", "data.pkl"])
def test_a_wrong_checksum_is_refused(tmp_path, entry, compression):
    data = np.random.default_rng(0).normal(size=4000).astype("<f4")
    value = {"weight": tensor("0", (4000,), (1,))}
    path = write_archive(tmp_path / "x.pth", pickled(value), {"0": data.tobytes()}, compression)
    np.testing.assert_array_equal(TorchFile(path).items()["weight"], data)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"archive/{entry}")
    content = bytearray(path.read_bytes())
    content[info.header_offset + 30 + len(info.filename) + info.compress_size // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Received: .*To fix it: "):
        TorchFile(path).items()
