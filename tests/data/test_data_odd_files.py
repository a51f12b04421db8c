"""Files of pictures and videos as others make them: large, thin, cut, and made to do harm."""

import dataclasses
import os
import resource
import socket
import struct
import subprocess
import threading
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from data.sources import encoded, png
from data.videos import SIZE, frame, number_of, write_video
from keras_mdm.data import (
    ClipRule,
    ImageRule,
    Unusable,
    UnusableVideo,
    count_frames,
    find_videos,
    holds_clips,
    image_dataset,
    load_folder,
    open_clips,
    open_images,
    overview,
    read_clip,
    read_picture,
)
from keras_mdm.data.pictures.files import to_channels
from keras_mdm.data.pictures.rule import cut_out, decode


def square(data, size=8, **options):
    return decode(data, ImageRule(size, **options))[0]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(depth, colour, row, transparent=b"", size=8):
    header = struct.pack(">IIBBBBB", size, size, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header)] + [chunk(b"tRNS", transparent)] * bool(transparent)
    parts += [chunk(b"IDAT", zlib.compress((b"\0" + row) * size)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# Transparent colours

TRANSPARENT = {
    "1 bit": (1, 0, bytes([0x0F]), struct.pack(">H", 1), 0),
    "2 bits": (2, 0, bytes([0xAA, 0x55]), struct.pack(">H", 1), 170),
    "4 bits": (4, 0, bytes([0xAA] * 2 + [0x33] * 2), struct.pack(">H", 3), 170),
    "8 bits": (8, 0, bytes([200] * 4 + [7] * 4), struct.pack(">H", 7), 200),
    "16 bits": (16, 0, struct.pack(">8H", *[257 * 90] * 4, *[7] * 4), struct.pack(">H", 7), 90),
    "colours": (8, 2, bytes([90] * 12 + [7, 8, 9] * 4), struct.pack(">3H", 7, 8, 9), 90),
    "colours of 16 bits": (
        16,
        2,
        struct.pack(">24H", *[257 * 90] * 12, *[32896, 300, 9] * 4),
        struct.pack(">3H", 32896, 300, 9),
        90,
    ),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_a_transparent_colour_is_put_on_white(kind, tmp_path):
    depth, colour, row, transparent, value = TRANSPARENT[kind]
    data = raw_png(depth, colour, row, transparent)
    found = square(data)
    assert (found[:, :4] == value).all() and (found[:, 4:] == 255).all()
    kept = square(data, channels=4)
    assert (kept[:, :4, 3] == 255).all() and (kept[:, 4:, 3] == 0).all()
    assert (square(data, channels=1) == found[..., :1]).all()
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "a.gif").write_bytes(data)
    clip = read_clip(tmp_path / "a.gif", ClipRule(8, frames=None, span=1), place=0.0)
    np.testing.assert_array_equal(clip, found)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), found)


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "RGB", "L", "I;16", "1"])
def test_large_pictures_are_converted_part_by_part_to_the_same(mode, monkeypatch):
    values = np.random.default_rng(0).integers(0, 256, (24, 10, 4)).astype(np.uint8)
    picture = Image.fromarray(values, "RGBA")
    if mode == "I;16":
        picture = Image.fromarray(values.view("<u4")[..., 0].astype(np.uint16))
    else:
        picture = picture.convert(mode)
    if mode == "P":
        picture.info["transparency"] = bytes(range(256))
    for channels in (1, 3, 4):
        whole = np.asarray(to_channels(picture, channels))
        monkeypatch.setattr("keras_mdm.data.pictures.files._AT_A_TIME", 50)
        parts = np.asarray(to_channels(picture, channels))
        monkeypatch.undo()
        np.testing.assert_array_equal(parts, whole)


