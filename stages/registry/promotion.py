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
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from stages import params
from stages.command import log, parser_for, run
from stages.errors import DistilleryError
from stages.registry import history
from stages.registry.admission import check_approved, check_gate, check_loads, evidence
from stages.registry.history import Action, Aliases, Change
from stages.registry.versions import (
    TAG_APPROVED,
    Version,
    aliases,
    get_version,
    is_registered,
    read_gate,
)
from stages.tracking.store import CHALLENGER, CHAMPION, PREVIOUS, Store, open_store, who


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion or a rollback came to."""

    action: Action
    model: str
    version: int
    """The champion after it (with dry_run: the one it would be)."""
    replaced: int | None
    """The champion before it; None when it is the first."""
    changed: bool
    """False when the version was the champion already, and for a dry run."""
    student: str
    run_id: str
    reason: str
    message: str
    """The outcome as one sentence."""


def promote(
    store: Store,
    model: str,
    version: int | None = None,
    reason: str = "",
    dry_run: bool = False,
    needs_approval: bool = False,
    request: str = "",
) -> Promotion:
    """Make a version the champion.

    Args:
        store: from `open_store()`.
        model: the registered model.
        version: its number; None takes the challenger.
        reason: why, for the history.
        dry_run: check everything and change nothing.
        needs_approval: somebody must have approved the version.
        request: names what may be asked for twice and is to happen once; empty: a new request.

    Raises:
        GateError: the version's gate report has failed checks, or there is none; or nobody has
            approved it.
        DistilleryError: the version does not exist or does not load.
    """
    with store.locked():
        if not dry_run:
            history.settle(store, model)
        if done := history.answered(store, model, request):
            return _done_before(store, model, done)
        candidate = _chosen(store, model, version)
        before = history.aliases_now(store, model)
        if before.champion == candidate.version:
            change = history.new_change("promote", before, before, reason, {})
            return _conclude(store, candidate, change, dry_run)
        gate = check_gate(store, candidate)
        if needs_approval:
            check_approved(candidate)
        if candidate.approved_by:
            gate["approved_by"] = candidate.approved_by
        check_loads(candidate)
        after = Aliases(candidate.version, before.champion)
        change = history.new_change("promote", before, after, reason, gate, request)
        return _conclude(store, candidate, change, dry_run)


def rollback(
    store: Store, model: str, reason: str = "", dry_run: bool = False, request: str = ""
) -> Promotion:
    """Make the previous champion the champion again.

    The gate is recorded but not asked a second time: the version was promoted once, and taking a
    bad champion out must not wait for an evaluation.

    Raises:
        DistilleryError: there is no previous champion, or it does not load.
    """
    with store.locked():
        if not dry_run:
            history.settle(store, model)
        if done := history.answered(store, model, request):
            return _done_before(store, model, done)
        before = history.aliases_now(store, model)
        if before.previous is None or before.previous == before.champion:
            raise DistilleryError(
                f"{model} has no previous champion to go back to; promote a version by its number: "
                "python -m stages.registry.promotion promote --version N"
            )
        candidate = get_version(store, model, before.previous)
        check_loads(candidate)
        after = Aliases(before.previous, before.champion)
        gate = evidence(read_gate(store, candidate))
        change = history.new_change("rollback", before, after, reason, gate, request)
        return _conclude(store, candidate, change, dry_run)


def approve(store: Store, model: str, version: int | None = None, reason: str = "") -> Version:
    """Note with a version, by default the challenger, that whoever runs this approves it."""
    with store.locked():
        candidate = _chosen(store, model, version)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        said = f"{who()} {when} {reason[: history.MAX_REASON_CHARACTERS]}".strip()
        store.client.set_model_version_tag(model, str(candidate.version), TAG_APPROVED, said)
    return replace(candidate, approved_by=said)


def champion(store: Store, model: str) -> Version | None:
    """Return the version that serves, None before the first promotion."""
    return status(store, model).get(CHAMPION)


def status(store: Store, model: str) -> dict[str, Version]:
    """Return the versions behind champion, previous and challenger, those that are set."""
    if not is_registered(store, model):
        return {}
    found = aliases(store, model)
    names = (CHAMPION, PREVIOUS, CHALLENGER)
    return {name: get_version(store, model, found[name]) for name in names if name in found}


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
        recorded = history.recorded(_past(store, model)).champion
        lines = list(_status_lines(model, versions, recorded))
    else:
        changes = _past(store, model)
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
        "status": "show which versions have an alias",
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


def _past(store: Store, model: str) -> list[Change]:
    return history.read(store, model) if is_registered(store, model) else []


def _chosen(store: Store, model: str, version: int | None) -> Version:
    """Return a version by its number, or the challenger."""
    return get_version(store, model, _challenger(store, model) if version is None else version)


def _challenger(store: Store, model: str) -> int:
    number = aliases(store, model).get(CHALLENGER)
    if number is None:
        raise DistilleryError(
            f"{model} has no challenger; name a version: "
            "python -m stages.registry.promotion promote --version N"
        )
    return number


def _conclude(store: Store, version: Version, change: Change, dry_run: bool) -> Promotion:
    """Make the change unless there is none to make or none is wanted, and say what came of it."""
    old, new = change.before.champion, change.after.champion
    changed = old != new and not dry_run
    if changed:
        history.apply(store, version.model, change)
    since = "the first one" if old is None else f"in place of version {old}"
    if old == new:
        said = "is the champion already"
    elif dry_run:
        said = f"would become the champion, {since}"
    else:
        said = f"is the champion, {since}"
    return Promotion(
        action=change.action,
        model=version.model,
        version=version.version,
        replaced=old,
        changed=changed,
        student=version.student,
        run_id=version.run_id,
        reason=change.reason,
        message=f"{version.model} version {version.version} ({version.student}) {said}",
    )


def _done_before(store: Store, model: str, change: Change) -> Promotion:
    """Say what a request came to when it was made first."""
    assert change.after.champion is not None, "a promotion and a rollback end with a champion"
    version = get_version(store, model, change.after.champion)
    return Promotion(
        action=change.action,
        model=model,
        version=version.version,
        replaced=change.before.champion,
        changed=False,
        student=version.student,
        run_id=version.run_id,
        reason=change.reason,
        message=f"{model} version {version.version} ({version.student}) was made the champion by "
        f"this request already, at {change.when}",
    )


def _status_lines(model: str, versions: dict[str, Version], recorded: int | None) -> Iterator[str]:
    if not versions:
        yield f"{model}: no version has an alias"
    set_now = versions[CHAMPION].version if CHAMPION in versions else None
    if set_now != recorded:
        yield (
            f"the champion was changed outside of these commands, from version {recorded or '-'} "
            f"to {set_now or '-'}: no gate was asked. The next promotion or rollback enters it "
            "into the history, and a rollback goes back to the version before"
        )
    for name, version in versions.items():
        yield (
            f"{name:<10} version {version.version}  {version.student}  gate {version.gate}  "
            f"lineage {version.lineage}  run {version.run_id}"
        )


def _history_line(change: Change) -> str:
    verdict = {True: "passed", False: "failed", None: "unknown"}[change.gate.get("passed")]
    return (
        f"{change.when}  {change.action:<8}  {change.before.champion or '-'} -> "
        f"{change.after.champion}  {change.state:<9}  gate {verdict}  {change.who}  "
        f"{change.reason or '(no reason given)'}"
    )


if __name__ == "__main__":
    run(main, command_line())
