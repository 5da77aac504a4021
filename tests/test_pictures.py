"""What pictures and numbers of the page are made of: dots, fronts, curves, ticks and wording."""

import re
from pathlib import Path

import pytest

from stages.report.pictures import (
    Lane,
    line_of,
    loss_curves,
    seed_dots,
    smoothed,
    swarm,
    thin,
)
from stages.report.reading import read_curve
from stages.report.scatter import Point, front, score_against
from stages.report.svg import Scale, tag
from stages.report.wording import DASH, count, duration, fixed, megabytes, percent, plain


def test_equal_seeds_do_not_hide_each_other() -> None:
    places = swarm([10.0, 10.0, 10.0, 40.0])
    assert len(set(places)) == 4
    assert (40.0, 0.0) in places


def test_the_front_is_what_nothing_beats() -> None:
    places = [("a", 1, 5), ("b", 2, 4), ("c", 3, 9), ("d", 1, 6)]
    points = [Point(name, "", x, y) for name, x, y in places]
    assert [point.label for point in front(points)] == ["d", "c"]


def test_the_line_of_a_front_goes_to_the_right_before_it_rises() -> None:
    drawn = score_against(
        "n", "t", ("ms", "score"), [Point("a", "", 1, 5), Point("wider", "", 3, 9)]
    )
    found = re.search(r'd="M([^"]*)"', drawn)
    assert found is not None
    (x1, y1), (x2, y2), (x3, y3) = (map(float, p.split()) for p in found.group(1).split("L"))
    assert x1 < x2 == x3
    assert y1 == y2 > y3
    # The label of the point at the right edge is not cut: it stands to the left.
    assert 'text-anchor="end" class="label">wider<' in drawn


def test_every_seed_is_compared_with_the_first_lanes_median() -> None:
    lanes = [Lane("teacher", "", [50.0, 60.0], 55.0), Lane("student", "", [40.0, 42.0], 41.0)]
    drawn = seed_dots("n", "t", lanes)
    places = {
        kind: re.findall(rf'x1="([^"]*)"[^>]*class="{kind}"', drawn)
        for kind in ("reference", "median")
    }
    assert places["reference"] == places["median"][:1]


def test_a_loss_is_drawn_inside_its_picture() -> None:
    line = line_of("a", "", [1, 2, 3], [9.0, 4.0, 2.0])
    found = re.search(r'd="M([^"]*)" class="raw"', loss_curves("n", "t", [line]))
    assert found is not None
    heights = [float(place.split()[1]) for place in found.group(1).split("L")]
    assert 10 < heights[0] < heights[1] < heights[2] < 206 - 40


def test_long_curves_are_thinned_to_means() -> None:
    assert thin([(1.0, 2.0), (2.0, 4.0), (3.0, 9.0)], most=2) == [(1.5, 3.0), (3.0, 9.0)]


def test_smoothing_keeps_a_constant() -> None:
    assert smoothed([2.0] * 50) == [2.0] * 50
    # Of 40 values a tenth, to the next whole one on both sides: five.
    one = [0.0] * 20 + [5.0] + [0.0] * 19
    assert smoothed(one)[17:24] == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]


def test_ticks_are_round_and_inside() -> None:
    assert [text for _, text in Scale(0.0, 0.5, 0, 1).ticks()] == [
        "0.0", "0.1", "0.2", "0.3", "0.4", "0.5",
    ]  # fmt: skip
    assert [text for _, text in Scale(71.2, 78.9, 0, 1).ticks()] == ["72", "74", "76", "78"]


def test_a_curve_keeps_its_gaps(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("step,loss,ce,mlm,learning_rate\n1,3,,2,0.1\n2,nan,1,2,0.1\n")
    curve = read_curve(path)
    assert curve.steps == [1.0, 2.0]
    assert curve.terms == {"loss": [3.0, None], "ce": [None, 1.0], "mlm": [2.0, 2.0]}


def test_elements_escape_their_text_and_attributes() -> None:
    assert tag("text", "<b>", x=1.005, class_='"') == '<text x="1" class="&#34;">&lt;b&gt;</text>'


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (count(811_220), "811,220"),
        (count(1_000_000), "1.0\u202fM"),
        (count(22_713_216), "22.7\u202fM"),
        (duration(59.4), "59.4\u202fs"),
        (duration(119.9), "2\u202fmin 00\u202fs"),
        (duration(7260), "2\u202fh 01\u202fmin"),
        (megabytes(70.04), "70.0\u202fMB"),
        (megabytes(0.0012), "1.2\u202fkB"),
        (megabytes(0.000048), "48\u202fB"),
        (plain(True), "yes"),
        (plain(0.00041), "0.00041"),
        (plain([0, 2, 5]), "0, 2, 5"),
        (plain(float("nan")), DASH),
        (fixed(float("inf")), DASH),
        (percent(None), DASH),
    ],
)
def test_numbers_are_written_for_reading(written: str, expected: str) -> None:
    assert written == expected
