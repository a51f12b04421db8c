"""The feature network: its file format on files made here, its answers with the real weights."""

import io
import pickle
import struct

import numpy as np
import pytest

from keras_mdm import assets
from keras_mdm.evaluation import EfficientNetLite0, efficientnet
from keras_mdm.interop.torch_legacy import _MAGIC, read_legacy


class _Pickler(pickle._Pickler):
    """Writes what PyTorch before 1.6 wrote, without it."""

    def __init__(self, file, storages):
        super().__init__(file, protocol=2)
        self.storages = storages

    def persistent_id(self, item):
        if not isinstance(item, Storage):
            return None
        self.storages[item.key] = item.data
        return "storage", Global("torch", item.kind), item.key, "cpu", item.data.size, None

    def save(self, item, save_persistent_id=True):
        if isinstance(item, Global):
            return self.write(f"c{item.module}\n{item.name}\n".encode())
        return super().save(item, save_persistent_id)


class Global:
    def __init__(self, module, name):
        self.module, self.name = module, name


class Storage:
    def __init__(self, key, kind, data):
        self.key, self.kind, self.data = key, kind, data


class Tensor:
    def __init__(self, storage, offset, size, stride):
        self.arguments = storage, offset, size, stride, False, {}

    def __reduce__(self):
        return _rebuild, self.arguments


def _rebuild(*_):
    raise AssertionError("never called: the file names PyTorch's own function")


def write(path, state, cut=0):
    storages, file = {}, io.BytesIO()
    for value in (_MAGIC, 1001, {"little_endian": True}):
        file.write(pickle.dumps(value, protocol=2))
    body = io.BytesIO()
    _Pickler(body, storages).dump(state)
    module = __name__.encode()
    file.write(
        body.getvalue().replace(
            b"c" + module + b"\n_rebuild\n", b"ctorch._utils\n_rebuild_tensor_v2\n"
        )
    )
    file.write(pickle.dumps(list(storages), protocol=2))
    for data in storages.values():
        file.write(struct.pack("<q", data.size) + data.tobytes())
    content = file.getvalue()
    path.write_bytes(content[: len(content) - cut])


def test_old_files_are_read(tmp_path):
    floats, numbers = np.arange(12, dtype="<f4"), np.arange(3, dtype="<i8")
    shared = Storage("7", "FloatStorage", floats)
    state = {
        "whole": Tensor(shared, 0, (3, 4), (4, 1)),
        "turned": Tensor(shared, 2, (2, 3), (1, 4)),
        "count": Tensor(Storage("8", "LongStorage", numbers), 1, (), ()),
    }
    write(tmp_path / "old.pth", state)
    found = read_legacy(tmp_path / "old.pth")
    np.testing.assert_array_equal(found["whole"], floats.reshape(3, 4))
    np.testing.assert_array_equal(found["turned"], [[2, 6, 10], [3, 7, 11]])
    assert found["count"] == 1
    write(tmp_path / "cut.pth", state, cut=5)
    with pytest.raises(ValueError, match=r"cut\.pth"):
        read_legacy(tmp_path / "cut.pth")
    write(tmp_path / "beyond.pth", {"x": Tensor(shared, 4, (3, 4), (4, 1))})
    with pytest.raises(ValueError, match="beyond its storage"):
        read_legacy(tmp_path / "beyond.pth")


def test_code_in_old_files_is_not_run(tmp_path):
    class Bad:
        def __reduce__(self):
            return print, ("ran",)

    content = b"".join(pickle.dumps(v, protocol=2) for v in (_MAGIC, 1001, {}, Bad(), []))
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(ValueError, match="nothing in it was run"):
        read_legacy(tmp_path / "bad.pth")


@pytest.fixture(scope="module")
def network(request):
    if not assets.is_fetched("efficientnet-lite0"):
        if not request.config.getoption("--network"):
            pytest.skip("needs `keras-mdm assets fetch efficientnet-lite0`, or --network")
        assets.fetch("efficientnet-lite0", progress=False)
    return EfficientNetLite0()


def test_known_photographs(network):
    """As its makers' classifier sees two photographs that scikit-learn ships."""
    datasets = pytest.importorskip("sklearn.datasets")
    classes = [698, 985]  # palace, daisy
    for name, wanted in zip(("china.jpg", "flower.jpg"), classes, strict=True):
        image = datasets.load_sample_image(name)
        side = min(image.shape[:2])
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        picture = image[None, top : top + side, left : left + side]
        assert int(np.argmax(network.classify(picture))) == wanted


def test_every_tensor_of_the_file_is_used(network, monkeypatch):
    used = set()

    class Watched(dict):
        def __getitem__(self, key):
            used.add(key)
            return super().__getitem__(key)

    path = assets.path("efficientnet-lite0")
    state = Watched(read_legacy(next(path.glob("*.pth"))))
    efficientnet._folded(state)
    left = {key for key in state if key not in used and "num_batches_tracked" not in key}
    assert left == {"_fc.weight", "_fc.bias"}  # of the classifier
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3)).astype("uint8")
    features = network(images)
    assert features.shape == (40, 1280) and features.min() >= 0.0
    # A picture's features do not depend on the others, nor on the filling of the last batch.
    np.testing.assert_allclose(network(images[33:35]), features[33:35], atol=1e-5)
    with pytest.raises(ValueError, match="uint8"):
        network(images / 255.0)
