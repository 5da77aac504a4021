"""The registry on a real SQLite store with a real, tiny ONNX model."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml
from registry_world import (
    MODEL,
    ROOT,
    SHARDS_MD5,
    STUDENT,
    answer_of,
    other_student,
    register_now,
    settings,
    upload_of,
    write_curve,
)

from stages import params
from stages.errors import DataError, DistilleryError, GateError, Interrupted
from stages.files import read_json
from stages.registry import history, promotion, register
from stages.registry.record import curve_points, deciding_params
from stages.registry.versions import aliases
from stages.tracking import live
from stages.tracking.store import CHALLENGER, CHAMPION, PREVIOUS, open_store

# -------------------------------------------------------------------- what a run says (no store)


def test_params_are_those_of_the_lineage_with_defaults_filled_in():
    resolved = {"seed": 56, "distill": {"temperature": 9.0, "dropout": 0.1}, "gate": {"x": 1}}
    used = {"distill": {"temperature": 2.0}, "students.s": {"teacher_layers": [0, 2]}}
    assert deciding_params(resolved, used) == {
        "distill.dropout": "0.1",
        "distill.temperature": "2.0",
        "students.s.teacher_layers": "[0, 2]",
    }


def test_empty_cells_of_a_curve_are_no_points(tmp_path):
    write_curve(tmp_path / "c.csv", num_steps=1)
    points = {point.name: point.value for point in curve_points(tmp_path / "c.csv")}
    # mlm is empty.
    assert points == {
        "curve/loss": 8.5,
        "curve/ce": 1.0,
        "curve/cos": 0.1,
        "curve/learning_rate": 0.0005,
        "curve/tokens_per_second": 200.0,
    }


# ------------------------------------------------------------------------------- the real store


def all_runs(store):
    return store.client.search_runs([store.experiment_id("distillation")])


def all_versions(store):
    return store.client.search_model_versions(f"name = '{MODEL}'")


def whole_uploads(store):
    return store.client.search_logged_models([store.experiment_id("distillation")])


@pytest.mark.slow
def test_run_says_what_made_the_student(world, store):
    registration = register_now(world)
    assert registration["model_name"] == MODEL
    assert registration["version"] == 1
    run = store.client.get_run(registration["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["lineage"] == registration["lineage"]
    assert run.data.tags["corpus_digest"] == SHARDS_MD5
    assert run.data.tags["profile"] == "offline"
    assert run.data.params["distill.temperature"] == "2.0"
    assert not any(key.startswith(("evaluation", "gate")) for key in run.data.params)
    metrics = run.data.metrics
    assert metrics["tasks/acceptability/median"] == 76.0
    assert metrics["retention_interval/low"] == 97.5
    assert metrics["average/mean_of_tasks"] == 80.0
    assert metrics["heldout/kl"] == 1.5
    assert metrics["speedup/16"] == 1.9
    assert metrics["gate/passed"] == 1.0
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.digest == SHARDS_MD5
    assert json.loads(dataset.dataset.source) == {"path": "data/shards", "md5": SHARDS_MD5}
    found = store.client.search_runs([run.info.experiment_id], f"dataset.digest = '{SHARDS_MD5}'")
    assert [entry.info.run_id for entry in found] == [run.info.run_id]
    names = {file.path for file in store.client.list_artifacts(run.info.run_id)}
    assert {"report.html", "summary.json", "params.yaml", "gate"} <= names
    assert run.info.artifact_uri.startswith((world / "mlruns" / "artifacts").as_uri())


@pytest.mark.slow
def test_curve_is_recorded_whole_and_once(world, store):
    # Six columns, one of them empty: 5 x 450 points are more than two batches of 1000.
    write_curve(world / "reports" / "curves" / f"{STUDENT}.csv", num_steps=450)
    run_id = register_now(world)["run_id"]
    register_now(world)
    loss = store.client.get_metric_history(run_id, "curve/loss")
    assert [point.step for point in loss] == list(range(1, 451))


@pytest.mark.slow
def test_registering_again_finds_run_and_version(world, store):
    assert register_now(world) == register_now(world)
    assert len(all_runs(store)) == len(all_versions(store)) == len(whole_uploads(store)) == 1


@pytest.mark.slow
def test_new_evaluation_changes_metrics_and_gate_but_not_the_version(world, store):
    first = register_now(world)
    values = settings()
    values["evaluation"]["seeds"] = [1, 2, 3, 4, 5]
    values["gate"]["min_retention"] = 0.99
    (world / "params.yaml").write_text(yaml.safe_dump(values))
    summary = read_json(world / "reports/summary.json")
    summary["models"][STUDENT]["retention"] = 94.0
    (world / "reports/summary.json").write_text(json.dumps(summary))
    assert register_now(world, passed=False) == first
    run = store.client.get_run(first["run_id"])
    assert run.data.metrics["retention"] == 94.0
    assert run.data.metrics["gate/passed"] == 0.0
    assert len(store.client.get_metric_history(first["run_id"], "heldout/kl")) == 1
    assert store.client.get_model_version(MODEL, "1").tags["gate"] == "failed"
    with pytest.raises(GateError):
        promotion.promote(store, MODEL)


@pytest.mark.slow
def test_another_export_of_a_student_is_another_version_of_the_same_run(world, store):
    first = register_now(world)
    export = world / f"models/export/{STUDENT}"
    # What training cost stands on the card, and is another each time.
    (export / "README.md").write_text("# Model card: 0.2 device-hours")
    assert register_now(world)["version"] == 1
    with (export / "tokenizer.json").open("a") as tokenizer:
        tokenizer.write("\n")
    second = register_now(world)
    assert second["run_id"] == first["run_id"]
    assert (first["version"], second["version"]) == (1, 2)
    assert aliases(store, MODEL)[CHALLENGER] == 2


@pytest.mark.slow
def test_gate_that_judged_other_files_is_refused(world):
    export = world / "models" / "export" / STUDENT
    (export / "config.json").write_text('{"max_position_embeddings": 8}')
    with pytest.raises(DataError, match=r"judged other files .* run: dvc repro gate@distilbert"):
        register.collect(params.load(), STUDENT, world / "reports", export)


# ------------------------------------------------------------------------ a curve while it grows


def curve_rows(num_steps):
    """What write_curve writes, as the loop has it."""
    return [
        {"step": step, "loss": 9.0 - step / 2, "ce": 1.0, "cos": 0.1, "learning_rate": 5e-4}
        for step in range(1, num_steps + 1)
    ]


def train_live(rows, until, monkeypatch, status="FINISHED"):
    """Let a training tell its curve, row by row, and end."""
    monkeypatch.setattr(live, "SECONDS_BETWEEN_BATCHES", 0.0)
    monkeypatch.setattr(live, "SECONDS_FOR_THE_REST", 60.0)
    listener = live.LiveCurve(live.Training("distillation", STUDENT, "distill-x"), 0)
    for n in range(1, until + 1):
        listener(rows[:n])
    listener.close(status)


@pytest.mark.slow
def test_live_curve_goes_on_after_a_kill_and_becomes_the_run_of_the_lineage(
    world, store, monkeypatch
):
    rows = curve_rows(3)
    train_live(rows, 2, monkeypatch, "KILLED")
    (run,) = all_runs(store)
    assert (run.info.status, run.info.run_name) == ("KILLED", "distill-x")
    # The resumed training begins with the rows of its checkpoint, and sees them again.
    train_live(rows, 2, monkeypatch, "FINISHED")
    history = store.client.get_metric_history(run.info.run_id, "curve/loss")
    assert [(point.step, point.value) for point in history] == [(1, 8.5), (2, 8.0)]

    report = world / "reports" / "students" / f"{STUDENT}.json"
    report.write_text(json.dumps(read_json(report) | {"training": "distill-x"}))
    registration = register_now(world)
    assert registration["run_id"] == run.info.run_id
    (run,) = all_runs(store)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"{STUDENT}-{registration['lineage'][:8]}"
    # Registration adds the third row, and the column that the live rows did not have.
    for name in ("loss", "tokens_per_second"):
        history = store.client.get_metric_history(run.info.run_id, f"curve/{name}")
        assert sorted(point.step for point in history) == [1, 2, 3], name
    # A registered run is nobody's live run any more.
    train_live(rows, 1, monkeypatch)
    assert len(all_runs(store)) == 2
    # The same student once more (dvc repro --force): there is one run of a lineage.
    assert register_now(world) == registration
    (run,) = all_runs(store)
    assert run.info.run_id == registration["run_id"]


@pytest.mark.slow
def test_batch_of_which_only_a_part_arrived_leaves_no_point_twice(store, monkeypatch):
    def log_part(store, run_id, points, log=live.log_points):
        monkeypatch.setattr(live, "log_points", log)
        log(store, run_id, points[:2])
        raise OSError("the line broke")

    monkeypatch.setattr(live, "log_points", log_part)
    train_live(curve_rows(3), 3, monkeypatch)
    (run,) = all_runs(store)
    for name in ("loss", "ce", "cos", "learning_rate"):
        points = store.client.get_metric_history(run.info.run_id, f"curve/{name}")
        assert sorted(point.step for point in points) == [1, 2, 3], name


@pytest.mark.slow
def test_store_that_fails_stops_no_training_and_is_said_once(world, monkeypatch, caplog):
    (world / "mlruns" / "mlflow.db").write_bytes(b"this is no database" * 100)
    train_live(curve_rows(3), 3, monkeypatch)
    (warning,) = [record for record in caplog.records if "no live curve" in record.message]
    assert "training goes on" in warning.message


def test_short_run_and_one_that_wants_no_live_curve_never_import_mlflow():
    training = live.Training("distillation", STUDENT, "distill-x")
    with live.live_curve(training, None) as listener:
        assert listener is None
    with live.live_curve(training, 1000.0) as listener:
        listener(curve_rows(2))
        assert listener._thread.ident is None
    assert not listener._thread.is_alive()


@pytest.mark.parametrize(
    ("error", "status"), [(Interrupted("stop"), "KILLED"), (RuntimeError(), "FAILED")]
)
def test_status_of_a_live_run_says_how_training_ended(monkeypatch, error, status):
    ends = []
    monkeypatch.setattr(live.LiveCurve, "close", lambda self, status: ends.append(status))
    with (
        pytest.raises(type(error)),
        live.live_curve(live.Training("distillation", STUDENT, "distill-x"), 0.0),
    ):
        raise error
    assert ends == [status]


class Killed(BaseException):
    """Stands for a kill: nothing catches it on purpose."""


WRITES = (
    "create_run",
    "update_run_info",
    "log_batch",
    "log_param",
    "set_tag",
    "log_inputs",
    "log_outputs",
    "create_logged_model",
    "finalize_logged_model",
    "set_logged_model_tags",
    "create_experiment",
)
REGISTRY_WRITES = (
    "create_registered_model",
    "create_model_version",
    "update_model_version",
    "set_model_version_tag",
    "set_registered_model_alias",
    "set_registered_model_tag",
    "delete_registered_model_alias",
)
FILE_WRITES = ("log_artifact", "log_artifacts")


def plant_kill(patch, survive):
    """Let `survive` writes to the store happen, then let every further one die; count them."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as TrackingStore

    writes = []

    def planted(name, original):
        def write(self, *arguments, **named):
            writes.append(name)
            if len(writes) > survive:
                raise Killed(name)
            return original(self, *arguments, **named)

        return write

    for owner, names in (
        (TrackingStore, WRITES),
        (RegistryStore, REGISTRY_WRITES),
        (LocalArtifactRepository, FILE_WRITES),
    ):
        for name in names:
            patch.setattr(owner, name, planted(name, getattr(owner, name)))
    return writes


