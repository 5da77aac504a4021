"""A curve in MLflow while it grows, and what becomes of it when its student is registered."""

import json

import pytest
from registry_world import STUDENT, all_runs, register_now

from stages.errors import Interrupted
from stages.files import read_json
from stages.tracking import live


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
