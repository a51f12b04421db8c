"""The same twelve pictures as every kind of source."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from keras_mdm.data import open_images

COUNT, SIZE = 12, 8
KINDS = ("folder", "csv", "tsv", "jsonl", "tar", "array_record", "tfrecord", "parquet", "tfds")
CLASSES = ("first", "second")


def pixels(number):
    """A picture that tells its number: its red is ten times it."""
    picture = np.full((SIZE, SIZE, 3), 50, np.uint8)
    picture[..., 0] = 10 * number
    picture[0, 0] = 200  # not its own mirror image
    return picture


def caption(number):
    return f"picture number {number}"


def label(number):
    return number % 2


def encoded(picture, kind="png", **options):
    """The bytes of a file of a picture of Pillow."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(number):
    return encoded(Image.fromarray(pixels(number)))


def numbers(batch):
    """Which pictures a batch holds."""
    return (np.asarray(batch["image"])[:, 4, 4, 0] // 10).tolist()


def write(kind, root):
    """Write the pictures; returns the folder."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    return globals()[f"_{kind}"](root)


def open_all(root):
    """{kind: source}, every one with twelve pictures, captions and two classes."""
    for kind in KINDS:
        write(kind, Path(root) / kind)
    return opened(root)


def opened(root):
    """As `open_all`, of what is written already."""
    found = {}
    for kind in KINDS:
        path = Path(root) / kind
        if kind == "tfds":
            (path,) = path.glob("*/1.0.0")
        cached = {"cache_dir": Path(root) / "cache"} if kind in ("tar", "tfrecord", "tfds") else {}
        found[kind] = open_images(path, **cached)
    return found


def _files(root, named=lambda number: f"{number:02d}.png"):
    for number in range(COUNT):
        file = root / named(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(number))
        yield number, file


def _folder(root):
    for number, file in _files(root, lambda n: f"{CLASSES[label(n)]}/{n:02d}.png"):
        file.with_suffix(".txt").write_text(caption(number))
    return root


def _csv(root, ending=".csv", comma=","):
    lines = [comma.join(("caption", "file", "label"))]
    for number, file in _files(root / "pictures"):
        lines.append(
            comma.join((f'"{caption(number)}"', f"pictures/{file.name}", CLASSES[label(number)]))
        )
    (root / f"table{ending}").write_text("\r\n".join(lines))
    return root


def _tsv(root):
    return _csv(root, ".tsv", "\t")


def _jsonl(root):
    rows = [
        {"file_name": file.name, "text": caption(number), "label": label(number)}
        for number, file in _files(root)
    ]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return root


def _tar(root):
    for shard in range(3):
        with tarfile.open(root / f"{shard:05d}.tar", "w") as tar:
            for number in range(4 * shard, 4 * shard + 4):
                parts = {"png": png(number), "cls": str(label(number)).encode()}
                parts |= {"json": json.dumps({"caption": "wrong", "key": number}).encode()}
                parts |= {"txt": caption(number).encode()}
                for ending, content in parts.items():
                    member = tarfile.TarInfo(f"{number:09d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return root


def example(number):
    from keras_mdm.data.pictures.shards import encode_example

    return encode_example(png(number), [caption(number)], label(number), str(number), (90, 120))


def _array_record(root):
    from array_record.python.array_record_module import ArrayRecordWriter

    for shard in range(2):
        writer = ArrayRecordWriter(str(root / f"part-{shard}.array_record"), "group_size:1")
        for number in range(6 * shard, 6 * shard + 6):
            writer.write(example(number))
        writer.close()
    return root


def _tfrecord(root):
    import tensorflow as tf

    for shard in range(2):
        with tf.io.TFRecordWriter(str(root / f"part.tfrecord-{shard:05d}-of-00002")) as writer:
            for number in range(6 * shard, 6 * shard + 6):
                writer.write(example(number))
    return root


def _parquet(root):
    import pyarrow
    import pyarrow.parquet

    rows = range(COUNT)
    table = pyarrow.table(
        {
            "image": [{"bytes": png(n), "path": f"{n}.png"} for n in rows],
            "text": [caption(n) for n in rows],
            "label": [label(n) for n in rows],
        }
    )
    pyarrow.parquet.write_table(table, root / "all.parquet", row_group_size=3)
    return root


def _tfds(root):
    """A data set that TFDS itself has generated and written."""
    import tensorflow_datasets as tfds

    # A class is registered under its name, once per process.
    with tfds.core.registered.skip_registration():
        builder = _numbers(tfds)(data_dir=str(root))
    builder.download_and_prepare()
    return root


def _numbers(tfds):
    class Numbers(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "picture": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    "captions": tfds.features.Sequence({"text": tfds.features.Text()}),
                    "kind": tfds.features.ClassLabel(names=CLASSES),
                }
            )
            return self.dataset_info_from_configs(features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for n in range(COUNT):
                yield (
                    n,
                    {"picture": pixels(n), "captions": [{"text": caption(n)}], "kind": label(n)},
                )

    return Numbers
