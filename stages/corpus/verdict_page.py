"""The first page of Data Docs: every verdict on the shards, in a file that loads nothing.

Great Expectations' own first page fetches its styles and tables from a dozen hosts, and is blank
where it cannot. Its other pages are linked from this one.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from stages.corpus.judging import Verdict
from stages.files import write_text

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; vertical-align: top; padding: 0.4rem 0.8rem 0.4rem 0;
  border-bottom: 1px solid #8886; }}
.number {{ text-align: right; white-space: nowrap; }}
td:last-child {{ min-width: 18rem; }}
.failed {{ font-weight: 700; background: #d333; }}
</style>
<h1>{title}</h1>
<p>{says}</p>
<div class="scroll" role="region" aria-label="Expectations" tabindex="0"><table>
<thead><tr><th>Expectation<th>Verdict<th class="number">Observed<th class="number">Bound
<th>Of<th>Why</tr></thead>
<tbody>
{rows}
</tbody></table></div>
<p>The same as Great Expectations shows it (these pages load their styles from other hosts):
{links}.</p>
</html>
"""


def write_verdict_page(docs: Path, verdicts: Sequence[Verdict]) -> None:
    """Replace the first page of the Data Docs in a folder; what failed comes first."""
    failed = [verdict for verdict in verdicts if not verdict.passed]
    passed = [verdict for verdict in verdicts if verdict.passed]
    pages = [
        path.relative_to(docs).as_posix() for path in sorted(docs.glob("validations/*/**/*.html"))
    ]
    page = PAGE.format(
        title="Expectations of the shards",
        says=f"{len(failed)} of {len(verdicts)} do not hold: nothing is trained on these shards."
        if failed
        else f"All {len(verdicts)} hold.",
        rows="\n".join(map(_row, [*failed, *passed])),
        links=", ".join(
            f'<a href="{escape(page)}">{escape(page.split("/")[1])}</a>' for page in pages
        ),
    )
    write_text(docs / "index.html", page)


def _row(verdict: Verdict) -> str:
    bound = verdict.bound
    outcome = "passed" if verdict.passed else "failed"
    return (
        f'<tr class="{outcome}"><th scope="row">{escape(bound.name)}<td>{outcome}'
        f'<td class="number">{escape(str(verdict))}<td class="number">{escape(str(bound))}'
        f"<td><code>{escape(f'{bound.table}.{bound.column}')}</code><td>{escape(bound.meaning)}</tr>"
    )
