r"""Register an exported classifier, so that it can be promoted and served like a student.

    python -m stages.registry.classifier --export models/export/distilbert-sst2 \
        --report report.json --model-name sst2-student
    python -m stages.registry.promotion promote --model sst2-student --reason "..."

Reads what `stages.export.task_model` wrote: the folder, and the report with the score of every
file. Those scores and the parity become the version's gate report, which promotion asks. Doing it
again finds the version that is there.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages import params
from stages.command import log, parser_for, run
from stages.errors import DataError
from stages.export.card import PYTORCH
from stages.files import read_json, sha256_of
from stages.registry.checks import Check
from stages.registry.upload import classify, registered_version, run_of_lineage
from stages.registry.versions import (
    TAG_EXPORT,
    TAG_GATE,
    Version,
    export_digest,
    gate_artifact,
    get_version,
)
from stages.tracking.live import TAG_LINEAGE, TAG_STUDENT
from stages.tracking.store import CHALLENGER, Store, open_store, who


def register(
    store: Store, model: str, export: Path, report: dict[str, Any], settings: params.Params
) -> Version:
    """Return the version of an exported classifier, made if there is none, as challenger.

    Raises:
        DataError: the report is of other files than the folder holds.
    """
    for name, file in report["files"].items():
        if not (export / name).is_file() or sha256_of(export / name) != file["sha256"]:
            raise DataError(
                f"{export}/{name} is not the file that the report is of; "
                "run: python -m stages.export.task_model"
            )
    import mlflow

    digest = export_digest(export)
    # Nothing of dvc.lock leads to a classifier: it is known by its files alone.
    lineage = digest[:16]
    checks = list(checks_of(report, settings))
    passed = all(check.passed for check in checks)
    tags = {
        TAG_LINEAGE: lineage,
        TAG_EXPORT: digest,
        TAG_STUDENT: report["model"],
        TAG_GATE: "passed" if passed else "failed",
    }
    gate = {
        "student": report["model"],
        "passed": passed,
        "checks": [check.as_json() for check in checks],
        "export_sha256": digest,
    }
    experiment_id = store.experiment_id(settings.registry.experiment)
    run_id = run_of_lineage(store, lineage)
    if run_id is None:
        made = store.client.create_run(
            experiment_id,
            run_name=f"{report['model']}-{lineage[:8]}",
            tags=tags | {"task": report["task"], "mlflow.user": who()},
        )
        run_id = str(made.info.run_id)
    with mlflow.start_run(run_id=run_id) as run:
        mlflow.log_metrics({f"score/{file}": score for file, score in report["scores"].items()})
        mlflow.log_dict(gate, gate_artifact(digest))
        name = f"classify_{report['model']}".replace("-", "_")
        number = registered_version(
            store, run.info.experiment_id, model, name, classify(export), tags
        )
    store.client.set_registered_model_alias(model, CHALLENGER, str(number))
    return get_version(store, model, number)


def checks_of(report: dict[str, Any], settings: params.Params) -> Iterator[Check]:
    """Return what a classifier must show: that its files score as it did and answer as it does."""
    bound = report["scores"][PYTORCH] - settings.export.max_score_drop
    for file, score in report["scores"].items():
        if file != PYTORCH:
            meaning = f"score on task {report['task']}, {report['num_examples']} examples"
            yield Check(f"score/{file}", score, "at least", bound, meaning)
    yield Check(
        "onnx_fp32_difference",
        report["fp32"]["max_logit_difference"],
        "at most",
        settings.export.max_logit_difference,
        "largest difference of a logit from PyTorch's",
    )


def main(arguments: argparse.Namespace) -> None:
    """Register one classifier and say what it is."""
    report = read_json(arguments.report)
    store = open_store()
    with store.locked():
        version = register(store, arguments.model_name, arguments.export, report, params.load())
    log.info(
        "%s is version %d of %s, alias %s, gate %s",
        version.student,
        version.version,
        version.model,
        CHALLENGER,
        version.gate,
    )


if __name__ == "__main__":
    parser = parser_for(__doc__, ["export", "report"])
    parser.add_argument("--model-name", required=True, help="the registered model, one per task")
    run(main, parser)
