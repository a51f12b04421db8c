"""Networks of clips from SavedModels, of both formats that TF-Hub has had."""

import numpy as np
import pytest
import tensorflow as tf

from keras_mdm.evaluation import I3D, evaluate, i3d

KERNEL = (1, 1, 1, 3, 400)


def clips(count=3, frames=4, size=20, seed=0):
    return (
        np.random.default_rng(seed).integers(0, 256, (count, frames, size, size, 3)).astype("uint8")
    )


class Tiny(tf.Module):
    """Logits of the mean colour, with weights of any shapes beside."""

    def __init__(self, shapes=(), frames=None, batch=None, width=400):
        self.kernel = tf.Variable(np.random.default_rng(0).normal(size=(3, width)), dtype="float32")
        self.others = [tf.Variable(tf.zeros(shape)) for shape in shapes]
        spec = tf.TensorSpec((batch, frames, 224, 224, 3), tf.float32, name="rgb_frames")
        self.run = tf.function(self._run, input_signature=[spec])

    def _run(self, rgb_frames):
        nothing = sum(tf.reduce_sum(other[:1]) for other in self.others)
        weight = tf.range(1.0, tf.cast(tf.shape(rgb_frames)[1] + 1, "float32"))
        pooled = tf.einsum("bfhwc,f->bc", rgb_frames, weight) / 224.0**2
        return {"default": pooled @ self.kernel + nothing}


def saved(path, model):
    tf.saved_model.save(model, path, signatures={"default": model.run})
    return path


def expected(model, given):
    """In float64, of frames resized as TensorFlow 1 did: pixels of a corner at its corner."""
    at = np.arange(224) * given.shape[2] / 224
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, given.shape[2] - 1), at - low
    x = given.astype("float64")
    for axis in (2, 3):
        shape = [-1 if a == axis else 1 for a in range(5)]
        share = part.reshape(shape)
        x = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
    x = x * 2 / 255 - 1
    weight = np.arange(1.0, given.shape[1] + 1)
    return np.einsum("bfhwc,f->bc", x, weight) / 224**2 @ model.kernel.numpy()


def test_logits_of_a_saved_model(tmp_path):
    model = Tiny()
    network = I3D(saved(tmp_path / "tiny", model), batch=2)
    given = clips()
    np.testing.assert_allclose(network(given), expected(model, given), atol=2e-3)
    assert network(given[:0]).shape == (0, 400)
    assert network.measures == {} and "unknown SavedModel of clips" in network.name
    report = evaluate(
        {"4x20": clips(12, seed=1)},
        {"4x20": clips(12, seed=2)},
        features=network,
        measures=("frechet",),
        few=True,
    )
    assert report.rows[0].measure == "Frechet distance of clips"


def test_a_module_of_the_first_format(tmp_path):
    """As `deepmind/i3d-kinetics-400/1` is: a graph without tags, a signature named "default"."""
    v1, folder = tf.compat.v1, tmp_path / "module"
    kernel = np.random.default_rng(0).normal(size=(3, 400)).astype("float32")
    with v1.Graph().as_default(), v1.Session() as session:
        frames = v1.placeholder(tf.float32, (None, None, 224, 224, 3), "input_frames")
        weight = v1.get_variable("RGB/w", initializer=kernel, use_resource=False)
        logits = tf.reduce_mean(frames, axis=(1, 2, 3)) @ weight
        session.run(v1.global_variables_initializer())
        signature = v1.saved_model.predict_signature_def(
            {"rgb_frames": frames}, {"default": logits}
        )
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, [], {"default": signature})
        builder.save()
    (folder / "tfhub_module.pb").write_bytes(b"\x08\x03")
    given = clips(2, size=224)
    wanted = (given.mean((1, 2, 3)) * 2 / 255 - 1) @ kernel
    network = I3D(folder)
    np.testing.assert_allclose(network(given), wanted, atol=1e-4)
    (found,) = (value for shape, value in network._signature.weights() if shape == (3, 400))
    np.testing.assert_array_equal(found(), kernel)


def test_only_trusted_weights_in_the_layers_of_i3d_give_an_fvd(tmp_path, monkeypatch):
    shapes = list(i3d.kernel_shapes())
    # The known size of its ports, which have a bias per class, and two weights per channel after
    # each of the other 57 convolutions.
    channels = sum(shape[-1] for shape in shapes[:-1])
    assert sum(map(np.prod, shapes)) + 400 + 2 * channels == 12_697_264 and len(shapes) == 58
    norms = [(1, 1, 1, 1, 64), (400,)]
    assert i3d.is_i3d([*reversed(shapes), *norms])
    assert not i3d.is_i3d(shapes[1:]) and not i3d.is_i3d([*shapes, shapes[0]])
    monkeypatch.setattr(i3d, "kernel_shapes", lambda: iter([KERNEL]))
    path = saved(tmp_path / "known", Tiny([KERNEL, *norms]))
    assert I3D(path, trusted=True).measures == {"frechet": "FVD", "kernel": "KVD"}
    network = I3D(path)
    assert (
        network.measures["frechet"] == "Frechet distance of clips (I3D layout, unverified weights)"
    )
    assert network.name == I3D(path, trusted=True).name and "I3D of Kinetics-400" in network.name
    with pytest.raises(ValueError, match="at least 9 frames"):
        network(clips())
    other = saved(tmp_path / "other", Tiny([(2, 1, 1, 3, 400)]))
    assert I3D(other, trusted=True).measures == {}


def test_fixed_shapes_of_a_file_are_kept(tmp_path):
    network = I3D(saved(tmp_path / "fixed", Tiny(frames=4, batch=2)), batch=9)
    assert network.batch == 2 and network(clips(3)).shape == (3, 400)
    with pytest.raises(ValueError, match="must have 4 frames"):
        network(clips(3, frames=5))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"saved_model\.pb"):
        I3D(tmp_path)
    with pytest.raises(ValueError, match="400 logits. Received: .*To fix it: unpack"):
        I3D(saved(tmp_path / "thin", Tiny(width=7)))
