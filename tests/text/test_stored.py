"""States beside the data: the encoder's own, in half precision, once per text, resumable."""

import io

import numpy as np
import pytest

from keras_mdm.text import StoredStates, embed
from text.test_text_cache import Letters

TEXTS = ["ab", "c", "abcd", "ab", "", "zebra"]


def stored(encoder, texts, folder, **options):
    return embed(encoder, texts, folder, progress=False, **options)


def test_states_are_the_encoders_rounded_once(tmp_path):
    encoder = Letters()
    found = stored(encoder, TEXTS, tmp_path)
    assert len(found) == 5 and encoder.seen[-5:] == ["ab", "c", "abcd", "", "zebra"]
    for texts in (TEXTS, ["c"], ["abcd", "c", "c"]):
        states, mask = found.encode(texts)
        expected, expected_mask = Letters().encode(texts)
        length = max(int(row.sum()) for row in expected_mask)
        np.testing.assert_array_equal(mask, expected_mask[:, :length])
        np.testing.assert_array_equal(states, expected[:, :length].astype("float16"))
    assert (found.width, found.length, found.identity) == (3, 4, encoder.identity)
    assert found.encode([""])[0].shape == (1, 0, 3)


def test_it_goes_on_where_it_was_stopped(tmp_path):
    texts = [f"{number:04d}" for number in range(50)]
    stored(Letters(), texts, tmp_path / "whole", texts_per_file=8)

    class Dies(Letters):
        def encode(self, batch):
            if any(text >= "0020" for text in batch) and len(batch) < 32:
                raise RuntimeError("killed")
            return super().encode(batch)

    with pytest.raises(RuntimeError, match="killed"):
        stored(Dies(), texts, tmp_path / "cut", texts_per_file=8)
    assert len(list((tmp_path / "cut").glob("states-*.npy"))) == 2
    with pytest.raises(ValueError, match="must hold states"):
        StoredStates(tmp_path / "cut")
    again = Letters()
    found = stored(again, texts, tmp_path / "cut", texts_per_file=8)
    assert again.seen[32:] == texts[16:]  # behind those of the estimate
    for file in (tmp_path / "whole").glob("states-*.npy"):
        assert file.read_bytes() == (tmp_path / "cut" / file.name).read_bytes()
    more = stored(Letters(), [*texts, "more"], tmp_path / "cut", texts_per_file=8)
    assert len(more) == 51
    np.testing.assert_array_equal(more.encode(texts)[0], found.encode(texts)[0])


def test_the_size_is_told_before(tmp_path, capsys):
    embed(Letters(), ["ab", "abcd"], tmp_path, progress=True)
    assert capsys.readouterr().out.startswith("3.0 tokens per text, 0.0 kB, 0.00 GB for 2 texts")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: stored(Letters(length=3), ["a"], p), r"same encoder.*'length': \(4, 3\)"),
        (lambda p: StoredStates(p).encode(["new"]), r"have been encoded.*text='new'"),
        (lambda p: stored(Letters(), [], p), "must not be empty"),
        (lambda p: stored(Letters(scale=1e6), ["a"], p / "b"), "fit into float16"),
        (lambda p: stored(Letters(), ["a"], p / "c", total=10**16), "fit onto the disk"),
        (lambda p: stored(Letters(), ["a"], p, texts_per_file=0), "texts_per_file=0"),
        (lambda p: (p / "states-00000.npy").unlink() or StoredStates(p), "must be there"),
    ],
)
def test_one_clear_error(tmp_path, call, message):
    stored(Letters(), ["a"], tmp_path)
    with pytest.raises(ValueError, match=message):
        call(tmp_path)


def archive(save, *arrays, **columns):
    """The bytes of a file of arrays."""
    buffer = io.BytesIO()
    save(buffer, *arrays, **columns)
    return buffer.getvalue()


def index(**other):
    """Columns of an index that is whole but not of these files."""
    columns = {"hash": [1, 2, 3], "begin": [0, 1, 2], "count": [1, 1, 1], "shard": [3, 4, 4]}
    return {name: np.asarray(value, np.uint64) for name, value in (columns | other).items()}


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("plan.json", b"", "remove the folder"),
        ("plan.json", b'{"encoder": {}, "width": "3", "length": 4}', "remove the folder"),
        ("plan.json", b"[1]", "remove the folder"),
        ("index.npz", b"", "remove index.npz"),
        ("index.npz", b"PK\x03\x04cut off", "remove index.npz"),
        ("states-00001.npz", b"damaged", "remove states-00001.npz"),
        ("states-00001.npy", b"", "remove states-00001.npz"),
        ("states-00001.npy", b"\x93NUMPY\x01\x00v\x00{'descr': (((", "remove states-00001.npz"),
        ("states-00001.npy", archive(np.save, np.zeros((2, 3))), "remove states-00001.npz"),
        ("index.npz", archive(np.savez, hash=[1]), "remove index.npz"),
        ("index.npz", archive(np.savez, **index(begin=[0, 99, 0])), "remove index.npz"),
        ("index.npz", archive(np.savez, **index(hash=[1])), "remove index.npz"),
        ("index.npz", archive(np.savez, **index(begin=[0, 1])), "remove index.npz"),
        ("index.npz", archive(np.savez, **index(shard=3)), "remove index.npz"),
    ],
)
def test_a_damaged_file_is_one_error_whose_advice_helps(tmp_path, name, content, advice):
    whole = stored(Letters(), TEXTS, tmp_path, texts_per_file=2)
    expected = whole.encode(TEXTS)[0]
    kept = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"whole. Received: file='[^']*{name}.*{advice}"):
        # The index is read where states are opened, and made anew by `embed`.
        StoredStates(tmp_path)
        stored(Letters(), TEXTS, tmp_path, texts_per_file=2)
    if name == "plan.json":
        (tmp_path / name).write_bytes(kept)
    else:
        (tmp_path / name).with_suffix(".npz").unlink()
    again = stored(Letters(), TEXTS, tmp_path, texts_per_file=2)
    np.testing.assert_array_equal(again.encode(TEXTS)[0], expected)


def test_states_of_another_writer_are_noticed(tmp_path):
    """Same names, same shapes: a caption would have another one's states."""
    stored(Letters(), ["ab", "cd", "efg"], tmp_path / "one")
    stored(Letters(), ["cd", "ab", "efg"], tmp_path / "two")
    file = tmp_path / "one" / "states-00000.npy"
    file.write_bytes((tmp_path / "two" / file.name).read_bytes())
    mixed = StoredStates(tmp_path / "one")
    assert mixed.encode(["efg"])[0].shape == (1, 3, 3)
    with pytest.raises(ValueError, match=r"'ab' do not match.*To fix it: remove states-00000.npz"):
        mixed.encode(["efg", "ab"])


def test_states_of_earlier_versions_have_no_check_sums(tmp_path):
    """A folder that was begun before goes on."""
    expected = stored(Letters(), TEXTS, tmp_path).encode(TEXTS)[0]
    for name in ("states-00000.npz", "index.npz"):
        with np.load(tmp_path / name) as columns:
            kept = {key: columns[key] for key in columns.files if key != "check"}
        (tmp_path / name).write_bytes(archive(np.savez, **kept))
    np.testing.assert_array_equal(StoredStates(tmp_path).encode(TEXTS)[0], expected)
    more = stored(Letters(), [*TEXTS, "new"], tmp_path)
    np.testing.assert_array_equal(more.encode(TEXTS)[0], expected)
    assert more.encode(["new"])[0].shape == (1, 3, 3)
