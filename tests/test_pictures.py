"""What pictures and numbers of the page are made of: dots, fronts, curves, ticks and wording."""

from pathlib import Path

import pytest

from stages.report.pictures import smoothed, swarm, thin
from stages.report.reading import read_curve
from stages.report.scatter import Point, front
from stages.report.svg import Scale, tag
from stages.report.wording import DASH, count, duration, fixed, megabytes, percent, plain, spread


def test_equal_seeds_do_not_hide_each_other() -> None:
    places = swarm([10.0, 10.0, 10.0, 40.0])
    assert len(set(places)) == 4
    assert (40.0, 0.0) in places


def test_the_front_is_what_nothing_beats() -> None:
    points = [Point(name, "", x, y) for name, x, y in [("a", 1, 5), ("b", 2, 4), ("c", 3, 9)]]
    assert [point.label for point in front(points)] == ["a", "c"]


def test_long_curves_are_thinned_to_means() -> None:
    assert thin([(1.0, 2.0), (2.0, 4.0), (3.0, 9.0)], most=2) == [(1.5, 3.0), (3.0, 9.0)]


def test_smoothing_keeps_a_constant() -> None:
    assert smoothed([2.0] * 50) == [2.0] * 50


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
        (spread(1.0, float("nan")), DASH),
    ],
)
def test_numbers_are_written_for_reading(written: str, expected: str) -> None:
    assert written == expected
