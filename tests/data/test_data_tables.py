"""Tables as programs and people write them: a fault costs the row that it is in, and no other."""

import pytest

from data import sources
from keras_mdm.data import find_videos, open_images
from keras_mdm.data.sources import delimited


def write_table(path, rows, comma, header="file,caption"):
    lines = [header.replace(",", comma)] + [comma.join(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def numbered(count):
    return [(f"{n}.png", f"caption {n}") for n in range(count)]


def read_all(path):
    """Names and captions of all rows, read as training reads them; no file is needed."""
    source = open_images(path, max_skipped=1.0)
    rows = [source._row(row) for row in range(len(source))]
    return source, [(row["file"], row.get("caption")) for row in rows]


def videos_of(path):
    found = find_videos(path.parent, captions=path, max_skipped=1.0)
    return found, list(zip(found.files, found.captions, strict=True))


# At the first row nothing is known yet of what names look like.
@pytest.mark.parametrize("places", [(10,), (10, 13), (0, 2), (99,)])
@pytest.mark.parametrize("read", [read_all, videos_of])
def test_a_stray_quote_in_csv_costs_its_own_row(tmp_path, read, places):
    rows = numbered(100)
    rows[places[0]] = (rows[places[0]][0], f'"caption {places[0]}')
    if len(places) == 2:
        rows[places[1]] = (rows[places[1]][0], 'caption of 5"')
    source, found = read(write_table(tmp_path / "t.csv", rows, ","))
    assert found == rows[: places[0]] + rows[places[0] + 1 :]
    assert source.skipped == ((f"t.csv, line {places[0] + 2}", delimited.OPEN_QUOTE),)


@pytest.mark.parametrize("first", [0, 1])
def test_two_stray_quotes_do_not_put_rows_together(tmp_path, first):
    """Also where names have spaces, or, as those of WebVid, no ending."""
    rows = [(f"{n}.png" if n < 2 else f"my photo {n}.png", f"caption {n}") for n in range(9)]
    rows[first], rows[first + 2] = (rows[first][0], '"open'), (rows[first + 2][0], 'closed"')
    source, found = read_all(write_table(tmp_path / "t.csv", rows, ","))
    assert found == rows[:first] + rows[first + 1 :] and len(source.skipped) == 1
    rows = [(str(n), "page", f"caption {n}") for n in range(9)]
    rows[first], rows[first + 2] = (str(first), "page", '"open'), (str(first + 2), "page", 'end"')
    table = write_table(tmp_path / "w.csv", rows, ",", "videoid,page_dir,name")
    source, found = videos_of(table)
    kept = rows[:first] + rows[first + 1 :]
    assert found == [(f"{page}/{name}.mp4", caption) for name, page, caption in kept]
    assert source.skipped == ((f"w.csv, line {first + 2}", delimited.OPEN_QUOTE),)


@pytest.mark.parametrize("read", [read_all, videos_of])
def test_places_are_lines_of_the_file(tmp_path, read):
    """Also behind empty lines, and captions of several lines."""
    text = 'file,caption\n0.png,"a\nb\nc"\n\n1.png,one, two\n2.png,two\n'
    (tmp_path / "t.csv").write_text(text)
    source, _ = read(tmp_path / "t.csv")
    assert [entry.file for entry in source.skipped] == ["t.csv, line 6"]


def test_a_tsv_has_no_quoting(tmp_path):
    rows = numbered(100)
    rows[10] = ("10.png", '"a big one')
    rows[12] = ("12.png", 'of 5"')
    rows[13] = ('"13".png', '5" and 6"')
    source, found = read_all(write_table(tmp_path / "t.tsv", rows, "\t"))
    assert found == rows and not source.skipped
    # Two quotes in one line do not put columns together.
    rows = [("0.png", '"one', "a"), ("1.png", "two", '"b'), ('"2.png', 'three"', "c")]
    table = write_table(tmp_path / "u.tsv", rows, "\t", "file,caption,more")
    assert read_all(table)[1] == [row[:2] for row in rows]
    # Programs that quote all the same are understood.
    rows = [("0.png", '"say ""a"""'), ("1.png", '"a\tb"')]
    assert read_all(write_table(tmp_path / "v.tsv", rows, "\t"))[1] == [
        ("0.png", 'say "a"'),
        ("1.png", "a\tb"),
    ]


@pytest.mark.parametrize("read", [read_all, videos_of])
def test_lines_in_quotes_stay_one_caption(tmp_path, read):
    rows = [
        ("0.png", '"two\nlines, ""quoted"""'),
        ("1.png", '"a list:\n\nfirst, second\nthird"'),
        ("2.png", '5" pipe'),
        ("3.png", '"said "so" to me"'),
    ]
    source, found = read(write_table(tmp_path / "t.csv", rows, ","))
    assert not source.skipped and [file for file, _ in found] == [file for file, _ in rows]
    assert [caption.split() for _, caption in found[:3]] == [
        ["two", "lines,", '"quoted"'],
        ["a", "list:", "first,", "second", "third"],
        ['5"', "pipe"],
    ]


def test_a_quote_is_not_closed_far_away_or_never(tmp_path):
    """Lines that are no rows do not make a caption of a thousand lines."""
    lines = "\n".join(["some words"] * (delimited.MAX_LINES + 1))
    rows = [("0.png", "a"), ("1.png", f'"b\n{lines}\nend"'), ("2.png", "c")]
    source, found = read_all(write_table(tmp_path / "t.csv", rows, ","))
    assert found == [rows[0], rows[2]]  # its lines are not taken for rows either
    assert list(source.skipped) == [("t.csv, line 3", delimited.OPEN_QUOTE)]


def test_a_tsv_of_videos_has_no_quoting(tmp_path):
    rows = [(f"{n}.mp4", f"caption {n}") for n in range(20)]
    rows[3] = ("3.mp4", '"caption 3, and more')
    source, found = videos_of(write_table(tmp_path / "t.tsv", rows, "\t"))
    assert found == rows and not source.skipped


@pytest.mark.parametrize("read", [read_all, videos_of])
def test_a_caption_with_commas_is_not_cut(tmp_path, read):
    rows = [("0.png", "a red, large pear"), ("1.png", "a pear"), ("2.png", "a pear,")]
    source, found = read(write_table(tmp_path / "t.csv", rows, ","))
    assert found == [("1.png", "a pear"), ("2.png", "a pear")]
    assert "has 3 values for 2 columns" in source.skipped[0].reason


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_tables_that_were_put_together_hold_marks_in_the_middle(tmp_path, ending):
    comma = {"csv": ",", "tsv": "\t"}.get(ending)
    if comma:
        lines = ['\ufeff\ufeff"file","caption"'.replace(",", comma), f"a.png{comma}one"]
        lines += [f"\ufeffb.png{comma}two"]
    else:
        lines = [f'\ufeff{{"file": "{n}.png", "caption": "{c}"}}' for n, c in ("a1", "b2")]
        lines[0] = f"\ufeff{lines[0]}"
    path = tmp_path / f"t.{ending}"
    path.write_text("\n".join(lines), encoding="utf-8")
    source, found = read_all(path)
    assert [file for file, _ in found] == ["a.png", "b.png"] and not source.skipped


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_utf_16_without_a_mark(tmp_path, encoding, ending):
    line = '{"file": "a.png", "caption": "caf\u00e9"}\n'
    if ending != "jsonl":
        line = "file,caption\na.png,caf\u00e9\n".replace(",", {"csv": ",", "tsv": "\t"}[ending])
    path = tmp_path / f"t.{ending}"
    path.write_bytes(line.encode(encoding))
    assert read_all(path)[1] == [("a.png", "caf\u00e9")]
    if ending == "csv":
        assert videos_of(path)[1] == [("a.png", "caf\u00e9")]


def test_rows_are_found_again_where_they_are(tmp_path):
    """Places of rows after a fault, and of ones over several lines."""
    rows = numbered(6)
    rows[1] = ("1.png", '"caption')
    rows[3] = ("3.png", '"three\nlines\nhere"')
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(sources.png(number))
    source = open_images(write_table(tmp_path / "t.csv", rows, ","), max_skipped=0.5)
    records = [source.read(row) for row in range(5)]
    assert [record.key for record in records] == [f"{n}.png" for n in (0, 2, 3, 4, 5)]
    assert records[2].captions == ("three\nlines\nhere",)
