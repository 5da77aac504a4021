"""The history of the champion: who moved which alias, when, why, and on what evidence.

MLflow keeps none. Every change is a tag of the registered model, `alias_change.<time>.<random>`, in
the same database as the aliases, written in an order that survives a kill at any point:

1. an entry in state `intended`, with the aliases before and after;
2. a look whether somebody else has one too, or was faster: then this one is `abandoned`;
3. `previous` moves; 4. `champion` moves, in one transaction: this is the change;
5. the entry becomes `done`.

Of two that begin in the same instant on a server, which has no lock, each writes before it looks:
so one of them at least sees the other, and never do both go on. The later entry gives way.

So a change that happened always has its entry, and an entry still `intended` is settled by looking:
if `champion` stands where the entry wanted it the change happened, else it is undone and the entry
says `abandoned`.

Whoever may write to the store can move an alias past all this, with two clicks on MLflow's page.
The next change finds it: that of `champion` gets an entry of its own, `outside`, and `previous` is
put back.
"""

import json
import secrets
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from stages.errors import DistilleryError
from stages.registry.versions import numbers, registered
from stages.tracking.store import CHAMPION, PREVIOUS, Store, who

PREFIX = "alias_change."
KEY_TIME = "%Y%m%dT%H%M%S.%fZ"
MAX_REASON_CHARACTERS = 1000
# On a server, where there is no lock, an entry this young may belong to a living process.
SETTLE_AFTER = timedelta(minutes=2)
PATIENCE_SECONDS = 10.0
"""How long a change waits for a later one to give way to it."""

Action = Literal["promote", "rollback", "outside"]
State = Literal["intended", "done", "abandoned"]