def end_fluent_run():
    """A killed process leaves no active run behind; this one must be told."""
    from mlflow.tracking.fluent import _active_run_stack

    _active_run_stack.set([])


@pytest.mark.slow
def test_killed_between_any_two_writes_and_rerun_leaves_one_run_and_one_version(world, store):
    """Each round has a lineage of its own, so that all share one database."""
    rounds = 0
    while True:
        other_student(world, "paris")
        lock = yaml.safe_load((world / "dvc.lock").read_text())
        lock["stages"]["curate"]["cmd"] += f" --round {rounds}"
        (world / "dvc.lock").write_text(yaml.safe_dump(lock))
        with pytest.MonkeyPatch.context() as patch:
            writes = plant_kill(patch, survive=rounds)
            try:
                register_now(world)
                finished = True
            except Killed:
                finished = False
        end_fluent_run()
        registration = register_now(world)
        lineage = registration["lineage"]
        of_lineage = f"tags.lineage = '{lineage}'"
        experiment = [store.experiment_id("distillation")]
        (run,) = store.client.search_runs(experiment, of_lineage)
        assert run.info.status == "FINISHED"
        assert run.data.tags["curve_recorded"] == "true"
        assert len(store.client.get_metric_history(run.info.run_id, "curve/loss")) == 3
        assert run.data.metrics["gate/passed"] == 1.0
        assert len(run.inputs.dataset_inputs) == 1
        (version,) = store.client.search_model_versions(f"name = '{MODEL}' and {of_lineage}")
        assert int(version.version) == registration["version"]
        (upload,) = store.client.search_logged_models(experiment, of_lineage)
        assert upload.status.name == "READY"
        assert aliases(store, MODEL)[CHALLENGER] == registration["version"]
        rounds += 1
        if finished:
            break
    # Every write was once the one that died.
    assert rounds == len(writes) + 1
    assert rounds > 15


