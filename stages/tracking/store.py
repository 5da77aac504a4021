"""The MLflow store: a server when MLFLOW_TRACKING_URI names one, else SQLite under mlruns/.

MLflow refuses a plain file store, so mlruns/ holds mlflow.db and artifacts/. A new database takes
ten seconds of migrations and two processes that make it at once break it: it is made beside its
place, under a file lock, and renamed when whole.
"""

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.errors import DistilleryError
from stages.files import atomic_output, file_lock

CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"
"""Alias names. MLflow keeps `Champion` and `champion` apart, so nothing else spells them."""

SQLITE = "sqlite:///"
DATABASE = Path("mlruns/mlflow.db")
"""Below the project."""


@dataclass(frozen=True, slots=True)
class Store:
    """An opened MLflow store; `client` and the fluent functions of mlflow both talk to it."""

    tracking_uri: str
    folder: Path | None
    """Where a local store keeps its database, artifacts and lock; None for a server."""
    client: Any
    """An mlflow.MlflowClient."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time change the store. A server has no lock to offer."""
        if self.folder is None:
            yield
            return
        with file_lock(self.folder / ".lock"):
            yield

    def experiment_id(self, name: str) -> str:
        """Return the id of an experiment, made at first use with its artifacts in the folder."""
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            artifacts = None if self.folder is None else (self.folder / "artifacts").as_uri()
            return str(self.client.create_experiment(name, artifact_location=artifacts))
        if experiment.lifecycle_stage != "active":
            raise DistilleryError(
                f"MLflow experiment '{name}' is deleted; restore it with: "
                f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
            )
        return str(experiment.experiment_id)


def open_store(root: Path = Path()) -> Store:
    """Open the store of a repository, making its database at first use (about ten seconds)."""
    mlflow = import_mlflow()
    given = os.environ.get("MLFLOW_TRACKING_URI")
    uri = given or f"{SQLITE}{(root / DATABASE).resolve()}"
    folder = None
    if uri.startswith(SQLITE):
        database = Path(uri.removeprefix(SQLITE)).resolve()
        folder = database.parent
        _make_database(database)
    mlflow.set_tracking_uri(uri)
    # set_tracking_uri also writes the variable; left there, it would decide where the next
    # repository of this process, or a child of it, keeps its runs.
    if given is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    return Store(uri, folder, mlflow.MlflowClient(tracking_uri=uri))


def import_mlflow() -> Any:
    """Import mlflow (six seconds) with telemetry off and unpickling refused."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    return mlflow


def _make_database(database: Path) -> None:
    """Make an empty, migrated database, once, whoever asks first."""
    if database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(database.parent / ".lock"):
        if database.exists():
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        with atomic_output(database) as target:
            artifacts = (database.parent / "artifacts").as_uri()
            store = SqlAlchemyStore(f"{SQLITE}{target.resolve()}", artifacts)
            store.engine.dispose()


def who() -> str:
    """Return user@machine of this process."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        # A container may run under a number that no user has.
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