# Thin pictures


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (3, 900), (900, 7)])
def test_thin_pictures_are_cropped_before_they_are_resized(shape):
    """One of 312 bytes took 5 GB."""
    height, width = shape
    values = np.zeros((*shape, 3), np.uint8)
    values[height // 3 : -(height // 3) or None, width // 3 : -(width // 3) or None] = (10, 90, 200)
    data = encoded(Image.fromarray(values))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for place in (None, (0.4, 0.5)):
        found = decode(data, ImageRule(256, crop="random"), place=place)[0]
        assert found[128, 128].tolist() == [10, 90, 200]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kB


def test_pictures_of_millions_of_rows_are_seen_before_they_are_decoded(monkeypatch):
    """Of 1 x 64 million pixels, in 124 kB, the tables of rows alone took a gigabyte."""
    monkeypatch.setattr("keras_mdm.data.pictures.files.MAX_SIDE", 1000)
    decode(encoded(Image.new("L", (1, 1000))), ImageRule(8))
    for size in ((1, 1001), (1001, 1)):
        with pytest.raises(Unusable, match="a side of more than 1000"):
            decode(encoded(Image.new("L", size)), ImageRule(8))


@pytest.mark.parametrize("shape", [(40, 400), (500, 50), (6, 90), (90, 5)])
def test_cropping_first_gives_the_same_pixels(shape):
    """But for rounding; a ratio of nine, at which both ways can be compared."""
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    )
    for place in (None, (0.3, 0.7)):
        found = np.asarray(cut_out(picture, 10, place)).astype(int)
        scale = 10 / min(picture.size)
        wide, high = (max(10, round(side * scale)) for side in picture.size)
        kind = Image.Resampling.BOX if scale <= 1 else Image.Resampling.BICUBIC
        left, top = (wide - 10) // 2, (high - 10) // 2
        if place:
            top, left = int((high - 9) * place[0]), int((wide - 9) * place[1])
        box = (left, top, left + 10, top + 10)
        expected = np.asarray(picture.resize((wide, high), kind).crop(box)).astype(int)
        # Where it is enlarged, overshoot is cut off in another order.
        assert np.abs(found - expected).max() <= (1 if scale <= 1 else 20)
        assert np.abs(found - expected).mean() < 1.5


def test_thin_videos(tmp_path):
    pytest.importorskip("av")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write_video(tmp_path / "thin.mp4", 3, width=2048, height=16, crf=0)
    clip = read_clip(tmp_path / "thin.mp4", ClipRule(512, frames=2, stride=1), place=0.0)
    assert clip.shape == (2, 512, 512, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # kB
    seen = read_clip(tmp_path / "thin.mp4", ClipRule(16, frames=2, stride=1), place=0.0)
    np.testing.assert_allclose(seen[0], frame(0, 16, 2048)[:, 1016:1032], atol=6)


# Texts, profiles and tags


def long_text(kind):
    texts = PngImagePlugin.PngInfo()
    if kind == "iTXt":
        texts.add_itxt("workflow", "n" * 2**21, zip=True)
    else:
        texts.add_text("workflow", "n" * 2**21, zip=kind == "zTXt")
    return texts


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "iCCP", "behind", "many"])
def test_pictures_with_large_texts_and_profiles(kind, monkeypatch):
    picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    exif = picture.getexif()
    exif[0x0112] = 3
    if kind == "iCCP":
        data = encoded(picture, icc_profile=bytes(2**21), exif=exif)
    elif kind == "behind":  # the pixels
        data = encoded(picture, exif=exif)
        data = data[:-12] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))) + data[-12:]
    elif kind == "many":
        data = encoded(picture, exif=exif)
        data = data[:33] + 5 * chunk(b"tEXt", b"a\0" + b"b" * 2**14) + data[33:]
        monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 2**16)
        monkeypatch.setattr("keras_mdm.data.pictures.chunks._MAX_TEXTS", 2**15)
    else:
        data = encoded(picture, pnginfo=long_text(kind), exif=exif)
    np.testing.assert_array_equal(square(data), np.asarray(picture)[::-1, ::-1])