# ------------------------------------------------------------------------------------- promotion


@pytest.mark.slow
def test_promote_again_and_rollback_move_the_aliases_and_write_history(two_versions):
    store = two_versions
    first = promotion.promote(store, MODEL, 1, reason="the first student")
    assert (first.version, first.replaced, first.changed) == (1, None, True)
    assert PREVIOUS not in aliases(store, MODEL)

    # Without a number: the challenger.
    second = promotion.promote(store, MODEL, reason="better")
    assert (second.version, second.replaced) == (2, 1)
    assert answer_of(f"models:/{MODEL}@{CHAMPION}") == "capital"

    again = promotion.promote(store, MODEL, 2)
    assert not again.changed
    assert "is the champion already" in again.message

    back = promotion.rollback(store, MODEL, reason="users complain")
    assert (back.version, back.replaced) == (1, 2)
    assert aliases(store, MODEL) == {CHAMPION: 1, PREVIOUS: 2, CHALLENGER: 2}
    assert answer_of(f"models:/{MODEL}@{CHAMPION}") == "paris"
    champion = promotion.champion(store, MODEL)
    assert champion is not None
    assert champion.student == STUDENT

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


@pytest.mark.slow
def test_champion_that_was_set_on_mlflows_page_is_said_entered_and_can_be_taken_back(
    two_versions, caplog
):
    store = two_versions
    promotion.promote(store, MODEL, 1)
    store.client.set_registered_model_alias(MODEL, CHAMPION, "2")
    caplog.set_level("INFO")
    promotion.main(promotion.command_line().parse_args(["status"]))
    assert "changed outside of these commands, from version 1 to 2" in caplog.text

    back = promotion.rollback(store, MODEL, reason="nobody asked the gate")
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
    assert promotion.rollback(store, MODEL).version == 1
    # One that was deleted takes its aliases along: the one before it comes back.
    promotion.promote(store, MODEL, 2)
    store.client.delete_model_version(MODEL, "2")
    assert promotion.rollback(store, MODEL).version == 1
    assert PREVIOUS not in aliases(store, MODEL)
    last = history.read(store, MODEL)[-2]
    assert (last.action, last.before.champion, last.after.champion) == ("outside", 2, None)
    # The history is on that page as well.
    store.client.set_registered_model_tag(MODEL, last.key, "oops")
    with pytest.raises(DistilleryError, match=rf"tag {last.key} .* is no entry .*: oops; mend it"):
        promotion.rollback(store, MODEL)


