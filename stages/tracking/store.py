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

from stages.command import without_secret
from stages.errors import DistilleryError
from stages.files import atomic_output, file_lock

CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"
"""Alias names. MLflow keeps `Champion` and `champion` apart, so nothing else spells them."""

SQLITE = "sqlite:///"
DATABASE = Path("mlruns/mlflow.db")
"""Below the project."""
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
"""Towards a server that has answered: a minute of absence, such as a restart, is waited out."""
FIRST_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Towards one that may not be there at all: refused, it takes a quarter of a minute to say so."""


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
        """Let one process at a time change the store. A server has no lock to offer.

        Raises:
            DistilleryError: a server does not let this login change what it is to change.
        """
        if self.folder is None:
            with _as_server_errors(self.tracking_uri):
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
    """Open the store of a repository, making its database at first use (about ten seconds).

    Raises:
        DistilleryError: a server does not answer, or refuses the login.
    """
    mlflow = import_mlflow()
    given = os.environ.get("MLFLOW_TRACKING_URI")
    database = local_database(root)
    uri = given or f"{SQLITE}{database}"
    folder = None
    if database is not None:
        folder = database.parent
        _make_database(database)
    mlflow.set_tracking_uri(uri)
    # set_tracking_uri also writes the variable; left there, it would decide where the next
    # repository of this process, or a child of it, keeps its runs.
    if given is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    client = mlflow.MlflowClient(tracking_uri=uri)
    if uri.startswith("http"):
        with _as_server_errors(uri), _environment(FIRST_PATIENCE):
            client.search_experiments(max_results=1)
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
    return Store(uri, folder, client)


def local_database(root: Path = Path()) -> Path | None:
    """Return the database of a repository's store, also before it is made; None for a server."""
    given = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{(root / DATABASE).resolve()}"
    return Path(given.removeprefix(SQLITE)).resolve() if given.startswith(SQLITE) else None


def import_mlflow() -> Any:
    """Import mlflow (six seconds) with telemetry off and unpickling refused."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # It would print the server's address as it was given, with the login that may be in it.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    import mlflow

    return mlflow


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for the block; those that are set already are somebody's choice."""
    mine = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            os.environ.pop(name, None)


@contextmanager
def _as_server_errors(uri: str) -> Iterator[None]:
    """Say what a server refuses as an error to act on, without the password that is in `uri`."""
    from mlflow.exceptions import MlflowException

    server = f"the MLflow server at {without_secret(uri)}"
    try:
        yield
    except MlflowException as error:
        said = without_secret(str(error))
        if said.startswith("API request to http"):
            # MLflow's words after the last try that nobody answered; an answer has an endpoint.
            said = f"{server} does not answer; start it, or correct MLFLOW_TRACKING_URI ({said})"
        elif error.error_code == "UNAUTHENTICATED":
            said = (
                f"{server} refuses the login; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, in the environment or in .env"
            )
        elif error.error_code == "PERMISSION_DENIED":
            user = os.environ.get("MLFLOW_TRACKING_USERNAME", "nobody")
            said = f"{server} does not let {user} do this; docs/team.md says who grants it ({said})"
        else:
            said = f"{server} did not do what it was asked to: {said}"
        raise DistilleryError(said) from error


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
