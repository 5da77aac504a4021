"""One table of all models, from the reports of a small run and rows beside them."""

import argparse
import logging
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from stages.errors import DataError, SettingsError
from stages.report.comparison import main, pareto, read_rows, table
from stages.report.scatter import Point, score_against
from tests.conftest import ROOT
from tests.report_world import STUDENTS, TASKS, finetune_report, put, write_reports


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    reports = write_reports(tmp_path / "reports")
    for task, values in (("acceptability", [48.0, 49.0, 50.0]), ("package", [78.0, 78.0, 78.0])):
        report = finetune_report(task, values)
        put(
            reports / "beside" / "int8" / f"{task}.json",
            {name: value for name, value in report.items() if name != "seconds"}
            | {"model": "teacher", "runtime": "ONNX INT8", "weights_megabytes": 21.0},
        )
        put(reports / "beside" / "kd" / f"{task}.json", report | {"model": "distilbert"})
    return reports


def cells(text: str) -> dict[str, list[str]]:
    """The rows of a Markdown table by their first cell."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {line[0]: line[1:] for line in lines}


def test_models_stand_in_one_table_against_both_baselines(folder: Path) -> None:
    rows = read_rows(folder, STUDENTS, TASKS)
    text = table(rows, ["mlm_only", "distilbert", "nobody"])
    found = cells(text)
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:]] == [
        "teacher", "int8", "kd", "distilbert", "mlm_only",
    ]  # fmt: skip
    assert found[""] == [
        "parameters, M", "MB", "ms", "tokens, M", "training, s", "held-out KL",
        "acceptability", "package", "mean", "over mlm_only", "over distilbert", "front",
    ]  # fmt: skip
    # 45 and 76 against 30 and 64.
    assert found["distilbert"] == [
        "11.0", "44.0", "11.0", "0.20", "90", "0.750",
        "45.0 (44.0 to 46.0)", "76.0 (70.0 to 78.0)", "60.5", "+13.5", "", "",
    ]  # fmt: skip
    # Its size is its own, its time that of its runtime; it has no training of its own.
    assert found["int8"][:6] == ["22.0", "21.0", "5.5", "-", "-", "-"]
    # As large and as fast as the student that it was made from, and better.
    assert found["kd"][:4] == found["distilbert"][:4]
    # 90 s before, and 30 s on each of two tasks for three seeds.
    assert found["kd"][4:6] == ["110", "-"]
    assert (found["int8"][-1], found["teacher"][-1], found["kd"][-1]) == (
        "time, size", "time, size", "",
    )  # fmt: skip


def test_row_that_lacks_a_task_is_named_and_left_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "finetune" / "mlm_only" / "package.json").unlink()
    (folder / "speed.json").unlink()
    with caplog.at_level(logging.WARNING):
        rows = read_rows(folder, STUDENTS, TASKS)
    assert "mlm_only is left out: it has no report of package" in caplog.text
    assert [row.name for row in rows] == ["teacher", "distilbert", "int8", "kd"]
    assert cells(table(rows, []))["teacher"][:3] == ["-", "-", "-"]
    (folder / "finetune" / "teacher" / "package.json").unlink()
    with pytest.raises(DataError, match=r"teacher/package.json does not exist; run: dvc repro"):
        read_rows(folder, STUDENTS, TASKS)
    (folder / "beside" / "kd").rename(folder / "beside" / "distilbert")
    with pytest.raises(DataError, match="beside/distilbert has the name of a model: rows need"):
        read_rows(folder, STUDENTS, ["acceptability"])


def test_columns_may_be_chosen_for_rows_of_few_tasks(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "beside" / "kd" / "package.json").unlink()
    shutil.copyfile(ROOT / "profiles" / "offline.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    given = {"reports": folder, "tasks": ["acceptability"], "picture": None}
    with pytest.raises(SettingsError, match="--against nobody: the rows are teacher, distilbert,"):
        main(argparse.Namespace(**given, against=["mlm_only", "nobody"]))
    main(argparse.Namespace(**given, against=["mlm_only"]))
    found = cells(capsys.readouterr().out)
    assert found[""][6:9] == ["acceptability", "mean", "over mlm_only"]
    # 90 s and a third of 30; 49 against 30.
    assert (found["kd"][4], found["kd"][7:9]) == ("100", ["49.0", "+19.0"])


def test_picture_is_a_file_of_its_own_with_every_model_in_both_panels(folder: Path) -> None:
    drawn = ElementTree.fromstring(str(pareto(read_rows(folder, STUDENTS, TASKS))))
    space = "{http://www.w3.org/2000/svg}"
    panels = drawn.findall(f"{space}svg")
    assert [panel.get("x") for panel in panels] == ["0", "380"]
    for panel in panels:
        labels = {text.text for text in panel.iter(f"{space}text")}
        assert {"teacher", "int8", "kd", "distilbert", "mlm_only"} <= labels


def test_models_at_one_place_have_one_label_and_their_names_where_one_points() -> None:
    points = [Point(name, "model", 10.0, 50.0 + place / 100) for place, name in enumerate("abc")]
    far = Point("far", "model", 90.0, 70.0)
    drawn = str(score_against("n", "t", ("ms", "score"), [*points, far]))
    assert ">a and 2 more</text>" in drawn
    assert ">far</text>" in drawn
    for name in "abc":
        assert f"<title>{name}</title>" in drawn
        assert f">{name}</text>" not in drawn
    pair = str(score_against("n", "t", ("ms", "score"), [*points[:2], far]))
    assert ">a, b</text>" in pair
