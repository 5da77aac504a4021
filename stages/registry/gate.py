r"""Every check a student must pass before promotion, all evaluated, all reported.

    python -m stages.registry.gate --student distilbert --reports reports \
        --export models/export/distilbert --out reports/gate/distilbert.json

Reads the reports of the student, of the teacher and of the baseline, and the exported files; writes
one JSON file with a verdict per check. A student that fails is a measurement, so the stage exits 0:
it is promotion that refuses (docs/registry.md).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from stages import params
from stages.command import log, parser_for, run
from stages.errors import SettingsError
from stages.files import read_json, write_json
from stages.registry.checks import Check, Evidence, judge
from stages.registry.versions import export_digest


def main(arguments: argparse.Namespace) -> None:
    """Judge one student and write the verdicts."""
    settings = params.load()
    student: str = arguments.student
    if student not in settings.export.students:
        known = ", ".join(settings.export.students)
        raise SettingsError(f"--student {student}: not one of export.students: {known}")
    evidence = collect(settings, student, arguments.reports, arguments.export)
    checks = list(judge(settings, student, evidence))
    passed = all(check.passed for check in checks)
    report = {
        "student": student,
        "passed": passed,
        "checks": [check.as_json() for check in checks],
        "export_sha256": export_digest(arguments.export),
    }
    write_json(arguments.out, report)
    for line in table(checks):
        log.info("%s", line)
    failed = [check.name for check in checks if not check.passed]
    verdict = "passes" if passed else f"does not pass: {', '.join(failed)}"
    num_judged = sum(check.is_judged for check in checks)
    log.info("%s %s (%d checks)", student, verdict, num_judged)


def collect(settings: params.Params, student: str, reports: Path, export: Path) -> Evidence:
    """Read everything the checks need; a report that is absent is an error, not a failed check."""
    baseline = settings.evaluation.baseline
    models = [name for name in ("teacher", student, baseline) if name is not None]
    scores = {
        model: {
            task: read_json(reports / "finetune" / model / f"{task}.json")["score"]["median"]
            for task in settings.evaluation.tasks
        }
        for model in models
    }
    compared = baseline is not None and baseline != student
    return Evidence(
        student=read_json(reports / "students" / f"{student}.json"),
        baseline=read_json(reports / "students" / f"{baseline}.json") if compared else None,
        scores=scores,
        speed=read_json(reports / "speed.json"),
        export=read_json(reports / "export" / f"{student}.json"),
        expectations=read_json(reports / "expectations.json"),
        folder=export,
    )


def table(checks: list[Check]) -> Iterator[str]:
    """Yield the verdicts as aligned lines of text."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        verdict = "-" if not check.is_judged else "pass" if check.passed else "FAIL"
        value = "none" if check.value is None else f"{check.value:.4g}"
        bound = "" if check.threshold is None else f"{check.threshold:.4g}"
        yield f"{verdict:<4}  {check.name:<{width}}  {value:>8}  {check.rule:<8} {bound:>8}"


if __name__ == "__main__":
    parser = parser_for(__doc__, ["reports", "export", "out"])
    parser.add_argument("--student", required=True, help="one of export.students")
    run(main, parser)
