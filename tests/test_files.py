"""A file is the old one or the new one, never a part of one."""

import pytest

from keras_mdm.files import write_atomically


def test_write_atomically(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_atomically(path, "one")
    assert path.read_text() == "one"
    write_atomically(path, b"two")
    seen = []
    write_atomically(path, lambda target: (seen.append(target), target.write_text("three")))
    assert path.read_text() == "three"
    assert seen[0].suffix == ".txt" and seen[0].parent == path.parent

    def fail(target):
        target.write_text("half")
        assert path.read_text() == "three"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == "three"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]
