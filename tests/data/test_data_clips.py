"""Folders of videos: what is found, in which order it comes, what happens to broken files."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data.videos import SIZE, number_of, write_video
from keras_mdm.data import (
    ClipRule,
    ClipShards,
    VideoFiles,
    captions_of,
    clip_dataset,
    find_videos,
    open_clips,
    prepare_clips,
    skipped_clips,
)
from keras_mdm.data.clips.files import digest_of
from keras_mdm.data.clips.reader import fixed_place
from keras_mdm.data.reduction import reduce_pixels
from keras_mdm.text import embed

pytest.importorskip("av")
RULE = ClipRule(SIZE, frames=4, stride=2, short="skip")
VIDEOS = VideoFiles("nowhere", ["a.mp4"], ["a"])
COUNTS = {"a": 40, "b": 60, "sub/c": 80, "sub/d": 50, "e": 70}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    for name, count in COUNTS.items():
        write_video(folder / f"{name}.mp4", count)
        (folder / f"{name}.txt").write_text(f"the  number\n{name}")
    return folder


@pytest.fixture
def broken(videos, tmp_path):
    folder = shutil.copytree(videos, tmp_path / "broken")
    (folder / "b.mp4").write_bytes(b"no video")
    write_video(folder / "sub" / "d.mp4", 6)  # seven are needed
    return folder


class Letters:
    """An encoder whose states are the codes of letters."""

    width, length, identity = 1, 16, {"name": "letters"}

    def encode(self, texts):
        longest = max(map(len, texts))
        codes = np.array([[ord(c) for c in text.ljust(longest)] for text in texts], "float32")
        return codes[..., None], np.array([[n < len(t) for n in range(longest)] for t in texts])


def batches(source, count, **options):
    given = {"batch_size": 3, "seed": 7, "encoder": Letters(), **options}
    taken = clip_dataset(source, given.pop("rule", RULE), **given).take(count)
    return list(taken.as_numpy_iterator())


def captions(batch):
    return ["".join(map(chr, row[:, 0].astype(int))).rstrip() for row in batch["text"]]


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


def test_text_files_beside_the_videos(videos):
    source = find_videos(videos)
    assert list(source.files) == ["a.mp4", "b.mp4", "e.mp4", "sub/c.mp4", "sub/d.mp4"]
    assert source.captions[3] == "the number sub/c" and not source.skipped
    assert find_videos(videos, captions="names").captions[3] == "c"
    assert source.identity != find_videos(videos, captions="names").identity


def test_tables(videos, tmp_path):
    table = tmp_path / "webvid.csv"
    table.write_text(
        'videoid,contentUrl,duration,page_dir,name\nc,x,PT1S,sub,"Three, ""sea"""\nd,x,PT1S,sub,\n'
    )
    source = find_videos(videos, captions=table, max_skipped=0.5)
    assert source.files == ["sub/c.mp4"] and source.captions == ['Three, "sea"']
    assert source.skipped == (("sub/d.mp4", "has no caption"),)
    table.write_text("caption,other,file\nA letter,1,a.mp4\nToo short a row\n")
    with pytest.raises(ValueError, match=r"at most 1.00% of the videos .*'1 of 2'"):
        find_videos(videos, captions=table)
    source = find_videos(videos, captions=table, max_skipped=0.5)
    assert source.files == ["a.mp4"] and source.captions == ["A letter"]
    assert len(source.skipped) == 1
    table.write_text("file,text\na.mp4,A letter\n")
    with pytest.raises(ValueError, match=r"caption missing"):
        find_videos(videos, captions=table)
    table.write_text("videoid,name\n1,A letter\n")
    with pytest.raises(ValueError, match=r"page_dir missing"):
        find_videos(videos, captions=table)


def test_every_video_once_per_epoch_with_its_one_clip(videos):
    source = find_videos(videos)
    seen = batches(source, 10)  # six epochs of five, batches straddle them
    assert [*np.concatenate([batch["sample"] for batch in seen])] == list(range(30))
    names = [caption for batch in seen for caption in captions(batch)]
    for epoch in range(6):
        assert sorted(names[5 * epoch : 5 * epoch + 5]) == sorted(source.captions)
    assert names[:5] != names[5:10]
    mirrored = 0
    for batch in seen:
        assert batch["video"].shape == (3, 4, SIZE, SIZE, 3) and batch["video"].dtype == np.uint8
        for clip, caption in zip(batch["video"], captions(batch), strict=True):
            name = caption.removeprefix("the number ")
            first = int(fixed_place(name) * (COUNTS[name] - 6))
            plain = [number_of(picture) for picture in clip]
            flipped = [number_of(picture[:, ::-1]) for picture in clip]
            wanted = list(range(first, first + 7, 2))
            assert wanted in (plain, flipped)
            mirrored += plain != wanted
    assert 5 <= mirrored <= 25


