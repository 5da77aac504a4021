"""Flows of their own for what training never does: put a student into production, or take it out.

    python -m flows.promotion promote --reason "retention 0.97 on nine tasks"
    python -m flows.promotion rollback --reason "slower on the serving machine"

The registry decides (stages/registry/promotion.py): it refuses a student that does not pass its
gate, and keeps the history. The flow adds the page: who, why, what the gate said.
"""

import argparse
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows import registry
from flows.artifacts import version_link
from flows.environment import project_root
from flows.records import report_outcome, with_server
from flows.results import Registered, Results, gate_page, read_results
from stages.command import parser_for, run
from stages.errors import DistilleryError, SettingsError
from stages.tracking.store import who

Action = Literal["promote", "rollback"]


@flow(name="promote")
def promote(reason: str = "", version: int | None = None) -> State[Any]:
    """Make a registered student the champion, if its gate report passes.

    Args:
        reason: Why; it is kept in the history.
        version: The number of the version; None is the challenger.
    """
    options = [] if version is None else ["--version", str(version)]
    return _change("promote", reason, options)


@flow(name="rollback")
def rollback(reason: str = "") -> State[Any]:
    """Make the previous champion the champion again.

    Args:
        reason: Why; it is kept in the history.
    """
    return _change("rollback", reason, [])


def _change(action: Action, reason: str, options: list[str]) -> State[Any]:
    root = project_root()
    # One word: a reason may begin with a dash.
    given = [f"--reason={reason}"] if reason else []
    if flow_run.id:
        # A run that is retried after its worker died must not roll back what it rolled back.
        given.append(f"--request={flow_run.id}")
    try:
        answer = registry.ask(root, action, *given, *options)
    except DistilleryError as error:
        return Failed(message=str(error))
    try:
        create_markdown_artifact(
            key="promotion",
            markdown=promotion_page(root, answer, who=who()),
            description=answer["message"],
        )
    except Exception as error:
        # The champion has changed: who took this for a failure and rolled back again would undo it.
        get_run_logger().warning("it is done, and has no artifact that says so: %r", error)
    return Completed(message=answer["message"])


def promotion_page(root: Path, answer: dict[str, Any], who: str) -> str:
    """Return who changed the champion, why and on what evidence, as Markdown."""
    version = Registered(answer["model"], answer["version"], answer["student"])
    gate = _gate_of(read_results(root), version)
    replaced = answer["replaced"]
    return "\n".join(
        [
            f"## {answer['message']}",
            "",
            f"- Action: {answer['action']}",
            f"- Champion: {version_link(version)} (its report and its card are there)",
            f"- Champion before: {'none' if replaced is None else replaced}",
            f"- Who: {who}",
            f"- Why: {answer['reason'] or 'no reason was given'}",
            f"- MLflow run: {answer['run_id']}",
            "",
            "### Gate",
            "",
            gate,
        ]
    )


def _gate_of(results: Results | None, version: Registered) -> str:
    """Return the gate's words on a version, if the reports here are about that version."""
    if results is not None and version in results.registered:
        return gate_page([v for v in results.verdicts if v.student == version.student])
    return "The gate's report is with the MLflow run; the reports here are of another version."


def main(arguments: argparse.Namespace) -> None:
    """Run one of the two flows, with the configured server or with one of its own."""
    if arguments.action == "rollback" and arguments.version is not None:
        raise SettingsError("rollback takes no --version: it goes back to the champion before")
    with with_server(project_root()):
        if arguments.action == "promote":
            state = promote(arguments.reason, arguments.version, return_state=True)
        else:
            state = rollback(arguments.reason, return_state=True)
        report_outcome(state)


if __name__ == "__main__":
    parser = parser_for(__doc__)
    parser.add_argument("action", choices=["promote", "rollback"])
    parser.add_argument("--reason", default="", help="why, for the history")
    parser.add_argument("--version", type=int, help="promote: the version (default: challenger)")
    run(main, parser)