@pytest.mark.slow
def test_request_that_is_made_twice_is_done_once(two_versions, capsys):
    promotion.promote(two_versions, MODEL, 1)
    promotion.promote(two_versions, MODEL, 2)
    first = answer(capsys, "rollback", "--request", "run-1")
    again = answer(capsys, "rollback", "--request", "run-1")
    assert (first["version"], first["changed"]) == (1, True)
    assert (again["version"], again["replaced"], again["changed"]) == (1, 2, False)
    assert "by this request already" in again["message"]
    assert answer(capsys, "rollback", "--request", "run-2")["version"] == 2
    assert not answer(capsys, "promote", "--version", "1", "--request", "run-2")["changed"]


@pytest.mark.slow
def test_dry_run_checks_everything_and_changes_nothing(two_versions):
    outcome = promotion.promote(two_versions, MODEL, 1, dry_run=True)
    assert "would become the champion" in outcome.message
    assert not outcome.changed
    assert promotion.champion(two_versions, MODEL) is None
    assert history.read(two_versions, MODEL) == []


@pytest.mark.slow
def test_failed_gate_is_refused_with_every_failed_check(world, store):
    register_now(world, passed=False)
    with pytest.raises(GateError, match=r"retention: 0.5 must be at least 0.9 \(mean over 2"):
        promotion.promote(store, MODEL)
    assert CHAMPION not in aliases(store, MODEL)
    assert history.read(store, MODEL) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "value"),
    [("at least", 0.89), ("at most", 0.91), ("above", 0.9), ("below", 0.9), ("at least", None)],
)
def test_verdict_that_does_not_follow_from_its_number_is_refused(rule, value):
    from stages.registry.admission import validate
    from stages.registry.versions import Version

    version = Version(MODEL, 1, STUDENT, "l", "e", "r", "passed")
    check = {"name": "x", "rule": rule, "value": value, "threshold": 0.9, "passed": True}
    with pytest.raises(GateError, match="the gate report says passed, its numbers do not"):
        validate(version, [check])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "value"),
    [("at least", 0.9), ("at most", 0.9), ("above", 0.91), ("below", 0.89), ("reported", None)],
)
def test_mlflow_reads_the_rules_as_the_gate_does(rule, value):
    from stages.registry.admission import validate
    from stages.registry.versions import Version

    version = Version(MODEL, 1, STUDENT, "l", "e", "r", "passed")
    validate(version, [{"name": "x", "rule": rule, "value": value, "threshold": 0.9}])