@pytest.mark.parametrize(
    "damaged",
    [
        chunk(b"tEXt", b"a\0b")[:-1] + b"?",
        chunk(b"zTXt", b"a\0\7" + zlib.compress(b"b")),
        chunk(b"iCCP", b"a\0\7" + zlib.compress(b"b")),
        chunk(b"gAMA", b"\0\0"),
        chunk(b"pHYs", b""),
        chunk(b"prVt", b"a")[:-1] + b"?",
        chunk(b"eXIf", b"MM")[:-1] + b"?",
    ],
)
def test_a_damaged_chunk_that_no_pixel_depends_on(damaged):
    picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    data = encoded(picture)
    np.testing.assert_array_equal(square(data[:33] + damaged + data[33:]), np.asarray(picture))
    np.testing.assert_array_equal(square(data[:-12] + damaged + data[-12:]), np.asarray(picture))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "before",
    [(0x0100, 5, 1, 9999), (0x010F, 2, 20, 9999), (0x010E, 2, 2**32 - 1, 8), (0x010E, 99, 3, 0)],
)
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_an_orientation_counts_behind_a_tag_that_lies_outside(kind, before):
    picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    picture.paste((255, 255, 255), (0, 0, 8, 4))
    tags = struct.pack(">HHII", *before) + struct.pack(">HHIHH", 0x0112, 3, 1, 3, 0)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\2" + tags + bytes(4)
    found = square(encoded(picture, kind, exif=exif))
    assert found[1].mean() < 9 and found[6].mean() > 246


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
def test_an_orientation_counts_beside_a_tag_of_a_wrong_type(kind):
    picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    picture.paste((255, 255, 255), (0, 0, 8, 4))
    if kind == "tiff":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[0x0112] = 3
        tags[0x9003] = "2020:01:01"
        data = encoded(picture, kind, tiffinfo=tags)
        data = data.replace(struct.pack("<HH", 0x9003, 2), struct.pack("<HH", 0x9003, 5))
    else:
        exif = picture.getexif()
        exif[0x0112], exif[0x011A], exif[0x0132] = 3, 72.0, "2020:01:01 00:00:00"
        head = exif.tobytes()
        for tag, before, after in ((0x011A, 5, 2), (0x0132, 2, 5)):
            for order in "<>":
                head = head.replace(
                    struct.pack(f"{order}HH", tag, before), struct.pack(f"{order}HH", tag, after)
                )
        data = encoded(picture, kind, exif=head)
    found = square(data)
    assert found[1].mean() < 9 and found[6].mean() > 246


# What is opened


@pytest.mark.parametrize(
    "kind", ["eps", "icns", "sgi", "dds", "spider", "tga", "pcx", "ico", "pdf"]
)
def test_formats_that_are_not_read(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started a program"))
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("started a program"))
    picture = Image.new("F" if kind == "spider" else "RGB", (64, 64))
    data = encoded(picture, kind)
    # Some have nothing that they begin with, or Pillow only writes them.
    plain = kind in ("spider", "tga", "pdf")
    words = "^is not a picture$" if plain else f"of the format {kind.upper()}, which is not read"
    with pytest.raises(Unusable, match=words):
        square(data)
    for name in ("a.jpg", "a.gif"):
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UnusableVideo, match=words):
        read_clip(tmp_path / "a.gif", ClipRule(8), place=0.0)
    with pytest.raises(Unusable, match=words):
        read_picture(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    "kind", ["png", "jpeg", "webp", "gif", "bmp", "tiff", "ppm", "jpeg2000", "mpo", "avif"]
)
def test_formats_that_are_read(kind):
    data = encoded(Image.new("RGB", (64, 64), (200, 100, 50)), kind)
    np.testing.assert_allclose(square(data), [[[200, 100, 50]] * 8] * 8, atol=8)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it sees
def test_huge_animations_and_tiles_are_seen_before_they_are_decoded(tmp_path):
    data = bytearray(encoded(Image.new("P", (10, 10)), "gif"))
    data[6:10] = (13_000).to_bytes(2, "little") * 2
    (tmp_path / "huge.gif").write_bytes(data)
    with pytest.raises(UnusableVideo, match="13000 x 13000 pixels, more than 36000000"):
        read_clip(tmp_path / "huge.gif", ClipRule(8), place=0.0)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[280] = tags[281] = 30_000  # which the writer leaves alone
    data = encoded(Image.new("L", (16, 16)), "tiff", tiffinfo=tags)
    for tag in (280, 281):
        data = data.replace(struct.pack("<HH", tag, 3), struct.pack("<HH", tag + 42, 3))
    with pytest.raises(Unusable, match="30000 x 30000 pixels"):
        square(data)


