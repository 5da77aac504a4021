"""A day at Prefect's page, done by a browser: start, watch, cancel, go on, look, promote, go back.

    python -m tests.pages --out /tmp/pictures

A toy graph whose training goes on from its checkpoint, two registered students, a Prefect server
and a worker, as `make ui` and docs/flows.md have them. Everything is done with mouse and keyboard
from the server's first page on; the registry is asked what came of it. A schedule of one minute is
switched on as well, and must fire twice. A picture of each step is kept, to be looked at.
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
from stages.command import parser_for
from stages.registry.transitions import promote
from stages.registry.versions import status
from stages.report import report
from stages.tracking.store import open_store
from tests.asking import ask, deployments
from tests.browser import Browser, browser_at
from tests.registry_world import MODEL, STUDENT, other_student, register_now, write_world
from tests.report_world import write_reports

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
for at in range(at, 400):
    step.write_text(str(at))
    if at % 10 == 0:
        print("step", at, flush=True)
    time.sleep(0.1 if begun else 0.5)
pathlib.Path("model.txt").write_text("400")
"""
# Where the middle is of the last and innermost thing with these words, or of the field below it.
PLACE = """
(() => {
  const words = %s, within = %s, field = %s;
  const label = e => (e.innerText || e.getAttribute('aria-label') || '').trim();
  const named = [...document.querySelectorAll(within)]
    .filter(e => e.getClientRects().length && !e.disabled && label(e) === words).at(-1);
  const found = named && field
    ? [...document.querySelectorAll('input, textarea')].find(
        e => named.compareDocumentPosition(e) & Node.DOCUMENT_POSITION_FOLLOWING)
    : named;
  if (!found) return null;
  found.scrollIntoView({block: 'nearest'});
  const {x, y, width, height} = found.getBoundingClientRect();
  return [x + width / 2, y + height / 2];
})()
"""
# The page of a name lists its artifacts by the first of their digits, the newest first.
FIRST_ARTIFACT = """
[...document.querySelectorAll('a')].map(e => e.innerText.trim()).find(t => /^[0-9a-f]{8}$/.test(t))
"""
REFUSED = "Boolean(document.querySelector('[data-sonner-toast][data-type=error]'))"
SIDEBAR = "[data-sidebar=menu-button]"
WIDTH, HEIGHT = 1440, 1000


class Day:
    """A browser at a server's page, with a mouse and a keyboard."""

    def __init__(self, page: Browser, base: str, out: Path) -> None:
        self.page, self.base, self.out, self.number = page, base, out, 0
        self.size(HEIGHT)

    def size(self, height: int) -> None:
        size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.page.ask("Emulation.setDeviceMetricsOverride", **size)

    def open(self, address: str) -> None:
        self.page.ask("Page.navigate", url=address)

    def wait(self, words: str, seconds: float = 120) -> None:
        """Wait until the page has these words somewhere."""
        text = "document.body?.innerText ?? ''"
        self.until(lambda: words in self.page.evaluate(text), seconds, f"'{words}'")

    def find(self, words: str, within: str = "*", *, field: bool = False) -> Any:
        """Return where something is that has these words and no others, None if there is none."""
        arguments = json.dumps(words), json.dumps(within), json.dumps(field)
        return self.page.evaluate(PLACE % arguments)

    def until(self, what: Callable[[], Any], seconds: float, name: str) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := what()):
            if time.monotonic() > deadline:
                self.picture("failed")
                print(self.page.evaluate("document.body?.innerText"))
                raise AssertionError(f"{name} did not come about in {seconds} s")
            time.sleep(0.3)
        return found

    def see(self, words: str, within: str = "*") -> None:
        """Wait until there is something that has these words and no others."""
        self.until(lambda: self.find(words, within), 120, f"'{words}' among '{within}'")

    def click(self, words: str, within: str = "*", *, field: bool = False) -> None:
        """Press the mouse on it; three times chooses all that stands in a field."""

        def at_rest() -> Any:
            found = self.find(words, within, field=field)
            time.sleep(0.3)
            return found if found == self.find(words, within, field=field) else None

        x, y = self.until(at_rest, 120, f"'{words}' among '{within}'")
        where = {"x": x, "y": y, "button": "left", "clickCount": 3 if field else 1}
        for event in ("mousePressed", "mouseReleased"):
            self.page.ask("Input.dispatchMouseEvent", type=event, **where)

    def fill(self, label: str, text: str) -> None:
        """Write into the field that has this label."""
        self.click(label, "label", field=True)
        self.page.ask("Input.insertText", text=text)

    def picture(self, name: str, height: int = HEIGHT) -> None:
        self.number += 1
        self.size(height)
        time.sleep(1.5)
        self.page.picture(
            self.out / f"{self.number:02}-{name.replace(',', '').replace(' ', '-')}.png"
        )
        self.size(HEIGHT)
        print(f"{time.strftime('%H:%M:%S')} {self.number:02} {name}", flush=True)

    def deployment(self, name: str) -> None:
        """Go to the page of a deployment."""
        self.click("Deployments", SIDEBAR)
        self.click(name, "a")
        self.see("Run", "button")

    def start(self, deployment: str, **fields: str) -> None:
        """Have a deployment run from its form, and go to the run's page."""
        self.deployment(deployment)
        self.click("Run", "button")
        self.click("Custom run", "[role=menuitem]")
        for label, text in fields.items():
            self.fill(f"{label} (Optional)", text)
        self.see("Submit", "button")
        self.picture(f"the form of {deployment}")
        self.submit()

    def submit(self) -> None:
        """Send a form, and go to the page of the run that it makes."""
        self.click("Submit", "button")
        while not self.find("View run"):
            if self.page.evaluate(REFUSED):
                # SQLite was locked: nothing has happened, and a person would press again.
                self.picture("it was refused")
                time.sleep(10)
                self.click("Submit", "button")
            time.sleep(0.3)
        self.click("View run")
        self.see("Logs", "[role=tab]")

    def newest_lines_first(self) -> None:
        """Turn a run's log round."""
        self.click("Oldest to newest", "button")
        self.click("Newest to oldest", "[role=option]")

    def artifact(self, key: str, words: str) -> None:
        """Go from a run to the newest of its artifacts of this name."""
        self.click("Artifacts", "[role=tab]")
        self.click(key)
        self.click(self.until(lambda: self.page.evaluate(FIRST_ARTIFACT), 120, "an artifact"), "a")
        self.wait(words)


