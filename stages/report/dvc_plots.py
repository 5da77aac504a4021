"""The training curves as DVC draws them, on a page that loads nothing: `make plots`.

DVC's own page fetches the Vega libraries from a content network and is blank without it. This
writes a page template that holds them, tells DVC in .dvc/config.local to use it from now on (so
`dvc plots show` and `dvc plots diff` work offline too), and shows the plots.

Run: python -m stages.report.dvc_plots --out reports/plots
"""

import argparse
import subprocess
import sys
from pathlib import Path

from stages.command import log, parser_for, run
from stages.errors import DataError
from stages.files import write_text

TEMPLATE = Path(".dvc") / "tmp" / "plots.html"
"""Not in git: 0.9 MB that the library gives at any time."""
# DVC would put its links to elsewhere at {scripts}, which is left out.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>Plots</title>
<script>(() => {VEGA})()</script>
<style>body {font-family: system-ui, sans-serif; margin: 2rem} table {border-spacing: 1rem}</style>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def make_template() -> None:
    """Write the page template, unless it is there, and make it DVC's own."""
    if not Path(".dvc").is_dir():
        raise DataError("there is no .dvc folder here; run it at the root of the project")
    if not TEMPLATE.is_file():
        # Imported here: it is 80 MB, and nothing else needs it.
        import vl_convert

        vega = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
        write_text(TEMPLATE, PAGE.replace("VEGA", vega))
    # A path in DVC's configuration is taken from the .dvc folder.
    _dvc("config", "--local", "plots.html_template", TEMPLATE.relative_to(".dvc").as_posix())


def show(out: Path) -> None:
    """Draw every plot of the graph into `out`/index.html."""
    _dvc("plots", "show", "--out", str(out))


def _dvc(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise DataError(f"dvc {' '.join(arguments)} failed: {done.stderr.strip()}")


def main(arguments: argparse.Namespace) -> None:
    """Draw the plots."""
    make_template()
    show(arguments.out)
    log.info("%s", arguments.out / "index.html")


if __name__ == "__main__":
    run(main, parser_for(__doc__, ["out"]))
