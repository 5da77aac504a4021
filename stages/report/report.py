r"""One HTML page with a run's tables and pictures, and the same numbers as JSON.

Reads every report below reports/, writes reports/report.html and reports/summary.json.
The page is one file that loads nothing, so it can be mailed, printed and kept.

Run: python -m stages.report.report --reports reports --out reports/report.html \
         --summary reports/summary.json
"""

import argparse
import os

from stages import params
from stages.command import log, parser_for, run
from stages.files import write_json, write_text
from stages.lineage import origin_of
from stages.report.page import Links, render
from stages.report.reading import load_reports
from stages.report.summary import summarise


def main(arguments: argparse.Namespace) -> None:
    """Write the summary and the page."""
    settings = params.load()
    evaluation = settings.evaluation
    reports = load_reports(
        arguments.reports, evaluation.students, evaluation.tasks, settings.export.students
    )
    summary = summarise(reports, settings.profile, evaluation.baseline)
    folder = arguments.out.parent
    links = Links(
        summary=os.path.relpath(arguments.summary, folder),
        data_docs=os.path.relpath(arguments.reports / "data_docs" / "index.html", folder),
    )
    write_json(arguments.summary, summary)
    origin = origin_of(settings.export.students)
    page = render(reports, summary, settings.teacher.source.name, links, origin)
    write_text(arguments.out, page)
    log.info("%s and %s written", arguments.out, arguments.summary)


if __name__ == "__main__":
    run(main, parser_for(__doc__, ["reports", "out", "summary"]))
