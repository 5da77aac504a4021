"""Put a registered student into production, or take it out again, with a record of every change.

    python -m stages.registry.promotion promote [--version N] [--reason TEXT] [--dry-run]
    python -m stages.registry.promotion rollback [--reason TEXT] [--dry-run]
    python -m stages.registry.promotion approve [--version N] [--reason TEXT]
    python -m stages.registry.promotion status | history

Promotion asks the gate's report that was recorded with the version, loads the version and lets it
predict, and only then moves the aliases: `previous` to the old champion, `champion` to the version.
With registry.approval set, somebody must have approved the version as well. Rollback swaps the two
and asks neither gate nor approval. `--json` writes the answer to standard output. Exit codes: 0
done, or nothing to do; 1 refused or failed, nothing was changed; 2 usage.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from stages import params
from stages.command import log, parser_for, run
from stages.registry import history
from stages.registry.history import Change
from stages.registry.transitions import approve, promote, rollback
from stages.registry.versions import Version, get_version, is_registered, numbers, status
from stages.tracking.store import Store, open_store

NUM_SHOWN = 5
"""Versions without an alias that `status` shows."""


def main(arguments: argparse.Namespace) -> None:
    """Run one command and say what came of it."""
    settings = params.load().registry
    model = arguments.model or settings.model_name
    store = open_store()
    answer: Any
    if arguments.command == "promote":
        outcome = promote(
            store,
            model,
            arguments.version,
            arguments.reason,
            arguments.dry_run,
            settings.approval,
            arguments.request,
        )
        answer, lines = asdict(outcome), [outcome.message]
    elif arguments.command == "approve":
        approved = approve(store, model, arguments.version, arguments.reason)
        answer = asdict(approved)
        lines = [f"{model} version {approved.version} is approved by {approved.approved_by}"]
    elif arguments.command == "rollback":
        outcome = rollback(store, model, arguments.reason, arguments.dry_run, arguments.request)
        answer, lines = asdict(outcome), [outcome.message]
    elif arguments.command == "status":
        versions = status(store, model)
        answer = {name: asdict(version) for name, version in versions.items()}
        lines = list(_status_lines(store, model, versions))
    else:
        changes = history.read(store, model) if is_registered(store, model) else []
        answer = [asdict(change) for change in changes]
        lines = [_history_line(change) for change in changes] or [f"{model}: no changes yet"]
    for line in lines:
        log.info("%s", line)
    if arguments.json:
        sys.stdout.write(json.dumps(answer, indent=2, sort_keys=True) + "\n")


def command_line() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = parser_for(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {
        "promote": "make a version the champion, after the gate and a trial load",
        "rollback": "make the previous champion the champion again",
        "approve": "note that you have looked at a version and want it promoted",
        "status": "show which versions have an alias, and the newest that have none",
        "history": "show every change of the champion, oldest first",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--model", help="registered model (default: registry.model_name)")
        command.add_argument("--json", action="store_true", help="answer on standard output")
        if name in ("promote", "rollback", "approve"):
            command.add_argument("--reason", default="", help="why, for the history")
        if name in ("promote", "rollback"):
            command.add_argument("--dry-run", action="store_true", help="check, change nothing")
            command.add_argument(
                "--request", default="", help="a name; what was done under it is not done again"
            )
        if name in ("promote", "approve"):
            command.add_argument("--version", type=int, help="its number (default: the challenger)")
    return parser


def _status_lines(store: Store, model: str, versions: dict[str, Version]) -> Iterator[str]:
    if not versions:
        yield f"{model}: no version has an alias"
    if not is_registered(store, model):
        return
    news, belong = history.settled(store, model)
    for change in news:
        yield _unsettled(change)
    if not news and history.aliases_now(store, model).previous != belong.previous:
        yield (
            "the alias previous was moved outside of these commands; the next promotion or "
            f"rollback puts it back to version {belong.previous or '-'}"
        )
    for name, version in versions.items():
        yield _line(name, version)
    yield from _without_alias(store, model, versions)


def _unsettled(change: Change) -> str:
    if change.action == "outside":
        return (
            "the champion was changed outside of these commands, from version "
            f"{change.before.champion or '-'} to {change.after.champion or '-'}: no gate was "
            "asked. The next promotion or rollback enters it into the history, and a rollback "
            "goes back to the version before"
        )
    return (
        f"a {change.action} to version {change.after.champion} by {change.who}, begun at "
        f"{change.when}, has not ended: it is under way, or was cut off and the next one settles it"
    )


def _without_alias(store: Store, model: str, named: dict[str, Version]) -> Iterator[str]:
    taken = {version.version for version in named.values()}
    others = [number for number in numbers(store, model) if number not in taken]
    for number in reversed(others[-NUM_SHOWN:]):
        yield _line("-", get_version(store, model, number))
    if len(others) > NUM_SHOWN:
        yield f"and {len(others) - NUM_SHOWN} older versions without an alias"


def _line(alias: str, version: Version) -> str:
    return (
        f"{alias:<10} version {version.version}  {version.student}  gate {version.gate}  "
        f"lineage {version.lineage}  run {version.run_id}"
    )


def _history_line(change: Change) -> str:
    verdict = {True: "passed", False: "failed", None: "unknown"}[change.gate.get("passed")]
    return (
        f"{change.when}  {change.action:<8}  {change.before.champion or '-'} -> "
        f"{change.after.champion or '-'}  {change.state:<9}  gate {verdict}  {change.who}  "
        f"{change.reason or '(no reason given)'}"
    )


if __name__ == "__main__":
    run(main, command_line())
