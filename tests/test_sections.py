"""What the sections show is of the models, the quantities and the batches that they name."""

from dataclasses import replace

import pytest
from report_world import STUDENTS, TASKS, write_reports

from stages.report.corpus import drops
from stages.report.reading import Reports, load_reports, smallest_batch
from stages.report.runtimes import beside_itself, fastest_first, runtimes
from stages.report.sections import comparisons, hero, larger_batches, models, scatters
from stages.report.summary import summarise
from stages.report.training import costs


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    folder = write_reports(tmp_path_factory.mktemp("run") / "reports")
    return load_reports(folder, STUDENTS, TASKS, ["distilbert"])


def test_three_numbers_stand_beside_the_teachers_and_no_other_students(reports: Reports) -> None:
    summary = summarise(reports, "offline", None)
    found = models(reports, summary)
    shown = comparisons(reports, summary, found, found[1])
    times = [(bar.label, bar.length, bar.text) for bar in shown["time"]]
    assert times == [("teacher", 1.0, "22.0 ms"), ("distilbert", 0.5, "11.0 ms")]
    assert [bar.length for bar in shown["score"]] == pytest.approx([1.0, 0.925])


def test_the_page_is_about_a_student_that_is_up_for_promotion(reports: Reports) -> None:
    found = models(reports, summarise(reports, "offline", "mlm_only"))
    assert hero(found, reports).name == "distilbert"
    other = replace(reports, gates={"mlm_only": reports.gates["distilbert"]})
    assert hero(found, other).name == "mlm_only"


def test_batches_are_in_the_order_of_numbers(reports: Reports) -> None:
    assert smallest_batch({"16": 0, "4": 0}) == "4"
    speed = {"ratios": {"small": {"speedup": {"16": 1.5, "4": 1.6, "2": 1.7}}}}
    assert larger_batches(replace(reports, speed=speed), "small") == [("4", 1.6), ("16", 1.5)]


def test_each_cost_is_drawn_in_its_own_unit(reports: Reports) -> None:
    summary = summarise(reports, "offline", "mlm_only")
    drawn = scatters(reports, summary, models(reports, summary))
    units = {"ms": 22.0, "MB": 88.0, "GFLOP": 2.2}
    for (_, _, picture), (unit, cost) in zip(drawn, units.items(), strict=True):
        assert f"{unit} and mean_of_tasks. teacher: {cost} and 65.0;" in picture


def test_runtimes_are_fastest_first_and_the_teachers_own_gain_is_told(reports: Reports) -> None:
    shown = runtimes(reports, models(reports, summarise(reports, "offline", "mlm_only")))
    bars = fastest_first(reports, shown)
    assert [bar.length for bar in bars] == [1.0, 1.0, 0.5, 0.25, 0.25, 0.125]
    assert bars[0].label == "distilbert, ONNX INT8"
    assert beside_itself(reports) == 4.0


def test_shares_of_the_time_add_up(reports: Reports) -> None:
    # 90 s each of the teacher and two students, 30 s each of six fine-tunings.
    assert [cost.share for cost in costs(reports)] == pytest.approx([0.2, 0.2, 0.2, 0.4])


def test_the_commonest_reason_is_first(reports: Reports) -> None:
    assert [bar.label for bar in drops(reports)[0].bars] == ["too short", "duplicate"]