@pytest.mark.slow
def test_version_that_does_not_load_is_refused(two_versions, world):
    promotion.promote(two_versions, MODEL, 1)
    for path in (world / "mlruns" / "artifacts").rglob("model.onnx"):
        path.write_bytes(b"torn")
    with pytest.raises(DistilleryError, match=r"version 2 does not load or predict"):
        promotion.promote(two_versions, MODEL, 2)
    assert aliases(two_versions, MODEL)[CHAMPION] == 1


@pytest.mark.slow
def test_files_that_were_deleted_come_back_when_the_student_is_registered_again(
    two_versions, world
):
    shutil.rmtree(next((world / "mlruns/artifacts/models").rglob(upload_of(two_versions, 2))))
    with pytest.raises(DistilleryError, match=r"version 2 does not load or predict"):
        promotion.promote(two_versions, MODEL, 2)
    register_now(world)
    assert promotion.promote(two_versions, MODEL, 2).changed
    assert answer_of(f"models:/{MODEL}@{CHAMPION}") == "capital"
    assert len(all_versions(two_versions)) == 2
    # A file that is there and not whole is as good as lost.
    (folder,) = (world / "mlruns/artifacts/models").rglob(upload_of(two_versions, 2))
    (graph,) = folder.rglob("model.onnx")
    graph.write_bytes(b"torn")
    register_now(world)
    assert answer_of(f"models:/{MODEL}@{CHAMPION}") == "capital"


