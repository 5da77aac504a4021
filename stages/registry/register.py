r"""Record a student in MLflow: one run per lineage, one registered version per exported student.

    python -m stages.registry.register --student distilbert --reports reports \
        --export models/export/distilbert --out reports/registry/distilbert.json

Reads dvc.lock, params.yaml, the reports and the exported files; writes the MLflow store and one
small JSON file that says where. Every step finds what an earlier, killed run of it left: run it
again and there is still one run and one version (docs/registry.md).
"""

import argparse
import time
from pathlib import Path
from typing import Any

from stages import params
from stages.command import log, parser_for, run
from stages.export.card import CARD
from stages.files import write_json
from stages.lineage import CORPUS
from stages.registry.record import Record, collect, curve_points, deciding_params
from stages.registry.upload import fill_mask, registered_version, run_of_lineage
from stages.registry.versions import (
    TAG_EXPORT,
    TAG_GATE,
    aliases,
    gate_artifact,
    get_version,
)
from stages.tracking.live import (
    TAG_LINEAGE,
    TAG_STUDENT,
    log_points,
    recorded_points,
    unregistered_run,
)
from stages.tracking.store import CHALLENGER, CHAMPION, Store, open_store, who

TAG_CURVE = "curve_recorded"
PARAMS_PER_BATCH = 100


def main(arguments: argparse.Namespace) -> None:
    """Register one student and write where it is."""
    record = collect(params.load(), arguments.student, arguments.reports, arguments.export)
    store = open_store()
    with store.locked():
        registration = register(store, record)
    write_json(arguments.out, registration)
    model, version = registration["model_name"], registration["version"]
    known = aliases(store, model)
    log.info(
        "%s is version %d of %s (%s); run %s",
        record.student,
        version,
        model,
        ", ".join(sorted(alias for alias, number in known.items() if number == version)),
        registration["run_id"],
    )


def register(store: Store, record: Record) -> dict[str, Any]:
    """Bring the store to where it holds the record, whatever part of it is there already."""
    import mlflow

    name = record.settings.registry.model_name
    run_id = _run_of(store, store.experiment_id(record.settings.registry.experiment), record)
    experiment_id = store.client.get_run(run_id).info.experiment_id
    with mlflow.start_run(run_id=run_id):
        _record_run(store, run_id, record)
        version = _version(store, experiment_id, name, record)
        links = _links(experiment_id, run_id, record)
        store.client.update_model_version(name, str(version), description=links)
        if not _leaves_the_challenger(store, name, version, record):
            store.client.set_registered_model_alias(name, CHALLENGER, str(version))
    return {
        "model_name": name,
        "version": version,
        "run_id": run_id,
        "experiment": record.settings.registry.experiment,
        "lineage": record.lineage.lineage,
    }


def _leaves_the_challenger(store: Store, name: str, version: int, record: Record) -> bool:
    """Say whether the champion is registered again beside another student, which challenges it.

    All exported students are registered anew when one is added: the champion, should it be the
    last, must not hide the one that is new.
    """
    found = aliases(store, name)
    if found.get(CHAMPION) != version or CHALLENGER not in found:
        return False
    challenger = get_version(store, name, found[CHALLENGER]).student
    return challenger != record.student and challenger in record.settings.export.students


def _run_of(store: Store, experiment_id: str, record: Record) -> str:
    """Return the id of the run of this lineage: its own, its training's live one, or a new one."""
    lineage = record.lineage.lineage
    live = unregistered_run(store, experiment_id, record.training.get("training", ""))
    if known := run_of_lineage(store, lineage):
        if live:
            # The same student trained once more: its curve is that of the run there is.
            store.client.delete_run(live.info.run_id)
        return known
    if live:
        store.client.update_run(live.info.run_id, name=f"{record.student}-{lineage[:8]}")
        store.client.set_tag(live.info.run_id, TAG_LINEAGE, lineage)
        return str(live.info.run_id)
    # Not mlflow.start_run: it would take up any run that MLFLOW_RUN_ID names.
    made = store.client.create_run(
        experiment_id,
        run_name=f"{record.student}-{lineage[:8]}",
        tags={TAG_LINEAGE: lineage, TAG_STUDENT: record.student, "mlflow.user": who()},
    )
    return str(made.info.run_id)


