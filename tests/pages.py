"""A day at Prefect's page, done by a browser: start, watch, cancel, go on, look, promote, go back.

    python -m tests.pages --out /tmp/pictures

A toy graph whose training goes on from its checkpoint, two registered students, a Prefect server
and a worker. Everything is clicked on the page, as a person would; the registry is asked what came
of it. A schedule of one minute is switched on as well, and must fire twice. A picture of each step
is kept, to be looked at.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dvc.repo import Repo

from flows import server
from flows.ui import PORTS, mlflow_page
from stages.files import write_json
from stages.registry.promotion import promote, status
from stages.report.reading import load_reports
from stages.report.summary import summarise
from stages.tracking.store import open_store
from tests.asking import ask, deployments
from tests.browser import Browser, browser_at
from tests.registry_world import (
    MODEL,
    STUDENT,
    other_student,
    register_now,
    write_gate,
    write_world,
)
from tests.report_world import STUDENTS, TASKS, write_reports

ROOT = Path(__file__).resolve().parent.parent
DVC_YAML = """
stages:
  source:
    cmd: cp seed.txt source.txt
    deps: [seed.txt]
    outs: [source.txt]
  train:
    cmd: python train.py
    deps: [source.txt]
    outs: [model.txt]
    meta: {exclusive: true}
  score:
    cmd: cp model.txt score.txt
    deps: [model.txt]
    outs: [score.txt]
"""
TRAIN = """
import pathlib, time
step = pathlib.Path(".scratch/step"); step.parent.mkdir(exist_ok=True)
begun = step.exists()
at = int(step.read_text()) if begun else 0
print("going on from step", at, flush=True)
for at in range(at, 800):
    step.write_text(str(at))
    if at % 10 == 0:
        print("step", at, flush=True)
    time.sleep(0.02 if begun else 0.5)
pathlib.Path("model.txt").write_text("800")
"""
# The innermost thing that can be clicked and has these words.
CLICK = """
(() => {
  const words = %s, within = %s;
  const label = e => (e.innerText || e.getAttribute('aria-label') || '').trim();
  const found = [...document.querySelectorAll(within)]
    .filter(e => e.getClientRects().length && label(e) === words);
  if (!found.length) return false;
  found[found.length - 1].click();
  return true;
})()
"""
# The first field after the innermost element with these words, with the cursor in it.
FIELD = """
(() => {
  const words = %s;
  const named = [...document.querySelectorAll('*')].filter(e => e.innerText?.trim() === words);
  const name = named[named.length - 1];
  const field = [...document.querySelectorAll('input, textarea')].find(
    e => name && name.compareDocumentPosition(e) & Node.DOCUMENT_POSITION_FOLLOWING);
  field?.focus();
  field?.select?.();
  return Boolean(field);
})()
"""
CLICKABLE = "button, a, [role=menuitem], [role=option], .p-overflow-menu-item, .p-select-option"


class Day:
    """A browser at a server's page."""

    def __init__(self, page: Browser, base: str, out: Path) -> None:
        self.page, self.base, self.out, self.number = page, base, out, 0
        size = {"width": 1440, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        page.ask("Emulation.setDeviceMetricsOverride", **size)

    def open(self, path: str) -> None:
        self.page.ask("Page.navigate", url=f"{self.base}/{path}")

    def says(self, words: str) -> bool:
        return words in (self.page.evaluate("document.body?.innerText") or "")

    def wait(self, words: str, seconds: float = 600) -> None:
        """Wait until the page says something."""
        self.until(lambda: self.says(words), seconds, f"'{words}'")

    def until(self, what: Callable[[], Any], seconds: float, name: str) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := what()):
            if time.monotonic() > deadline:
                self.picture("failed")
                print(self.page.evaluate("document.body?.innerText"))
                html = self.page.evaluate("document.body?.outerHTML")
                (self.out / "failed.html").write_text(html)
                raise AssertionError(f"{name} did not come about in {seconds} s")
            time.sleep(0.3)
        return found

    def fill(self, label: str, text: str) -> None:
        """Write into the field of a form that has this label."""
        found = self.until(
            lambda: self.page.evaluate(FIELD % json.dumps(label)), 120, f"a field '{label}'"
        )
        assert found
        self.page.ask("Input.insertText", text=text)

    def click(self, words: str, within: str = CLICKABLE) -> None:
        script = CLICK % (json.dumps(words), json.dumps(within))
        self.until(lambda: self.page.evaluate(script), 120, f"something to click: '{words}'")

    def picture(self, name: str) -> None:
        self.number += 1
        time.sleep(1)
        self.page.picture(self.out / f"{self.number:02}-{name}.png")
        print(f"{self.number:02} {name}", flush=True)

    def form(self, deployment: str) -> None:
        """Open the form of a deployment."""
        self.open(f"deployments/deployment/{deployment}/run")
        self.wait("Submit")
        time.sleep(1)