@pytest.mark.slow
def test_run_that_was_deleted_comes_back_with_the_next_verdict_in_it(world, store):
    first = register_now(world)
    store.client.delete_run(first["run_id"])
    assert register_now(world, passed=False) == first
    assert [run.info.run_id for run in all_runs(store)] == [first["run_id"]]
    with pytest.raises(GateError):
        promotion.promote(store, MODEL)


@pytest.mark.slow
def test_version_without_a_gate_report_is_refused(two_versions, world):
    for folder in (world / "mlruns" / "artifacts").rglob("gate"):
        shutil.rmtree(folder)
    with pytest.raises(GateError, match="has no gate report"):
        promotion.promote(two_versions, MODEL, 1)


@pytest.mark.slow
def test_rollback_without_a_previous_champion_says_what_to_do(two_versions):
    with pytest.raises(DistilleryError, match="has no previous champion"):
        promotion.rollback(two_versions, MODEL)
    promotion.promote(two_versions, MODEL, 1)
    with pytest.raises(DistilleryError, match="promote --version N"):
        promotion.rollback(two_versions, MODEL)


@pytest.mark.slow
def test_unknown_model_and_version_say_what_to_do(two_versions):
    with pytest.raises(DistilleryError, match=r"no model nothing in sqlite.*dvc repro"):
        promotion.promote(two_versions, "nothing")
    for number in (0, 99):
        with pytest.raises(DistilleryError, match=rf"no version {number} .* exist: 1, 2$"):
            promotion.promote(two_versions, MODEL, number)


def promote_two(store):
    return promotion.promote(store, MODEL, 2)


@pytest.mark.slow
@pytest.mark.parametrize("action", [promote_two, lambda store: promotion.rollback(store, MODEL)])
def test_killed_at_any_write_keeps_a_champion_and_a_true_history(two_versions, action):
    """Before: champion 1, previous 2. After: champion 2, previous 1, whichever way."""
    store = two_versions
    promotion.promote(store, MODEL, 2)
    promotion.promote(store, MODEL, 1)
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


@pytest.mark.slow
def test_first_promotion_that_was_killed_leaves_no_previous(two_versions):
    store = two_versions
    with pytest.MonkeyPatch.context() as patch:
        plant_kill(patch, survive=1)
        with pytest.raises(Killed):
            promotion.promote(store, MODEL, 1)
    outcome = promotion.promote(store, MODEL, 1)
    assert outcome.changed
    assert PREVIOUS not in aliases(store, MODEL)
    assert [change.state for change in history.read(store, MODEL)] == ["abandoned", "done"]


@pytest.mark.slow
def test_on_a_server_an_unfinished_change_of_another_process_is_not_touched(two_versions):
    # A server is a store without a folder, and so without a lock.
    server = replace(two_versions, folder=None)
    with pytest.MonkeyPatch.context() as patch:
        plant_kill(patch, survive=1)
        with pytest.raises(Killed):
            promotion.promote(server, MODEL, 1)
    with pytest.raises(DistilleryError, match=r"has not ended; wait 2 minutes and try again"):
        promotion.promote(server, MODEL, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "SETTLE_AFTER", timedelta(0))
        assert promotion.promote(server, MODEL, 2).changed
    assert [change.state for change in history.read(server, MODEL)] == ["abandoned", "done"]