def _record_run(store: Store, run_id: str, record: Record) -> None:
    """Write tags, parameters, the corpus, metrics, the curve and the artifacts of a run."""
    import mlflow

    from stages.registry.corpus_dataset import corpus_dataset

    mlflow.set_tags(
        {
            "profile": record.settings.profile,
            "git_commit": record.git.commit or "none",
            "git_dirty": str(record.git.is_dirty).lower(),
            "corpus_digest": record.lineage.corpus_digest,
            "model_sha256": record.training["model_sha256"],
            "device": record.training["device"],
            TAG_EXPORT: record.export_sha256,
            TAG_GATE: _verdict(record),
        }
    )
    mlflow.log_input(corpus_dataset(CORPUS, record.lineage.corpus_digest), context="training")
    recorded = store.client.get_run(run_id).data
    _record_params(record, recorded.params)
    _record_metrics(store, run_id, record, recorded.metrics)
    if TAG_CURVE not in recorded.tags:
        _record_curve(store, run_id, record.curve)
    for path in record.files:
        mlflow.log_artifact(str(path))
    if record.card is not None:
        mlflow.log_text(record.card, CARD)
    mlflow.log_dict(record.gate, gate_artifact(record.export_sha256))


def _record_params(record: Record, recorded: dict[str, str]) -> None:
    """Log the parameters that are not there yet; MLflow refuses to change one."""
    import mlflow

    wanted = deciding_params(record.settings.model_dump(mode="json"), record.lineage.params)
    missing = [(key, value) for key, value in wanted.items() if key not in recorded]
    for start in range(0, len(missing), PARAMS_PER_BATCH):
        mlflow.log_params(dict(missing[start : start + PARAMS_PER_BATCH]))


def _record_metrics(store: Store, run_id: str, record: Record, recorded: dict[str, float]) -> None:
    """Log the numbers that are new or measured anew; the latest value is the one that counts."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    changed = [
        Metric(name, value, now, 0)
        for name, value in record.metrics.items()
        if recorded.get(name) != value
    ]
    if changed:
        store.client.log_batch(run_id, metrics=changed)


def _record_curve(store: Store, run_id: str, path: Path) -> None:
    """Log the points that training has not, once: a lineage fixes the weights, so the losses."""
    started = store.client.get_run(run_id).info.start_time
    there = recorded_points(store, run_id)
    missing = [
        (point.name, point.value, started, point.step)
        for point in curve_points(path)
        if (point.name, point.step) not in there
    ]
    log_points(store, run_id, missing)
    store.client.set_tag(run_id, TAG_CURVE, "true")


def _version(store: Store, experiment_id: str, name: str, record: Record) -> int:
    """Return the number of the registered version of these files, made if there is none."""
    tags = {
        TAG_LINEAGE: record.lineage.lineage,
        TAG_EXPORT: record.export_sha256,
        TAG_STUDENT: record.student,
        TAG_GATE: _verdict(record),
    }
    copy, contents = f"fill_mask_{record.student}", fill_mask(record.export)
    return registered_version(store, experiment_id, name, copy, contents, tags)


def _links(experiment_id: str, run_id: str, record: Record) -> str:
    """Return, as Markdown, where MLflow's page shows what is worth reading about a version."""
    shown = {path.name: "Report" for path in record.files if path.suffix == ".html"}
    shown |= {CARD: "Model card"} if record.card is not None else {}
    shown[gate_artifact(record.export_sha256)] = "Gate"
    artifacts = f"#/experiments/{experiment_id}/runs/{run_id}/artifacts"
    return " | ".join(f"[{title}]({artifacts}/{path})" for path, title in shown.items())


def _verdict(record: Record) -> str:
    return "passed" if record.gate["passed"] else "failed"


if __name__ == "__main__":
    parser = parser_for(__doc__, ["reports", "export", "out"])
    parser.add_argument("--student", required=True, help="one of export.students")
    run(main, parser)