@dataclass(frozen=True, slots=True)
class Aliases:
    """Which versions serve and served; None where there is none."""

    champion: int | None
    previous: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the champion."""

    key: str
    """The tag that holds it; keys sort by time."""
    action: Action
    before: Aliases
    after: Aliases
    who: str
    when: str
    """UTC, ISO 8601."""
    reason: str
    gate: dict[str, Any]
    """`passed`, and the value of every check as it was at that moment."""
    state: State
    request: str = ""
    """Names what may be asked for twice and is to happen once, such as a flow run; may be empty."""


def new_change(
    action: Action,
    before: Aliases,
    after: Aliases,
    reason: str,
    gate: dict[str, Any],
    request: str = "",
) -> Change:
    """Return a change that is intended now, by whoever runs this process."""
    now = datetime.now(UTC)
    # Random digits keep two writers of one moment from overwriting each other's entry.
    key = f"{PREFIX}{now:{KEY_TIME}}.{secrets.token_hex(4)}"
    when = now.isoformat(timespec="seconds")
    said = reason[:MAX_REASON_CHARACTERS]
    return Change(key, action, before, after, who(), when, said, gate, "intended", request)


def aliases_now(store: Store, model: str) -> Aliases:
    """Return where champion and previous stand."""
    return _look(store, model)[1]


def apply(store: Store, model: str, change: Change) -> Change:
    """Make a change, in the order that loses nothing; return it as done.

    Raises:
        DistilleryError: another process is changing the champion, or has done so since `before`.
    """
    change = _after(change, read(store, model))
    _write(store, model, change)
    if not _is_let_go_on(store, model, change) or aliases_now(store, model) != change.before:
        _write(store, model, replace(change, state="abandoned"))
        raise DistilleryError(
            f"another promotion or rollback of {model} came in between, so nothing was "
            "changed; see: python -m stages.registry.promotion status, and try again"
        )
    _move_previous(store, model, change.after.previous)
    assert change.after.champion is not None, "there is never no champion once there was one"
    store.client.set_registered_model_alias(model, CHAMPION, str(change.after.champion))
    done = replace(change, state="done")
    _write(store, model, done)
    return done


def recorded(changes: list[Change]) -> Aliases:
    """Return where the aliases stand by the history."""
    done = [change.after for change in changes if change.state == "done"]
    return done[-1] if done else Aliases(None, None)


def settled(store: Store, model: str) -> tuple[list[Change], Aliases]:
    """Return the entries that the history lacks, and where the aliases belong.

    What a killed process left half done has happened if `champion` stands where it wanted it. A
    champion that was set outside of this history gets an entry, and the one before it becomes the
    previous one. Nobody but a change moves `previous`: rollback would ask no gate for it.
    """
    past, now = _look(store, model)
    news = [
        replace(change, state="done" if now.champion == change.after.champion else "abandoned")
        for change in past
        if change.state == "intended"
    ]
    last = recorded(sorted([*past, *news], key=lambda change: change.key))
    # A version that was deleted takes its aliases along, and is none to go back to.
    there = numbers(store, model)
    if now.champion != last.champion:
        before = last.champion if last.champion in there else last.previous
        after = Aliases(now.champion, before if before in there else None)
        found = new_change("outside", last, after, "found so: not made by these commands", {})
        news.append(_after(replace(found, state="done", who="unknown"), past))
        return news, after
    return news, Aliases(now.champion, last.previous if last.previous in there else None)


def settle(store: Store, model: str) -> Aliases:
    """Bring aliases and history together again; return where the aliases stand then.

    Call it with the store locked.

    Raises:
        DistilleryError: on a server, another process may still be at it.
    """
    news, belong = settled(store, model)
    for change in news:
        age = datetime.now(UTC) - datetime.fromisoformat(change.when)
        if store.folder is None and change.action != "outside" and age < SETTLE_AFTER:
            raise DistilleryError(
                f"a {change.action} of {model} by {change.who} began at {change.when} and has not "
                f"ended; wait {SETTLE_AFTER.seconds // 60} minutes and try again"
            )
        _write(store, model, change)
    if aliases_now(store, model).previous != belong.previous:
        _move_previous(store, model, belong.previous)
    return belong


def answered(store: Store, model: str, request: str) -> Change | None:
    """Return the change that a request has led to already; one without a name is a new one."""
    asked = [c for c in read(store, model) if c.request == request and c.state == "done"]
    return asked[-1] if request and asked else None


def read(store: Store, model: str) -> list[Change]:
    """Return every recorded change, oldest first."""
    return _look(store, model)[0]


def _look(store: Store, model: str) -> tuple[list[Change], Aliases]:
    """Return history and aliases of one and the same moment."""
    entry = registered(store, model)
    changes = [_parse(key, entry.tags[key]) for key in sorted(entry.tags) if key.startswith(PREFIX)]
    champion, previous = entry.aliases.get(CHAMPION), entry.aliases.get(PREVIOUS)
    return changes, Aliases(
        None if champion is None else int(champion), None if previous is None else int(previous)
    )


def _is_let_go_on(store: Store, model: str, change: Change) -> bool:
    """Wait for those that intend a change as well, unless one of them was there before."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        intended = [c.key for c in read(store, model) if c.state == "intended"]
        if intended == [change.key]:
            return True
        if change.key not in intended[:1] or time.monotonic() > deadline:
            return False
        time.sleep(0.1)


def _after(change: Change, past: list[Change]) -> Change:
    """Return the change with a key that sorts after all others, also where the clock went back."""
    if not past or past[-1].key < change.key:
        return change
    written, _, _ = past[-1].key.removeprefix(PREFIX).rpartition(".")
    later = datetime.strptime(written, KEY_TIME) + timedelta(microseconds=1)
    return replace(change, key=f"{PREFIX}{later:{KEY_TIME}}.{secrets.token_hex(4)}")


def _write(store: Store, model: str, change: Change) -> None:
    entry = asdict(change)
    key = entry.pop("key")
    # Letters as they are: a database may take no more than 5000 characters.
    text = json.dumps(entry, sort_keys=True, ensure_ascii=False)
    store.client.set_registered_model_tag(model, key, text)


def _parse(key: str, text: str) -> Change:
    try:
        entry = json.loads(text)
        entry["before"] = Aliases(**entry["before"])
        entry["after"] = Aliases(**entry["after"])
        return Change(key=key, **entry)
    except (ValueError, TypeError, KeyError) as error:
        raise DistilleryError(
            f"tag {key} of the registered model is no entry of its history, such as "
            f"`promotion history --json` shows: {text:.80}; mend it or delete it on MLflow's page"
        ) from error


def _move_previous(store: Store, model: str, version: int | None) -> None:
    # A version may have been deleted since it was the champion.
    if version in numbers(store, model):
        store.client.set_registered_model_alias(model, PREVIOUS, str(version))
    elif PREVIOUS in registered(store, model).aliases:
        store.client.delete_registered_model_alias(model, PREVIOUS)
