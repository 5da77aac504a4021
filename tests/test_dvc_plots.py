"""DVC's plots are drawn on a page that loads nothing, and its metrics read the summary."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from report_world import STUDENTS, TASKS, write_reports

from stages.errors import DataError
from stages.report.dvc_plots import TEMPLATE, make_template, show
from stages.report.reading import load_reports
from stages.report.summary import summarise

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one curve."""
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{step},{10 - step / 10}\n" for step in range(1, 41))
    (tmp_path / "curve.csv").write_text(f"step,loss\n{rows}")
    plots = {"plots": [{"curve.csv": {"x": "step", "y": "loss"}}]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(plots))
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], check=True)
    return tmp_path


def test_outside_of_a_project_it_says_where_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no \.dvc folder here; run it at the root"):
        make_template()


@pytest.mark.slow
def test_the_page_holds_what_it_draws_with(project: Path) -> None:
    make_template()
    written = TEMPLATE.stat().st_mtime_ns
    make_template()
    assert TEMPLATE.stat().st_mtime_ns == written
    show(Path("plots"))
    page = (project / "plots" / "index.html").read_text()
    library = re.search(r"<script>\(\(\) => .*?\)\(\)</script>", page, flags=re.S)
    assert library is not None
    assert "window.vegaEmbed" in library.group()
    ours = page.replace(library.group(), "")
    assert not re.findall(r"(?:src|href)\s*=", ours)
    assert '"field": "loss"' in ours
    if CHROMIUM is None:
        pytest.skip("no browser here to draw the page with")
    drawn = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--virtual-time-budget=5000",
            "--dump-dom",
            f"file://{project}/plots/index.html",
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    assert re.search(r"<canvas[^>]*marks|<svg[^>]*marks", drawn)


@pytest.mark.slow
def test_dvc_tells_what_changed_in_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reports = write_reports(tmp_path / "run")
    loaded = load_reports(reports, STUDENTS, TASKS, ["distilbert"])
    summary = summarise(loaded, "offline", "mlm_only")
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"metrics": ["summary.json"]}))
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (
        [*git, "init", "--quiet"],
        [sys.executable, "-m", "dvc", "init", "--quiet"],
        [*git, "add", "summary.json", "dvc.yaml", ".dvc"],
        [*git, "commit", "--quiet", "--message", "A run"],
    ):
        subprocess.run(command, check=True)
    model = summary["models"]["distilbert"]
    before, interval = model["retention"], model["retention_interval"]["low"]
    model["retention"] = before + 1
    model["retention_interval"]["low"] = interval + 2
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    diff = [sys.executable, "-m", "dvc", "metrics", "diff", "--json"]
    told = json.loads(subprocess.run(diff, check=True, capture_output=True, text=True).stdout)
    changed = told["summary.json"] if "summary.json" in told else told["diff"]["summary.json"]
    assert changed["models.distilbert.retention"]["diff"] == pytest.approx(1)
    assert changed["models.distilbert.retention_interval.low"]["diff"] == pytest.approx(2)
    assert len(changed) == 2