def make_world(folder: Path) -> None:
    """Two registered students and a toy graph, in the working folder."""
    Repo.init(str(folder), no_scm=True).close()
    write_world(folder)
    os.chdir(folder)
    open_store()
    register_now(folder)
    promote(open_store(), MODEL, 1, reason="yesterday's")
    other_student(folder, "capital")
    (folder / "models" / "export" / STUDENT / "README.md").write_text("# A student's card\n")
    read, written = write_reports(folder / "others"), folder / "reports"
    page, summary = written / "report.html", written / "summary.json"
    report.main(argparse.Namespace(reports=read, out=page, summary=summary))
    register_now(folder)
    (folder / "dvc.lock").unlink()
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
    page.open(page.base)
    page.click("Deployments", SIDEBAR)
    page.see("Ready")
    page.picture("the deployments")
    page.deployment("nightly")
    begun = time.time()
    page.click("Schedule", "button")
    page.click("Cron", "[role=tab]")
    page.fill("Value", "* * * * *")
    page.picture("a schedule of a minute")
    page.click("Save", "button")
    page.wait("Every minute")
    page.picture("it is on")

    page.start("on-demand")
    page.newest_lines_first()
    page.wait("step 10")
    page.picture("a run is watched")
    page.click("Open menu", "button")
    page.click("Cancel", "[role=menuitem]")
    page.picture("cancel is asked again")
    page.click("Cancel Flow Run", "button")
    page.see("Cancelled")
    page.picture("the run is cancelled")
    at = int(Path(".scratch/step").read_text())
    assert 10 <= at < 399, at
    assert not Path("model.txt").exists()

    page.click("Open menu", "button")
    page.click("Retry", "[role=menuitem]")
    page.click("Retry", "button")
    page.wait(f"going on from step {at}")
    page.picture("it goes on")
    page.see("Completed")
    page.picture("it is complete")
    page.artifact("results", "Results, profile")
    page.picture("the results", height=1500)

    assert champion() == 1
    page.start("new-champion", reason="retention 0.93 with half the parameters")
    page.see("Completed")
    assert champion() == 2
    page.artifact("promotion", "is the champion")
    page.picture("who, why, and the gate")
    page.click(f"{MODEL} version 2 ({STUDENT})", "a")
    page.wait("Model card")
    page.picture("the champion at MLflow")
    # What a link opens in a new tab would be out of sight.
    page.page.evaluate("document.querySelectorAll('a').forEach(a => a.removeAttribute('target'))")
    page.click("Report", "a")
    page.wait("report.html")
    time.sleep(5)
    page.picture("its report")

    page.open(page.base)
    page.start("previous-champion", reason="slower in production")
    page.see("Completed")
    assert champion() == 1
    page.artifact("promotion", "is the champion")
    page.picture("rolled back")

    nightly = deployments(api_url)["check/nightly"]["id"]

    def fired() -> list[dict[str, Any]]:
        wanted = {"deployments": {"id": {"any_": [nightly]}}}
        runs = ask(api_url, "flow_runs/filter", wanted | {"sort": "EXPECTED_START_TIME_ASC"})
        done = [r for r in runs if r["auto_scheduled"] and r["state"]["type"] == "COMPLETED"]
        return done if len(done) > 1 else []

    for run in page.until(fired, 300, "a schedule that fires twice"):
        print(
            f"due {run['expected_start_time']}, began {run['start_time']}: {run['state']['name']}"
        )
    print(f"in the {time.time() - begun:.0f} s since it was switched on")
    page.deployment("nightly")
    page.picture("it has fired")


def main() -> None:
    """Set the scene, live the day, and take everything down again."""
    parser = parser_for(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "project"
        folder.mkdir()
        make_world(folder)
        os.environ |= {"PREFECT_HOME": str(folder / ".prefect"), "PYTHONPATH": str(folder)}
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
