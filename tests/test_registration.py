"""Registering a student, on a real SQLite store with a real, tiny ONNX model."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from registry_world import (
    MODEL,
    SHARDS_MD5,
    STUDENT,
    all_runs,
    all_versions,
    answer_of,
    other_student,
    register_now,
    settings,
    upload_of,
    whole_uploads,
    write_curve,
)
from store_kills import Killed, end_fluent_run, plant_kill

from stages import params
from stages.errors import DataError, DistilleryError, GateError
from stages.files import read_json
from stages.registry.record import collect
from stages.registry.transitions import promote
from stages.registry.versions import aliases
from stages.tracking.live import TAG_STUDENT
from stages.tracking.store import CHALLENGER, CHAMPION

pytestmark = pytest.mark.slow


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


def test_curve_is_recorded_whole_and_once(world, store):
    # Six columns, one of them empty: 5 x 450 points are more than two batches of 1000.
    write_curve(world / "reports" / "curves" / f"{STUDENT}.csv", num_steps=450)
    run_id = register_now(world)["run_id"]
    register_now(world)
    loss = store.client.get_metric_history(run_id, "curve/loss")
    assert [point.step for point in loss] == list(range(1, 451))


def test_registering_again_finds_run_and_version(world, store):
    assert register_now(world) == register_now(world)
    assert len(all_runs(store)) == len(all_versions(store)) == len(whole_uploads(store)) == 1


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
        promote(store, MODEL)


def test_another_export_of_a_student_is_another_version_of_the_same_run(world, store):
    first = register_now(world)
    export = world / f"models/export/{STUDENT}"
    # What training cost stands on the card, and is another each time.
    card = "# Model card: 0.2 device-hours\n\n## Files\n"
    (export / "README.md").write_text(card)
    assert register_now(world)["version"] == 1
    # The run's card has the scores too, which the export does not wait for.
    told = Path(store.client.download_artifacts(first["run_id"], "README.md")).read_text()
    assert told.startswith("# Model card: 0.2 device-hours\n\n## Scores\n")
    assert "| Package (derived) | 84.0 (83.0 to 85.0) | 80.0 (79.0 to 81.5) |\n" in told
    assert told.endswith("| average: mean_of_tasks | 80.0 | 80.0 |\n\n## Files\n")
    assert (
        "It keeps 100.0 % of its teacher's scores, the mean over tasks. Derived tasks are" in told
    )
    with (export / "tokenizer.json").open("a") as tokenizer:
        tokenizer.write("\n")
    second = register_now(world)
    assert second["run_id"] == first["run_id"]
    assert (first["version"], second["version"]) == (1, 2)
    assert aliases(store, MODEL)[CHALLENGER] == 2


def test_gate_that_judged_other_files_is_refused(world):
    export = world / "models" / "export" / STUDENT
    (export / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"judged other files .* run: dvc repro gate@distilbert"):
        collect(params.load(), STUDENT, world / "reports", export)


def test_files_that_were_deleted_come_back_when_the_student_is_registered_again(
    two_versions, world
):
    shutil.rmtree(next((world / "mlruns/artifacts/models").rglob(upload_of(two_versions, 2))))
    with pytest.raises(DistilleryError, match=r"version 2 does not load or predict"):
        promote(two_versions, MODEL, 2)
    register_now(world)
    assert promote(two_versions, MODEL, 2).changed
    assert answer_of(f"models:/{MODEL}@{CHAMPION}") == "capital"
    assert len(all_versions(two_versions)) == 2
    # A file that is there and not whole is as good as lost.
    (folder,) = (world / "mlruns/artifacts/models").rglob(upload_of(two_versions, 2))
    (graph,) = folder.rglob("model.onnx")
    graph.write_bytes(b"torn")
    register_now(world)
    assert answer_of(f"models:/{MODEL}@{CHAMPION}") == "capital"
    for name in ("student_pyfunc.py", "input_example.json"):
        next(folder.rglob(name)).unlink()
        register_now(world)
        assert next(folder.rglob(name)).stat().st_size > 0


def test_run_that_was_deleted_comes_back_with_the_next_verdict_in_it(world, store):
    first = register_now(world)
    store.client.delete_run(first["run_id"])
    # The verdict is where the version looks for it, whatever the experiment is called by now.
    experiment = store.client.get_experiment_by_name("distillation")
    store.client.rename_experiment(experiment.experiment_id, "the first ones")
    assert register_now(world, passed=False) == first
    store.client.rename_experiment(store.experiment_id("distillation"), "empty")
    store.client.rename_experiment(experiment.experiment_id, "distillation")
    assert [run.info.run_id for run in all_runs(store)] == [first["run_id"]]
    with pytest.raises(GateError):
        promote(store, MODEL)


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


def test_the_champion_that_is_registered_again_leaves_another_student_its_challenger(
    two_versions, world
):
    """Two students are exported, one of them new: both are registered, in either order."""
    two_versions.client.set_model_version_tag(MODEL, "1", TAG_STUDENT, "mlm_only")
    two_versions.client.set_registered_model_alias(MODEL, CHALLENGER, "1")
    two_versions.client.set_registered_model_alias(MODEL, CHAMPION, "2")
    values = settings()
    values["export"]["students"] = [STUDENT, "mlm_only"]
    (world / "params.yaml").write_text(yaml.safe_dump(values))
    assert register_now(world)["version"] == 2
    assert aliases(two_versions, MODEL)[CHALLENGER] == 1
    values["export"]["students"] = [STUDENT]
    (world / "params.yaml").write_text(yaml.safe_dump(values))
    register_now(world)
    assert aliases(two_versions, MODEL)[CHALLENGER] == 2