def test_resume_sees_what_it_would_have_seen(videos):
    source = find_videos(videos)
    rule = dataclasses.replace(RULE, start="random")
    whole = batches(source, 6, rule=rule)
    again = batches(source, 2, rule=rule, first_step=4, parallel_reads=1)
    assert all(same(*pair) for pair in zip(whole[4:], again, strict=True))
    other = batches(source, 6, rule=rule, seed=8)
    assert not all(same(*pair) for pair in zip(whole, other, strict=True))
    starts = {number_of(clip[0]) for batch in whole for clip in batch["video"]}
    assert len(starts) > len(COUNTS) + 2  # more than one place in a video


def test_pictures_are_the_first_frames_of_the_same_clips(videos):
    source = find_videos(videos)
    clips, pictures = batches(source, 2), batches(source, 2, rule=RULE.picture())
    for clip, picture in zip(clips, pictures, strict=True):
        np.testing.assert_array_equal(picture["image"], clip["video"][:, 0])
        np.testing.assert_array_equal(picture["text"], clip["text"])


LIVE = """
import sys
import numpy as np
from PIL import Image
from keras_mdm.data import ClipRule, clip_dataset, find_videos

frames = np.random.default_rng(0).integers(0, 256, (64, 128, 128, 3)).astype("uint8")
pictures = [Image.fromarray(frame) for frame in frames]
for name in "abc":
    file = f"{sys.argv[1]}/{name}.webp"
    pictures[0].save(file, save_all=True, append_images=pictures[1:], lossless=True, method=0)
videos = find_videos(sys.argv[1], captions="names")
batches = iter(clip_dataset(videos, ClipRule(64), batch_size=4, seed=0))
for _ in range(5):
    shape = next(batches)["video"].shape
print(shape)
"""


