"""What the end of a run shows: tables for people, from the reports alone."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import demo, distillation
from flows.artifacts import results_page
from flows.results import Results, read_results, verdict_lines
from flows.tables import as_markdown, as_text
from stages.files import write_json

SPREAD = {"median": 80.0, "min": 78.5, "max": 81.0}


def model(**values: Any) -> dict[str, Any]:
    return {
        "num_parameters": 22_700_000,
        "weights_megabytes": 90.9,
        "speedup": 1.0,
        "tasks": {"cola": SPREAD},
        "average": {"mean_of_tasks": 80.0},
        "retention": 100.0,
        "heldout_kl": None,
        **values,
    }


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    summary = {
        "profile": "offline",
        "baseline": "mlm_only",
        "tasks": [{"name": "cola", "title": "Acceptability", "is_derived": True}],
        "average_convention": "mean_of_tasks",
        "gate": {"small": False},
        "models": {
            "mlm_only": model(speedup=1.84, retention=None, heldout_kl=2.5),
            "small": model(num_parameters=17_300_000, speedup=1.86, heldout_kl=0.8125),
            "teacher": model(),
        },
    }
    check = {"rule": "at least", "is_judged": True, "meaning": "teacher / student"}
    gate = {
        "student": "small",
        "passed": False,
        "checks": [
            {**check, "name": "speedup", "value": 1.86, "threshold": 1.2, "passed": True},
            {**check, "name": "retention", "value": 0.88, "threshold": 0.9, "passed": False},
            # Told, and not asked for: it counts for nothing.
            {**check, "name": "beats_baseline/task_mean", "rule": "reported", "value": 35.2,
             "is_judged": False, "threshold": 36.2, "passed": True},
        ],
    }  # fmt: skip
    write_json(tmp_path / "reports" / "summary.json", summary)
    write_json(tmp_path / "reports" / "gate" / "small.json", gate)
    write_json(tmp_path / "reports" / "gate" / "of_earlier_settings.json", gate | {"passed": True})
    write_json(
        tmp_path / "reports" / "registry" / "small.json", {"model_name": "student", "version": 3}
    )
    return tmp_path


@pytest.fixture
def results(reports: Path) -> Results:
    found = read_results(reports)
    assert found is not None
    return found


def test_without_reports_there_are_no_results(tmp_path: Path) -> None:
    assert read_results(tmp_path) is None


def test_the_teacher_comes_first_and_the_baseline_last_and_marked(results: Results) -> None:
    assert [row[0] for row in results.rows] == ["teacher", "small", "mlm_only (baseline)"]


def test_only_students_of_this_run_have_a_verdict(results: Results) -> None:
    assert verdict_lines(results.verdicts)[0] == "small does not pass the gate: 1 of 2 checks"
    assert [verdict.student for verdict in results.verdicts] == ["small"]


def test_a_row_says_each_number_with_its_unit_and_a_missing_one_as_a_dash(results: Results) -> None:
    assert results.rows[2] == (
        "mlm_only (baseline)", "22.7 M", "91", "1.84x", "80.0 (78.5-81.0)", "80.0", "-", "2.500"
    )  # fmt: skip


def test_tasks_made_from_the_corpus_are_never_called_glue(results: Results) -> None:
    assert "Made from the corpus and not GLUE: Acceptability." in results.notes


def test_the_verdict_names_each_check_that_failed(results: Results) -> None:
    assert verdict_lines(results.verdicts) == [
        "small does not pass the gate: 1 of 2 checks",
        "  fails retention: 0.88, must be at least 0.9",
    ]


def test_the_page_of_a_run_shows_every_check_and_leads_to_the_version(
    reports: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ada:secret@mlflow.example/")
    page = results_page(reports, results)
    assert "| speedup | passes | 1.86 | at least 1.2 | teacher / student |" in page
    assert "| retention | **FAILS** | 0.88 | at least 0.9 | teacher / student |" in page
    assert "[student version 3 (small)](https://mlflow.example/#/models/student/versions/3)" in page
    assert "secret" not in page
    # Of more columns than models, a column a model.
    assert "| model | teacher | small | mlm_only (baseline) |" in page
    # A worker in a container knows the server by a name that no browser does.
    monkeypatch.setenv("MLFLOW_PAGE_URL", "https://here.example")
    assert "(https://here.example/#/models/student/versions/3)" in results_page(reports, results)


def test_tables_line_up() -> None:
    header, rows = ("model", "score"), [("a", "9.5"), ("long name", "10.0")]
    assert as_text(header, rows).splitlines() == [
        "model      score",
        "----------------",
        "a            9.5",
        "long name   10.0",
    ]
    assert as_markdown(header, rows).splitlines()[:2] == ["| model | score |", "| --- | ---: |"]


def test_a_table_too_wide_for_the_terminal_is_turned(reports: Path, results: Results) -> None:
    wide = demo.closing_words(reports, results, {}, width=200)
    narrow = demo.closing_words(reports, results, {}, width=60)
    assert re.search("^model.* parameters", wide[3], re.MULTILINE)
    assert narrow[3].splitlines()[0].split() == [
        "model",
        "teacher",
        "small",
        "mlm_only",
        "(baseline)",
    ]


def test_the_demo_says_who_serves_and_what_could_instead(reports: Path, results: Results) -> None:
    first = {"model": "student", "version": 1, "student": "small"}
    words = demo.closing_words(
        reports, results, {"champion": first, "challenger": {**first, "version": 2}}, width=200
    )
    assert "Champion: student version 1 (small)" in words
    assert any(line.startswith("Challenger: student version 2 (small); make it") for line in words)
    assert any(str(reports / "reports" / "report.html") in line for line in words)
    alone = demo.closing_words(reports, results, {"champion": first, "challenger": first}, 200)
    assert not any(line.startswith("Challenger") for line in alone)


def test_a_run_ends_with_its_results_and_says_how_to_promote_what_may_be(
    reports: Path, results: Results
) -> None:
    words = distillation.closing_words(reports, results)
    assert "small does not pass the gate: 1 of 2 checks" in words
    assert words[-1].endswith("reports/report.html (open it in a browser)")
    passed = replace(results, verdicts=(replace(results.verdicts[0], passed=True),))
    assert distillation.closing_words(reports, passed)[-1].startswith("Promote: python -m flows.p")


def test_a_demo_with_nothing_to_do_starts_nothing_and_shows_the_results(
    reports: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    promoted = {"champion": {"model": "student", "version": 3, "student": "small"}}
    champion = dict(promoted)
    monkeypatch.chdir(reports)
    (reports / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    profile = Path(__file__).resolve().parent.parent / "profiles" / "offline.yaml"
    (reports / "params.yaml").write_text(profile.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(demo, "read_graph", lambda: demo_graph)
    monkeypatch.setattr(demo, "read_changed", dict)
    monkeypatch.setattr(demo, "_aliases", lambda _root: champion)
    from flows.graph import ordered

    demo_graph = ordered({"report": []})
    demo.main(demo.argparse.Namespace())
    assert "Champion: student version 3 (small)" in capsys.readouterr().out
    # All is up to date, and nobody was promoted yet.
    champion.clear()
    monkeypatch.setattr(demo, "_distil_and_promote", lambda _root: champion.update(promoted))
    demo.main(demo.argparse.Namespace())
    assert "Champion: student version 3 (small)" in capsys.readouterr().out
