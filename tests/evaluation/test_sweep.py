"""The curve of a sweep holds the numbers of its reports."""

import csv
import io
import math
import re
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import pytest

from keras_mdm.evaluation import sweep
from keras_mdm.evaluation.report import Row

NAN = math.nan


def report(distance, text=None, level="64", error=NAN):
    rows = [Row(level, "FID", distance, error, NAN, 9, 9)]
    rows += [Row(f"16 enlarged to {level}", "FID", 99.0, NAN, NAN, 9, 9)]
    if text is not None:
        rows.append(Row(level, "CLIP score", text, NAN, NAN, 9, 9))
    return SimpleNamespace(rows=rows)


REPORTS = {3.0: report(4.0, 30.0), 1.0: report(8.0, 10.0), 1.5: report(2.0, 20.0)}


def places(picture):
    """Centres of all points, and the texts of the picture, once it has been read as XML."""
    root = ElementTree.fromstring(picture)
    found = {
        kind: root.iter(f"{{http://www.w3.org/2000/svg}}{kind}") for kind in ("circle", "text")
    }
    centres = [(float(one.get("cx")), float(one.get("cy"))) for one in found["circle"]]
    return centres, [one.text for one in found["text"]]


def test_distance_against_text_in_the_order_of_the_scales():
    centres, texts = places(sweep.curve(REPORTS, distance="FID", text="CLIP score"))
    (x1, y1), (x2, y2), (x3, y3) = centres  # scales 1, 1.5, 3
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2) and x1 < x2
    # Pixels count downwards: 8, 2, 4.
    assert (y1 - y2) / (y3 - y2) == pytest.approx(3.0, rel=0.01) and y1 < y3 < y2
    assert {"1", "1.5", "3", "FID", "CLIP score", "level 64"} <= set(texts)
    assert not any("enlarged" in text for text in texts)


def test_without_a_text_score_the_scale_and_without_a_distance_the_text_score():
    centres, texts = places(sweep.curve(REPORTS, distance="FID"))
    (x1, _), (x2, _), (x3, _) = centres
    assert (x3 - x1) / (x2 - x1) == pytest.approx(4.0, rel=0.01) and "guidance scale" in texts
    centres, texts = places(sweep.curve(REPORTS, text="CLIP score"))
    assert centres == sorted(centres, key=lambda place: -place[1])  # 10, 20, 30 upwards
    assert "CLIP score" in texts and "FID" not in texts


def test_a_line_for_each_level_and_errors_where_they_are_known():
    both = {
        scale: SimpleNamespace(
            rows=report(scale, error=0.5).rows + report(2 * scale, level="16").rows
        )
        for scale in (1.0, 2.0)
    }
    picture = sweep.curve(both, distance="FID")
    assert picture.count("<polyline") == 2 and picture.count("<circle") == 4
    long = [
        abs(float(y2) - float(y1))
        for x1, y1, x2, y2 in re.findall(
            r'<line x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)" stroke="#2', picture
        )
        if x1 == x2
    ]
    assert len([length for length in long if length > 1]) == 2


@pytest.mark.parametrize("values", [(5.0,), (5.0, 5.0), (0.0, 0.0), (1e-7, 2e-7), (NAN, 3.0)])
def test_any_range_can_be_drawn(values):
    reports = {float(number): report(value) for number, value in enumerate(values)}
    centres, texts = places(sweep.curve(reports, distance="FID"))
    assert len(centres) == sum(map(math.isfinite, values))
    assert all(84 <= x <= 700 and 56 <= y <= 400 for x, y in centres) and "nan" not in texts


def test_names_are_text_and_not_markup():
    strange = {1.0: SimpleNamespace(rows=[Row("64", "a < b & c", 1.0, NAN, NAN, 1, 1)])}
    assert "a < b & c" in places(sweep.curve(strange, distance="a < b & c"))[1]


def test_a_measure_that_no_report_has_is_an_error():
    with pytest.raises(ValueError, match=r"at least one report.*Received: .*To fix it: "):
        sweep.curve(REPORTS, distance="KID")


def test_the_table_has_a_row_for_each_scale_and_subject():
    rows = list(csv.DictReader(io.StringIO(sweep.table(REPORTS))))
    assert [(row["guidance"], row["pictures"]) for row in rows][:2] == [
        ("3", "64"),
        ("3", "16 enlarged to 64"),
    ]
    assert (rows[0]["FID"], rows[0]["CLIP score"], rows[1]["CLIP score"]) == ("4.0", "30.0", "")