@pytest.mark.slow
def test_on_a_server_of_two_changes_that_cross_one_is_refused(two_versions):
    server = replace(two_versions, folder=None)

    def while_it_loads(other):
        """Promote version 2, and let another process come in when it has looked at everything."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(promotion, "check_loads", lambda _: other())
            with pytest.raises(DistilleryError, match="another promotion or rollback of distil"):
                promotion.promote(server, MODEL, 2)

    def one_that_is_not_done_yet():
        before = history.aliases_now(server, MODEL)
        change = history.new_change("promote", before, history.Aliases(1, None), "", {})
        history._write(server, MODEL, change)

    def one_that_is_done():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(promotion, "check_loads", lambda _: None)
            patch.setattr(history, "SETTLE_AFTER", timedelta(0))
            promotion.promote(server, MODEL, 1)

    while_it_loads(one_that_is_not_done_yet)
    assert CHAMPION not in aliases(server, MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "SETTLE_AFTER", timedelta(0))
        while_it_loads(one_that_is_done)
    assert aliases(server, MODEL)[CHAMPION] == 1
    changes = history.read(server, MODEL)
    assert [c.state for c in changes] == ["abandoned", "abandoned", "done", "abandoned"]


@pytest.mark.slow
def test_history_stays_in_order_when_the_clock_goes_back(two_versions):
    for version, day in ((1, 20), (2, 3)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(history, "datetime", clock_at(day))
            promotion.promote(two_versions, MODEL, version)
    promotion.rollback(two_versions, MODEL)
    changes = history.read(two_versions, MODEL)
    assert [(c.before.champion, c.after.champion) for c in changes] == [(None, 1), (1, 2), (2, 1)]
    assert [change.when[:10] for change in changes[:2]] == ["2099-01-20", "2099-01-03"]


def clock_at(day):
    class Clock(datetime):
        @classmethod
        def now(cls, tz):
            return cls(2099, 1, day, tzinfo=tz)

    return Clock


# ------------------------------------------------------------------------------- other processes


def environment(**changes):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}


def answer(capsys, *arguments):
    """Run a command in this process and return what it says on standard output."""
    capsys.readouterr()
    promotion.main(promotion.command_line().parse_args([*arguments, "--json"]))
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_every_command_answers_in_json(two_versions, capsys):
    promoted = answer(capsys, "promote", "--version", "1", "--reason", "why not")
    assert promoted["message"] == f"{MODEL} version 1 ({STUDENT}) is the champion, the first one"
    assert answer(capsys, "promote", "--dry-run")["changed"] is False
    assert answer(capsys, "promote")["replaced"] == 1
    assert answer(capsys, "rollback")["version"] == 1
    shown = answer(capsys, "status")
    assert {alias: entry["version"] for alias, entry in shown.items()} == {
        "champion": 1,
        "previous": 2,
        "challenger": 2,
    }
    assert [entry["reason"] for entry in answer(capsys, "history")] == ["why not", "", ""]


@pytest.mark.slow
def test_where_approval_is_asked_for_nothing_is_promoted_without_it(two_versions, world, capsys):
    values = settings()
    values["registry"]["approval"] = True
    (world / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(
        GateError, match=r"nobody has approved distilbert-student version 2.*approve --version 2"
    ):
        answer(capsys, "promote")
    assert CHAMPION not in aliases(two_versions, MODEL)
    approved = answer(capsys, "approve", "--reason", "lu et approuv\u00e9 " * 1000)
    # Postgres takes 5000 characters of a tag.
    assert len(approved["approved_by"]) < 1200
    approved = answer(capsys, "approve", "--reason", "read the report")
    assert (approved["version"], "read the report" in approved["approved_by"]) == (2, True)
    # Somebody else, on MLflow's page.
    two_versions.client.set_model_version_tag(MODEL, "1", "approved_by", "ada")
    assert answer(capsys, "promote", "--reason", "\u4e2d" * 2000)["changed"]
    texts = two_versions.client.get_registered_model(MODEL).tags.values()
    assert all(len(text) < 5000 for text in texts)
    assert answer(capsys, "promote", "--version", "1")["changed"]
    assert [entry["gate"]["approved_by"] for entry in answer(capsys, "history")] == [
        approved["approved_by"],
        "ada",
    ]


@pytest.mark.slow
def test_status_before_anything_is_registered_is_empty(store, capsys):
    assert answer(capsys, "status") == {}
    assert answer(capsys, "history") == []
    assert promotion.champion(store, MODEL) is None


@pytest.mark.slow
def test_command_that_cannot_be_done_exits_1_without_a_traceback(two_versions, world):
    done = subprocess.run(
        [sys.executable, "-m", "stages.registry.promotion", "rollback"],
        cwd=world, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "has no previous champion" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_command_is_a_usage_error():
    with pytest.raises(SystemExit, match="2"):
        promotion.command_line().parse_args(["nonsense"])


LOAD_ELSEWHERE = """
import json, sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
uri = f"models:/{sys.argv[2]}@champion"
model = mlflow.pyfunc.load_model(uri)
texts = [{"text": "paris is the [MASK]"}, {"text": "[MASK] is the [MASK]"}, {"text": "[MASK]"}]
answers = model.predict(texts, params={"top_k": 2})
int8 = mlflow.pyfunc.load_model(uri, model_config={"precision": "int8"}).predict(texts[:1])
mistakes = []
for text in ("no mask here", "[MASK] " * 20):
    try:
        model.predict([{"text": text}])
    except mlflow.exceptions.MlflowException as error:
        mistakes.append(str(error))
