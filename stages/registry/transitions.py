"""Every way in which the champion changes: a version is promoted, or the last one comes back.

Each change holds the store's lock, is written into the history before it is made, and can be asked
for under a name so that it happens once. What a version must show is in admission.py.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from stages.errors import DistilleryError
from stages.registry import history
from stages.registry.admission import check_approved, check_gate, check_loads, evidence
from stages.registry.history import Action, Aliases, Change
from stages.registry.versions import TAG_APPROVED, Version, aliases, get_version, read_gate
from stages.tracking.store import CHALLENGER, Store, who


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
        before = history.settled(store, model)[1] if dry_run else history.settle(store, model)
        if done := history.answered(store, model, request):
            return _done_before(store, model, done)
        candidate = _chosen(store, model, version)
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
        before = history.settled(store, model)[1] if dry_run else history.settle(store, model)
        if done := history.answered(store, model, request):
            return _done_before(store, model, done)
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
