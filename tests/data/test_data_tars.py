"""Tar shards as they are: damaged in the middle, with members that are not read, and packed."""

import gzip
import io
import json
import tarfile
import zlib

import numpy as np
import pytest

from data import sources
from keras_mdm.data import Unusable, open_images
from keras_mdm.data.sources.tar_members import Damage, Member, members

COUNT = 40
PNG = sources.png(1)


def archive(*parts, form=tarfile.GNU_FORMAT):
    """A tar file of (name, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in parts:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def whole():
    """Forty records of two members, and where the headers are."""
    parts = [
        (f"{n:03d}.{e}", PNG if e == "png" else b"text")
        for n in range(COUNT)
        for e in ("png", "txt")
    ]
    data = archive(*parts)
    found = list(members(io.BytesIO(data), len(data)))
    return data, [member.place - 512 for member in found]


@pytest.fixture
def shard(tmp_path):
    def opened(content, **options):
        file = tmp_path / "a.tar"
        file.write_bytes(content)
        return open_images(file, cache_dir=tmp_path / "cache", max_skipped=1.0, **options)

    return opened


def test_behind_a_damaged_header_the_next_one_is_found(whole, shard):
    """Reading ended there without a word."""
    data, places = whole
    for member in (0, 10, 11, 79):
        broken = bytearray(data)
        broken[places[member] + 30] ^= 4
        source = shard(bytes(broken))
        picture = member % 2 == 0
        assert len(source) == COUNT - picture
        files = [entry.file for entry in source.skipped]
        stop = places[member + 1] if member < 79 else places[79] + 1024
        where = f"a.tar: bytes {places[member]} to {stop}"
        if member == 79:
            where = "a.tar: the rest"
        assert files == [where, *[f"a.tar: {member // 2:03d}"] * picture]
        assert [source.read(row).data for row in range(len(source))] == [PNG] * len(source)
    with pytest.raises(ValueError, match=r"may be unusable.*2 of 41"):
        broken = bytearray(data)
        broken[places[10]] ^= 1
        shard(bytes(broken)) and open_images(source._bytes.paths[0])


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["é{}", "x" * 120 + "{}"])
def test_a_name_is_not_taken_from_the_wrong_header(shard, form, name):
    """With the header damaged that held a name, the member had a part of it, or "?" for letters:
    texts and pictures of several records could become one."""
    parts = [
        (f"{name.format(n)}.{e}", PNG if e == "png" else b"text")
        for n in range(4)
        for e in ("png", "txt")
    ]
    data = bytearray(archive(*parts, form=form))
    places = [place for place in range(0, len(data), 512) if data[place + 156] in b"xL"]
    if not places:  # this form holds the letters themselves
        return
    for picture, text in ((2, 5), (4, 7)):
        data[places[picture] + 150] ^= 4
        data[places[text] + 150] ^= 4
    source = shard(bytes(data))
    found = [source.read(row).captions for row in range(len(source))]
    assert found == [("text",), ()]  # 0; 3 without its text; 1 and 2 are listed
    damaged = [why for _, why in source.skipped if why == "is damaged in its extended header"]
    assert len(damaged) == 4


def test_headers_of_old_archives_are_found(whole, shard):
    """They lack the mark by which the next header was sought."""
    data, places = bytearray(whole[0]), whole[1]
    for place in places:
        data[place + 257 : place + 265] = bytes(8)
        data[place + 148 : place + 156] = b" " * 8
        data[place + 148 : place + 156] = b"%06o\0 " % sum(data[place : place + 512])
    data[places[10] + 30] ^= 4
    source = shard(bytes(data))
    assert len(source) == COUNT - 1
    where = f"a.tar: bytes {places[10]} to {places[11]}"
    assert [file for file, _ in source.skipped] == [where, "a.tar: 005"]


def test_zeros_in_the_middle_are_not_its_end(whole, shard):
    data, places = whole
    broken = bytearray(data)
    broken[places[10] : places[10] + 2048] = bytes(2048)
    source = shard(bytes(broken))
    assert len(source) == COUNT - 1
    assert "is empty: members may be missing" in source.skipped[0].reason
    # Of two archives one behind the other all is read, and said.
    source = shard(data + archive(("x.png", PNG)))
    assert len(source) == COUNT + 1 and not source.skipped
    assert "another archive begins" in source.unused[0].reason


@pytest.mark.parametrize(
    ("cut", "records", "name"),
    [(100, 10, "the rest"), (512, 10, "020.png"), (530, 10, "020.png"), (0, 10, None)],
)
def test_a_cut_is_listed_wherever_it_is(whole, shard, cut, records, name):
    data, places = whole
    source = shard(data[: places[2 * 10] + cut])
    assert len(source) == records
    listed = [entry.file.partition(": ")[2] for entry in source.skipped]
    assert listed == ([] if name is None else ["010.png", "the rest"] if "." in name else [name])
    if name is None:
        assert "may be truncated" in source.unused[0].reason


def numbered(size, form=tarfile.GNU_FORMAT):
    member = tarfile.TarInfo("bad.png")
    member.size = size
    return member.tobuf(form)


def pax(**fields):
    records = b""
    for name, value in fields.items():
        record = f" {name}={value}\n".encode()
        length = len(record) + 2
        records += str(length).encode() + record
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, len(records)
    return member.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0")


@pytest.mark.parametrize(
    "header",
    [
        numbered(-512),  # which began again for ever
        numbered(-1),
        numbered(-(2**60)),
        numbered(2**70),
        pax(size="-5") + numbered(0),
        pax(size="9" * 40) + numbered(0),
        pax(path="x").replace(b"10 path", b"99 path") + numbered(0),
    ],
)
def test_sizes_that_cannot_be_are_listed(shard, header):
    data = archive(("a.png", PNG))[: 512 + -(-len(PNG) // 512) * 512]
    source = shard(data + header + archive(("z.png", PNG)))
    names = [entry.file for entry in source.skipped]
    if len(source) == 2:
        assert names == ["a.tar: bad.png"]
    else:  # it would reach behind the end of the file
        assert names == ["a.tar: bad.png", "a.tar: the rest"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_whole_archives_are_read_as_the_standard_library_does(form):
    names = ["a.png", "ä.txt", "d/" * 40 + "b.png", "l" * 90 + ".json"]
    if form != tarfile.USTAR_FORMAT:
        names += ["long/" * 60 + "name.png", "é" * 150 + ".txt"]
    data = archive(*[(name, bytes(n)) for n, name in enumerate(names)], form=form)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(m.name, m.offset_data, m.size, "file") for m in tar]
    assert list(members(io.BytesIO(data), len(data))) == expected


def test_nothing_that_a_file_holds_ends_the_walk():
    random = np.random.default_rng(0)
    data = archive(*[(f"{n}.png", bytes(600)) for n in range(6)], form=tarfile.PAX_FORMAT)
    for _ in range(200):
        broken = bytearray(data[: random.integers(1, len(data) + 1)])
        for place in random.integers(0, len(broken), 3):
            broken[place] = random.integers(256)
        place = 0
        for found in members(io.BytesIO(broken), len(broken)):
            assert isinstance(found, Member | Damage)
            begin = found.place if isinstance(found, Member) else found.start
            assert begin >= place
            place = begin


def test_members_that_are_not_read_are_listed(shard):
    parts = [
        *(("000.jpg", PNG), ("000.seg.png", PNG), ("000.npy", b"n"), ("001.png", PNG)),
        *(("001.npy", b"n"), ("photo_0.5.jpg", PNG), ("photo_0.5.txt", b"t"), ("002.heic", PNG)),
        *(("002.txt", b"t"), ("._000.jpg", b"mac"), ("README", b"r")),
    ]
    source = shard(archive(*parts))
    assert len(source) == 2
    assert [entry.file for entry in source.skipped] == ["a.tar: photo_0.5.jpg", "a.tar: 002.heic"]
    assert "names end at their first dot" in source.skipped[0].reason
    unused = {entry.file.removeprefix("a.tar: "): entry.reason for entry in source.unused}
    assert unused == {
        "000.npy and 1 more": "is a part that is not read (.npy)",
        "photo_0.5.txt": "is a part that is not read (.5.txt)",
        "._000.jpg": "is hidden, or has no name before its first dot",
        "README": "has no ending",
        "000.seg.png": "is a part that is not read (.seg.png)",
    }


def test_pictures_with_unusual_endings(shard):
    """They are read where there is no usual one; `.jfif` is a JPEG file."""
    parts = [
        *(("0.txt", b"zero"), ("0.jfif", PNG), ("1.avif", PNG), ("1.jpg", PNG), ("1.cls", b"1")),
        *(("2.JPE", PNG), ("2.ppm", PNG), ("2.cls", "\ufeff7".encode())),
    ]
    source = shard(archive(*parts))
    records = [source.read(row) for row in range(len(source))]
    assert [(r.captions, r.label) for r in records] == [(("zero",), -1), ((), 1), ((), 7)]
    assert all(record.data == PNG for record in records) and not source.skipped
    assert [entry.file for entry in source.unused] == ["a.tar: 2.ppm", "a.tar: 1.avif"]


def test_links_are_listed_and_endings_do_not_fill_the_list(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("l.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        tar.addfile(link)
        for name in ["a.png"] + [f"a.part{n}" for n in range(90)]:
            member = tarfile.TarInfo(name)
            member.size = len(PNG)
            tar.addfile(member, io.BytesIO(PNG))
    source = open_images(tmp_path / "a.tar", cache_dir=tmp_path / "cache")
    assert source.unused[0] == ("a.tar: l.png", "is a link, not a plain file")
    assert len(source.unused) == 51 and source.unused[-1].file == "a.tar: a.part49 and 40 more"


def test_a_packed_shard_says_what_to_do(tmp_path):
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).write_bytes(archive(("a.png", PNG)))
    (tmp_path / "b.tar").write_bytes(gzip.compress(archive(("a.png", PNG))))
    with pytest.raises(ValueError, match="is compressed with gzip.*To fix it: unpack"):
        open_images(tmp_path, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("kind", [gzip, zlib], ids=["gzip", "zlib"])
def test_packed_tfrecords_say_what_to_do(tmp_path, kind):
    """They were to be copied again."""
    (file,) = sources.write("tfrecord", tmp_path / "a").glob("*-00000-*")
    file.write_bytes(kind.compress(file.read_bytes()))
    match = f"is compressed with {kind.__name__}.*To fix it: unpack"
    with pytest.raises(ValueError, match=match):
        open_images(tmp_path / "a", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("value", "captions"),
    [
        ('"a cat"', ("a cat",)),
        ('["a", "", NaN, "b"]', ("a", "b")),
        ("7", ("7",)),
        ("NaN", ("of text",)),
        ("null", ("of text",)),
        ('{"en": "a cat"}', ("of text",)),
    ],
)
def test_captions_in_json(shard, value, captions):
    content = f'{{"caption": {value}, "text": "of text"}}'.encode()
    assert shard(archive(("a.png", PNG), ("a.json", content))).read(0).captions == captions


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"caption": "cut o'])
def test_json_that_cannot_be_read_is_an_unusable_record(shard, content):
    source = shard(archive(("a.png", PNG), ("a.json", content), ("b.png", PNG)))
    with pytest.raises(Unusable, match="its json cannot be read"):
        source.read(0)
    text = json.dumps({"caption": "c"}).encode()
    assert shard(archive(("a.png", PNG), ("a.json", text))).read(0).captions == ("c",)
