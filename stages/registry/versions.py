"""Registered versions: their tags, and how they are found.

A version is one exported student: (lineage, hash of the exported files). Its tags are written in
the same transaction as the version, so a version without them does not exist.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.command import without_secret
from stages.errors import DistilleryError
from stages.export.card import CARD
from stages.files import sha256_of_tree
from stages.tracking.live import TAG_LINEAGE, TAG_STUDENT
from stages.tracking.store import CHALLENGER, CHAMPION, PREVIOUS, Store

TAG_EXPORT = "export_sha256"
TAG_GATE = "gate"
TAG_APPROVED = "approved_by"


def export_digest(export: Path) -> str:
    """Return the sha256 that stands for an exported student, its card left out.

    The card tells what training cost, and training the same student again costs other seconds.
    """
    return sha256_of_tree(export, leave_out=CARD)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of the registered model."""

    model: str
    version: int
    student: str
    lineage: str
    export_sha256: str
    run_id: str
    gate: str
    """What the gate said when the version was last registered: `passed` or `failed`."""
    approved_by: str = ""
    """Who approved it, when and why, in one line; empty before anybody has."""

    @property
    def uri(self) -> str:
        """The address for `mlflow.pyfunc.load_model`."""
        return f"models:/{self.model}/{self.version}"


def gate_artifact(export_sha256: str) -> str:
    """Return where, in the run, the gate's report on one export is kept.

    A run may have several versions (the same student exported twice), each with its own verdict.
    """
    return f"gate/{export_sha256[:16]}.json"


def find_version(store: Store, model: str, lineage: str, export_sha256: str) -> Version | None:
    """Return the version made from exactly this student and these files, if there is one."""
    found = store.client.search_model_versions(f"name = '{model}' and tags.lineage = '{lineage}'")
    for entry in found:
        if entry.tags.get(TAG_EXPORT) == export_sha256:
            return _version(entry)
    return None


def get_version(store: Store, model: str, version: int) -> Version:
    """Return a version by its number.

    Raises:
        DistilleryError: there is no such version.
    """
    from mlflow.exceptions import MlflowException

    try:
        return _version(store.client.get_model_version(model, str(version)))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        known = ", ".join(map(str, numbers(store, model))) or "none"
        raise DistilleryError(
            f"model {model} has no version {version} in {without_secret(store.tracking_uri)}; "
            f"the numbers that exist: {known}"
        ) from error


def numbers(store: Store, model: str) -> list[int]:
    """Return the numbers of a model's versions, those that were deleted left out."""
    found = store.client.search_model_versions(f"name = '{model}'")
    return sorted(int(entry.version) for entry in found)


def aliases(store: Store, model: str) -> dict[str, int]:
    """Return alias -> version number.

    Raises:
        DistilleryError: nothing was registered under this name.
    """
    return {name: int(version) for name, version in registered(store, model).aliases.items()}


def is_registered(store: Store, model: str) -> bool:
    """Say whether anything was registered under this name."""
    # A quote would end the filter, and is in no name of ours.
    return "'" not in model and bool(store.client.search_registered_models(f"name = '{model}'"))


def registered(store: Store, model: str) -> Any:
    """Return MLflow's entry of a registered model.

    Raises:
        DistilleryError: nothing was registered under this name.
    """
    if not is_registered(store, model):
        raise DistilleryError(
            f"no model {model} in {without_secret(store.tracking_uri)}; register one with dvc "
            "repro (or, if the store was deleted since: dvc repro --force --single-item "
            "register@<student>)"
        )
    return store.client.get_registered_model(model)


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


def read_gate(store: Store, version: Version) -> dict[str, Any] | None:
    """Return the gate's report recorded for a version, None when there is no whole one."""
    from mlflow.exceptions import MlflowException

    wanted = gate_artifact(version.export_sha256)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = Path(store.client.download_artifacts(version.run_id, wanted, folder))
            report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (MlflowException, OSError, ValueError):
            return None
    return report


def _version(entry: Any) -> Version:
    return Version(
        model=entry.name,
        version=int(entry.version),
        student=entry.tags.get(TAG_STUDENT, ""),
        lineage=entry.tags.get(TAG_LINEAGE, ""),
        export_sha256=entry.tags.get(TAG_EXPORT, ""),
        run_id=entry.run_id or "",
        gate=entry.tags.get(TAG_GATE, ""),
        approved_by=entry.tags.get(TAG_APPROVED, "").strip(),
    )
