"""The kind of a file, by its name."""

import os
import re
import struct
import zlib

from keras_mdm.data.sources import file_bytes
from keras_mdm.machine_faults import of_the_machine

# Endings of pictures in shards, where any other ending would be another part of a record.
USUAL = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
PICTURES = (
    *USUAL,
    *(".jfif", ".jif", ".jpe", ".pjpeg", ".pjp", ".avif", ".apng", ".jp2", ".j2k"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
# Usual names of a table's column of files; the first one present counts.
FILE = ("file", "file_name", "filename", "path", "filepath", "image")
# Endings of a picture's text, in the order in which they are looked for.
BESIDE = (".txt", ".caption", ".json")
# Shards: parts of a whole are numbered after the ending (TFDS, TFRecord), and some writers of
# Parquet name the compression.
_PART = r"(?:[-._]\d+(?:-of-\d+)?)?"
_SHARDS = {
    "ArrayRecord": re.compile(rf"\.array_?record{_PART}$"),
    "tar": re.compile(rf"\.tar{_PART}$"),
    "Parquet": re.compile(rf"\.(?:parquet|pq){_PART}(?:\.(?:gzip|gz|snappy|zstd|brotli|lz4))?$"),
    "TFRecord": re.compile(rf"\.tfrec(?:ords?)?{_PART}(?:\.(?:gz|gzip|zlib))?$"),
}
# ImageNet's own TFRecord files have no ending; other endings of such files are not theirs alone.
_NUMBERED = re.compile(r"-\d+-of-\d+(?:\.gz)?$")
_COUNTED = re.compile(r"-\d+-of-\d+")
_UNNAMED = re.compile(rf"(?:{_NUMBERED.pattern}|\.(?:tfr|tf_records?|records?)$)", re.IGNORECASE)
# Bytes that hold the first twelve of a packed file.
_START = 512

_REASONS = {
    "is a checksum": (".md5", ".sha1", ".sha256", ".sha512", ".crc", ".crc32", ".sfv"),
    "is an index of another file": (".idx", ".index"),
    "is a picture in a format that is not read: convert it to JPEG or PNG": (
        *(".heic", ".heif", ".jxl", ".svg", ".psd", ".exr", ".hdr", ".raw", ".dng", ".cr2"),
        *(".cr3", ".nef", ".arw", ".orf", ".rw2", ".jpf", ".jpx", ".tga", ".ico", ".dds", ".icns"),
        *(".eps", ".qoi", ".pcx", ".xpm", ".dib"),
    ),
    "is packed: unpack it": (
        *(".gz", ".tgz", ".bz2", ".tbz", ".xz", ".txz", ".zst", ".lz4", ".zip", ".7z", ".rar"),
    ),
    "is an Arrow file: pass it by itself, or the folder that save_to_disk wrote": (".arrow",),
    "is a video: videos are a separate source": VIDEOS,
    "is a text that belongs to no other file": BESIDE,
    "is an unsupported table": (*TABLES, ".xlsx", ".xls", ".ods", ".yaml", ".yml", ".xml"),
}
_BY_ENDING = {ending: reason for reason, endings in _REASONS.items() for ending in endings}


def ending_of(name: str) -> str:
    """The ending of a name in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()


def shard_kind(name: str) -> str | None:
    """The kind of shard that a name stands for, if any: ArrayRecord, tar, Parquet or TFRecord."""
    lowered = name.lower()
    return next((kind for kind, rule in _SHARDS.items() if rule.search(lowered)), None)


def stem_of(name: str) -> str:
    """The name of a shard without its ending."""
    for rule in _SHARDS.values():
        name = re.sub(rule.pattern, "", name, flags=re.IGNORECASE)
    return _NUMBERED.sub("", name)


def numbered_stem(name: str) -> str | None:
    """The name of a shard without ending and number, such as "train" for
    `train-00000-of-00002.parquet`; `None` if its name does not say how many shards there are."""
    return stem_of(name) if _COUNTED.search(name) else None


def is_unnamed_tfrecord(path: str) -> bool:
    """Whether a file has a name like train-00000-of-01024 or a.record and begins like a TFRecord
    file, packed or not: the error for packed ones says what to do."""
    if not _UNNAMED.search(path):
        return False
    try:
        with file_bytes.open_file(path) as file:
            start = file.read(_START)
    except OSError as problem:  # a pipe, or reading is not permitted
        if of_the_machine(problem):
            raise
        return False
    try:
        start = zlib.decompressobj(47).decompress(start, 12) if file_bytes.packed(start) else start
    except zlib.error:
        return False
    return _begins_as_tfrecord(start)


def _begins_as_tfrecord(start: bytes) -> bool:
    import google_crc32c

    if len(start) < 12:
        return False
    found = google_crc32c.value(start[:8])
    rotated = (found >> 15 | found << 17) & 0xFFFFFFFF
    return (rotated + 0xA282EAD8) & 0xFFFFFFFF == struct.unpack("<I", start[8:12])[0]


def reason_of(name: str) -> str:
    """Why a file that is not a record is not used."""
    if kind := shard_kind(name):
        return f"is a {kind} file beside records of another kind"
    if name.lower().endswith(PICTURES):
        return "is a picture beside records of another kind"
    return _BY_ENDING.get(ending_of(name), "is of an unsupported kind")


def decodable() -> tuple[str, ...]:
    """Endings of pictures that Pillow decodes here."""
    from PIL import features

    needed = {".avif": "avif", ".jp2": "jpg_2000", ".j2k": "jpg_2000"}
    return tuple(end for end in PICTURES if end not in needed or features.check(needed[end]))
