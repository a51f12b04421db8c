"""Memory that the index of many records takes; run by data.py --index, one source per process."""

import io
import json
import resource
import shutil
import sys
import tarfile
import tempfile
import time
import types
from pathlib import Path

import numpy as np

from keras_mdm.data.sources import examples, file_bytes, folder, table, tar, tf_records

SHARDS = Path(tempfile.mkdtemp())


def main() -> None:
    name, count = sys.argv[1], int(sys.argv[2])
    if name == "new_tar":
        write_shards(count)
    before = resident()
    begun = time.perf_counter()
    source = globals()[f"{name}_of"](count)
    seconds = time.perf_counter() - begun
    if len(source) != count:
        raise SystemExit(f"{len(source)} records")
    print(
        json.dumps(
            {
                "records": count,
                "index_mb": round(resident() - before),
                "peak_mb": round(peak()),
                "seconds": round(seconds, 1),
            }
        )
    )


def resident() -> float:
    """Current resident memory in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def peak() -> float:
    """Peak memory of this process in MB; the module `resource` might report its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def folder_of(count: int) -> folder.FolderImages:
    """A listing like ImageNet's: 1000 pictures to a folder."""
    names = [[f"n{f:08d}_{n:06d}.JPEG" for n in range(1000)] for f in range(2)]
    listing = ((f"n{f:08d}", names[f % 2]) for f in range(count // 1000))
    folder.file_bytes = types.SimpleNamespace(
        **{**vars(file_bytes), "walk": lambda root, left: listing}
    )
    return folder.FolderImages("pictures")


def table_of(count: int) -> table.TableImages:
    """A CSV file with captions."""
    path = SHARDS / "table.csv"
    with open(path, "w") as file:
        file.write("file,caption\n")
        for number in range(count):
            file.write(f"shard-{number // 10000:05d}/{number:09d}.jpg,a caption of some words\n")
    return table.TableImages(path)


def tar_of(count: int) -> tar.TarImages:
    """Shards of 10,000 pictures with known indexes."""
    shards = -(-count // 10_000)
    members = np.ones((10_000, 4, 2), np.uint32)
    lists = ("bad_name", "bad_reason", "unused_name", "unused_reason")
    index = {"members": members, **{name: np.array([], str) for name in lists}}
    file_bytes.exists = lambda path: True
    tar.index_files = lambda paths, *_, **__: [{**index, "members": members.copy()} for _ in paths]
    return tar.TarImages([f"{n:05d}.tar" for n in range(shards)])


def write_shards(count: int) -> None:
    """Real shards of 10,000 records each: a picture of 4 kB, a text and a JSON member."""
    for shard in range(-(-count // 10_000)):
        with tarfile.open(SHARDS / f"{shard:05d}.tar", "w", format=tarfile.GNU_FORMAT) as file:
            for record in range(min(10_000, count - 10_000 * shard)):
                for ending, size in (("jpg", 4096), ("json", 400), ("txt", 60)):
                    member = tarfile.TarInfo(f"{shard:05d}{record:04d}.{ending}")
                    member.size = size
                    file.addfile(member, io.BytesIO(bytes(size)))


def new_tar_of(count: int) -> tar.TarImages:
    """Shards to index for the first time."""
    return tar.TarImages(sorted(SHARDS.glob("*.tar")), cache_dir=SHARDS / "cache")


def tfrecord_of(count: int) -> examples.ExampleImages:
    """Files of 10,000 records with known indexes."""
    file_bytes.exists = lambda path: True
    tf_records.index_files = lambda paths, *_, **__: [
        {"place": np.arange(10_000, dtype=np.uint64), "size": np.ones(10_000, np.uint32), "end": 0}
        for _ in paths
    ]
    examples.ExampleImages._choose = lambda *_: {}
    examples.file_bytes.file_size = lambda path: 0
    return examples.ExampleImages([f"{n:05d}.tfrecord" for n in range(-(-count // 10_000))])


if __name__ == "__main__":
    try:
        main()
    finally:
        shutil.rmtree(SHARDS)