def test_a_process_ends_while_its_pipeline_reads_ahead(tmp_path):
    command = [sys.executable, "-c", LIVE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "(4, 16, 64, 64, 3)" in done.stdout, done.stderr[-2000:]


def test_workers_make_their_parts_and_nothing_else(videos):
    source = find_videos(videos)
    for rule in (RULE, RULE.picture()):
        whole = batches(source, 12, batch_size=6, first_step=1, rule=rule)
        for index in range(3):
            worker = {"worker": (index, 3), "rule": rule, "batch_size": 6}
            part = batches(source, 4, first_step=1, **worker)
            # A batch holds two samples of each of three steps.
            steps = [
                {key: batch[key][2 * index : 2 * index + 2] for key in batch} for batch in whole
            ]
            for key in ("video" if rule.frames else "image", "sample"):
                own = np.concatenate([step[key] for step in steps])
                np.testing.assert_array_equal(np.concatenate([b[key] for b in part]), own)
            own = [caption for step in steps for caption in captions(step)]
            assert [caption for batch in part for caption in captions(batch)] == own
            # A worker goes on where it was.
            assert same(batches(source, 1, first_step=4, **worker)[0], part[1])


def test_workers_are_told_to_tensorflow(videos):
    options = {"batch_size": 4, "seed": 0}
    for worker, policy in (((0, 1), "AUTO"), ((1, 2), "OFF")):
        made = clip_dataset(find_videos(videos), RULE, worker=worker, **options)
        found = made.options().experimental_distribute.auto_shard_policy
        assert found == getattr(tf.data.experimental.AutoShardPolicy, policy)
    for worker in ((3, 3), (0, 3), (-1, 2), 2):
        with pytest.raises(ValueError, match=r"\(index, number\), .*Received: .*To fix it: "):
            clip_dataset(find_videos(videos), RULE, worker=worker, **options)


def test_stored_states_in_place_of_the_encoder(videos, tmp_path):
    source = find_videos(videos)
    encoder = Letters()
    stored = embed(encoder, captions_of(source), tmp_path, total=len(source), progress=False)
    for found, here in zip(
        batches(source, 4, encoder=stored), batches(source, 4, encoder=encoder), strict=True
    ):
        # As long as the longest caption of the batch.
        length = int(here["text_mask"].sum(1).max())
        assert found["text"].shape == (3, length, encoder.width)
        mask = here["text_mask"][:, :length]
        np.testing.assert_array_equal(found["text_mask"], mask)
        expected = here["text"][:, :length] * mask[..., None]
        np.testing.assert_array_equal(found["text"], expected)
        np.testing.assert_array_equal(found["video"], here["video"])
    with pytest.raises(ValueError, match="must be a text encoder"):
        batches(source, 1, encoder=5)


@pytest.mark.parametrize("flat", [False, True])
def test_both_layouts_of_webvid(tmp_path, flat):
    rows, names = [], {}
    for number, count in enumerate((20, 30, 40)):
        names[f"00{number}/{number}"] = count
        rows.append(f'{number},x,PT1S,00{number},"video {number}"')
        file = tmp_path / (f"{number}.mp4" if flat else f"00{number}/{number}.mp4")
        file.parent.mkdir(exist_ok=True)
        write_video(file, count)
    table = tmp_path / "webvid.csv"
    table.write_text("\n".join(["videoid,contentUrl,duration,page_dir,name", *rows]))
    source = find_videos(tmp_path)
    assert [source.key(row) for row in range(3)] == list(names)
    for row, (name, count) in enumerate(names.items()):
        # The place of a clip, and the identity of the data, do not depend on the layout.
        clip = source.read(row, RULE, place=None, mirror=False)
        assert number_of(clip[0]) == int(fixed_place(name) * (count - 6))
    assert source.identity["sha256"] == digest_of(
        [f"{name}.mp4" for name in names], [f"video {n}" for n in range(3)]
    )
    # One that lies in the other place is found as well.
    places = [tmp_path / "1.mp4", tmp_path / "001" / "1.mp4"]
    places[1].parent.mkdir(exist_ok=True)
    places[not flat].rename(places[flat])
    found = find_videos(tmp_path, max_skipped=0.5)
    assert found.path(1) == places[flat]
    places[flat].unlink()
    found = find_videos(tmp_path, max_skipped=0.5)
    assert found.read_usable(1, RULE, place=None, mirror=False)[1] == 2
    ((file, reason),) = found.skipped
    assert file == "001/1.mp4"
    assert "001/1.mp4" in reason and " nor " in reason and " 1.mp4 " in reason


def test_no_row_of_a_table_leads_out_of_the_folder(tmp_path):
    table = tmp_path / "webvid.csv"
    table.write_text("videoid,page_dir,name\n1,,No folder\n,000,No video\n2,/000/,Slashes\n")
    source = find_videos(tmp_path, max_skipped=0.5)
    assert list(source.files) == ["1.mp4", "000/2.mp4"]
    assert source.skipped == (("(no file)", "has no file"),)


def test_states_in_memory(videos):
    source = find_videos(videos)
    states, mask = Letters().encode(source.captions)
    here = batches(source, 2, encoder=None, text=(states, mask.astype("float32")))
    there = batches(source, 2)
    assert captions(here[0]) == captions(there[0])


def test_broken_files_are_replaced_counted_and_listed(broken):
    source = find_videos(broken, max_skipped=0.4)
    first = batches(source, 10)
    names = [caption for batch in first for caption in captions(batch)]
    # The next good one stands in for each: e after b, a after d.
    assert {name: names.count(f"the number {name}") for name in ("a", "e", "sub/c")} == {
        "a": 12,
        "e": 12,
        "sub/c": 6,
    }
    assert [entry.file for entry in source.skipped] == ["b.mp4", "sub/d.mp4"]
    assert "7 are needed" in source.skipped[1].reason
    again = batches(find_videos(broken, max_skipped=0.4), 10)
    assert all(same(*pair) for pair in zip(first, again, strict=True))


def test_too_many_broken_files_end_the_run(broken):
    for limit in (0.01, 0.39):
        source = find_videos(broken, max_skipped=limit)
        with pytest.raises(Exception, match="of the videos may be unusable") as caught:
            batches(source, 10)
        assert f"at most {limit:.2%}" in str(caught.value)
    with pytest.raises(ValueError, match="max_skipped"):
        find_videos(broken, max_skipped=2)


def test_nothing_but_broken_files_is_an_error(broken):
    source = find_videos(broken, max_skipped=1.0)
    with pytest.raises(Exception, match="of 5 videos in a row at least one must be usable"):
        batches(source, 1, rule=ClipRule(SIZE, frames=64, stride=8, short="skip"))


def test_shards_hold_the_same_clips(broken, tmp_path):
    with pytest.raises(ValueError, match=r"at most 1.00% of the videos .*max_skipped to continue"):
        prepare_clips(find_videos(broken), tmp_path / "shards", rule=RULE, progress=False)
    shutil.rmtree(tmp_path / "shards")
    source = find_videos(broken, max_skipped=0.4)
    target = tmp_path / "shards"
    shards = prepare_clips(source, target, rule=RULE, clips_per_shard=2, progress=False)
    assert shards.captions == ["the number a", "the number e", "the number sub/c"]
    assert [entry.file for entry in skipped_clips(target)] == ["b.mp4", "sub/d.mp4"]
    for row, name in enumerate(("a", "e", "sub/c")):
        clip, found = shards.read_usable(row, RULE, place=None, mirror=False)
        exact = source.read(source.files.index(f"{name}.mp4"), RULE, place=None, mirror=False)
        assert found == row and np.abs(clip.astype(int) - exact).mean() < 1.5  # JPEG
    opened = open_clips(target)
    assert opened.identity == shards.identity
    small = batches(opened, 2, rule=dataclasses.replace(RULE, size=SIZE // 2))
    assert small[0]["video"].shape == (3, 4, SIZE // 2, SIZE // 2, 3)
    picture = batches(opened, 1, rule=RULE.picture())[0]
    np.testing.assert_array_equal(picture["image"], batches(opened, 1)[0]["video"][:, 0])
    with pytest.raises(ValueError, match="rule must match the prepared clips"):
        batches(opened, 1, rule=ClipRule(SIZE, frames=4, stride=4))
    (spread,) = batches(opened, 1, rule=dataclasses.replace(RULE, short="spread"))
    assert same(spread, batches(opened, 1)[0])  # what was left out is not missed


def test_preparing_goes_on_where_it_was_stopped(videos, tmp_path):
    source, target = find_videos(videos), tmp_path / "shards"
    prepare_clips(source, target, rule=RULE, clips_per_shard=2, progress=False)
    before = {file.name: file.read_bytes() for file in target.iterdir()}
    kept = (target / "clips-00000.array_record").stat().st_mtime_ns
    for name in ("manifest.json", "clips-00001.json", "skipped.csv"):
        (target / name).unlink()
    (target / "clips-00001.partial").write_bytes(b"half a shard")
    with pytest.raises(ValueError, match="must hold prepared clips"):
        ClipShards(target)
    prepare_clips(source, target, rule=RULE, clips_per_shard=2, progress=False)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == before
    assert (target / "clips-00000.array_record").stat().st_mtime_ns == kept
    with pytest.raises(ValueError, match="same data and rule"):
        prepare_clips(source, target, rule=ClipRule(8), progress=False)


def test_shards_of_before_open_and_are_the_same_data(videos, tmp_path):
    """Their rule says nothing of short videos."""
    source, target = find_videos(videos), tmp_path / "shards"
    options = {"rule": RULE, "progress": False}
    shards = prepare_clips(source, target, **options)
    old = {"size": SIZE, "frames": 4, "stride": 2, "start": "fixed", "span": None}
    for name in ("manifest.json", "plan.json"):
        assert json.loads((target / name).read_text())["rule"] == old
    digest = digest_of(
        shards.keys, shards.captions, [json.dumps({**old, "flip": False}, sort_keys=True)]
    )
    assert shards.identity == {"records": 5, "sha256": digest}
    assert shards.rule == dataclasses.replace(RULE, flip=False)
    assert prepare_clips(source, target, **options).identity == shards.identity


def test_shards_of_short_videos(broken, tmp_path):
    source = find_videos(broken, max_skipped=0.2)
    rule = dataclasses.replace(RULE, short="spread")
    shards = prepare_clips(source, tmp_path / "shards", rule=rule, progress=False)
    assert shards.captions[-1] == "the number sub/d" and shards.rule.short == "spread"
    clip, _ = shards.read_usable(3, rule, place=None, mirror=False)
    assert [number_of(picture) for picture in clip] == [0, 1, 3, 5]
    with pytest.raises(ValueError, match="rule must match the prepared clips"):
        shards.check(RULE)


@pytest.mark.parametrize("kind", ["area", "bilinear"])
def test_shards_reduce_as_files_do(videos, tmp_path, kind):
    with pytest.raises(ValueError, match="without `of`"):
        whole = find_videos(videos)
        prepare_clips(whole, tmp_path, rule=dataclasses.replace(RULE, size=16, of=32))
    shards = prepare_clips(find_videos(videos), tmp_path, rule=RULE, progress=False)
    high, _ = shards.read_usable(1, RULE, place=None, mirror=False)
    rule = dataclasses.replace(RULE, size=4, of=16, downsample=kind)
    low, _ = shards.read_usable(1, rule, place=None, mirror=True)
    expected = reduce_pixels(reduce_pixels(high, 16), 4, kind)[:, :, ::-1]
    np.testing.assert_array_equal(low, expected)
    picture, _ = shards.read_usable(1, rule.picture(), place=None, mirror=True)
    np.testing.assert_array_equal(picture, expected[0])
    with pytest.raises(ValueError, match="rule must match the prepared clips"):
        shards.check(dataclasses.replace(RULE, size=16, of=64))


def test_damaged_clips_of_shards_are_replaced_and_counted(videos, tmp_path):
    prepare_clips(find_videos(videos), tmp_path, rule=RULE, clips_per_shard=4, progress=False)
    file = tmp_path / "clips-00000.array_record"
    content = file.read_bytes()
    with (tmp_path / "clips-00000.csv").open() as table:
        keys = [line.split(",")[0] for line in table][1:]
    # Zeros inside of the second strip.
    second = [i for i in range(len(content)) if content.startswith(b"\xff\xd8\xff\xe0", i)][1]
    file.write_bytes(content[:second] + bytes(64) + content[second + 64 :])
    opened = open_clips(tmp_path, max_skipped=0.2)
    first = batches(opened, 10)
    names = [caption for batch in first for caption in captions(batch)]
    assert names.count(f"the number {keys[1]}") == 0 and names.count(f"the number {keys[2]}") == 12
    assert [entry.file for entry in opened.skipped] == [keys[1]]
    assert opened.skipped[0].reason.startswith("cannot be read")
    again = batches(open_clips(tmp_path, max_skipped=0.2), 10)
    assert all(same(*pair) for pair in zip(first, again, strict=True))
    with pytest.raises(Exception, match="at most 1.00% of the clips may be unusable"):
        batches(open_clips(tmp_path), 10)


def test_pictures_of_animations_count_as_videos(tmp_path):
    pictures = [Image.fromarray(np.full((8, 8, 3), 10 * n, np.uint8)) for n in range(9)]
    pictures[0].save(tmp_path / "grey.webp", save_all=True, append_images=pictures[1:])
    source = find_videos(tmp_path, captions="names")
    assert source.captions == ["grey"]
    clip, _ = source.read_usable(0, ClipRule(8, frames=4, stride=2), place=0.0, mirror=False)
    assert np.abs(clip.mean(axis=(1, 2, 3)) - 20 * np.arange(4)).max() < 4


@pytest.mark.parametrize(
    "call",
    [
        lambda folder: find_videos(folder / "missing"),
        lambda folder: find_videos(folder),
        lambda folder: find_videos(folder, captions=folder / "missing.csv"),
        lambda folder: open_clips(folder),
        lambda folder: skipped_clips(folder),
        lambda folder: clip_dataset(str(folder), RULE, batch_size=2, seed=0),
        lambda folder: clip_dataset(VIDEOS, 64, batch_size=2, seed=0),
        lambda folder: clip_dataset(VIDEOS, RULE, batch_size=2, seed=0, text=5),
        lambda folder: prepare_clips(VIDEOS, folder / "no_caption.mp4", rule=RULE),
        lambda folder: prepare_clips(VIDEOS, folder / "x", rule=RULE, workers=0),
    ],
)
def test_bad_input(call, tmp_path):
    (tmp_path / "no_caption.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="Received: .*To fix it: "):
        call(tmp_path)
