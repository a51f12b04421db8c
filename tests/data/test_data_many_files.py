"""More shards than a process may have files open, and no descriptor left at all."""

import contextlib
import errno
import os
import resource
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from text.test_text_cache import Letters

from data import sources
from keras_mdm import open_files
from keras_mdm.data import ClipRule, ClipShards, open_images
from keras_mdm.data.skipping import Unusable
from keras_mdm.data.sources.file_bytes import FileBytes
from keras_mdm.machine_faults import of_the_machine
from keras_mdm.text import StoredStates, embed

SHARDS = 120


@contextlib.contextmanager
def allowed(more):
    """A limit of so many files more than are open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + more, hard))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while not more:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield highest + 1 + more
    finally:
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def write_array_records(root):
    from array_record.python.array_record_module import ArrayRecordWriter

    for shard in range(SHARDS):
        writer = ArrayRecordWriter(str(root / f"{shard:05d}.array_record"), "group_size:1")
        writer.write(sources.example(shard % 12))
        writer.close()


def write_tars(root):
    (root / "0.png").write_bytes(sources.png(1))
    for shard in range(SHARDS):
        with tarfile.open(root / f"{shard:05d}.tar", "w") as tar:
            tar.add(root / "0.png", "0.png")


@pytest.mark.parametrize("write", [write_array_records, write_tars])
def test_healthy_shards_are_not_called_broken(tmp_path, write):
    write(tmp_path)
    options = {"cache_dir": tmp_path / "cache"} if write is write_tars else {}
    with allowed(70) as limit:
        source = open_images(tmp_path, **options)
        with ThreadPoolExecutor(4) as pool:
            records = list(pool.map(source.read, np.random.default_rng(0).permutation(SHARDS)))
        assert len(os.listdir("/proc/self/fd")) < limit - 20  # others need some, too
    assert len(records) == len(source) == SHARDS and not source.skipped


def test_what_is_no_longer_used_is_closed(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    before = len(open_files._kept)
    files = FileBytes([str(tmp_path / name) for name in "abc"])
    assert [files.read(number, 0, 1) for number in range(3)] == [b"a", b"b", b"c"]
    assert len(open_files._kept) == before + 3
    held = files._open[0]
    others = [files._open[number].number for number in (1, 2)]
    del files
    assert len(open_files._kept) == before
    assert os.pread(held.number, 1, 0) == b"a"
    for number in others:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(number)


def test_without_descriptors_no_file_is_broken(tmp_path):
    write_array_records(tmp_path)
    for name in os.listdir(tmp_path)[3:]:
        (tmp_path / name).unlink()
    source = open_images(tmp_path)
    open_files._forget(source._files._readers._number)
    with allowed(0):
        with pytest.raises(OSError, match="Too many open files"):
            open_images(tmp_path)
        with pytest.raises(OSError, match="Too many open files"):
            source.usable(0, source.read)
        with pytest.raises(Unusable) as caught:
            source.read(0)
        assert of_the_machine(caught.value.__cause__)
    assert not source.skipped and len(source.read(0).data)


def test_states_of_texts(tmp_path):
    texts = [str(number) for number in range(50)]
    embed(Letters(), texts, tmp_path, texts_per_file=1, progress=False)
    with allowed(40):
        stored = StoredStates(tmp_path)
        assert stored.encode(texts)[0].shape == (50, 2, 3)
    index = (tmp_path / "index.npz").read_bytes()
    with allowed(0), pytest.raises(OSError) as caught:
        StoredStates(tmp_path)
    assert caught.value.errno == errno.EMFILE and index == (tmp_path / "index.npz").read_bytes()


def test_prepared_clips(tmp_path):
    from data.videos import write_video
    from keras_mdm.data import find_videos, prepare_clips

    for name in "abcdef":
        write_video(tmp_path / f"{name}.mp4", 70)
    videos = find_videos(tmp_path, captions="names")
    prepare_clips(videos, tmp_path / "s", rule=ClipRule(8, 2, 1), clips_per_shard=1, progress=False)
    shards = ClipShards(tmp_path / "s")
    kept = open_files.most
    open_files.most = lambda: 2
    try:
        clips = [shards.read(row, shards.rule) for row in (0, 1, 2, 3, 4, 5, 0)]
        assert len(open_files._kept) == 2
    finally:
        open_files.most = kept
    np.testing.assert_array_equal(clips[0], clips[-1])