def test_huge_videos_are_seen_before_they_are_decoded(tmp_path, monkeypatch):
    pytest.importorskip("av")
    write_video(tmp_path / "a.mp4", 3)
    monkeypatch.setattr("keras_mdm.data.clips.frames.MAX_FRAME_PIXELS", SIZE * SIZE - 1)
    with pytest.raises(UnusableVideo, match="32 x 32 pixels, more than 1023"):
        read_clip(tmp_path / "a.mp4", ClipRule(8, frames=2), place=0.0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_devices_and_pipes_are_no_files(tmp_path):
    """Reading one never came back."""
    (tmp_path / "a.png").write_bytes(png(1))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(2**40)
    done = []

    def read():
        source = open_images(tmp_path, max_skipped=1.0)
        list(image_dataset(source, ImageRule(4), batch_size=4, seed=0, repeat=False))
        done.append({file: reason for file, reason in source.skipped})
        done.append(dict(load_folder(tmp_path, size=4, progress=False).skipped))
        for name in ("pipe.png", "zero.png"):
            for ending in (".gif", ".mp4"):
                os.rename(tmp_path / name, tmp_path / f"v{ending}")
                with pytest.raises(UnusableVideo, match="device or a pipe"):
                    read_clip(tmp_path / f"v{ending}", ClipRule(8), place=0.0)
                os.rename(tmp_path / f"v{ending}", tmp_path / name)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    for found in done:
        assert "device or a pipe" in found["pipe.png"] and "device or a pipe" in found["zero.png"]
        assert "bytes, more than" in found["sparse.png"]
    assert len(done) == 2


@pytest.mark.parametrize(
    "name",
    ["a.array_record", "a.tar", "metadata.csv", "metadata.json", "manifest.json", "list.csv"],
)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_no_kind_of_source_waits_for_a_pipe(tmp_path, name, kind):
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "a.txt").write_text("a")
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    told = []

    def read():
        told.append(holds_clips(tmp_path))
        for opened in (open_images, open_clips):
            try:
                opened(tmp_path, max_skipped=1.0)
            except ValueError as problem:
                told.append("To fix it: " in str(problem))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive() and told[0] is False and all(told[1:]) and len(told) > 1


def test_a_fault_of_a_text_beside_a_video_is_of_that_video(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(b"")
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.json").write_text('{"caption": ')
    os.mkfifo(tmp_path / "c.txt")
    found = find_videos(tmp_path, max_skipped=1.0)
    assert list(found.files) == ["a.mp4"]
    assert [entry.file for entry in found.skipped] == ["b.mp4", "c.mp4"]
    assert len(find_videos(tmp_path, captions="names")) == 3


# Videos that were cut, or do not tell when their frames are shown


@pytest.mark.parametrize("options", [{"bf": 2, "g": 12}, {"bf": 3, "g": 250}, {"bf": 0}])
@pytest.mark.parametrize("name", ["a.avi", "b.mkv"])
def test_reordered_frames(tmp_path, name, options):
    pytest.importorskip("av")
    file = write_video(tmp_path / name, 60, **options)
    assert count_frames(file) == 60
    rule = ClipRule(SIZE, frames=8, stride=2)
    for place in (0.0, 0.5, 0.99):
        first = int(place * (60 - 14))
        clip = read_clip(file, rule, place=place)
        assert [number_of(picture) for picture in clip] == list(range(first, first + 15, 2))


@pytest.mark.parametrize(
    ("name", "codec", "form"), [("a.mov", "qtrle", "argb"), ("a.mkv", "ffv1", "bgra")]
)
def test_transparent_videos_are_put_on_white(tmp_path, name, codec, form):
    av = pytest.importorskip("av")
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:, :8] = (200, 0, 0, 0)
    pixels[:, 8:] = (0, 0, 200, 255)
    with av.open(str(tmp_path / name), "w") as file:
        stream = file.add_stream(codec, rate=8)
        stream.width = stream.height = 16
        stream.pix_fmt = form
        for _ in range(3):
            shown = av.VideoFrame.from_ndarray(pixels, "rgba").reformat(format=form)
            file.mux(stream.encode(shown))
        file.mux(stream.encode())
    rule = ClipRule(16, frames=2, stride=1)
    clip = read_clip(tmp_path / name, rule, place=0.0)
    assert clip[0, 0, 0].tolist() == [255] * 3 and clip[0, 0, -1].tolist() == [0, 0, 200]
    kept = read_clip(tmp_path / name, dataclasses.replace(rule, channels=4), place=0.0)
    np.testing.assert_array_equal(kept[1], pixels)


def cut(source, target, begin, *, from_key=True):
    """Copy the packets from the key frame before a frame on, as tools do that cut without encoding:
    what is before the cut has negative times."""
    import av

    with (
        av.open(str(source)) as read,
        av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as written,
    ):
        stream = read.streams.video[0]
        copied = written.add_stream_from_template(stream)
        packets = [packet for packet in read.demux(stream) if packet.size]
        times = sorted(packet.pts for packet in packets)
        keys = [n for n, p in enumerate(packets) if p.is_keyframe and p.pts <= times[begin]]
        for packet in packets[keys[-1] if from_key else begin :]:
            packet.pts -= times[begin]
            packet.dts -= times[begin]
            packet.stream = copied
            written.mux(packet)
    return target


