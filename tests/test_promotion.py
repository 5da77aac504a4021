"""Into production and out of it, on a real store: who serves, and what is refused."""

import shutil

import pytest
from registry_world import MODEL, STUDENT, answer_of, register_now

from stages.errors import DistilleryError, GateError
from stages.files import read_json, write_json
from stages.registry import history
from stages.registry.admission import validate
from stages.registry.transitions import promote, rollback
from stages.registry.versions import Version, aliases, champion
from stages.tracking.store import CHALLENGER, CHAMPION, PREVIOUS

pytestmark = pytest.mark.slow


def test_promote_again_and_rollback_move_the_aliases_and_write_history(two_versions):
    store = two_versions
    first = promote(store, MODEL, 1, reason="the first student")
    assert (first.version, first.replaced, first.changed) == (1, None, True)
    assert PREVIOUS not in aliases(store, MODEL)

    # Without a number: the challenger.
    second = promote(store, MODEL, reason="better")
    assert (second.version, second.replaced) == (2, 1)
    assert answer_of(f"models:/{MODEL}@{CHAMPION}") == "capital"

    again = promote(store, MODEL, 2)
    assert not again.changed
    assert "is the champion already" in again.message

    back = rollback(store, MODEL, reason="users complain")
    assert (back.version, back.replaced) == (1, 2)
    assert aliases(store, MODEL) == {CHAMPION: 1, PREVIOUS: 2, CHALLENGER: 2}
    assert answer_of(f"models:/{MODEL}@{CHAMPION}") == "paris"
    serving = champion(store, MODEL)
    assert serving is not None
    assert serving.student == STUDENT

    changes = history.read(store, MODEL)
    assert [(c.action, c.before.champion, c.after.champion) for c in changes] == [
        ("promote", None, 1),
        ("promote", 1, 2),
        ("rollback", 2, 1),
    ]
    assert {change.state for change in changes} == {"done"}
    assert [c.reason for c in changes] == ["the first student", "better", "users complain"]
    assert all("@" in change.who and change.when.endswith("+00:00") for change in changes)
    assert changes[0].gate == {"passed": True, "values": {"retention": 0.95}}


def test_dry_run_checks_everything_and_changes_nothing(two_versions):
    outcome = promote(two_versions, MODEL, 1, dry_run=True)
    assert "would become the champion" in outcome.message
    assert not outcome.changed
    assert champion(two_versions, MODEL) is None
    assert history.read(two_versions, MODEL) == []


def test_failed_gate_is_refused_with_every_failed_check(world, store):
    register_now(world, passed=False)
    with pytest.raises(GateError, match=r"retention: 0.5 must be at least 0.9 \(mean over 2"):
        promote(store, MODEL)
    assert CHAMPION not in aliases(store, MODEL)
    assert history.read(store, MODEL) == []


def test_version_that_does_not_load_is_refused(two_versions, world):
    promote(two_versions, MODEL, 1)
    for path in (world / "mlruns" / "artifacts").rglob("model.onnx"):
        path.write_bytes(b"torn")
    with pytest.raises(DistilleryError, match=r"version 2 does not load or predict"):
        promote(two_versions, MODEL, 2)
    assert aliases(two_versions, MODEL)[CHAMPION] == 1


def test_version_without_a_gate_report_is_refused(two_versions, world):
    for folder in list((world / "mlruns" / "artifacts").rglob("gate")):
        (path,) = folder.iterdir()
        write_json(path, read_json(path) | {"passed": False})
    # A verdict holds, also without a check that failed.
    with pytest.raises(GateError, match="does not pass the gate"):
        promote(two_versions, MODEL, 1)
    for folder in (world / "mlruns" / "artifacts").rglob("gate"):
        shutil.rmtree(folder)
    with pytest.raises(GateError, match="has no gate report"):
        promote(two_versions, MODEL, 1)


def test_rollback_without_a_previous_champion_says_what_to_do(two_versions):
    with pytest.raises(DistilleryError, match="has no previous champion"):
        rollback(two_versions, MODEL)
    promote(two_versions, MODEL, 1)
    with pytest.raises(DistilleryError, match="promote --version N"):
        rollback(two_versions, MODEL)


def test_unknown_model_and_version_say_what_to_do(two_versions):
    for name in ("nothing", "it's"):
        with pytest.raises(DistilleryError, match=rf"no model {name} in sqlite.*dvc repro"):
            promote(two_versions, name)
    for number in (0, 99):
        with pytest.raises(DistilleryError, match=rf"no version {number} .* exist: 1, 2$"):
            promote(two_versions, MODEL, number)


@pytest.mark.parametrize(
    ("rule", "value"),
    [("at least", 0.89), ("at most", 0.91), ("above", 0.9), ("below", 0.9), ("at least", None)],
)
def test_verdict_that_does_not_follow_from_its_number_is_refused(rule, value):
    version = Version(MODEL, 1, STUDENT, "l", "e", "r", "passed")
    check = {"name": "x", "rule": rule, "value": value, "threshold": 0.9, "passed": True}
    with pytest.raises(GateError, match="the gate report says passed, its numbers do not"):
        validate(version, [check])


@pytest.mark.parametrize(
    ("rule", "value"),
    [("at least", 0.9), ("at most", 0.9), ("above", 0.91), ("below", 0.89), ("reported", None)],
)
def test_mlflow_reads_the_rules_as_the_gate_does(rule, value):
    version = Version(MODEL, 1, STUDENT, "l", "e", "r", "passed")
    validate(version, [{"name": "x", "rule": rule, "value": value, "threshold": 0.9}])
