"""Does anything need to run again? Asks DVC, starts nothing, and says so on Prefect's page.

    python -m flows.check

What is not up to date makes the run's state `Stale`: an automation can notify somebody of it
(flows/deploy.py), and `distillation` brings it up to date.
"""

import argparse
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas import State
from prefect.states import Completed, Failed

from flows import own_files
from flows.environment import project_root
from flows.graph import read_changed, read_graph
from flows.missed import left_to_a_later_run
from flows.records import report_outcome, with_server
from stages import params
from stages.command import parser_for, run
from stages.errors import DistilleryError

STALE = "Stale"


@flow(name="check")
def check() -> State[Any]:
    """Say which stages `distillation` would run, and why. Nothing is started."""
    if (skipped := left_to_a_later_run()) is not None:
        return skipped
    try:
        root = project_root()
        settings = params.load(root / params.PARAMS)
        graph = read_graph()
        changed = read_changed()
        for name, said in own_files.changed(root, settings).items():
            changed.setdefault(name, []).append(said)
    except DistilleryError as error:
        return Failed(message=str(error))
    stale = graph.downstream_of(changed)
    if not stale:
        return Completed(message=f"All {len(graph.stages)} stages are up to date.")
    rows = [
        {"stage": name, "why": "; ".join(changed.get(name, ["below one that changed"]))}
        for name in graph.names()
        if name in stale
    ]
    create_table_artifact(key="stale", table=rows, description="What would run, and why")
    first = ", ".join(name for name in graph.names() if name in changed)
    return Completed(
        name=STALE,
        message=f"{len(stale)} of {len(graph.stages)} stages would run; changed: {first}.",
    )


def main(arguments: argparse.Namespace) -> None:
    """Check once, with the configured server or with one of its own."""
    del arguments
    with with_server(project_root()):
        report_outcome(check(return_state=True))


if __name__ == "__main__":
    run(main, parser_for(__doc__))