foreign = [name for name in ("torch", "transformers", "stages") if name in sys.modules]
print(json.dumps({"answers": answers, "int8": int8, "mistakes": mistakes, "foreign": foreign}))
"""


@pytest.mark.slow
def test_champion_predicts_in_a_process_with_neither_torch_nor_the_project(two_versions, tmp_path):
    promotion.promote(two_versions, MODEL, 1)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LOAD_ELSEWHERE, two_versions.tracking_uri, MODEL],
        cwd=elsewhere,
        env=environment(PYTHONPATH="", MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["foreign"] == []
    # The favourite's logit is 2, the nine others' 0: e^2 / (e^2 + 9) and 1 / (e^2 + 9).
    (best, second) = said["answers"][0]["masks"][0]
    assert best == {"token": "paris", "probability": pytest.approx(0.45085, abs=1e-5)}
    assert second["probability"] == pytest.approx(0.06102, abs=1e-5)
    assert [len(answer["masks"]) for answer in said["answers"]] == [1, 2, 1]
    # Twice the logit: e^4 / (e^4 + 9).
    assert said["int8"][0]["masks"][0][0]["probability"] == pytest.approx(0.85848, abs=1e-5)
    assert "row 0: the text has no [MASK]" in said["mistakes"][0]
    assert "has 22 tokens, the model reads at most 16" in said["mistakes"][1]


@pytest.mark.slow
def test_version_holds_no_pickle(two_versions, world):
    suffixes = {path.suffix for path in (world / "mlruns/artifacts/models").rglob("*.*")}
    assert not suffixes & {".pkl", ".pickle", ".bin", ".pt", ".pth"}
    assert ".onnx" in suffixes


@pytest.mark.slow
def test_two_processes_that_open_a_new_store_at_once_both_succeed(tmp_path):
    code = (
        "from stages.tracking.store import open_store\n"
        "store = open_store()\n"
        "with store.locked(): print(store.experiment_id('distillation'))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    ended = [process.communicate(timeout=200) for process in started]
    assert [out.strip() for out, _ in ended] == ["1", "1"], ended
    assert {path.name for path in (tmp_path / "mlruns").iterdir()} == {".lock", "mlflow.db"}


@pytest.mark.slow
def test_opening_a_store_does_not_redirect_the_next_one(tmp_path, monkeypatch, empty_database):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("a", "b"):
        (tmp_path / name / "mlruns").mkdir(parents=True)
        shutil.copy(empty_database, tmp_path / name / "mlruns" / "mlflow.db")
    uris = [open_store(Path(tmp_path / name)).tracking_uri for name in ("a", "b")]
    assert uris == [f"sqlite:///{tmp_path}/{name}/mlruns/mlflow.db" for name in ("a", "b")]