def make_world(folder: Path) -> None:
    """Two registered students and a toy graph, in the working folder."""
    Repo.init(str(folder), no_scm=True).close()
    write_world(folder)
    os.chdir(folder)
    open_store()
    register_now(folder)
    promote(open_store(), MODEL, 1, reason="yesterday's")
    other_student(folder, "capital")
    register_now(folder)
    (folder / "dvc.lock").unlink()
    loaded = load_reports(write_reports(folder / "reports"), STUDENTS, TASKS, ["distilbert"])
    write_json(folder / "reports" / "summary.json", summarise(loaded, "offline", "mlm_only"))
    write_gate(folder)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "train.py").write_text(TRAIN)
    (folder / "seed.txt").write_text("seed\n")
    for name in ("flows", "stages", "profiles", "prefect.yaml"):
        (folder / name).symlink_to(ROOT / name)


def champion() -> int | None:
    found = status(open_store(), MODEL).get("champion")
    return None if found is None else found.version


def day(page: Day, api_url: str) -> None:
    """Do it all."""
    ids = {name: found["id"] for name, found in deployments(api_url).items()}

    def newest(deployment: str) -> dict[str, Any]:
        wanted = {"deployments": {"id": {"any_": [ids[deployment]]}}}
        runs = ask(api_url, "flow_runs/filter", wanted | {"sort": "EXPECTED_START_TIME_DESC"})
        return next(run for run in runs if not run["auto_scheduled"])

    def run(deployment: str, **fields: str) -> str:
        """Fill in some fields, press Submit, and open the run's page."""
        page.form(ids[deployment])
        for label, text in fields.items():
            page.fill(label, text)
        if fields:
            page.picture(f"the form of {deployment.partition('/')[0]}")
        page.click("Submit")
        page.wait("scheduled to start now")
        run_id = newest(deployment)["id"]
        page.open(f"runs/flow-run/{run_id}")
        return str(run_id)

    def ended(run_id: str, state: str, seconds: float = 600) -> None:
        def there() -> bool:
            return ask(api_url, f"flow_runs/{run_id}", None, "GET")["state"]["name"] == state

        page.until(there, seconds, f"state {state}")
        page.open(f"runs/flow-run/{run_id}")
        page.wait(state)

    page.open("deployments")
    page.wait("weekly")
    page.picture("deployments")

    begun = time.time()
    page.open(f"deployments/deployment/{ids['check/nightly']}")
    page.wait("At 02:00 AM")
    page.click("Schedule")
    page.click("Cron")
    page.fill("Value", "* * * * *")
    page.picture("a schedule of a minute")
    page.click("Save")
    page.wait("Every minute")
    page.picture("it is on")

    page.form(ids["distillation/on-demand"])
    page.picture("the form")
    run_id = run("distillation/on-demand")
    page.wait("going on from step 0")
    page.picture("a run is watched")
    page.wait("step 10")
    page.click("Cancel")
    page.picture("cancel is asked again")
    page.click("Confirm")
    ended(run_id, "Cancelled")
    page.picture("the run is cancelled")
    at = int(Path(".scratch/step").read_text())
    assert 10 <= at < 799, at
    assert not Path("model.txt").exists()

    run_id = run("distillation/on-demand")
    page.wait(f"going on from step {at}")
    page.picture("the next run goes on")
    ended(run_id, "Completed")
    page.picture("it is complete")
    page.open("artifacts/key/results")
    page.wait("retention")
    page.picture("the table")

    assert champion() == 1
    ended(run("promote/on-demand", Reason="retention 0.97"), "Completed")
    assert champion() == 2
    page.open("artifacts/key/promotion")
    page.wait("is the champion")
    page.picture("who, why, and the gate")
    page.click(f"{MODEL} 2 ({STUDENT})")
    page.wait("Model card")
    page.picture("the champion on MLflow's page")
    page.click("Report")
    page.wait("report.html")
    page.picture("its report")
    ended(run("rollback/on-demand", Reason="slower in production"), "Completed")
    assert champion() == 1
    page.picture("rolled back")

    def fired() -> list[dict[str, Any]]:
        wanted = {"deployments": {"id": {"any_": [ids["check/nightly"]]}}}
        runs = ask(api_url, "flow_runs/filter", wanted)
        done = [r for r in runs if r["auto_scheduled"] and r["state"]["type"] == "COMPLETED"]
        return done if len(done) > 1 else []

    for found in page.until(fired, 600, "a schedule of a minute that fires twice"):
        print(f"fired for {found['expected_start_time']}: {found['state']['name']}")
    print(f"twice within {time.time() - begun:.0f} s of being switched on")


def main() -> None:
    """Set the scene, live the day, and take everything down again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "project"
        folder.mkdir()
        make_world(folder)
        os.environ |= {
            "PREFECT_HOME": str(folder / ".prefect"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
            "PYTHONPATH": str(folder),
        }
        worker = None
        with server.running_server(folder) as started:
            try:
                os.environ |= {"PREFECT_API_URL": started.api_url, "PWD": str(folder)}
                subprocess.run([sys.executable, "-m", "flows.deploy"], check=True)
                command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local"]
                log = (out / "worker.log").open("wb")
                worker = subprocess.Popen(command, stdout=log, stderr=log)
                mlflow = mlflow_page(folder, PORTS["MLflow"])
                with mlflow, browser_at(Path(name) / "profile") as browser:
                    day(Day(browser, started.page, out), started.api_url)
            finally:
                if worker is not None:
                    worker.send_signal(2)
                    worker.wait(60)


if __name__ == "__main__":
    main()