@pytest.mark.parametrize("ending", ["mp4", "mov"])
@pytest.mark.parametrize("options", [{"bf": 2, "g": 24}, {"bf": 0, "g": 24}])
def test_frames_that_an_edit_list_hides_do_not_count(tmp_path, ending, options):
    pytest.importorskip("av")
    whole = write_video(tmp_path / f"whole.{ending}", 72, **options)
    file = cut(whole, tmp_path / f"cut.{ending}", 40)
    assert count_frames(file) == 32
    for place in (0.0, 0.6, 0.99):
        clip = read_clip(file, ClipRule(SIZE, frames=8, stride=2), place=place)
        first = 40 + int(place * (32 - 14))
        assert [number_of(picture) for picture in clip] == list(range(first, first + 15, 2))


@pytest.mark.parametrize("ending", ["ts", "mkv"])
def test_frames_before_the_first_key_frame_do_not_count(tmp_path, ending):
    pytest.importorskip("av")
    whole = write_video(tmp_path / f"whole.{ending}", 72, bf=2, g=24, sc_threshold=0)
    file = cut(whole, tmp_path / f"cut.{ending}", 10, from_key=False)
    clip = read_clip(file, ClipRule(SIZE, frames=8, stride=2), place=0.0)
    assert [number_of(picture) for picture in clip] == list(range(24, 39, 2))


@pytest.mark.parametrize("ending", ["mp4", "avi"])
def test_every_frame_after_a_beginning_that_cannot_be_decoded(tmp_path, ending):
    pytest.importorskip("av")
    whole = write_video(tmp_path / f"whole.{ending}", 40, codec="mpeg4", bf=2, g=12)
    file = cut(whole, tmp_path / f"cut.{ending}", 5, from_key=False)
    count = count_frames(file)
    rule = ClipRule(SIZE, frames=None, frame="first")
    shown = [number_of(read_clip(file, rule, place=(n + 0.5) / count)) for n in range(count)]
    assert shown == list(range(40 - count, 40)) and 24 <= count < 35


def test_frames_whose_times_come_twice(tmp_path):
    av = pytest.importorskip("av")
    file = tmp_path / "a.mpg"
    write_video(file, 60, codec="mpeg2video", bf=3, g=12, height=64, width=64)
    with av.open(str(file)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.size]
    with av.open(str(file)) as container:
        whole = [shown.to_ndarray(format="rgb24") for shown in container.decode(video=0)]
    assert count_frames(file) == len(whole) == 60 > len(set(times))
    rule = ClipRule(64, frames=None, frame="first")
    for number in range(60):
        found = read_clip(file, rule, place=(number + 0.5) / 60)
        assert abs(found.astype(int) - whole[number]).max() < 8


def test_what_is_written_to_a_terminal(tmp_path, capsys):
    from keras_mdm.cli import main as cli

    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "\x1b[31mred\nline\x9b\u202e.png").write_bytes(b"")
    cli.main(["data", str(tmp_path), "--levels", "4", "--sheet", str(tmp_path / "sheet.jpg")])
    told = capsys.readouterr().out
    assert r"\x1b[31mred\nline\x9b\u202e.png" in told
    assert not {"\x1b", "\x9b", "\u202e"} & {*told}


def test_sockets_are_not_a_disk_that_is_gone(tmp_path):
    """Opening one gives the same error, which ended the job."""
    (tmp_path / "0.png").write_bytes(png(0))
    with socket.socket(socket.AF_UNIX) as made:
        here = os.getcwd()
        os.chdir(tmp_path)  # paths of sockets must be short
        try:
            made.bind("1.png")
        finally:
            os.chdir(here)
    source = open_images(tmp_path, max_skipped=1.0)
    assert overview.look(source, progress=False).broken == [
        ("1.png", "cannot be read: is a device or a pipe, not a file")
    ]


def test_a_text_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "0.png").write_bytes(png(0))
    os.mkfifo(tmp_path / "0.txt")
    with pytest.raises(Unusable, match=r"its text 0\.txt cannot be read: is a device"):
        open_images(tmp_path).read(0)
