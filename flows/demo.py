"""The whole way in one command: distil, evaluate, export, register, promote, and say what came out.

    make demo      or      python -m flows.demo

Works with the current params.yaml. What is up to date is not done again: a second demo only shows
the results.
"""

import argparse
import logging
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flows import own_files, registry
from flows.environment import project_root
from flows.graph import read_changed, read_graph
from flows.results import Results, read_results, report_line, result_lines
from stages import params
from stages.command import log, parser_for, run
from stages.errors import DistilleryError
from stages.tracking.store import DATABASE

FIRST_RUN = {"offline": "10 to 13 minutes on two cores"}
"""How long a profile takes from nothing, where it was measured."""
Aliases = dict[str, dict[str, Any]]
"""The version behind each alias (champion, challenger, previous), as the registry tells it."""

PROMOTED_BECAUSE = "make demo: the challenger passed its gate"


def main(arguments: argparse.Namespace) -> None:
    """Do what is not done yet, then show the results."""
    del arguments
    root = project_root()
    settings = params.load(root / params.PARAMS)
    started = time.monotonic()
    # The registry takes seconds to import MLflow: DVC is asked meanwhile.
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(_aliases, root)
        graph = read_graph()
        stale = graph.downstream_of(read_changed())
        aliases = asked.result()
    for said in own_files.changed(root, settings).values():
        log.warning(said)
    if not stale and "champion" in aliases:
        log.info("Everything is up to date and there is a champion: nothing to do.")
        show(root, aliases)
        return
    num_stale, num_stages = len(stale), len(graph.stages)
    how_long = FIRST_RUN.get(settings.profile) if num_stale == num_stages else None
    log.info(
        "Profile %s: %d of %d stages have to run%s; then the student is promoted, if its gate "
        "lets it.",
        settings.profile,
        num_stale,
        num_stages,
        f" ({how_long})" if how_long else "",
    )
    log.info("Ctrl-C stops at a checkpoint; the same command goes on from there.")
    _distil_and_promote(root)
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    log.info("Done in %d min %d s.", minutes, seconds)
    show(root, _aliases(root))


def _distil_and_promote(root: Path) -> None:
    """Run both flows with one server."""
    # Prefect takes seconds to import, and a demo with nothing to do does without it. Where the root
    # logger has a handler already, Prefect would not set up its own, which name the stage.
    logging.getLogger().handlers.clear()
    from flows.distillation import distillation
    from flows.promotion import promote
    from flows.records import report_outcome, with_server

    with with_server(root):
        report_outcome(distillation(return_state=True))
        try:
            report_outcome(promote(PROMOTED_BECAUSE, return_state=True))
        except DistilleryError:
            # Refused or not, the student is made and measured: show it.
            show(root, _aliases(root))
            raise


def show(root: Path, aliases: Aliases) -> None:
    """Print the results, where they are, and what can be done next."""
    results = read_results(root)
    if results is None:
        raise DistilleryError("reports/summary.json does not exist; run: dvc repro report")
    width = shutil.get_terminal_size().columns
    print("\n".join(closing_words(root, results, aliases, width)))


def closing_words(root: Path, results: Results, aliases: Aliases, width: int) -> list[str]:
    """Return the results of a demo as lines for a terminal of `width` columns."""
    return [
        *result_lines(results, width),
        *_champion_lines(aliases),
        "",
        report_line(root),
        "Pages:   make ui (Prefect on http://127.0.0.1:4200, MLflow on http://127.0.0.1:5000)",
        "Next:    change a setting in params.yaml and run make demo again: only what depends on "
        "it runs.",
        "         make help lists the rest.",
    ]


def _champion_lines(aliases: Aliases) -> list[str]:
    """Say who serves, and what could serve instead."""
    champion, challenger = aliases.get("champion"), aliases.get("challenger")
    lines = [f"Champion: {'none' if champion is None else _named(champion)}"]
    if challenger is not None and challenger != champion:
        lines.append(
            f"Challenger: {_named(challenger)}; make it the champion: "
            'python -m flows.promotion promote --reason "..."'
        )
    if "previous" in aliases:
        lines.append(
            f"Before: {_named(aliases['previous'])}; go back to it: "
            'python -m flows.promotion rollback --reason "..."'
        )
    return lines


def _named(version: dict[str, Any]) -> str:
    return f"{version['model']} version {version['version']} ({version['student']})"


def _aliases(root: Path) -> Aliases:
    """Ask the registry which versions have an alias; none where there is no store yet."""
    if not (root / DATABASE).is_file() and "MLFLOW_TRACKING_URI" not in os.environ:
        return {}
    aliases: Aliases = registry.ask(root, "status")
    return aliases


if __name__ == "__main__":
    run(main, parser_for(__doc__))
