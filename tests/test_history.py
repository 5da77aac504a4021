"""The history of the champion stays true: through kills, crossing changes and MLflow's own page."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from registry_world import MODEL
from store_kills import Killed, plant_kill

from stages.errors import DistilleryError
from stages.registry import history, promotion, transitions
from stages.registry.transitions import promote, rollback
from stages.registry.versions import aliases
from stages.tracking.store import CHAMPION, PREVIOUS

pytestmark = pytest.mark.slow


def test_champion_that_was_set_on_mlflows_page_is_said_entered_and_can_be_taken_back(
    two_versions, caplog
):
    store = two_versions
    promote(store, MODEL, 1)
    store.client.set_registered_model_alias(MODEL, CHAMPION, "2")
    assert "changed outside of these commands, from version 1 to 2" in status_lines(caplog)
    assert rollback(store, MODEL, dry_run=True).version == 1
    # Killed when it is entered and the one before it is not the previous one yet.
    with pytest.MonkeyPatch.context() as patch:
        plant_kill(patch, survive=1)
        with pytest.raises(Killed):
            rollback(store, MODEL)

    back = rollback(store, MODEL, reason="nobody asked the gate")
    assert (back.version, back.replaced) == (1, 2)
    changes = history.read(store, MODEL)
    assert [(c.action, c.before.champion, c.after.champion, c.state) for c in changes] == [
        ("promote", None, 1, "done"),
        ("outside", 1, 2, "done"),
        ("rollback", 2, 1, "done"),
    ]
    assert changes[1].who == "unknown"

    # A champion taken away outside is as easily put back.
    store.client.delete_registered_model_alias(MODEL, CHAMPION)
    assert rollback(store, MODEL).version == 1
    # One that was deleted takes its aliases along: the one before it comes back.
    promote(store, MODEL, 2)
    store.client.delete_model_version(MODEL, "2")
    assert rollback(store, MODEL).version == 1
    assert PREVIOUS not in aliases(store, MODEL)
    last = history.read(store, MODEL)[-2]
    assert (last.action, last.before.champion, last.after.champion) == ("outside", 2, None)
    # The history is on that page as well.
    store.client.set_registered_model_tag(MODEL, last.key, "oops")
    with pytest.raises(DistilleryError, match=rf"tag {last.key} .* is no entry .*: oops; mend it"):
        rollback(store, MODEL)


def status_lines(caplog):
    caplog.set_level("INFO")
    caplog.clear()
    promotion.main(promotion.command_line().parse_args(["status"]))
    return caplog.text


def test_previous_that_was_moved_on_mlflows_page_is_put_back_before_anything_else(
    two_versions, caplog
):
    store = two_versions
    promote(store, MODEL, 1)
    # Nobody has asked the gate about it.
    store.client.set_registered_model_alias(MODEL, PREVIOUS, "2")
    assert "previous was moved outside of these commands" in status_lines(caplog)
    for dry_run in (True, False):
        with pytest.raises(DistilleryError, match="has no previous champion to go back to"):
            rollback(store, MODEL, dry_run=dry_run)
    assert PREVIOUS not in aliases(store, MODEL)
    # On a server as well; and where nothing is left, there is nothing to go back to.
    store.client.set_registered_model_alias(MODEL, CHAMPION, "2")
    assert rollback(replace(store, folder=None), MODEL).version == 1
    for number in ("1", "2"):
        store.client.delete_model_version(MODEL, number)
    assert history.settled(store, MODEL)[1] == history.Aliases(None, None)


def promote_two(store):
    return promote(store, MODEL, 2)


@pytest.mark.parametrize("action", [promote_two, lambda store: rollback(store, MODEL)])
def test_killed_at_any_write_keeps_a_champion_and_a_true_history(two_versions, action, caplog):
    """Before: champion 1, previous 2. After: champion 2, previous 1, whichever way."""
    store = two_versions
    promote(store, MODEL, 2)
    promote(store, MODEL, 1)
    settled = 2
    for survive in range(4):
        with pytest.MonkeyPatch.context() as patch:
            plant_kill(patch, survive)
            with pytest.raises(Killed):
                action(store)
        # What an onlooker sees: a champion, and nothing called done that is not.
        left = aliases(store, MODEL)
        assert left[CHAMPION] == (2 if survive == 3 else 1)
        new = history.read(store, MODEL)[settled:]
        assert [change.state for change in new] == ["intended"] * (survive > 0)
        said = status_lines(caplog)
        assert ("to version 2 by" in said) == ("was cut off" in said) == (survive > 0)
        assert "outside" not in said
        with store.locked():
            history.settle(store, MODEL)
        changes = history.read(store, MODEL)
        expected = [] if survive == 0 else ["done" if survive == 3 else "abandoned"]
        assert [change.state for change in changes[settled:]] == expected
        settled = len(changes)
        after = aliases(store, MODEL)
        assert after[PREVIOUS] == (1 if survive == 3 else 2)
    done = [change for change in changes if change.state == "done"]
    assert [change.after.champion for change in done] == [2, 1, 2]


def test_first_promotion_that_was_killed_leaves_no_previous(two_versions):
    store = two_versions
    with pytest.MonkeyPatch.context() as patch:
        plant_kill(patch, survive=1)
        with pytest.raises(Killed):
            promote(store, MODEL, 1, request="once")
    outcome = promote(store, MODEL, 1, request="once")
    assert outcome.changed
    assert PREVIOUS not in aliases(store, MODEL)
    assert [change.state for change in history.read(store, MODEL)] == ["abandoned", "done"]


def test_on_a_server_an_unfinished_change_of_another_process_is_not_touched(two_versions):
    # A server is a store without a folder, and so without a lock.
    server = replace(two_versions, folder=None)
    with pytest.MonkeyPatch.context() as patch:
        plant_kill(patch, survive=1)
        with pytest.raises(Killed):
            promote(server, MODEL, 1)
    with pytest.raises(DistilleryError, match=r"has not ended; wait 2 minutes and try again"):
        promote(server, MODEL, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "SETTLE_AFTER", timedelta(0))
        assert promote(server, MODEL, 2).changed
    assert [change.state for change in history.read(server, MODEL)] == ["abandoned", "done"]


def test_on_a_server_of_two_changes_that_cross_one_is_refused(two_versions):
    server = replace(two_versions, folder=None)

    def while_it_loads(other):
        """Promote version 2, and let another process come in when it has looked at everything."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transitions, "check_loads", lambda _: other())
            with pytest.raises(DistilleryError, match="another promotion or rollback of distil"):
                promote(server, MODEL, 2)

    def one_that_is_not_done_yet():
        before = history.aliases_now(server, MODEL)
        change = history.new_change("promote", before, history.Aliases(1, None), "", {})
        history._write(server, MODEL, change)

    def one_that_is_done():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transitions, "check_loads", lambda _: None)
            patch.setattr(history, "SETTLE_AFTER", timedelta(0))
            promote(server, MODEL, 1)

    while_it_loads(one_that_is_not_done_yet)
    assert CHAMPION not in aliases(server, MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "SETTLE_AFTER", timedelta(0))
        while_it_loads(one_that_is_done)
    assert aliases(server, MODEL)[CHAMPION] == 1
    changes = history.read(server, MODEL)
    assert [c.state for c in changes] == ["abandoned", "abandoned", "done", "abandoned"]


def test_history_stays_in_order_when_the_clock_goes_back(two_versions):
    for version, day in ((1, 20), (2, 3)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(history, "datetime", clock_at(day))
            promote(two_versions, MODEL, version)
    rollback(two_versions, MODEL)
    changes = history.read(two_versions, MODEL)
    assert [(c.before.champion, c.after.champion) for c in changes] == [(None, 1), (1, 2), (2, 1)]
    assert [change.when[:10] for change in changes[:2]] == ["2099-01-20", "2099-01-03"]


def clock_at(day):
    class Clock(datetime):
        @classmethod
        def now(cls, tz):
            return cls(2099, 1, day, tzinfo=tz)

    return Clock
